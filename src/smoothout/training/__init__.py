"""Training: the update of Algorithm 1, the loop around it, and what is kept on the way."""
