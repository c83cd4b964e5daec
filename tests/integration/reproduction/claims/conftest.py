"""A separate results folder for every test of claims, and tables that are composed once."""

from __future__ import annotations

import pytest
from helpers.simulated_records import CONFIGS, PUBLISHED, SEEDS

from smoothout.reproduction.claims import Claims
from smoothout.reproduction.table import RunSelection


@pytest.fixture(scope="session")
def f1() -> Claims:
    """No claims, but the cells of Table 2."""
    return Claims([], RunSelection("authors_code", seeds=SEEDS), CONFIGS, PUBLISHED)


@pytest.fixture(autouse=True)
def composed_once(f1: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables take seconds to compose: every test shares those of `f1`."""
    plan = f1._plan
    monkeypatch.setattr(Claims, "_plan", lambda self, table: plan(table))
