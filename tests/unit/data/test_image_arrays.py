"""Images: normalised as promised, cut into batches, held out, described by settings that are checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.small_arrays import CPU, images, one_line, small
from hypothesis import given
from hypothesis import strategies as st

from smoothout.common.errors import DataError
from smoothout.data.augment import Augment, CropFlip
from smoothout.data.split import Split

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def colours(count: int = 7) -> tuple[torch.Tensor, Split]:
    images = torch.randint(0, 256, (count, 4, 6, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return images, Split(images, torch.arange(count), MEAN, STD)


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
    inputs, _ = Split(pixels, torch.zeros(2, dtype=torch.int64), (0.5,), (0.5,)).gather(slice(None))
    torch.testing.assert_close(inputs.flatten(), torch.tensor([-1.0, 1.0]), rtol=0, atol=1e-6)


@given(st.integers(1, 12), st.integers(1, 15))
def test_batches_cover_every_example_once_in_order_as_often_as_one_likes(count: int, size: int) -> None:
    _, split = colours(count)
    batches = split.batches(size)
    whole, _ = split.gather(slice(None))
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
    whole, _ = split.gather(slice(None))
    inputs, labels = split.gather(torch.tensor([5, 0, 5]))
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
    assert torch.equal(part.gather(slice(None))[0], split.gather(slice(0, count))[0])


LAYOUTS = {"planes": torch.contiguous_format, "pixels": torch.channels_last}


@pytest.mark.parametrize("rows", [slice(None), slice(2, 6), torch.tensor([5, 0, 5, 3])], ids=["all", "some", "picked"])
def test_batches_of_another_layout_hold_the_same_numbers_to_the_last_bit(rows: slice | torch.Tensor) -> None:
    _, split = colours()
    turned = split.to_memory_format(torch.channels_last)
    (planes, labels), (pixels, same) = split.gather(rows), turned.gather(rows)
    assert torch.equal(pixels, planes)
    assert torch.equal(same, labels)
    assert (planes.is_contiguous(), planes.is_contiguous(memory_format=torch.channels_last)) == (True, False)
    assert (pixels.is_contiguous(), pixels.is_contiguous(memory_format=torch.channels_last)) == (False, True)
    for inputs, _ in turned.batches(3):
        assert inputs.stride()[1] == 1, "the channels of a pixel are neighbours"


def test_a_split_of_another_layout_shares_its_memory_and_leaves_the_first_alone() -> None:
    _, split = colours()
    turned = split.to_memory_format(torch.channels_last)
    assert turned.images.data_ptr() == split.images.data_ptr()
    assert turned.labels.data_ptr() == split.labels.data_ptr()
    assert len(turned) == len(split) == 7
    for again in (split, turned.to_memory_format(torch.contiguous_format)):
        assert again.gather(slice(None))[0].is_contiguous()
    turned.gather(slice(None))[0].zero_()
    assert torch.equal(split.gather(slice(None))[0], colours()[1].gather(slice(None))[0])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_and_limit_can_be_set_in_either_order(layout: str) -> None:
    _, split = colours()
    one, other = split.to_memory_format(LAYOUTS[layout]).first(3), split.first(3).to_memory_format(LAYOUTS[layout])
    for part in (one, other):
        assert part.images.data_ptr() == split.images.data_ptr()
        inputs, labels = part.gather(slice(None))
        assert labels.tolist() == [0, 1, 2]
        assert torch.equal(inputs, split.gather(slice(0, 3))[0])
        assert inputs.is_contiguous(memory_format=LAYOUTS[layout])
        assert inputs.is_contiguous() is (layout == "planes")


# Settings


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
    assert images(**changes).expected_sizes == counts
    assert tuple(map(len, images(**changes).load(tmp_path, CPU)[:2])) == counts


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"mean": (0.5, 0.5, 0.5)}, "mean, std: must have one number per channel, 1 for digits"),
        ({"std": ()}, "mean, std: must have one number per channel, 1 for digits"),
        ({"std": (0.0,)}, "std above 0"),
        ({"std": (float("nan"),)}, "std above 0"),
        ({"mean": (float("inf"),)}, "must be finite"),
        ({"train_examples": 0}, "train_examples: .* not 0"),
        ({"test_examples": -1}, "test_examples: .* not -1"),
        ({"validation_size": 0}, r"validation_size: must be null \(none\) or at least 1, not 0"),
        ({"pad_color": (127,)}, r"pad_color: must be red, green and blue, each from 0 to 255, not \[127\]"),
        ({"pad_color": (127, 0, 256)}, r"pad_color: .* not \[127, 0, 256\]"),
        ({"pad_color": (-1, 0, 0)}, r"pad_color: .* not \[-1, 0, 0\]"),
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
    assert images(name, pad_color=RED).augmentation is None
    assert images(name, pad_color=RED).canonicalized() == images(name)


def test_a_border_has_the_channels_of_the_images() -> None:
    cropped = {"augment": Augment.crop_flip, "pad_color": RED}
    assert images("cifar10", **cropped).augmentation == CropFlip(RED)
    assert images("cifar10", **cropped).canonicalized() == images("cifar10", **cropped)
    assert images("mnist", **cropped).augmentation == CropFlip((127,))
    assert images("mnist", **cropped).canonicalized() == images("mnist", augment=Augment.crop_flip)


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
    train, held, same = images(validation_size=300).load(tmp_path, CPU)
    learnt, tested = rows_of(train, whole), rows_of(held, whole)
    assert (len(learnt), len(tested)) == images(validation_size=300).expected_sizes == (1138, 300)
    assert sorted(learnt + tested) == list(range(1438))
    assert learnt == sorted(learnt)
    assert same == fingerprint


def test_the_more_hold_the_fewer_and_are_a_fair_sample(tmp_path: Path) -> None:
    whole, _, _ = images().load(tmp_path, CPU)
    few, more = (rows_of(images(validation_size=count).load(tmp_path, CPU)[1], whole) for count in (100, 300))
    assert more[:100] == few
    thirds = np.histogram(more, bins=[0, 479, 958, 1438])[0]
    assert (abs(thirds - 100) < 5 * np.sqrt(100 * 2 / 3)).all()


def test_limits_apply_to_what_is_left_and_to_what_is_held_out(tmp_path: Path) -> None:
    limited = images(validation_size=300, train_examples=20, test_examples=7)
    train, held, _ = limited.load(tmp_path, CPU)
    more, rest, _ = images(validation_size=300).load(tmp_path, CPU)
    assert (len(train), len(held)) == limited.expected_sizes == (20, 7)
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
        splits.append(images(validation_size=4).load(folder, CPU))
    for one, other in zip(splits[0][:2], splits[1][:2], strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    assert splits[0][2] != splits[1][2], "the test splits were the same"


@pytest.mark.parametrize("count", [12, 13])
def test_holding_out_all_images_is_refused_in_one_line(tmp_path: Path, count: int) -> None:
    np.savez(tmp_path / "digits.npz", **small())
    with pytest.raises(
        DataError, match=f"^data.validation_size: {count} of 12 training images leaves none to train on"
    ) as error:
        images(validation_size=count).load(tmp_path, CPU)
    one_line(error)
