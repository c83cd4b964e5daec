"""READMEs and pages are true: code runs, commands compose, numbers are the rendered tables', links resolve."""

from __future__ import annotations

import copy
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.paths import ROOT
from torch import nn

from smoothout import AdaSmoothOut, SmoothOut
from smoothout.config.build import build
from smoothout.config.compose import compose_config
from smoothout.config.experiment import build_experiment
from smoothout.reproduction.claim_tests import Claims
from smoothout.reproduction.claims import ClaimScope
from smoothout.reproduction.figure import FigurePlan
from smoothout.reproduction.metrics import METRICS
from smoothout.reproduction.table import RunSelection, TablePlan
from smoothout.results.significance import LEVEL

FOLDERS = ("configs", "notebooks", "results", "src", "tests")
READMES = [ROOT / "README.md", *sorted(path for name in FOLDERS for path in (ROOT / name).rglob("README.md"))]
PAGES = [*READMES, *sorted(path for path in (ROOT / "results").glob("*.md") if path not in READMES)]
FINDINGS, CLAIMS = ROOT / "results" / "findings.md", ROOT / "results" / "claims.md"
TEXTS = {path: path.read_text(encoding="utf-8") for path in (*PAGES, *(ROOT / "configs").glob("*.yaml"))}
README = TEXTS[ROOT / "README.md"]
CODE = [
    page for page in READMES if "```python" in TEXTS[page] and page.parent.name != "integrations"
]  # has a test of its own


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def commands() -> list[str]:
    """The commands with settings that pages, and the help of programs, show."""
    command = r"^ *(?:python|torchrun .*?) (scripts/.*=.*)$"
    lines = [line for text in TEXTS.values() for line in re.findall(command, text, re.M)]
    return sorted({line.partition("  #")[0].strip() for line in lines})


def make_commands() -> list[str]:
    """The calls of make with settings that pages show, and targets that run a program with settings."""
    calls = [call for page in READMES for call in re.findall(r"^make ([^#\n]+)", TEXTS[page], re.M)]
    shown = sorted({call.strip() for call in calls if "=" in call})
    return [*shown, "quickstart", "reproduce-table2", "show-table2", "figure-f1", "choose-strength", "causes", "data"]


def first_choice(override: str) -> str:
    """The first point of a sweep ``key=a,b``; a list ``key=[a,b]`` stays."""
    return override if "[" in override else override.partition(",")[0]


def compose_and_build(command: str) -> None:
    """Raise if the program ``scripts/NAME.py SETTINGS`` would refuse its settings."""
    script, *overrides = shlex.split(command, comments=True)
    kept = [first_choice(o) for o in overrides if o != "-m" and not o.startswith("hydra/")]
    config = compose_config(ROOT / "configs", Path(script).stem, kept)
    if "model" in config:
        build_experiment(config)
    for key in ("analysis", "grid", "claim_scope", "engine", "folders", "data"):
        if key in config and isinstance(config[key], dict):
            build(config[key], key)
    if "scope" in config:
        build(config["scope"] | {"seeds": config["scope"]["seeds"] or [0]}, "scope")


def test_there_are_commands_to_check():
    assert len(commands()) > 10
    assert len(make_commands()) > 8


@pytest.mark.parametrize("command", commands())
def test_every_command_that_is_shown_composes(command):
    compose_and_build(command)


@pytest.mark.parametrize("target", make_commands())
def test_what_make_runs_composes(target):
    dry_run = subprocess.run(["make", "-n", *shlex.split(target)], cwd=ROOT, text=True, capture_output=True, check=True)
    lines = re.findall(r"python (scripts/\S+\.py.*)", dry_run.stdout.replace("\\\n", " "))
    assert lines
    for line in lines:
        compose_and_build(line)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_resolves(page):
    links = re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", TEXTS[page])
    targets = [(page.parent / target if target else page, anchor) for target, anchor in links]
    assert [target for target, anchor in targets if not target.exists()] == []
    assert [(target, anchor) for target, anchor in targets if anchor and anchor not in anchors(target)] == []


