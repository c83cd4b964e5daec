"""Methods, models, optimizers, data sets and analyses of one's own, in a package and configs outside the repository."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from helpers.paths import CONFIGS as REPOSITORY
from helpers.paths import ROOT
from helpers.programs import Program
from torch import nn

import smoothout

PACKAGE = ROOT / "tests" / "example_package"
CONFIGS = f"--config-dir={PACKAGE / 'configs'}"
QUIET = ("threads=1", "tensorboard=false")
RUN = ("experiment=digits", "data=stripes", "model=logistic", "optimizer=rmsprop", "method=gradient_noise")


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PACKAGE))


def test_a_training_and_an_analysis_have_records_that_name_their_classes(root: Path, script: Program) -> None:
    assert script("train", CONFIGS, *QUIET, *RUN, "schedule.epochs=25", "protocol=paper_text")[0] == 0
    code, out, err = script("analyze", CONFIGS, *QUIET, *RUN, "profile=smoke", "analysis=gradient_norm")
    assert code == 0, err
    assert "value 0." in out[-1]
    names = [path.name for path in sorted((root / "results").glob("*/*.json"))]
    assert [name.startswith("logistic-stripes-b32-gradient_noise0.01-e") for name in names] == [True] * 3
    [path] = (root / "results" / "train").glob("*-e25-*")
    long = json.loads(path.read_text())
    classes = {part["class"] for part in long["settings"].values() if isinstance(part, dict)}
    assert classes >= {"lab.GradientNoise", "lab.LogisticRegression", "lab.RMSprop", "lab.Stripes"}
    assert long["outcome"]["best"]["test_accuracy"] > 0.6  # chance is 1 / 6


def test_its_network_is_loaded_by_a_sequence_of_folders(root: Path) -> None:
    network = smoothout.trained([*RUN, "schedule.epochs=1"], configs=[REPOSITORY, PACKAGE / "configs"])
    assert [type(module) for module in network] == [nn.Flatten, nn.Linear]


def test_a_training_of_them_can_be_repeated(root: Path, script: Program) -> None:
    losses = []
    for folder, method in (("first", RUN[-1]), ("second", RUN[-1]), ("third", "method=none")):
        places = (f"folders.results={folder}", f"folders.checkpoints={folder}")
        assert script("train", CONFIGS, *QUIET, *RUN[:-1], method, "schedule.epochs=1", *places)[0] == 0
        [path] = Path(folder).glob("train/*.json")
        losses.append(json.loads(path.read_text())["outcome"]["curves"]["train_loss"])
    assert losses[0] == losses[1] != losses[2]


def test_a_table_of_them_is_made(root: Path, script: Program) -> None:
    code, _, err = script("reproduce", CONFIGS, *QUIET, "table=stripes")
    assert code == 0, err
    cells = pd.read_csv(root / "results" / "tables" / "stripes-authors_code-paper.csv")
    assert set(cells["n"]) == {1}
    assert cells["mean"].between(0, 100).all()


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("method.sigma=0", "error: method.sigma: must be above 0, not 0.0"),
        ("method.sgima=1", "error: method.sgima: unknown key (did you mean sigma?); allowed: sigma"),
        ("method._target_=lab.NoisyGradient", "error: method._target_: 'lab.NoisyGradient' is not a class of settings"),
        ("method._target_=lab.Stripes", "error: method._target_: lab.Stripes cannot be the method: it lacks slug"),
        ("method._target_=lba.GradientNoise", "No module named 'lba'; must be installed, or its folder on PYTHONPATH"),
        ("method._target_=Mine", "must be the full name of a class, package.module.Class, not 'Mine'"),
    ],
)
def test_an_error_in_its_settings_is_one_line(root: Path, script: Program, override: str, line: str) -> None:
    code, _, err = script("train", CONFIGS, *QUIET, *RUN, override)
    assert code == 2
    assert len(err) == 1
    assert line in err[0]


def test_a_class_has_records_of_its_own_whatever_its_name_and_base(
    root: Path, script: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a name that a class of this package has, nor one that such a class has in records, is mixed up."""
    head = "from dataclasses import dataclass\nfrom smoothout.training.optimizers import SGD\n@dataclass(frozen=True)\n"
    (tmp_path / "one.py").write_text(f"{head}class SGD(SGD):\n    def build(self, p): return super().build(p)\n")
    (tmp_path / "two.py").write_text(f"{head}class Momentum(SGD): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for target in ("smoothout.training.optimizers.SGD", "one.SGD", "two.Momentum", "two.Momentum"):
        code, *_ = script("train", *QUIET, "schedule.epochs=1", "optimizer=momentum", f"optimizer._target_={target}")
        assert code == 0
    assert len([*(root / "results" / "train").glob("*.json")]) == 3
