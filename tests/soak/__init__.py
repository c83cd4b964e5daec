"""Attempts to break the programs: kills, many writers at once, sweeps that are cut off, broken and hostile input."""
