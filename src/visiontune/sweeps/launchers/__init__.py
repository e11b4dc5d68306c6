"""Launchers, which start the workers of a sweep: on this machine, with Slurm or with Ray."""
