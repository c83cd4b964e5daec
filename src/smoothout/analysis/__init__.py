"""Post-hoc analyses of a trained model, one question a file."""
