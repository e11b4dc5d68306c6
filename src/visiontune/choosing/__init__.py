"""What a run decides by trying: the learning rate, and the strategy."""
