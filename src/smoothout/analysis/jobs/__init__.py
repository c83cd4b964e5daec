"""Analyses as jobs: their settings, and the outcomes in their records."""
