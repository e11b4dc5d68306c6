"""Search for settings: the learning-rate range test and trials of strategies."""
