"""Analyses as jobs: the settings of each, and the record that it leaves."""
