"""Pictures drawn from records alone."""
