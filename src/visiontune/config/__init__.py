"""Compose and check the config, and explain errors in it."""
