"""Build the objects of a training run, fit, resume, load and evaluate it."""
