"""SmoothOut in trainers that run the backward pass themselves; README.md has recipes for those without a callback."""
