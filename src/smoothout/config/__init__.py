"""From a composed config to typed settings."""
