"""Readers of data sets: one file per format, each with a function `read(...) -> Source`."""
