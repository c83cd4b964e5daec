"""Checkpoints: what is saved comes back, and anything else is refused in one line."""

from __future__ import annotations

import errno
import json
import math
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from torch import nn

from smoothout.common.errors import CheckpointError
from smoothout.training import checkpoint
from smoothout.training.checkpoint import CURVES, TrainingState, load, save

DIGEST, OTHER = "a1" * 32, "b2" * 32


def snapshot() -> TrainingState:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2).bfloat16())
    optimizer = torch.optim.Adam(model[0].parameters(), lr=0.01, fused=True)
    model[1](model[0](torch.randn(5, 3))).sum().backward()
    optimizer.step()
    made = TrainingState(
        model.state_dict(),
        optimizer.state_dict(),
        {name: tensor + 1 for name, tensor in model.state_dict().items()},
        torch.tensor([1 / 3, 17.0], dtype=torch.float64),
        epoch=4,
        step=5,
        elapsed=0.1 + 0.2,
        machines=[{"device": "cpu", "threads": 1, "versions": {"torch": "2"}}],
    )
    for name in CURVES:
        made.curves[name] = [math.pi, math.nan, math.inf, 1e-300]
    return made


def same(one: Any, other: Any) -> bool:
    """Equality to the last bit, nan included."""
    if isinstance(one, torch.Tensor):
        flat = [t.reshape(-1).contiguous().view(torch.uint8) for t in (one, other)]
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*flat)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


def refused(path: Path, digest: str = DIGEST) -> str:
    with pytest.raises(CheckpointError) as error:
        load(path, digest)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


def test_a_snapshot_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    before = snapshot()
    save(tmp_path / "deep" / "run.pt", before, DIGEST)
    after = load(tmp_path / "deep" / "run.pt", DIGEST)
    assert same(vars(before), vars(after))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["run.pt"]


def test_a_checkpoint_holds_tensors_plain_values_and_one_json_string(tmp_path: Path) -> None:
    save(tmp_path / "run.pt", snapshot(), DIGEST)
    content = torch.load(tmp_path / "run.pt", weights_only=True)
    assert json.loads(content["json"])["digest"] == DIGEST
    assert set(content) == {"model", "optimizer", "best", "sums", "json"}


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "run.pt"
    save(path, snapshot(), DIGEST)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "is damaged, or not a checkpoint" in refused(path)


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("epoch", 3, "curves"),
        ("curves", {name: [1.0] * 5 if name == "seconds" else [1.0] * 4 for name in CURVES}, "curves"),
        ("curves", {name: ["1"] * 4 for name in CURVES}, "numbers"),
        ("best", {}, "best"),
        ("best", {"0.weight": torch.zeros(3)}, "best"),
        ("method", {"mean": 3}, "weights"),
        ("machines", ["cpu"], "machines"),
    ],
)
def test_a_checkpoint_whose_parts_do_not_fit_together_is_refused(
    tmp_path: Path, name: str, value: object, part: str
) -> None:
    made = snapshot()
    setattr(made, name, value)
    save(tmp_path / "run.pt", made, DIGEST)
    assert f"({part} does not fit the rest)" in refused(tmp_path / "run.pt")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()], ids=repr)
def test_a_machine_without_memory_is_no_reason_to_call_a_checkpoint_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    save(tmp_path / "run.pt", snapshot(), DIGEST)

    def load_nothing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch, "load", load_nothing)
    with pytest.raises(type(error)):
        load(tmp_path / "run.pt", DIGEST)


@pytest.mark.parametrize("before", [False, True])
def test_a_failed_save_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    path = tmp_path / "run.pt"
    if before:
        save(path, snapshot(), DIGEST)

    def half(content: Any, target: BinaryIO) -> None:
        target.write(b"half of it")
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", half)
    with pytest.raises(OSError, match="no space left"):
        save(path, TrainingState({}, {}, {}, torch.zeros(2)), DIGEST)
    assert [file.name for file in tmp_path.iterdir()] == (["run.pt"] if before else [])
    if before:
        assert load(path, DIGEST).epoch == 4


def test_the_best_epoch_is_the_first_of_the_best() -> None:
    made = snapshot()
    for accuracies, best in [([0.1], 0), ([0.1, 0.5, 0.3, 0.5], 1), ([0.5, 0.5], 0), ([0.1, 0.2], 1)]:
        made.curves["test_accuracy"] = accuracies
        assert made.best_epoch == best


@pytest.mark.parametrize(
    ("train", "test", "diverged"),
    [
        ([], [], False),
        ([1.0], [2.0], False),
        ([math.nan], [1.0], True),
        ([1.0], [math.inf], True),
        ([math.nan, 1.0], [1.0, 1.0], False),
    ],
)
def test_a_training_has_diverged_when_its_last_loss_is_not_finite(
    train: list[float], test: list[float], diverged: bool
) -> None:
    made = snapshot()
    made.curves.update(train_loss=train, test_loss=test)
    assert made.diverged is diverged
