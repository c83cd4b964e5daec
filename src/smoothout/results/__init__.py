"""Records: their names, files and summaries, and what is rendered from them. Needs neither torch nor Hydra."""
