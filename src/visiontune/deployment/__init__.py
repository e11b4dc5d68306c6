"""A run's model as one exported file."""
