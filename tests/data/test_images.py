"""Images: normalised as promised, cut into batches, checked before use, and fetched whole or not at all."""

from __future__ import annotations

import dataclasses
import importlib.util
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from smoothout.data import sources
from smoothout.data.augment import Augment, CropFlip
from smoothout.data.images import Images, Split
from smoothout.data.sources import KEYS, SOURCES, Arrays, DataError, Name, checked, load, read_npz
from smoothout.vision import torchvision

CPU = torch.device("cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def small(seed: int = 0, classes: int = 10, **changes: Any) -> dict[str, NDArray[Any]]:
    """Arrays of the shape of digits: 12 training and 5 test images."""
    generator = np.random.default_rng(seed)
    made = {
        "x_train": generator.integers(0, 256, (12, 8, 8), dtype=np.uint8),
        "y_train": generator.integers(0, classes, 12),
        "x_test": generator.integers(0, 256, (5, 8, 8), dtype=np.uint8),
        "y_test": generator.integers(0, classes, 5),
    }
    return {**made, **changes}


def colours(count: int = 7) -> tuple[torch.Tensor, Split]:
    images = torch.randint(0, 256, (count, 4, 6, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return images, Split(images, torch.arange(count), MEAN, STD)


def one_line(error: pytest.ExceptionInfo[DataError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# Splits


def test_batches_are_normalised_and_have_the_channels_first() -> None:
    images, split = colours()
    [(inputs, labels)] = split.batches(7)
    assert inputs.dtype is torch.float32
    assert inputs.shape == (7, 3, 4, 6)
    assert inputs.is_contiguous()
    assert torch.equal(labels, torch.arange(7))
    pixels = images.double().numpy()
    for channel in range(3):
        wanted = (pixels[..., channel] / 255 - MEAN[channel]) / STD[channel]
        np.testing.assert_allclose(inputs[:, channel].numpy(), wanted, rtol=0, atol=1e-6)


def test_black_and_white_are_minus_one_and_one_under_mnists_normalisation() -> None:
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    inputs, _ = Split(pixels, torch.zeros(2, dtype=torch.int64), (0.5,), (0.5,)).take(slice(None))
    torch.testing.assert_close(inputs.flatten(), torch.tensor([-1.0, 1.0]), rtol=0, atol=1e-6)


@given(st.integers(1, 12), st.integers(1, 15))
def test_batches_cover_every_example_once_in_order_as_often_as_one_likes(count: int, size: int) -> None:
    _, split = colours(count)
    batches = split.batches(size)
    whole, _ = split.take(slice(None))
    for _ in range(2):
        cut = list(batches)
        assert len(cut) == len(batches)
        assert [len(labels) for _, labels in cut[:-1]] == [size] * (len(cut) - 1)
        assert 1 <= len(cut[-1][1]) <= size
        assert torch.equal(torch.cat([inputs for inputs, _ in cut]), whole)
        assert torch.cat([labels for _, labels in cut]).tolist() == list(range(count))


def test_taking_rows_gives_those_rows_and_leaves_the_images_alone() -> None:
    _, split = colours()
    before = split.images.clone()
    whole, _ = split.take(slice(None))
    inputs, labels = split.take(torch.tensor([5, 0, 5]))
    assert torch.equal(inputs, whole[[5, 0, 5]])
    assert labels.tolist() == [5, 0, 5]
    inputs.zero_()
    assert torch.equal(split.images, before)


@pytest.mark.parametrize(("limit", "count"), [(None, 7), (3, 3), (7, 7), (99, 7)])
def test_the_first_examples_are_a_split_that_shares_its_memory(limit: int | None, count: int) -> None:
    _, split = colours()
    part = split.first(limit)
    assert len(part) == count
    assert len(split) == 7
    assert part.images.data_ptr() == split.images.data_ptr()
    assert torch.equal(part.take(slice(None))[0], split.take(slice(0, count))[0])


LAYOUTS = {"planes": torch.contiguous_format, "pixels": torch.channels_last}


@pytest.mark.parametrize("rows", [slice(None), slice(2, 6), torch.tensor([5, 0, 5, 3])], ids=["all", "some", "picked"])
def test_batches_of_another_layout_hold_the_same_numbers_to_the_last_bit(rows: slice | torch.Tensor) -> None:
    _, split = colours()
    turned = split.laid_out(torch.channels_last)
    (planes, labels), (pixels, same) = split.take(rows), turned.take(rows)
    assert torch.equal(pixels, planes)
    assert torch.equal(same, labels)
    assert (planes.is_contiguous(), planes.is_contiguous(memory_format=torch.channels_last)) == (True, False)
    assert (pixels.is_contiguous(), pixels.is_contiguous(memory_format=torch.channels_last)) == (False, True)
    for inputs, _ in turned.batches(3):
        assert inputs.stride()[1] == 1, "the channels of a pixel are neighbours"


def test_a_split_of_another_layout_shares_its_memory_and_leaves_the_first_alone() -> None:
    _, split = colours()
    turned = split.laid_out(torch.channels_last)
    assert turned.images.data_ptr() == split.images.data_ptr()
    assert turned.labels.data_ptr() == split.labels.data_ptr()
    assert len(turned) == len(split) == 7
    for again in (split, turned.laid_out(torch.contiguous_format)):
        assert again.take(slice(None))[0].is_contiguous()
    turned.take(slice(None))[0].zero_()
    assert torch.equal(split.take(slice(None))[0], colours()[1].take(slice(None))[0])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_and_limit_can_be_set_in_either_order(layout: str) -> None:
    _, split = colours()
    one, other = split.laid_out(LAYOUTS[layout]).first(3), split.first(3).laid_out(LAYOUTS[layout])
    for part in (one, other):
        assert part.images.data_ptr() == split.images.data_ptr()
        inputs, labels = part.take(slice(None))
        assert labels.tolist() == [0, 1, 2]
        assert torch.equal(inputs, split.take(slice(0, 3))[0])
        assert inputs.is_contiguous(memory_format=LAYOUTS[layout])
        assert inputs.is_contiguous() is (layout == "planes")


# Settings


def images(name: str = "digits", **changes: Any) -> Images:
    channels = 3 if name.startswith("cifar") else 1
    return Images(**{"name": Name(name), "mean": (0.5,) * channels, "std": (0.5,) * channels, **changes})


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("digits", (1, 8, 8), 10),
        ("mnist", (1, 28, 28), 10),
        ("cifar10", (3, 32, 32), 10),
        ("cifar100", (3, 32, 32), 100),
    ],
)
def test_settings_know_the_shape_and_the_classes(name: str, shape: tuple[int, ...], classes: int) -> None:
    assert (images(name).shape, images(name).classes) == (shape, classes)


@pytest.mark.parametrize(
    ("changes", "counts"),
    [({}, (1438, 359)), ({"train_examples": 20}, (20, 359)), ({"train_examples": 9999, "test_examples": 3}, (1438, 3))],
)
def test_settings_know_how_many_images_there_will_be(
    changes: dict[str, int], counts: tuple[int, int], tmp_path: Path
) -> None:
    assert images(**changes).usual_examples == counts
    assert tuple(map(len, images(**changes).load(tmp_path, CPU)[:2])) == counts


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"mean": (0.5, 0.5, 0.5)}, "mean, std: digits has 1 channel"),
        ({"std": ()}, "mean, std: digits has 1 channel"),
        ({"std": (0.0,)}, "std above 0"),
        ({"std": (float("nan"),)}, "std above 0"),
        ({"mean": (float("inf"),)}, "must be finite"),
        ({"train_examples": 0}, "train_examples: .* not 0"),
        ({"test_examples": -1}, "test_examples: .* not -1"),
        ({"held_out": 0}, r"held_out: must be null \(none\) or at least 1, not 0"),
        ({"border": (127,)}, r"border: must be red, green and blue, each from 0 to 255, not \[127\]"),
        ({"border": (127, 0, 256)}, r"border: .* not \[127, 0, 256\]"),
        ({"border": (-1, 0, 0)}, r"border: .* not \[-1, 0, 0\]"),
    ],
)
def test_settings_name_what_they_refuse(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        images(**changes)


def test_limits_take_the_first_images_and_leave_the_fingerprint_alone(tmp_path: Path) -> None:
    train, test, fingerprint = images().load(tmp_path, CPU)
    some, few, same = images(train_examples=20, test_examples=3).load(tmp_path, CPU)
    assert (len(some), len(few)) == (20, 3)
    assert torch.equal(some.images, train.images[:20])
    assert torch.equal(few.labels, test.labels[:3])
    assert same == fingerprint


RED = (127, 0, 0)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_border_is_no_part_of_what_is_known_where_nothing_is_cropped(name: str) -> None:
    assert images(name, border=RED).augmentation is None
    assert images(name, border=RED).simplified() == images(name)


def test_a_border_has_the_channels_of_the_images() -> None:
    cropped = {"augment": Augment.crop_flip, "border": RED}
    assert images("cifar10", **cropped).augmentation == CropFlip(RED)
    assert images("cifar10", **cropped).simplified() == images("cifar10", **cropped)
    assert images("mnist", **cropped).augmentation == CropFlip((127,))
    assert images("mnist", **cropped).simplified() == images("mnist", augment=Augment.crop_flip)


# Images held out


def rows_of(part: Split, whole: Split) -> list[int]:
    """Where each image of ``part`` stands in ``whole``, label and all."""
    found = []
    for image, label in zip(part.images, part.labels, strict=True):
        same = (whole.images == image).flatten(1).all(1) & (whole.labels == label)
        found.append(int(same.nonzero()[0]))
    return found


def test_images_that_are_held_out_are_no_longer_learnt_and_all_others_are_in_order(tmp_path: Path) -> None:
    whole, _, fingerprint = images().load(tmp_path, CPU)
    train, held, same = images(held_out=300).load(tmp_path, CPU)
    learnt, tested = rows_of(train, whole), rows_of(held, whole)
    assert (len(learnt), len(tested)) == images(held_out=300).usual_examples == (1138, 300)
    assert sorted(learnt + tested) == list(range(1438))
    assert learnt == sorted(learnt)
    assert same == fingerprint


def test_the_more_hold_the_fewer_and_are_a_fair_sample(tmp_path: Path) -> None:
    whole, _, _ = images().load(tmp_path, CPU)
    few, more = (rows_of(images(held_out=count).load(tmp_path, CPU)[1], whole) for count in (100, 300))
    assert more[:100] == few
    thirds = np.histogram(more, bins=[0, 479, 958, 1438])[0]
    assert (abs(thirds - 100) < 5 * np.sqrt(100 * 2 / 3)).all()


def test_limits_apply_to_what_is_left_and_to_what_is_held_out(tmp_path: Path) -> None:
    limited = images(held_out=300, train_examples=20, test_examples=7)
    train, held, _ = limited.load(tmp_path, CPU)
    more, rest, _ = images(held_out=300).load(tmp_path, CPU)
    assert (len(train), len(held)) == limited.usual_examples == (20, 7)
    assert torch.equal(train.images, more.images[:20])
    assert torch.equal(held.images, rest.images[:7])


def test_with_images_held_out_the_test_split_is_not_seen(tmp_path: Path) -> None:
    splits = []
    for seed in (1, 2):
        other = small(seed)
        poisoned = small() | {"x_test": other["x_test"], "y_test": other["y_test"]}
        folder = tmp_path / str(seed)
        folder.mkdir()
        np.savez(folder / "digits.npz", **poisoned)
        splits.append(images(held_out=4).load(folder, CPU))
    for one, other in zip(splits[0][:2], splits[1][:2], strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    assert splits[0][2] != splits[1][2], "the test splits were the same"


@pytest.mark.parametrize("count", [12, 13])
def test_holding_out_all_images_is_refused_in_one_line(tmp_path: Path, count: int) -> None:
    np.savez(tmp_path / "digits.npz", **small())
    with pytest.raises(DataError, match=f"^data.held_out: {count} leaves none of the 12 training images") as error:
        images(held_out=count).load(tmp_path, CPU)
    one_line(error)


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
    arrays, bunch = load(Name.digits, Path("nowhere")), load_digits()
    for place in range(len(bunch.target)):
        fifth, rest = divmod(place, 5)
        split, row = ("test", fifth) if rest == 4 else ("train", 4 * fifth + rest)
        image, label = (getattr(arrays, f"{letter}_{split}")[row] for letter in "xy")
        assert label == bunch.target[place]
        assert np.abs(image / 255 - bunch.images[place] / 16).max() < 0.5 / 255


def test_no_digit_is_in_both_splits() -> None:
    arrays = load(Name.digits, Path("nowhere"))
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
    found = checked(Arrays(**small(y_train=wanted["y_train"].astype(dtype))), SOURCES[Name.digits], "here")
    assert found.y_train.dtype == np.int64
    assert found.y_train.tolist() == wanted["y_train"].tolist()
    assert found.fingerprint() == Arrays(**wanted).fingerprint()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"x_train": np.zeros((12, 8, 9), np.uint8)}, r"here: x_train must be uint8, N x 8 x 8.*\(12, 8, 9\)"),
        ({"x_train": np.zeros((12, 64), np.uint8)}, r"x_train must be .*\(12, 64\)"),
        ({"x_test": np.zeros((5, 8, 8), np.float32)}, "x_test must be uint8.* it is float32"),
        ({"x_test": np.zeros((), np.uint8)}, "x_test must be uint8"),
        ({"x_test": np.zeros((0, 8, 8), np.uint8), "y_test": np.zeros(0, int)}, "x_test must be .* N > 0"),
        ({"y_train": np.zeros(11, int)}, r"y_train must be 12 integers.*\(11,\)"),
        ({"y_train": np.zeros((12, 1), int)}, r"y_train must be 12 integers.*\(12, 1\)"),
        ({"y_test": np.zeros(5)}, "y_test must be 5 integers; it is float64"),
        ({"y_test": np.array([0, 1, 2, 3, 10])}, r"y_test must lie in 0..9; it has 0..10"),
        ({"y_test": np.array([0, -1, 2, 3, 9])}, r"y_test must lie in 0..9; it has -1..9"),
    ],
)
def test_wrong_arrays_are_refused_in_one_line_that_says_what_is_wrong(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(DataError, match=line) as error:
        checked(Arrays(**small(**changes)), SOURCES[Name.digits], "here")
    one_line(error)


def test_wrong_arrays_in_a_file_are_refused_by_its_path(tmp_path: Path) -> None:
    np.savez(tmp_path / "digits.npz", **small(y_test=np.full(5, 99)))
    with pytest.raises(DataError, match=r"digits\.npz: y_test must lie in 0\.\.9") as error:
        load(Name.digits, tmp_path)
    assert str(tmp_path) in one_line(error)


@pytest.mark.parametrize("key", KEYS)
def test_a_file_without_one_of_the_four_arrays_is_refused_by_its_name(tmp_path: Path, key: str) -> None:
    arrays = small()
    del arrays[key]
    np.savez(tmp_path / "digits.npz", **arrays)
    with pytest.raises(DataError, match=f"digits.npz lacks {key}; it must hold") as error:
        load(Name.digits, tmp_path)
    one_line(error)


def damaged(path: Path, kind: str) -> None:
    """Write a file to ``path`` that is no sound npz."""
    np.savez(path, **small())
    whole = path.read_bytes()
    if kind == "npy":
        with path.open("wb") as file:
            np.save(file, small()["x_train"])
    elif kind == "compressed":
        np.savez_compressed(path, **small())
        data = bytearray(path.read_bytes())
        name, extra = int.from_bytes(data[26:28], "little"), int.from_bytes(data[28:30], "little")
        data[30 + name + extra] = 7  # a deflated block of a type that there is not
        path.write_bytes(data)
    elif kind == "method":  # a compression method that zipfile does not know, in both of the archive's headers
        data = bytearray(whole)
        data[8] = data[data.index(b"PK\x01\x02") + 10] = 97
        path.write_bytes(data)
    else:
        middle = whole.index(b"x_train.npy") + 300
        flipped = bytes([whole[middle] ^ 1])
        contents = {
            "empty": b"",
            "text": b"not found\n",
            "truncated": whole[: len(whole) // 2],
            "flipped": whole[:middle] + flipped + whole[middle + 1 :],
            "pickle": pickle.dumps(small()),
        }
        path.write_bytes(contents[kind])


@pytest.mark.parametrize(
    "kind",
    [
        "empty",
        "text",
        "truncated",
        "flipped",
        "pickle",
        "npy",
        "compressed",
        "method",
    ],
)
def test_a_damaged_file_is_refused_by_its_path_in_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "digits.npz"
    damaged(path, kind)
    with pytest.raises(DataError, match="is damaged or no npz file") as error:
        load(Name.digits, tmp_path)
    assert str(path) in one_line(error)


class Payload:
    """Creates ``marker`` when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("key", ["x_train", "y_test"])
def test_pickled_objects_are_refused_and_never_executed(tmp_path: Path, key: str) -> None:
    marker = tmp_path / "executed"
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists()  # the payload works
    marker.unlink()
    np.savez(tmp_path / "digits.npz", **small(**{key: np.array([Payload(marker)], dtype=object)}))
    with pytest.raises(DataError, match="is damaged or no npz file") as error:
        read_npz(tmp_path / "digits.npz")
    one_line(error)
    assert not marker.exists()


# Missing data


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100"])
def test_missing_data_is_one_line_that_names_the_path_and_the_command_and_leaves_no_file(
    tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "data"
    with pytest.raises(DataError, match="was not found") as error:
        load(Name(name), folder, download=False)
    line = one_line(error)
    assert str(folder / f"{name}.npz") in line
    assert f"`python scripts/prepare_data.py data={name}`" in line
    assert not list(tmp_path.iterdir())


def fetching(monkeypatch: pytest.MonkeyPatch, fetch: Callable[[Path], Arrays]) -> None:
    source = dataclasses.replace(SOURCES[Name.digits], fetch=fetch, embedded=False)
    monkeypatch.setitem(sources.SOURCES, Name.mnist, source)


def test_a_failed_download_is_one_line_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratches = []

    def fetch(scratch: Path) -> Arrays:
        scratches.append(scratch)
        (scratch / "half").write_text("half of it")
        raise RuntimeError("no\nroute to host")

    fetching(monkeypatch, fetch)
    with pytest.raises(DataError, match=r"the download failed \(no route to host\)") as error:
        load(Name.mnist, tmp_path)
    assert str(tmp_path / "mnist.npz") in one_line(error)
    assert "prepare_data.py data=mnist" in one_line(error)
    assert not list(tmp_path.iterdir())
    assert not scratches[0].exists()


def test_a_download_with_wrong_arrays_is_refused_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetching(monkeypatch, lambda scratch: Arrays(**small(y_train=np.full(12, 77))))
    with pytest.raises(DataError, match=r"y_train must lie in 0\.\.9") as error:
        load(Name.mnist, tmp_path)
    one_line(error)
    assert not list(tmp_path.iterdir())


def test_a_download_becomes_a_file_that_is_read_the_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fetch(scratch: Path) -> Arrays:
        calls.append(scratch)
        return Arrays(**small())

    fetching(monkeypatch, fetch)
    first = load(Name.mnist, tmp_path / "data")
    again = load(Name.mnist, tmp_path / "data", download=False)
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
        (
            "cifar10",
            Known((50000, 10000), (32, 32, 3), 10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        ),
        (
            "cifar100",
            Known((50000, 10000), (32, 32, 3), 100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
        ),
    ],
)
def test_the_real_data_have_their_known_sizes_classes_and_colours(
    data_folder: Callable[[str], Path], name: str, known: Known
) -> None:
    arrays = load(Name(name), data_folder(name), download=False)
    assert SOURCES[Name(name)].examples == known.counts
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


def test_torchvision_can_be_imported_beside_this_torch_and_has_its_data_sets() -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    for name in ("MNIST", "CIFAR10", "CIFAR100"):
        assert isinstance(getattr(torchvision().datasets, name), type)
