"""Learning from a trained run beside the labels."""
