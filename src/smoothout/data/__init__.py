"""Data sets: arrays that lie on the device, and image folders that are decoded ahead of use."""
