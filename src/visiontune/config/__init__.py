"""Composing the config, and messages about what is wrong in it."""
