"""Tools for any torch model: noise on its weights, ghost batch normalization, running statistics, evaluation."""
