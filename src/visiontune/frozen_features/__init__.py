"""Outputs of frozen stages, computed once and not in every epoch."""
