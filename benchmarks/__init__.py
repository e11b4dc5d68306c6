"""What the figures in docs/ come from; each module is a command: python -m benchmarks.NAME."""
