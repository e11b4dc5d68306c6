"""A training run: build its objects, fit, resume, load, evaluate."""
