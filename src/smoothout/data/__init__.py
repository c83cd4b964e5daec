"""Data sets as uint8 arrays, and their splits on a device."""
