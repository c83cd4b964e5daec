"""Data sets: fetched completely or not at all, and checked before use."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from helpers.small_arrays import CPU, images, one_line, small
from PIL import Image
from sklearn.datasets import load_digits

from smoothout.common.errors import DataError
from smoothout.data import datasets
from smoothout.data.datasets import DATASETS, KEYS, Arrays, DatasetName, load, read_npz, validated
from smoothout.data.image_files import check

# The embedded digits


def test_digits_are_1438_training_and_359_test_images_of_all_classes(tmp_path: Path) -> None:
    train, test, _ = images().load(tmp_path, CPU, download=False)
    assert (len(train), len(test)) == (1438, 359)
    assert train.images.shape[1:] == (1, 8, 8)
    for split in (train, test):
        assert split.labels.bincount(minlength=10).min() > len(split) / 20
        assert split.labels.max() == 9
    assert (train.images.min(), train.images.max()) == (0, 255)
    assert not list(tmp_path.iterdir())


def test_every_fifth_of_scikit_learns_digits_is_a_test_image() -> None:
    arrays, bunch = load(DatasetName.digits, Path("nowhere")), load_digits()
    for runtime in range(len(bunch.target)):
        fifth, rest = divmod(runtime, 5)
        split, row = ("test", fifth) if rest == 4 else ("train", 4 * fifth + rest)
        image, label = (getattr(arrays, f"{letter}_{split}")[row] for letter in "xy")
        assert label == bunch.target[runtime]
        assert np.abs(image / 255 - bunch.images[runtime] / 16).max() < 0.5 / 255


def test_no_digit_is_in_both_splits() -> None:
    arrays = load(DatasetName.digits, Path("nowhere"))
    train, test = ({image.tobytes() for image in part} for part in (arrays.x_train, arrays.x_test))
    assert len(train) > 1400
    assert not train & test


def test_an_npz_file_of_ones_own_is_preferred(tmp_path: Path) -> None:
    own = small()
    np.savez(tmp_path / "digits.npz", **own)
    train, test, fingerprint = images().load(tmp_path, CPU)
    assert train.images[:, 0].numpy().tolist() == own["x_train"].tolist()
    assert test.labels.tolist() == own["y_test"].tolist()
    assert fingerprint == Arrays(**own).fingerprint()


# Checks


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("change", ["first", "last"])
def test_the_fingerprint_changes_with_one_pixel_or_label(key: str, change: str) -> None:
    before = Arrays(**small()).fingerprint()
    changed = small()
    changed[key].flat[0 if change == "first" else -1] ^= 1
    assert Arrays(**changed).fingerprint() != before
    assert Arrays(**small()).fingerprint() == before


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint16])
def test_labels_of_any_whole_number_type_become_int64(dtype: type) -> None:
    wanted = small()
    found = validated(Arrays(**small(y_train=wanted["y_train"].astype(dtype))), DATASETS[DatasetName.digits], "here")
    assert found.y_train.dtype == np.int64
    assert found.y_train.tolist() == wanted["y_train"].tolist()
    assert found.fingerprint() == Arrays(**wanted).fingerprint()


# Missing data


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100", "fashion_mnist"])
def test_missing_data_is_one_line_that_names_the_path_and_the_command_and_leaves_no_file(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = dataclasses.replace(DATASETS[DatasetName(name)], installed=None)  # this machine may have the package
    monkeypatch.setitem(datasets.DATASETS, DatasetName(name), spec)
    folder = tmp_path / "data"
    with pytest.raises(DataError, match="was not found") as error:
        load(DatasetName(name), folder, download=False)
    line = one_line(error)
    assert str(folder / f"{name}.npz") in line
    assert f"`python scripts/prepare_data.py data={name}`" in line
    assert not list(tmp_path.iterdir())


def fetching(monkeypatch: pytest.MonkeyPatch, fetch: Callable[[Path], Arrays]) -> None:
    source = dataclasses.replace(DATASETS[DatasetName.digits], fetch=fetch, embedded=False)
    monkeypatch.setitem(datasets.DATASETS, DatasetName.mnist, source)


def test_a_failed_download_is_one_line_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratches = []

    def fetch(scratch: Path) -> Arrays:
        scratches.append(scratch)
        (scratch / "half").write_text("half of it")
        raise RuntimeError("no\nroute to host")

    fetching(monkeypatch, fetch)
    with pytest.raises(DataError, match=r"the download failed \(no route to host\)") as error:
        load(DatasetName.mnist, tmp_path)
    assert str(tmp_path / "mnist.npz") in one_line(error)
    assert "prepare_data.py data=mnist" in one_line(error)
    assert not list(tmp_path.iterdir())
    assert not scratches[0].exists()


def test_a_download_becomes_a_file_that_is_read_the_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fetch(scratch: Path) -> Arrays:
        calls.append(scratch)
        return Arrays(**small())

    fetching(monkeypatch, fetch)
    first = load(DatasetName.mnist, tmp_path / "data")
    again = load(DatasetName.mnist, tmp_path / "data", download=False)
    assert first.fingerprint() == again.fingerprint() == Arrays(**small()).fingerprint()
    assert len(calls) == 1
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["mnist.npz"]


# The real data, where they are


class Known(NamedTuple):
    """Of a data set: images of each split, shape, classes; mean and deviation of each training channel."""

    counts: tuple[int, int]
    shape: tuple[int, ...]
    classes: int
    means: tuple[float, ...]
    deviations: tuple[float, ...]


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("mnist", Known((60000, 10000), (28, 28), 10, (0.1307,), (0.3081,))),
        ("cifar10", Known((50000, 10000), (32, 32, 3), 10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))),
        ("fashion_mnist", Known((60000, 10000), (28, 28), 10, (0.2860,), (0.3530,))),
        ("cifar100", Known((50000, 10000), (32, 32, 3), 100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))),
    ],
)
def test_the_real_data_have_their_known_sizes_classes_and_colours(
    data_folder: Callable[[str], Path], name: str, known: Known
) -> None:
    arrays = load(DatasetName(name), data_folder(name), download=False)
    assert DATASETS[DatasetName(name)].examples == known.counts
    assert (arrays.x_train.shape, arrays.x_test.shape) == tuple((count, *known.shape) for count in known.counts)
    for labels in (arrays.y_train, arrays.y_test):
        found = np.bincount(labels)
        assert len(found) == known.classes
        assert (found == len(labels) // known.classes).all() or (name == "mnist" and found.min() > 0.08 * len(labels))
    level = np.arange(256) / 255
    for channel, (mean, deviation) in enumerate(zip(known.means, known.deviations, strict=True)):
        pixels = arrays.x_train.reshape(-1, len(known.means))[:, channel]
        shares = np.bincount(pixels, minlength=256) / len(pixels)
        average = shares @ level
        assert average == pytest.approx(mean, abs=1e-4)
        assert np.sqrt(shares @ (level - average) ** 2) == pytest.approx(deviation, abs=1e-4)


@pytest.mark.parametrize("read", [read_npz, check])
def test_a_machine_without_memory_is_no_reason_to_call_a_file_damaged(
    read: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr(np, "load", full)
    monkeypatch.setattr(Image, "open", full)
    with pytest.raises(MemoryError):
        read(tmp_path / "file")
