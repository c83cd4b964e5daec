"""Broken and hostile files (data, checkpoints, records, configs), each made by a function that corrupts a folder."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smoothout.training.checkpoint import CURVES

Spoil = Callable[[Path], None]
Change = Callable[[Path, dict[str, Any]], object]  # of a checkpoint: its file and what it held


class Payload:
    """Leaves a file named ``mark`` where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("mark",)


def _named(name: str, spoil: Spoil) -> Spoil:
    spoil.__name__ = name
    return spoil


# Data


def arrays(**changes: Any) -> dict[str, Any]:
    """Sound arrays of 1438 and 359 digits, all black, but for ``changes``; None leaves one out."""
    found = {
        "x_train": np.zeros((1438, 8, 8), np.uint8),
        "y_train": np.arange(1438) % 10,
        "x_test": np.zeros((359, 8, 8), np.uint8),
        "y_test": np.arange(359) % 10,
    }
    return {key: value for key, value in (found | changes).items() if value is not None}


def _data(name: str, content: dict[str, Any] | bytes | None) -> Spoil:
    """digits.npz with those arrays or bytes, or a folder of that name."""

    def spoil(folder: Path) -> None:
        path = folder / "data" / "digits.npz"
        path.parent.mkdir()
        if content is None:
            path.mkdir()
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.savez(path, **content)

    return _named(f"data: {name}", spoil)


def _torn_npz(folder: Path) -> None:
    _data("", arrays())(folder)
    path = folder / "data" / "digits.npz"
    path.write_bytes(path.read_bytes()[:5000])


def _objects() -> Any:
    hostile = np.empty(1438, dtype=object)
    hostile[:] = [Payload()] * 1438
    return hostile


DATA = {  # how the folder is corrupted, and words of the error line
    _data("labels above the classes", arrays(y_train=np.full(1438, 10))): "y_train 0..9 10",
    _data("labels below 0", arrays(y_test=np.full(359, -1))): "y_test 0..9 -1",
    _data("labels that are not integers", arrays(y_train=np.zeros(1438))): "y_train 1438",
    _data("fewer labels than images", arrays(y_train=np.zeros(3, int))): "y_train 1438 (3,)",
    _data("pixels that are nan", arrays(x_train=np.full((1438, 8, 8), np.nan))): "x_train uint8",
    _data("pixels that are infinite", arrays(x_test=np.full((359, 8, 8), np.inf, np.float32))): "x_test uint8",
    _data("wide pixels", arrays(x_train=np.zeros((1438, 8, 8), np.int64))): "x_train uint8",
    _data("images of another size", arrays(x_test=np.zeros((359, 8, 9), np.uint8))): "x_test uint8",
    _data("colours", arrays(x_train=np.zeros((1438, 8, 8, 3), np.uint8))): "x_train uint8",
    _data("nothing to learn", arrays(x_train=np.zeros((0, 8, 8), np.uint8), y_train=np.zeros(0, int))): "uint8 > 0",
    _data("nothing to test on", arrays(x_test=np.zeros((0, 8, 8), np.uint8), y_test=np.zeros(0, int))): "uint8 > 0",
    _data("an array too few", arrays(y_test=None)): "y_test x_train, y_train, x_test, y_test",
    _data("a folder of that name", None): "digits.npz",
    _data("empty", b""): "digits.npz",
    _data("text", b"x_train,y_train\n1,2\n"): "digits.npz",
    _data("the beginning of an archive", b"PK\x03\x04" + bytes(99)): "digits.npz",
    _named("data: torn", _torn_npz): "digits.npz",
    _data("pickled objects", arrays(y_train=_objects())): "digits.npz",
    _data("a pickle", pickle.dumps(Payload())): "digits.npz",
}


# Checkpoints


def _checkpoint(name: str, change: Change) -> Spoil:
    """The run's checkpoint as ``change`` leaves it, its record gone."""

    def spoil(folder: Path) -> None:
        [record], [path] = folder.glob("results/train/*.json"), folder.glob("checkpoints/*.pt")
        record.unlink()
        change(path, torch.load(path, weights_only=True))

    return _named(f"checkpoint: {name}", spoil)


def _bytes(change: Callable[[bytes], bytes]) -> Change:
    return lambda path, _: path.write_bytes(change(path.read_bytes()))


def _parts(**changes: Any) -> Change:
    return lambda path, content: torch.save(content | changes, path)


def _numbers(**changes: Any) -> Change:
    def change(path: Path, content: dict[str, Any]) -> None:
        torch.save(content | {"json": json.dumps(json.loads(content["json"]) | changes)}, path)

    return change


def _smaller(path: Path, content: dict[str, Any]) -> None:
    shrunk = {
        part: {name: tensor[:1] for name, tensor in content[part].items() if tensor.dim()} for part in ("model", "best")
    }
    torch.save(content | shrunk, path)


