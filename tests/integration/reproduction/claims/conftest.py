"""A separate results folder for every test of claims, and tables that are composed once."""

from __future__ import annotations

import pytest
from helpers.simulated_records import CONFIGS, PUBLISHED, SCOPE

from smoothout.reproduction.claim_tests import Claims
from smoothout.reproduction.claims import ClaimScope
from smoothout.reproduction.table import TablePlan


@pytest.fixture(scope="session")
def f1() -> Claims:
    """No claims, but the cells of Table 2."""
    return Claims([], ClaimScope(("authors_code", "paper_text"), seeds=SCOPE.seeds), CONFIGS, PUBLISHED)


@pytest.fixture(autouse=True)
def composed_once(f1: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables take seconds to compose: every test shares those of `f1`."""
    plan = f1._plan

    def with_seeds(claims: Claims, table: str, protocol: str) -> TablePlan:
        return plan(table, protocol)._with_seeds(set(claims.scope.seeds))

    monkeypatch.setattr(Claims, "_plan", with_seeds)
