"""Sweeps: a study of jobs, workers that run them, and the comparison of their runs."""
