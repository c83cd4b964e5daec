"""Images: normalized as promised, cut into batches, held out, described by settings that are checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.small_arrays import CPU, images, small
from hypothesis import given
from hypothesis import strategies as st

from smoothout.data.augment import AffineFlip, Augment, CropFlip
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
        assert inputs.stride()[1] == 1, "the channels of a pixel are neighbors"


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("rows", [slice(2, 6), torch.tensor([5, 0, 5, 3])], ids=["some", "picked"])
def test_a_pixel_has_the_bits_of_one_multiplication_and_one_subtraction(
    rows: slice | torch.Tensor, memory_format: torch.memory_format
) -> None:
    """All recorded trainings saw these numbers."""
    images, split = colours()
    mean, std = (torch.tensor(numbers, dtype=torch.float64) for numbers in (MEAN, STD))
    wanted = images[rows].float() * (1 / (255 * std)).float() - (mean / std).float()
    inputs, _ = split.to_memory_format(memory_format).gather(rows)
    assert torch.equal(inputs, wanted.permute(0, 3, 1, 2))


def test_a_split_in_a_layout_shares_its_images_with_the_same_split_in_that_layout() -> None:
    turned = colours()[1].to_memory_format(torch.channels_last)
    for other in (turned.to_memory_format(torch.channels_last), turned.first(3)):
        assert other.images.data_ptr() == turned.images.data_ptr()
        assert other.images.stride()[1] == 1


# Settings


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("digits", (1, 8, 8), 10),
        ("mnist", (1, 28, 28), 10),
        ("cifar10", (3, 32, 32), 10),
        ("cifar100", (3, 32, 32), 100),
        ("timit", (1, 1, 360), 1973),
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


RED = (127, 0, 0)


def test_a_border_has_the_channels_of_the_images() -> None:
    cropped = {"augment": Augment.crop_flip, "pad_color": RED}
    assert images("cifar10", **cropped).augmentation == CropFlip(RED)
    assert images("cifar10", **cropped).canonicalized() == images("cifar10", **cropped)
    assert images("mnist", **cropped).augmentation == CropFlip((127,))
    assert images("cifar10", **cropped | {"augment": Augment.affine_flip}).augmentation == AffineFlip(RED)
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
