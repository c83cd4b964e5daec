"""Analyses as jobs: the settings of each, and the outcome that its record holds."""
