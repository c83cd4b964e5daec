"""Post-hoc analyses of a trained model, one question per file."""
