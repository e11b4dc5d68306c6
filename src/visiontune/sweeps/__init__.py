"""Sweeps: their table and the comparison of runs."""