@pytest.mark.parametrize("page", READMES, ids=name_of)
def test_every_make_target_that_is_named_exists(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:^|`)make ([a-z][\w-]*)", TEXTS[page], re.M):
        stem = re.sub(r"(plan|reproduce|show|figure)-[\w-]+", r"\1-%", target)
        assert re.search(rf"^{re.escape(stem)}:", makefile, re.M), target


def test_the_readme_is_short_and_names_every_experiment():
    assert len(README.splitlines()) <= 200
    for path in (*(ROOT / "configs" / "experiment").glob("*.yaml"), *(ROOT / "configs" / "analysis").glob("*.yaml")):
        assert f"`{path.stem}`" in README


def test_the_section_on_gpus_begins_with_their_check():
    block = re.search(r"^\*\*GPU\.\*\*.*?```sh\n(.*?)$", README, re.M | re.S)
    assert block[1].split("#")[0].strip() == "make check-gpu"
    command = subprocess.run(["make", "-n", "check-gpu"], cwd=ROOT, text=True, capture_output=True, check=True)
    assert "python scripts/check_gpu.py" in command.stdout


METRIC = {  # whose section of a rendered table a block of a page shows, by the block's name
    "accuracy": "best",
    "late": "late",
    "last": "last",
    "recomputed": "last_recalibrated",
    "converged": "sharpness_converged",
}
BLOCKS = {page: re.findall(r"<!-- (\S+): (\w+) -->\n(.*?)<!-- end -->", TEXTS[page], re.S) for page in PAGES}
SHOWING = [page for page in PAGES if BLOCKS[page]]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def section(name: str, block: str) -> list[list[str]]:
    """The rows in the section of the rendered table ``name`` that ``block`` names."""
    rendered = (ROOT / "results" / "tables" / f"{name}.md").read_text(encoding="utf-8")
    [text] = re.findall(rf"^## {re.escape(METRICS[METRIC[block]].heading)}\n(.*?)(?=^## |\Z)", rendered, re.M | re.S)
    return [cells(line) for line in text.splitlines() if line.startswith("|")]


def shown(name: str, text: str) -> list[tuple[str, list[str]]]:
    """The rows of a block, each with the name of its table; a ``*`` in ``name`` stands for the row's first cell."""
    rows = [cells(line) for line in text.splitlines() if line.startswith("|") and not line.startswith("|:")]
    if "*" not in name:
        return [(name, row) for row in rows]
    return [(name.replace("*", row[0].strip("`")), row[1:]) for row in rows[1:]]  # without the head


@pytest.mark.parametrize("page", SHOWING, ids=name_of)
def test_the_numbers_shown_are_those_of_the_rendered_tables_section(page):
    for name, block, text in BLOCKS[page]:
        rows = shown(name, text)
        assert rows
        assert [row for table, row in rows if row not in section(table, block)] == []


def test_the_readme_and_the_findings_show_numbers():
    assert {ROOT / "README.md", FINDINGS} <= set(SHOWING)
    blocks = BLOCKS[FINDINGS]
    assert {block for _, block, _ in blocks} == set(METRIC)
    headers = [section(name, block) for name, block, _ in blocks]
    assert all(one != other for i, one in enumerate(headers) for other in headers[:i])


GAP, GAIN, FLATTER, REACHES = (
    "Large-batch training generalizes worse than small-batch training.",
    "SmoothOut raises accuracy at large batch.",
    "SmoothOut lowers the sharpness at large batch.",
    "With SmoothOut, large-batch training reaches small-batch training without it, or misses it by at most 0.1 points.",
)
BEST, LATE, RECALIBRATED, CONVERGED = (
    "test accuracy, best epoch, points",
    "test accuracy, median of the last quarter of the epochs, points",
    "test accuracy, last epoch, BatchNorm recalibrated, points",
    "sharpness `converged`",
)


def judged(claim: str, row: str, protocol: str, metric: str) -> dict[str, str]:
    """A test on the page of claims: its cells by the heading of their columns."""
    [text] = re.findall(rf"^## {re.escape(claim)}\n(.*?)(?=^## |\Z)", CLAIMS.read_text(encoding="utf-8"), re.M | re.S)
    head, *lines = [cells(line) for line in text.splitlines() if line.startswith("|")]
    [found] = [line for line in lines if line[:3] == [row, f"`{protocol}`", metric]]
    return dict(zip(head, found, strict=True))


IN_SHORT = {  # of results/claims.md, by the words of the findings' summary: claim, row, metric
    "gap between 256 and 6000, best epoch": (GAP, "F1, MNIST", BEST),
    "gap, typical late epoch": (GAP, "F1, MNIST", LATE),
    "gap, last epoch, running statistics recomputed": (GAP, "F1, MNIST", RECALIBRATED),
    "SmoothOut's gain at 256, best epoch": ("SmoothOut raises accuracy at small batch.", "F1, MNIST, 256", BEST),
    "SmoothOut's gain at 6000, best epoch": (GAIN, "F1, MNIST, 6000", BEST),
    "gain at 6000, typical late epoch": (GAIN, "F1, MNIST, 6000", LATE),
    "gain at 6000, last epoch, running statistics recomputed": (GAIN, "F1, MNIST, 6000", RECALIBRATED),
    "SmoothOut at 6000 reaches the baseline at 256, to 0.1 points": (REACHES, "F1, MNIST", BEST),
    "sharpness at 6000 over that at 256": ("Large-batch training ends in sharper minima.", "F1, MNIST", CONVERGED),
    "sharpness at 6000 over that with SmoothOut": (FLATTER, "F1, MNIST, 6000", CONVERGED),
}
VERDICTS = {"holds": "shown", "does not hold": "refuted", "undecided": "undecided"}


def in_short(test: dict[str, str]) -> str:
    """The estimate and the verdict of a test on the page of claims, as the findings tell them."""
    verdict = VERDICTS[test["verdict"].partition(" if ")[0]]
    own_page = verdict != "undecided" and float(test["p, all pages"]) >= LEVEL
    return f"{test['ours [95%]']}, {verdict}{' on its page' if own_page else ''}"


def test_the_findings_begin_with_the_estimates_and_verdicts_of_the_page_of_claims():
    block = re.search(r"<!-- claims -->\n(.*?)<!-- end -->", TEXTS[FINDINGS], re.S)[1]
    (_, _, *protocols), *lines = [cells(line) for line in block.splitlines() if not line.startswith("|:")]
    assert [line[0] for line in lines] == [*IN_SHORT]
    for name, published, *told in lines:
        claim, row, metric = IN_SHORT[name]
        for protocol, text in zip(protocols, told, strict=True):
            test = judged(claim, row, protocol.strip("`"), metric)
            assert (text, published) == (in_short(test), test.get("published", ""))


TOLD = {  # of results/claims.md, by the words of the README: claim, row, protocol, metric
    "the large-batch gap is there**: # points under `paper_text`": (
        GAP,
        "F1, MNIST",
        "paper_text",
        BEST,
    ),
    "under `paper_text`, # under `authors_code`;": (GAP, "F1, MNIST", "authors_code", BEST),
    "SmoothOut gains # points at the large batch": (GAIN, "F1, MNIST, 6000", "paper_text", BEST),
    "and # at a typical late epoch": (GAIN, "F1, MNIST, 6000", "paper_text", LATE),
    "less is certain**: # at the best epoch": (GAIN, "F1, MNIST, 6000", "authors_code", BEST),
    "is undecided, # at a typical late epoch": (GAIN, "F1, MNIST, 6000", "authors_code", LATE),
    "SmoothOut ends # times flatter": (FLATTER, "F1, MNIST, 6000", "paper_text", CONVERGED),
}


@pytest.mark.parametrize("words", TOLD)
def test_the_readme_tells_the_numbers_of_the_page_of_claims(words):
    ours = judged(*TOLD[words])["ours [95%]"]
    told = re.search(re.escape(words).replace(r"\#", r"([\d.]+)"), README)[1]
    decimals = len(told.partition(".")[2])
    assert round(float(re.match(r"\+?([\d.]+)", ours)[1]), decimals) == float(told)


# The library


@pytest.fixture
def names(monkeypatch) -> dict[str, Any]:
    """What the code of a page may use: examples of 64 numbers in ten classes, models with BatchNorm, imports."""
    monkeypatch.chdir(ROOT)

    def examples(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(torch.randn(count, 64), torch.randint(0, 10, (count,))) for _ in range(3)]

    model, other = (nn.Sequential(nn.Linear(64, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 10)) for _ in range(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    namespace: dict[str, Any] = {"model": model, "model_a": model, "model_b": other, "optimizer": optimizer}
    namespace |= {"torch": torch, "nn": nn, "F": nn.functional, "SmoothOut": SmoothOut, "AdaSmoothOut": AdaSmoothOut}
    return namespace | {"loader": examples(8), "batches": examples(16), "held_out": examples(16)}


@pytest.mark.parametrize("page", CODE, ids=name_of)
def test_the_code_that_a_page_shows_runs_as_it_stands(page, names):
    for block in re.findall(r"^```python\n(.*?)^```$", TEXTS[page], re.M | re.S):
        code = compile(block, name_of(page), "exec")
        if "..." not in block:  # else it is a sketch
            exec(code, names)


def test_the_readmes_code_trains_measures_and_reads_the_records(names, capsys):
    before = copy.deepcopy(names["model"].state_dict())
    loop, program, reading = re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S)
    exec(loop, names)
    assert not all(torch.equal(before[name], tensor) for name, tensor in names["model"].state_dict().items())
    exec(program, names)
    assert re.match(r"\d+\.\d+", capsys.readouterr().out)
    exec(reading, names)
    best = names["frame"].query("model == 'f1' and epochs == 200 and batch == 6000")["best"]
    assert best.between(0.97, 0.99).all()
    assert len(best) > 10


def test_the_analyses_code_gives_what_its_page_says(names):
    page = ROOT / "src" / "smoothout" / "analysis" / "README.md"
    for block in re.findall(r"^```python\n(.*?)^```$", TEXTS[page], re.M | re.S):
        exec(block, names)
    assert names["result"].value > 0
    assert (names["path"][0].alpha, names["path"][-1].alpha) == (-1.0, 2.0)
    assert names["noisy"][0].loss_error == 0.0 < names["noisy"][1].loss_error
    assert {len(point.losses) for point in names["around"]} == {5}
    top = list(names["top"].values)
    assert top == sorted(top, reverse=True)
    ritz = [value for values in names["spectrum"].ritz for value in values]
    assert all(min(abs(value - other) for other in ritz) < 0.01 * top[0] for value in top)


# The examples of configs/README.md


@pytest.fixture
def configs(tmp_path) -> Path:
    """A copy of configs/ with the files that its README adds."""
    folder = shutil.copytree(ROOT / "configs", tmp_path / "configs")
    block = r"^```yaml\n((?:# @package _global_\n)?# configs/(\S+)\n.*?)^```$"
    for text, path in re.findall(block, TEXTS[ROOT / "configs/README.md"], re.M | re.S):
        (folder / path).write_text(text, encoding="utf-8")
    return folder


def test_the_examples_of_a_table_a_figure_and_a_claim_work(configs):
    config = compose_config(configs, "reproduce", ["table=mine", "figure=mine"])
    published = ROOT / "results" / "published"
    table = TablePlan(config["table"], RunSelection(), configs, published)
    figure = FigurePlan(config["figure"], RunSelection(), configs)
    assert len(table.jobs()) == 4
    assert len(figure.jobs()) == 4
    claims = compose_config(configs, "verdicts", ["claims=mine"])["claims"]
    assert len(Claims(claims, ClaimScope(("authors_code",)), configs, published).jobs()) == 2
