"""scripts/verdicts.py as used with your own claims."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.programs import Program

HEAD = """
page: mine.md
prose: {title: My claims, introduction: About digits.}
"""
CLAIM = """
claims:
  - statement: Large batches do worse.
    source: a guess
    rows:
      digits: {plus: ["quickstart | digits, 32 | baseline"], minus: ["quickstart | digits, 720 | baseline"]}
"""


def own(root: Path, text: str) -> tuple[str, ...]:
    path = root / "own" / "claims" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(f"# @package _global_\n{text}")
    return f"--config-dir={root / 'own'}", "claims=mine", "claim_scope.protocols=[authors_code]", "threads=1"


def test_claims_of_ones_own_have_a_page_that_says_what_writes_it(root: Path, script: Program) -> None:
    path = root / "results" / "mine.md"
    assert script("verdicts", *own(root, HEAD + CLAIM)) == (0, [f"written: {path}"], [])
    page = path.read_text()
    assert page.startswith("# My claims\n\nAbout digits.")
    assert "`python scripts/verdicts.py claims=mine 'claim_scope.protocols=[authors_code]'` writes this page." in page
    assert "No test is decided so far." in page
    assert "## Not tested so far" in page


def test_what_claims_lack_is_planned_and_nothing_is_run_or_written(root: Path, script: Program) -> None:
    code, out, err = script("verdicts", *own(root, HEAD + CLAIM), "plan=true")
    assert code == 0, err
    assert any("quickstart: digits, 720" in line for line in out)
    assert any(line.endswith("on this device; nothing was run") for line in out)
    assert not (root / "results").exists()


def test_a_page_at_another_profile_names_the_full_one_only_where_it_is(root: Path, script: Program) -> None:
    given, path = own(root, HEAD + CLAIM), root / "results" / "mine-short.md"
    assert script("verdicts", *given, "claim_scope.profile=short")[0] == 0
    assert "(mine.md)" not in path.read_text()
    (root / "results" / "mine.md").touch()
    assert script("verdicts", *given, "claim_scope.profile=short")[0] == 0
    assert "[mine.md](mine.md) is the page" in path.read_text()


def test_a_page_of_ones_own_cannot_replace_another(root: Path, script: Program) -> None:
    code, _, [line] = script("verdicts", *own(root, HEAD.replace("mine.md", "family.md") + CLAIM)[:2])
    assert code == 2
    assert line.startswith("error: page: family.md is the page that `python scripts/verdicts.py claims=family` writes")


def test_a_page_about_fewer_runs_says_how_to_have_all_again(root: Path, script: Program) -> None:
    warning = "^family.md: has another claim_scope than `python scripts/verdicts.py claims=family` gives it$"
    with pytest.warns(UserWarning, match=warning):
        code, out, _ = script("verdicts", "claims=family", "claim_scope.seeds=[0]")
    assert (code, out) == (0, [f"written: {root / 'results' / 'family.md'}"])


HEADLESS = {
    "claims": (
        "verdicts",
        HEAD + CLAIM,
        "; a file of configs/claims/ begins with '# @package _global_', as papers.yaml",
    ),
    "experiment": (
        "train",
        "defaults: [override /model: f1]\n",
        "error: experiment/mine.yaml: must begin with the line '# @package _global_', to override the choice of",
    ),
}


def test_so_is_an_experiment_that_only_sets_values(root: Path, script: Program) -> None:
    (root / "own" / "experiment").mkdir(parents=True)
    (root / "own" / "experiment" / "mine.yaml").write_text("optimizer: {lr: 0.5}\n")
    rows = "table.rows=[{name: mine, overrides: ['experiment=mine']}]"
    for program, more in (("train", ["experiment=mine"]), ("reproduce", ["table=quickstart", rows, "plan=true"])):
        code, _, [told] = script(program, f"--config-dir={root / 'own'}", *more)
        assert code == 2
        assert told.endswith("experiment: its file must begin with the line '# @package _global_'")


@pytest.mark.parametrize("group", HEADLESS)
def test_a_file_without_its_first_line_is_told_so(root: Path, script: Program, group: str) -> None:
    program, text, line = HEADLESS[group]
    (root / "own" / group).mkdir(parents=True)
    (root / "own" / group / "mine.yaml").write_text(text)
    code, _, [told] = script(program, f"--config-dir={root / 'own'}", f"{group}=mine")
    assert code == 2
    assert line in told
    assert len(told) < 400
