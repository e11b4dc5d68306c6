"""Learning rate schedules and sharpness-aware minimisation."""
