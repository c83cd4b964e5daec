"""Checkpoints: what is saved comes back, and anything else is refused in one line."""

from __future__ import annotations

import errno
import json
import math
import pickle
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
        epoch=2,
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


def test_a_loaded_optimizer_state_is_taken_by_a_new_optimizer(tmp_path: Path) -> None:
    before = snapshot()
    save(tmp_path / "run.pt", before, DIGEST)
    optimizer = torch.optim.Adam(nn.Linear(3, 4).parameters(), lr=0.5, fused=True)
    optimizer.load_state_dict(load(tmp_path / "run.pt", DIGEST).optimizer)
    assert same(optimizer.state_dict()["state"], before.optimizer["state"])


def test_a_checkpoint_holds_tensors_plain_values_and_one_json_string(tmp_path: Path) -> None:
    save(tmp_path / "run.pt", snapshot(), DIGEST)
    content = torch.load(tmp_path / "run.pt", weights_only=True)
    assert json.loads(content["json"])["digest"] == DIGEST
    assert set(content) == {"model", "optimizer", "best", "sums", "json"}


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "run.pt", snapshot(), OTHER)
    assert "belongs to another run (b2b2b2b2, not a1a1a1a1)" in refused(tmp_path / "run.pt")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "run.pt"
    save(path, snapshot(), DIGEST)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "is damaged or no checkpoint" in refused(path)


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


@pytest.mark.parametrize(
    "content",
    [
        {},
        [1, 2],
        torch.zeros(3),
        {"model": {}},
        {"model": {}, "optimizer": {}, "best": {}, "sums": torch.zeros(2), "json": "{"},
        {"model": {}, "optimizer": {}, "best": {}, "sums": torch.zeros(2), "json": "{}"},
        {"model": {}, "optimizer": {}, "best": {}, "sums": torch.zeros(2), "json": "[]"},
        {"model": {}, "optimizer": {}, "best": {}, "sums": torch.zeros(2), "json": 7},
        {"model": {}, "optimizer": {}, "best": {}, "json": json.dumps({"digest": DIGEST})},
        {"model": {}, "optimizer": {}, "best": {}, "sums": torch.zeros(2), "json": '{"digest": "x", "extra": 1}'},
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "run.pt")
    assert "is damaged or no checkpoint" in refused(tmp_path / "run.pt")


@pytest.mark.parametrize("content", [b"not found\n", b"PK\x03\x04", pickle.dumps({"json": "{}"}, protocol=2)])
def test_a_file_that_torch_did_not_write_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.pt").write_bytes(content)
    assert "is damaged or no checkpoint" in refused(tmp_path / "run.pt")


def test_a_file_that_only_looks_like_a_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.pt").write_bytes(b"\x80\x02.")
    assert "is damaged or no checkpoint" in refused(tmp_path / "run.pt")


class Payload:
    """Creates ``marker`` when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("way", ["zip", "legacy", "pickle"])
def test_pickled_objects_are_refused_and_never_executed(tmp_path: Path, way: str) -> None:
    path, marker = tmp_path / "run.pt", tmp_path / "executed"
    content = {"model": {}, "optimizer": Payload(marker), "best": {}, "sums": torch.zeros(2), "json": "{}"}
    if way == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=way == "zip")
    if way == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert marker.exists()  # the payload works
    marker.unlink()
    assert "is damaged or no checkpoint" in refused(path)
    assert not marker.exists()


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
        assert load(path, DIGEST).epoch == 2


def test_a_snapshot_whose_numbers_are_no_json_is_not_saved(tmp_path: Path) -> None:
    made = snapshot()
    made.machines = [{"device": object()}]
    with pytest.raises(TypeError, match="JSON"):
        save(tmp_path / "run.pt", made, DIGEST)
    assert not list(tmp_path.iterdir())


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
