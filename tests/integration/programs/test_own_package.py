"""Methods, models, optimizers, data sets and analyses of one's own, in a package and configs outside the repository."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
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
RUN = ("experiment=stripes", "method=gradient_noise")


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PACKAGE))


@pytest.fixture
def write_module(root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Writes a module that can be imported for the time of the test."""
    folder = root / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def write(name: str, code: str) -> None:
        (folder / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)

    return write


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
    root: Path, script: Program, write_module: Callable[[str, str], None]
) -> None:
    """Neither a name that a class of this package has, nor one that such a class has in records, is mixed up."""
    head = "from dataclasses import dataclass\nfrom smoothout.training.optimizers import SGD\n@dataclass(frozen=True)\n"
    write_module("one", f"{head}class SGD(SGD):\n    def build(self, p): return super().build(p)\n")
    write_module("two", f"{head}class Momentum(SGD): pass\n")
    for target in ("smoothout.training.optimizers.SGD", "one.SGD", "two.Momentum", "two.Momentum"):
        code, *_ = script("train", *QUIET, "schedule.epochs=1", "optimizer=momentum", f"optimizer._target_={target}")
        assert code == 0
    assert len([*(root / "results" / "train").glob("*.json")]) == 3


HEAD = """
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal
import torch
from torch import nn
from lab import *
from smoothout.data.split import Split
"""
METHOD = HEAD + "@dataclass(frozen=True)\nclass Mine(GradientNoise):\n"
DATA = HEAD + "@dataclass(frozen=True)\nclass Mine(Stripes):\n"
MODEL = HEAD + "@dataclass(frozen=True)\nclass Mine(LogisticRegression):\n    def build(self, shape, classes):\n"
ANALYSIS = HEAD + "@dataclass(frozen=True, kw_only=True)\nclass Mine(GradientNorm):\n"


WRONG = {  # by what the error says: the group of settings, and the module of its class Mine
    "mine.py, line 9: ValueError: mutable default": ("method", METHOD + "    xs: list = []\n"),
    "No module named 'nothing_like_it'": ("method", "import nothing_like_it\n"),
    "mine.py, line 1: RuntimeError: no licence": ("method", "raise RuntimeError('no licence')\n"),
    "cannot be imported: IndentationError": ("method", "class Mine:\n"),
    "mine.py, line 1: SystemExit: bye": ("method", "raise SystemExit('bye')\n"),
    "is not a class of settings": ("method", HEAD + "class Mine(Method): pass\n"),
    "must be frozen: @dataclass(frozen=True)": ("method", HEAD + "@dataclass\nclass Mine: pass\n"),
    "it lacks slug, build": ("method", HEAD + "@dataclass(frozen=True)\nclass Mine(Method): pass\n"),
    "must be named where it is defined: lab.Mine": ("method", HEAD + "Mine = GradientNoise\n"),
    "method.mode: 'c' is not one of a, b": ("method", METHOD + "    mode: Literal['a', 'b'] = 'a'\n"),
    "method.place: no config can set a field of type <class 'pathlib.Path'>": (
        "method",
        METHOD + "    place: Path = Path('x')\n",
    ),
    "method.slug: must be letters": ("method", METHOD + "    @property\n    def slug(self): return '../x'\n"),
    "training split: images have shape (1, 6, 6)": ("data", DATA + "    shape: ClassVar = (1, 6, 5)\n"),
    "training split: labels must be 0 to 5, not 1 to 6": (
        "data",
        DATA + "    def _draw(self, n):\n        x, y = super()._draw(n)\n        return x, y + 1\n",
    ),
    "model: has lazy modules": ("model", MODEL + "        return nn.LazyLinear(classes)\n"),
    "model: logistic returns (2, 7) for 2 images; must be logits of shape (images, classes) = (2, 6)": (
        "model",
        MODEL + "        return super().build(shape, classes + 1)\n",
    ),
    "model: logistic returns tuple for 2 images": (
        "model",
        MODEL + "        return nn.MaxPool2d(2, return_indices=True)\n",
    ),
    "records of this package have the kind 'train'": ("analysis", ANALYSIS + "    kind: ClassVar = 'train'\n"),
    "analysis.kind: must be letters, digits": ("analysis", ANALYSIS + "    kind: ClassVar = '../x'\n"),
}


@pytest.mark.parametrize("line", WRONG)
def test_what_a_user_may_get_wrong_is_one_line(
    script: Program, write_module: Callable[[str, str], None], line: str
) -> None:
    group, code = WRONG[line]
    write_module("mine", code)
    more = ["analysis=gradient_norm"] if group == "analysis" else []
    more += ["+method.mode=c"] if "mode" in code else ["+method.place=x"] if "place" in code else []
    program = "analyze" if group == "analysis" else "train"
    ended, _, err = script(program, CONFIGS, *QUIET, *RUN, "profile=smoke", *more, f"{group}._target_=mine.Mine")
    assert ended == 2, err
    assert len(err) == 1
    assert line in err[0]
    assert not Path("results").exists()


def test_a_model_that_needs_numbers_when_it_is_built_is_trained(
    script: Program, write_module: Callable[[str, str], None]
) -> None:
    """Tensors on the meta device, where networks are built to know their shapes, have none."""
    body = "        rates = torch.linspace(0, 0.2, 4).tolist()\n        return super().build(shape, classes)\n"
    write_module("needs_numbers", MODEL + body)
    run = (*RUN, "schedule.epochs=1", "model._target_=needs_numbers.Mine")
    assert script("train", CONFIGS, *QUIET, *run)[0] == 0


@pytest.mark.parametrize(
    ("returned", "line"),
    [
        ("1.0", "gradient_norm: run() returned a float; must return a dict"),
        ("{'value': torch.zeros(1)}", "gradient_norm: run() returned a Tensor under 'value'; a record holds numbers"),
    ],
)
def test_an_outcome_that_no_record_can_hold_is_refused(
    root: Path, script: Program, write_module: Callable[[str, str], None], returned: str, line: str
) -> None:
    write_module("mine", ANALYSIS + f"    def run(self, *given): return {returned}\n")
    chosen = ("analysis=gradient_norm", "analysis._target_=mine.Mine")
    ended, _, err = script("analyze", CONFIGS, *QUIET, *RUN, "schedule.epochs=1", *chosen)
    assert ended == 1
    assert any(line in text for text in err), err
    assert not (root / "results" / "gradient_norm").exists()
