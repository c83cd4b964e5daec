"""Whether this machine's GPU trains as it should: what is checked, and the report (scripts/check_gpu.py)."""
