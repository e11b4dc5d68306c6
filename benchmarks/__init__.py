"""Measure the numbers in docs/; each module is a command: python -m benchmarks.NAME."""
