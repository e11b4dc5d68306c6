"""The FineTuner and what it is made of: backbones, heads, loss weights, distillation."""
