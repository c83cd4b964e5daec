"""A table whose strength and epochs are chosen on held-out images: nothing is chosen on the test split."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.common import tree
from helpers.programs import QUIET, Program, records
from helpers.tiny_jobs import DIGITS

from smoothout.data import datasets
from smoothout.data.datasets import DatasetName
from smoothout.models.mlp import MLP
from smoothout.nn.evaluation import evaluate

HELD_OUT = 200
Reproduce = Callable[..., str]


def on_digits(*overrides: str) -> str:
    """A list of overrides for a short training on digits that holds out images."""
    given = ["experiment=digits", "model.width=16", f"data.validation_size={HELD_OUT}", *overrides]
    return "[" + ",".join(f'"{override}"' for override in given) + "]"


TABLE = (
    "table=chosen",
    "scope.profile=short",
    f"table.strength_choice.overrides={on_digits('batch=small', 'method=smoothout')}",
    "table.strength_choice.grid={strengths:[0.02,50],seeds:[0],checkpoint:best}",
    "table.rows=["
    f"{{name:small,overrides:{on_digits('batch=small')}}},{{name:large,overrides:{on_digits('batch=large')}}}]",
)


@pytest.fixture
def reproduce(script: Program) -> Reproduce:
    def run(*overrides: str) -> str:
        code, out, err = script("reproduce", *QUIET, *TABLE, *overrides)
        assert code == 0, err
        return "\n".join(out)

    return run


def of_kind(root: Path, kind: str) -> Iterable[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((root / "results" / kind).glob("*.json"))]


def test_the_plan_is_that_of_the_choice_until_there_is_one(root: Path, reproduce: Reproduce) -> None:
    shown = reproduce("plan=true")
    assert "a = 0.02 " in shown
    assert "planned once it is chosen" in shown
    assert "4 commands for seed(s) 0" in shown, "the baseline at both batches, and the test split's look at each"
    assert "method=smoothout" not in shown
    assert tree(root) == {"here": "folder"}


def test_the_table_chooses_trains_looks_once_and_repeats_nothing(root: Path, reproduce: Reproduce) -> None:
    shown = reproduce()
    [choice] = of_kind(root, "strength")
    a = choice["outcome"]["chosen"]
    assert f"SmoothOut, a = {a:g}" in shown
    assert f"a = {a:g} has the best mean accuracy on {HELD_OUT} held-out training images" in shown

    # Two trainings of the choice, of which one is the table's at the small batch.
    trainings = records(root)
    assert len(trainings) == 2 + 1 + 2
    assert {run["outcome"]["examples"]["test"] for run in trainings.values()} == {HELD_OUT}
    looks = list(of_kind(root, "unseen_test"))
    assert {look["inputs"][0].partition("-e")[0] for look in looks} == {
        f"small_mlp-digits-b{batch}-{method}" for batch in (32, 720) for method in ("baseline", f"smoothout{a:g}")
    }, "the test split has seen the chosen strength alone"

    # Each look is at the weights of the best held-out epoch, on all images of the test split.
    _, test_split, _ = DIGITS.load(Path("nowhere"), torch.device("cpu"))
    model = MLP(16, 3).build(DIGITS.shape, DIGITS.classes)
    for look in looks:
        [name] = look["inputs"]
        held_out = trainings[name]["outcome"]["curves"]["test_accuracy"]
        assert trainings[name]["outcome"]["best"]["test_accuracy"] == max(held_out)
        model.load_state_dict(torch.load(root / "checkpoints" / f"{name}.pt", weights_only=True)["best"])
        found = evaluate(model, test_split.batches(1000))
        assert (look["outcome"]["loss"], look["outcome"]["accuracy"]) == found

    frame = pd.read_csv(root / "results" / "tables" / "chosen-authors_code-short.csv").set_index(["row", "column"])
    gain = frame["mean"]["large", "smoothout improvement unseen_test"]
    large = [look for look in looks if look["labels"]["batch"] == 720]
    by_method = {look["labels"]["method"]: look["outcome"]["accuracy"] for look in large}
    assert gain == pytest.approx(100 * (by_method[f"smoothout{a:g}"] - by_method["baseline"]))
    page = (root / "results" / "tables" / "chosen-authors_code-short.md").read_text()
    assert "## Held-out accuracy in %, best epoch" in page
    assert "selected on the test split itself" not in page

    before = tree(root)
    again = reproduce("run=false")
    assert f"SmoothOut, a = {a:g}" in again
    assert tree(root) == before


def test_other_test_images_change_no_choice(root: Path, reproduce: Reproduce, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = datasets.load(DatasetName.digits, Path("nowhere"))
    poisoned = arrays._replace(y_test=(arrays.y_test + 1) % 10)
    found = []
    for name, these in (("plain", arrays), ("poisoned", poisoned)):
        (root / name / "data").mkdir(parents=True)
        np.savez(root / name / "data" / "digits.npz", **these._asdict())
        for folder in ("data", "results", "checkpoints"):
            monkeypatch.setenv(f"SMOOTHOUT_{folder.upper()}", str(root / name / folder))
        reproduce("rows=[small]")
        [choice] = of_kind(root / name, "strength")
        runs = {run: record["outcome"]["weights"] for run, record in records(root / name).items()}
        looks = [look["outcome"]["accuracy"] for look in of_kind(root / name, "unseen_test")]
        found.append((choice["outcome"]["strengths"], runs, looks))
    assert found[0][:2] == found[1][:2]
    assert max(found[1][2]) < 0.1 < min(found[0][2]), "the test split is looked at, after the choice"