CHECKPOINTS = {
    _checkpoint("empty", _bytes(lambda whole: b"")): "checkpoint",
    _checkpoint("torn", _bytes(lambda whole: whole[:-200])): "checkpoint",
    _checkpoint("its first half", _bytes(lambda whole: whole[: len(whole) // 2])): "checkpoint",
    _checkpoint("text", _bytes(lambda whole: b"no tensors\n")): "checkpoint",
    _checkpoint("a pickle", _bytes(lambda whole: pickle.dumps(Payload(), 2))): "checkpoint",
    _checkpoint("a payload among the tensors", _parts(best=Payload())): "checkpoint",
    _checkpoint("of another program", lambda path, _: torch.save({"state_dict": {}}, path)): "checkpoint",
    _checkpoint("weights that are none", _parts(model={"0.weight": 3})): "checkpoint",
    _checkpoint("of another network", _smaller): "checkpoint weights delete",
    _checkpoint("sums of another shape", _parts(sums=torch.zeros(3))): "checkpoint",
    _checkpoint("numbers that are not JSON", _parts(json="{")): "checkpoint",
    _checkpoint("of another run", _numbers(digest="0" * 64)): "checkpoint 00000000",
    _checkpoint("an epoch below 0", _numbers(epoch=-1)): "checkpoint",
    _checkpoint("a curve that is too short", _numbers(curves={name: [] for name in CURVES})): "checkpoint curves",
    _checkpoint("of a later version", _numbers(teacher="ema")): "checkpoint",
}


# Records


def _record(name: str, change: Callable[[str], str | bytes]) -> Spoil:
    """The run's record as ``change`` leaves it."""

    def spoil(folder: Path) -> None:
        [path] = folder.glob("results/train/*.json")
        changed = change(path.read_text(encoding="utf-8"))
        path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())

    return _named(f"record: {name}", spoil)


def _with(**changes: Any) -> Callable[[str], str]:
    return lambda text: json.dumps(json.loads(text) | changes)


def _without(key: str) -> Callable[[str], str]:
    return lambda text: json.dumps({name: value for name, value in json.loads(text).items() if name != key})


RECORDS = {
    _record("a digit edited by hand", lambda text: text.replace('"seed": 0', '"seed": 1')): "record changed",
    _record("an outcome edited by hand", _with(outcome={})): "record changed delete",
    _record("of another version", _with(format=2)): "format 2 1",
    _record("without its checksum", _without("checksum")): "record",
    _record("without its settings", _without("settings")): "record",
    _record("a key too many", _with(author="me")): "record",
    _record("torn", lambda text: text[:-100]): "record",
    _record("empty", lambda text: ""): "record",
    _record("a list", lambda text: "[]"): "record",
    _record("nan", lambda text: text.replace('"format": 1', '"format": NaN')): "NaN JSON",
    _record("bytes that are not text", lambda text: b"\xff\xfe\x00"): "record",
    _record("two records after one another", lambda text: text + text): "record",
}


# Configs


def _config(name: str, content: str | bytes) -> Spoil:
    """A user's own own/model/mine.yaml."""

    def spoil(folder: Path) -> None:
        path = folder / "own" / "model" / "mine.yaml"
        path.parent.mkdir(parents=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return _named(f"config: {name}", spoil)


_MLP = "_target_: smoothout.models.mlp.MLP\nname: mine\nwidth: 8\n"
CONFIGS = {
    _config("an open list", "width: [1\n"): "mine.yaml",
    _config("a tab", "_target_: x\n\twidth: 3\n"): "mine.yaml",
    _config("two colons", "width: 3: 4\n"): "mine.yaml",
    _config("a key twice", _MLP + "depth: 2\ndepth: 3\n"): "mine.yaml",
    _config("a payload", f'{_MLP}depth: !!python/object/apply:os.mkdir ["mark"]\n'): "mine.yaml",
    _config("bytes that are not text", b"width: \xff\xfe\n"): "utf-8",
    _config("a list", "- 1\n- 2\n"): "model: _target_ [1, 2]",
    _config("a text", "three\n"): "model: _target_",
    _config("empty", ""): "model: _target_",
    _config("an unknown key", _MLP + "dropout: 0.5\n"): "model.dropout: unknown width, depth, name",
    _config("a missing value", _MLP + "depth: ???\n"): "depth",
    _config("a class of others", "_target_: torch.nn.Linear\n"): "model._target_: 'torch.nn.Linear'",
    _config(
        "a function", "_target_: smoothout.common.files.atomic_write_text\npath: mark\ntext: x\n"
    ): "model._target_: smoothout.common.files",
    _config("another default that is not there", "defaults: [nothing]\n"): "'model/nothing'",
    _config("a value that names itself", _MLP + "depth: ${model.depth}\n"): "model.depth",
}
