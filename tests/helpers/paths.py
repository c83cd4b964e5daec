"""Paths in the repository."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIGS, SCRIPTS, RESULTS = ROOT / "configs", ROOT / "scripts", ROOT / "results"
PUBLISHED, TABLES = RESULTS / "published", RESULTS / "tables"
