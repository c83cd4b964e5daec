"""Methods of training: what each does around the gradient of an update."""
