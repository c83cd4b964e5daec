"""From the papers' tables, figures and claims to jobs, and from their records back to cells, panels and verdicts."""
