"""Jobs: what cannot be run is refused in one line and leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.common import tree
from helpers.tiny_jobs import checkpoint_of, record_of, tiny, trained

from smoothout.common.errors import CheckpointError, ConfigError, DataError
from smoothout.data.datasets import DatasetName
from smoothout.data.image_arrays import ImageArrays
from smoothout.data.image_folder import Collection, ImageFolder
from smoothout.jobs import training_job
from smoothout.jobs.job import Job
from smoothout.jobs.prepared_run import capturable_by_settings
from smoothout.jobs.runner import get_or_run
from smoothout.jobs.runtime import Runtime
from smoothout.models.shallow import Shallow
from smoothout.training.batch import Batch
from smoothout.training.distributed import ProcessGroup
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.optimizers import Adam, Epsilon


def _bad_digits(folder: Path) -> None:
    folder.mkdir(parents=True)
    images, labels = np.zeros((8, 8, 8), np.uint8), np.zeros(8, np.int64)
    np.savez(folder / "digits.npz", x_train=images, y_train=labels + 10, x_test=images, y_test=labels)


def _torn_digits(folder: Path) -> None:
    _bad_digits(folder)
    path = folder / "digits.npz"
    path.write_bytes(path.read_bytes()[:100])


BAD_JOBS: dict[str, tuple[Job, Callable[[Path], None] | None, type[Exception], str]] = {
    "a batch above the data set": (
        tiny(batch=Batch(1439)),
        None,
        ConfigError,
        r"^batch.size: 1439 is more than the 1438 training examples in use$",
    ),
    "a last batch of one example before BatchNorm": (
        tiny(batch=Batch(479)),
        None,
        ConfigError,
        r"^batch.size: the last .* has 1 example, .* needs 2",
    ),
    "a model that images are too small for": (
        tiny(model=Shallow()),
        None,
        ConfigError,
        r"^model: .* at least 11x11 pixels, not 8x8$",
    ),
    "missing data": (
        tiny(data=ImageArrays(DatasetName.mnist, (0.5,), (0.5,))),
        None,
        DataError,
        r"^data: mnist was not found: looked for .*mnist.npz; run `python scripts/prepare_data.py",
    ),
    "damaged data": (tiny(), _torn_digits, DataError, r"^data: .*digits.npz is corrupt"),
    "wrong data": (tiny(), _bad_digits, DataError, r"^data: .*digits.npz: y_train must lie in 0..9, not 10..10$"),
}


@pytest.mark.parametrize("what", BAD_JOBS)
def test_what_cannot_be_run_is_refused_in_one_line_and_leaves_no_trace(runtime: Runtime, what: str) -> None:
    job, prepare, error, message = BAD_JOBS[what]
    root = Path(runtime.folders.data).parent
    if prepare:
        prepare(Path(runtime.folders.data))
    before = tree(root)
    with pytest.raises(error, match=message) as refused:
        get_or_run(job, runtime)
    assert len(str(refused.value).splitlines()) == 1
    assert tree(root) == before


def _of_another_run(path: Path, runtime: Runtime) -> None:
    other = tiny(seed=7)
    trained(other, runtime)
    checkpoint_of(other, runtime).rename(path)


def _torn(path: Path, runtime: Runtime) -> None:
    trained(tiny(), runtime)
    path.write_bytes(path.read_bytes()[:-200])


def _empty(path: Path, runtime: Runtime) -> None:
    path.parent.mkdir()
    path.touch()


def _text(path: Path, runtime: Runtime) -> None:
    path.parent.mkdir()
    path.write_text("no tensors")


def _foreign(path: Path, runtime: Runtime) -> None:
    path.parent.mkdir()
    torch.save({"state_dict": {"weight": torch.zeros(2)}}, path)


def _runs_code(path: Path, runtime: Runtime) -> None:
    path.parent.mkdir()
    torch.save({"json": Path("of a class that is no tensor")}, path)


BAD_CHECKPOINTS = {
    _of_another_run: "belongs to another run",
    _torn: "is damaged",
    _empty: "is damaged",
    _text: "is damaged",
    _foreign: "is damaged or no checkpoint of this program",
    _runs_code: "is damaged or no checkpoint of this program",
}


@pytest.mark.parametrize("spoil", BAD_CHECKPOINTS, ids=lambda spoil: spoil.__name__.strip("_"))
def test_a_checkpoint_that_cannot_be_used_is_refused_by_name_and_kept(
    runtime: Runtime, spoil: Callable[[Path, Runtime], None]
) -> None:
    path = checkpoint_of(tiny(), runtime)
    spoil(path, runtime)
    root = Path(runtime.folders.data).parent
    before = tree(root)
    with pytest.raises(CheckpointError, match=BAD_CHECKPOINTS[spoil]) as refused:
        get_or_run(tiny(), runtime)
    assert str(path) in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert tree(root) == before


def test_a_fault_in_the_training_leaves_no_record(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(training_job, "Trainer", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            get_or_run(tiny(), runtime)
    assert not record_of(tiny(), runtime).exists()
    assert get_or_run(tiny(), runtime).name == tiny().name


@pytest.mark.parametrize(
    ("changes", "recordable"),
    [
        ({}, True),
        ({"optimizer": Adam(0.01, epsilon=Epsilon.uncorrected)}, False),
        ({"method": NoiseConfig(0.1, copies=2)}, False),
        ({"method": NoiseConfig(0.0, copies=2)}, True),
        ({"data": ImageFolder(Collection.imagenette, (0.5,) * 3, (0.5,) * 3)}, False),
    ],
)
def test_a_cuda_graph_that_settings_rule_out_is_asked_for_in_vain_before_anything_is_written(
    changes: dict[str, Any], recordable: bool, runtime: Runtime
) -> None:
    assert capturable_by_settings(tiny(**changes).settings, runtime) is recordable
    ranks = replace(runtime, ranks=ProcessGroup(0, 2))
    assert not capturable_by_settings(tiny(**changes).settings, ranks)
