"""Tables and statistics of sweeps and runs."""
