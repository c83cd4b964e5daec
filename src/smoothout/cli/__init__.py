"""The programs' frame: one Hydra program, its plan in the terminal, its errors as one line."""
