"""What all tests share: one thread, a seed for each test, few Hypothesis examples, tiny images, the real data."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from support import seed_of, start_from

from smoothout.data.split import Split
from smoothout.jobs import training_job
from smoothout.training.checkpoint import TrainingState
from smoothout.training.trainer import Trainer

hypothesis.settings.register_profile("tests", deadline=None, max_examples=30, derandomize=True)
hypothesis.settings.load_profile("tests")

ROOT = Path(__file__).resolve().parents[1]
CLASSES = 3


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Sums over several threads may be added up in another order: bitwise comparisons need one."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    """Every test starts from a seed of its own, whichever ran before."""
    start_from(seed_of(request.node.nodeid), request.function)


@pytest.fixture
def tiny_split() -> Callable[..., Split]:
    """Makes a split of so many images of 4 x 4 grey pixels, three classes that differ in brightness."""

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


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[TrainingState | None]:
    """Fills with what each call of the training loop went on from."""
    calls: list[TrainingState | None] = []

    class Spied(Trainer):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            calls.append(settings["resume"])
            super().__init__(*arguments, **settings)

    monkeypatch.setattr(training_job, "Trainer", Spied)
    return calls
