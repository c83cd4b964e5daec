"""Image folders: torchvision's pixels, which rows a split has, and what a training sees."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.other_device import DEVICE, OtherDevice
from helpers.small_image_folder import MEAN, STD, image_folder, loaded, names, whole
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from smoothout.common.errors import DataError
from smoothout.common.torchvision_compat import import_torchvision
from smoothout.data.crops import Crop
from smoothout.data.image_loader import MAX_EVAL_BATCH

TRAIN, TEST = 60, 20


def test_batches_are_normalised_as_torchvision_does_it(folder: Path) -> None:
    split = loaded(folder)[1]
    transforms = import_torchvision().transforms
    transform = transforms.Compose(
        [transforms.Resize(14), transforms.CenterCrop(12), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    )
    expected = torch.stack([transform(Image.open(path).convert("RGB")) for path in split._files.paths])
    assert (whole(split) - expected).abs().max() < 1.01 / 255 / min(STD)


# rows


def test_labels_are_those_of_the_sorted_folders_and_every_file_has_one_row(folder: Path) -> None:
    train, test, _ = loaded(folder)
    for split, part, count in ((train, "train", TRAIN), (test, "val", TEST)):
        assert sorted(names(split)) == sorted(
            f"{path.parent.name}/{path.name}" for path in (folder / "imagenette" / part).glob("*/*")
        )
        assert split.labels.tolist() == [int(name[1:4]) for name in names(split)]
        assert len(split) == count


def test_limits_take_a_mixture_of_classes_and_more_of_them_hold_the_fewer(folder: Path) -> None:
    small, large = (loaded(folder, train_examples=n, test_examples=n // 2)[:2] for n in (20, 40))
    for few, many in zip(small, large, strict=True):
        assert names(many)[: len(few)] == names(few)
    assert [len(split) for split in (*small, *large)] == [20, 10, 40, 20]
    assert len(set(small[0].labels.tolist())) >= 6
    assert torch.equal(whole(large[0].first(5)), whole(large[0])[:5])


def test_validation_images_replace_the_test_split(folder: Path) -> None:
    train, held, _ = loaded(folder, validation_size=15)
    assert len(train) == TRAIN - 15
    assert len(held) == 15
    assert sorted(names(train) + names(held)) == sorted(names(loaded(folder)[0]))
    with pytest.raises(DataError, match=r"^data.validation_size: 60 .*use less than 60$"):
        loaded(folder, validation_size=60)


@given(st.lists(st.integers(0, TRAIN - 1), max_size=30))
def test_any_rows_can_be_taken_at_any_time(folder: Path, rows: list[int]) -> None:
    split = loaded(folder)[0]
    for _ in range(2):
        images, labels = split.gather(torch.tensor(rows, dtype=torch.int64))
        for row, image, label in zip(rows, images, labels, strict=True):
            expected, expected_label = split.gather(slice(row, row + 1))
            assert torch.equal(image, expected[0])
            assert label == expected_label


def test_batches_can_be_abandoned_and_restarted_and_are_limited_in_size(folder: Path) -> None:
    split = loaded(folder)[0]
    first = next(iter(split.batches(9)))[0]
    assert torch.equal(whole(split)[:9], first)
    assert torch.equal(whole(split), whole(split.to_memory_format(torch.channels_last)))
    assert split.batches(5000).size == MAX_EVAL_BATCH
    assert whole(split.to_memory_format(torch.channels_last)).shape == (TRAIN, 3, 12, 12)


# What a training sees


def test_a_crop_depends_on_seed_epoch_and_row_alone(folder: Path) -> None:
    train = loaded(folder)[0]
    crops = {}
    for key, seed, epoch, order in (
        ("first", 1, 0, range(TRAIN)),
        ("reversed", 1, 0, reversed(range(TRAIN))),
        ("other epoch", 1, 1, range(TRAIN)),
        ("other seed", 2, 0, range(TRAIN)),
    ):
        examples = train.training_view(Crop.crop_flip, seed)
        examples.set_epoch(epoch)
        rows = examples.prefetch(torch.tensor(list(order)), 0)
        images = torch.cat([examples.gather(part)[0] for part in rows.split(11)])
        crops[key] = images[rows.argsort()]
    assert torch.equal(crops["first"], crops["reversed"])
    for key in ("other epoch", "other seed"):
        same = (crops["first"] == crops[key]).flatten(1).all(1)
        assert same.sum() < TRAIN / 4  # 1 in 18 is expected, more for square images


def test_rows_that_were_not_announced_are_the_same_images(folder: Path) -> None:
    examples, rows = loaded(folder)[0].training_view(Crop.crop_flip, 1), torch.arange(TRAIN)
    examples.prefetch(rows, 0)
    announced = examples.gather(rows)[0]
    examples.prefetch(rows, 7)
    for part in (rows[40:], rows[7:20], rows[13:30]):
        assert torch.equal(examples.gather(part)[0], announced[part])


def test_an_epoch_never_gives_crops_that_were_decoded_for_another(folder: Path) -> None:
    rows = torch.arange(TRAIN)
    decoded, wanted = (loaded(folder)[0].training_view(Crop.crop_flip, 1) for _ in range(2))
    decoded.prefetch(rows, 0)
    decoded.gather(rows[:8])
    for examples in (decoded, wanted):
        examples.set_epoch(1)
    assert torch.equal(decoded.gather(rows[8:16])[0], wanted.gather(rows[8:16])[0])


def test_without_augmentation_a_training_sees_the_centers(folder: Path) -> None:
    train = loaded(folder)[0]
    examples = train.training_view(image_folder().augmentation, 0)
    examples.set_epoch(4)
    rows = examples.prefetch(torch.arange(TRAIN), 0)
    assert torch.equal(examples.gather(rows)[0], whole(train))


def test_labels_on_the_device_are_not_indexed_with_rows_on_the_host(folder: Path) -> None:
    """That would copy the rows and wait for all work of the device."""
    on_host, rows = loaded(folder)[0], torch.tensor([5, 0, 9])
    with OtherDevice():
        split = image_folder().load(folder, DEVICE)[0]
        examples = split.training_view(None, 0)
        examples.prefetch(rows, 0)
        for batch in (split.gather(rows), examples.gather(rows)):
            for tensor, expected in zip(batch, on_host.gather(rows), strict=True):
                assert tensor.device == DEVICE
                assert torch.equal(tensor.cpu(), expected)
