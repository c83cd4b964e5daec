"""Post-hoc analyses of trained models, one per file."""
