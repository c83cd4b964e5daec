"""Training: the update of Algorithm 1, the training loop, and checkpoints."""
