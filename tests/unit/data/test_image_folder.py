"""Photographs: torchvision's pixels, a batch's rows, and one outcome whatever the threads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.common import same_bits
from helpers.image_tree import pixels
from helpers.small_image_folder import MEAN, STD, loaded, names, photos, run, whole
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from smoothout.common.errors import DataError
from smoothout.common.torchvision_compat import import_torchvision
from smoothout.data.crops import Crop, CropTransform
from smoothout.data.image_folder import MAX_EVAL_BATCH
from smoothout.data.prefetch import decode

TRAIN, TEST = 60, 20

# pixels


@pytest.mark.parametrize("size", [(500, 375), (60, 90), (41, 300)])
def test_the_centre_is_torchvisions_resize_and_centre_crop(size: tuple[int, int], tmp_path: Path) -> None:
    Image.fromarray(pixels(0, *size)).save(tmp_path / "one.png")
    out = np.empty((48, 48, 3), np.uint8)
    decode(tmp_path / "one.png", lambda w, h: CropTransform(Crop.none, 48, 56).sample_box(w, h, None), out)
    transforms = import_torchvision().transforms
    expected = transforms.Compose([transforms.Resize(56), transforms.CenterCrop(48)])(Image.open(tmp_path / "one.png"))
    assert np.abs(out.astype(int) - np.asarray(expected)).max() <= 1


def test_a_resized_crop_is_torchvisions_but_for_the_outermost_pixels(tmp_path: Path) -> None:
    image = Image.fromarray(pixels(1, 300, 200))
    image.save(tmp_path / "one.png")
    out = np.empty((32, 32, 3), np.uint8)
    piece = CropTransform(Crop.resized_crop_flip, 32, 40).sample_box(300, 200, torch.Generator().manual_seed(5))
    decode(tmp_path / "one.png", lambda w, h: piece, out)
    expected = np.asarray(image.crop(piece[:4]).resize((32, 32), Image.Resampling.BILINEAR))
    expected = expected[:, ::-1] if piece.mirrored else expected
    assert np.abs(out.astype(int) - expected)[1:-1, 1:-1].max() <= 1


def test_a_drafted_photograph_is_decoded_smaller_and_hardly_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 4 times the size that is needed: half of the lines are decoded, and the mean error is below half a level."""
    Image.fromarray(pixels(2, 400, 320)).save(tmp_path / "one.jpg", quality=95)
    decoded, pieces = [], []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda image, *a, **k: decoded.append(image.size) or resize(image, *a, **k)
    )
    for draft in (False, True):
        out = np.empty((64, 64, 3), np.uint8)
        decode(
            tmp_path / "one.jpg", lambda w, h: CropTransform(Crop.none, 64, 80).sample_box(w, h, None), out, draft=draft
        )
        pieces.append(out.astype(int))
    assert decoded == [(400, 320), (200, 160)]
    assert 0 < np.abs(pieces[0] - pieces[1]).mean() < 0.5


def test_grey_and_palette_images_become_colours(tmp_path: Path) -> None:
    image = Image.fromarray(pixels(3, 20, 20))
    for mode, name in (("L", "grey.jpg"), ("P", "palette.png"), ("CMYK", "print.jpg")):
        image.convert(mode).save(tmp_path / name)
        out = np.empty((20, 20, 3), np.uint8)
        decode(tmp_path / name, lambda w, h: CropTransform(Crop.none, 20, 20).sample_box(w, h, None), out)
        expected = np.asarray(Image.open(tmp_path / name).convert("RGB")).astype(int)
        assert np.abs(out - expected).max() <= 1


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


def test_held_out_photographs_stand_in_for_the_test_split(folder: Path) -> None:
    train, held, _ = loaded(folder, validation_size=15)
    assert len(train) == TRAIN - 15
    assert len(held) == 15
    assert sorted(names(train) + names(held)) == sorted(names(loaded(folder)[0]))
    with pytest.raises(DataError, match=r"^data.validation_size: 60 leaves none of the 60 training images to learn$"):
        loaded(folder, validation_size=60)


@given(st.lists(st.integers(0, TRAIN - 1), max_size=30), st.integers(0, 2))
def test_any_rows_can_be_taken_at_any_time(folder: Path, rows: list[int], workers: int) -> None:
    split = loaded(folder, workers=workers)[0]
    images, labels = split.gather(torch.tensor(rows, dtype=torch.int64))
    again, _ = split.gather(torch.tensor(rows, dtype=torch.int64))
    assert torch.equal(images, again)
    for row, image, label in zip(rows, images, labels, strict=True):
        expected, its = split.gather(slice(row, row + 1))
        assert torch.equal(image, expected[0])
        assert label == its


def test_batches_can_be_left_and_begun_again_and_are_not_larger_than_memory_allows(folder: Path) -> None:
    split = loaded(folder)[0]
    first = next(iter(split.batches(9)))[0]
    assert torch.equal(whole(split)[:9], first)
    assert torch.equal(whole(split), whole(split.to_memory_format(torch.channels_last)))
    assert split.batches(5000).size == MAX_EVAL_BATCH
    assert whole(split.to_memory_format(torch.channels_last)).shape == (TRAIN, 3, 12, 12)


# chance


def test_a_training_ends_with_the_same_bits_with_0_1_and_2_threads(folder: Path) -> None:
    ends = [run(folder, workers).run() for workers in (0, 1, 2)]
    for end in ends[1:]:
        assert same_bits(end.model, ends[0].model)
        assert end.curves["test_loss"] == ends[0].curves["test_loss"]


def test_a_training_that_was_left_in_an_epoch_goes_on_with_the_same_bits(folder: Path) -> None:
    unbroken = run(folder, 2).run()
    first = run(folder, 2)
    for now in first:
        if (now.epoch, now.step) == (1, 2):
            break
    assert same_bits(run(folder, 1, first.state()).run().model, unbroken.model)


def test_a_piece_depends_on_seed_epoch_and_row_alone(folder: Path) -> None:
    train = loaded(folder)[0]
    shown = {}
    for key, seed, epoch, order in (
        ("one", 1, 0, range(TRAIN)),
        ("reversed", 1, 0, reversed(range(TRAIN))),
        ("later", 1, 1, range(TRAIN)),
        ("other", 2, 0, range(TRAIN)),
    ):
        learnt = train.training_view(CropTransform(Crop.crop_flip, 12, 14), seed)
        learnt.set_epoch(epoch)
        rows = learnt.prefetch(torch.tensor(list(order)), 0)
        images = torch.cat([learnt.gather(part)[0] for part in rows.split(11)])
        shown[key] = images[rows.argsort()]
    assert torch.equal(shown["one"], shown["reversed"])
    for other in ("later", "other"):
        same = (shown["one"] == shown[other]).flatten(1).all(1)
        assert same.sum() < TRAIN / 4  # one in 18 by chance, or more where the photograph is a square


def test_without_augmentation_the_centres_are_learnt(folder: Path) -> None:
    train = loaded(folder)[0]
    learnt = train.training_view(photos().augmentation, 0)
    learnt.set_epoch(4)
    rows = learnt.prefetch(torch.arange(TRAIN), 0)
    assert torch.equal(learnt.gather(rows)[0], whole(train))
