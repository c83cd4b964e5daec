"""Training methods: how each computes the gradient of an update."""
