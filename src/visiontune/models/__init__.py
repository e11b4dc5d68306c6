"""The FineTuner and its parts: backbones, heads, loss weights, loss terms."""
