"""Speed, measured as ratios within one run: what is compared, and the report."""
