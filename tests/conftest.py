"""What all tests share: one thread, a seed for each test, few Hypothesis examples, tiny images, the real data."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import torch
from helpers.common import seed_of, start_from
from helpers.paths import ROOT
from helpers.programs import PLACES, SCRIPT, Ended, Program

import smoothout.cli  # noqa: F401 -- here, where no script is the main program: Ctrl-C stays with pytest
from smoothout.data.split import Split

if TYPE_CHECKING:  # the library's tests run without the extra [experiments]
    from smoothout.jobs.runtime import Runtime
    from smoothout.training.checkpoint import TrainingState

hypothesis.settings.register_profile("tests", deadline=None, max_examples=30, derandomize=True)
hypothesis.settings.load_profile("tests")

CLASSES = 3


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Sums over several threads may be added up in another order: bitwise comparisons need one."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    """Every test starts from its own seed, whichever ran before."""
    start_from(seed_of(request.node.nodeid), request.function)


@pytest.fixture
def tiny_split() -> Callable[..., Split]:
    """Makes a split of this many images of 4 x 4 gray pixels, in three classes that differ in brightness."""

    def make(examples: int, seed: int = 0) -> Split:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(0, CLASSES, (examples,), generator=generator)
        pixels = torch.randint(0, 120, (examples, 4, 4, 1), generator=generator) + 60 * labels.view(-1, 1, 1, 1)
        return Split(pixels.to(torch.uint8), labels, (0.5,), (0.5,))

    return make


@pytest.fixture(scope="session")
def data_folder() -> Callable[[str], Path]:
    """Gives the folder that holds NAME.npz, SMOOTHOUT_DATA or the repository's data/; skips where it does not."""

    def find(name: str) -> Path:
        folder = Path(os.environ.get("SMOOTHOUT_DATA", ROOT / "data"))
        if not (folder / f"{name}.npz").exists():
            pytest.skip(f"{name}.npz is not in the data folder {folder}")
        return folder

    return find


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the report on the committed records; not to be changed."""
    from helpers.report_pages import committed_report

    return committed_report(tmp_path_factory)


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    """Separate folders for what a test makes; nothing is downloaded."""
    from helpers.tiny_jobs import workplace

    return workplace(tmp_path)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[TrainingState | None]:
    """Fills with what each call of the training loop resumed from."""
    from smoothout.jobs import training_job
    from smoothout.training.trainer import Trainer

    calls: list[TrainingState | None] = []

    class Spied(Trainer):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            calls.append(settings["resume"])
            super().__init__(*arguments, **settings)

    monkeypatch.setattr(training_job, "Trainer", Spied)
    return calls


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A separate folder for everything that the program writes, and an empty one to start it from."""
    for name in PLACES:
        monkeypatch.setenv(f"SMOOTHOUT_{name.upper()}", str(tmp_path / name))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # set by the program; put back after the test
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.fixture
def script(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """Runs the script of that name in this process; gives its exit code and the lines on stdout and stderr."""

    def run(name: str, *arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPT.with_stem(name)), run_name="__main__")
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out.splitlines(), err.splitlines()

    return run


@pytest.fixture
def program(script: Program) -> Program:
    """Runs scripts/train.py so."""
    return partial(script, "train")
