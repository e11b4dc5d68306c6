"""Searching settings: the learning rate range test, trials of strategies."""
