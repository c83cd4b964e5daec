"""Rows of claims that stand for many, and the names of pages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.paths import CONFIGS

from smoothout.common.errors import ConfigError
from smoothout.config.build import validate
from smoothout.reproduction.claims import Claim, Sides
from smoothout.reproduction.pages import check_overwritable, listed_page


def test_rows_stand_for_every_combination_of_their_placeholders() -> None:
    given = {
        "statement": "It is so.",
        "source": "p. 1",
        "for_each": {"network": {"F1, MNIST": "F1", "C1": "C1"}, "method": {"SAM": "sam", "NSO": "nso"}},
        "rows": {"{method}, {network}": {"plus": ["t | {network} | {method}"], "minus": ["t | {network} | baseline"]}},
    }
    claim = validate(Claim, given, "")
    assert list(claim.rows) == ["SAM, F1, MNIST", "NSO, F1, MNIST", "SAM, C1", "NSO, C1"]
    assert claim.rows["NSO, F1, MNIST"] == Sides(("t | F1 | nso",), ("t | F1 | baseline",))
    assert replace(claim, margin=1.0).rows == claim.rows
    cells = {"plus": ["t | {network} | {method}"]}
    for change, message in (
        ({"rows": {"{batch}": cells}}, r"^rows: \{batch\} is not among for_each: network, method$"),
        ({"rows": {"{}, {method}": cells}}, r"^rows: \{\} is not among for_each: network, method$"),
        ({"rows": {"{network}": cells}}, r"^rows: '\{network\}' gives 'F1, MNIST' twice; must name every placeholder"),
        ({"for_each": {"network": {}}}, r"^for_each.network: must have at least one value$"),
    ):
        with pytest.raises(ConfigError, match=message):
            validate(Claim, given | change, "")


@pytest.mark.parametrize("name", ["../mine.md", "a/b.md", "3", "bad.txt"])
def test_a_page_is_named_as_a_markdown_file(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^page: must be the name of a Markdown file, such as mine.md, not "):
        listed_page(CONFIGS, ["claims=quickstart", f"page={name}"])


def test_a_page_never_replaces_another_file(tmp_path: Path) -> None:
    path = tmp_path / "findings.md"
    check_overwritable(path)
    path.write_text("`python scripts/verdicts.py claims=mine` writes this page.")
    check_overwritable(path)
    path.write_text("# Findings")
    with pytest.raises(ConfigError, match=r"^page: .*findings.md exists and is not a page of verdicts"):
        check_overwritable(path)
