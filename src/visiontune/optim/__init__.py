"""Learning rate schedulers and sharpness-aware minimisation."""
