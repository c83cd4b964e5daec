"""SmoothOut in trainers that run the backward pass themselves; README.md has recipes for other frameworks."""
