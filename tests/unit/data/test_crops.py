"""Crops of images: torchvision's boxes and pixels, drawn from the seed alone."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from helpers.image_tree import pixels
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from smoothout.common.rng import make_generator
from smoothout.common.torchvision_compat import import_torchvision
from smoothout.data.crops import RATIO, SCALE, Crop, CropTransform

SIZES = st.tuples(st.integers(20, 700), st.integers(20, 700))
SEEDS = st.integers(0, 2**63 - 1)


def blank(size: tuple[int, int]) -> Image.Image:
    return Image.new("L", size)


# Boxes


@given(SIZES, SEEDS)
def test_a_resized_crop_is_torchvisions_after_the_same_seed(size: tuple[int, int], seed: int) -> None:
    box = CropTransform(Crop.resized_crop_flip, 224, 256).sample_box(blank(size), seed)
    torch.manual_seed(seed)
    resized_crop = import_torchvision().transforms.RandomResizedCrop
    top, left, height, width = resized_crop.get_params(blank(size), list(SCALE), list(RATIO))
    assert box == (left, top, left + width, top + height, bool(torch.rand(1) < 0.5))


@given(SIZES, SEEDS)
def test_a_random_crop_is_torchvisions_on_the_resized_image(size: tuple[int, int], seed: int) -> None:
    box = CropTransform(Crop.crop_flip, 14, 16).sample_box(blank(size), seed)
    transforms = import_torchvision().transforms
    resized = transforms.Resize(16)(blank(size))
    torch.manual_seed(seed)
    top, left, *_ = transforms.RandomCrop.get_params(resized, (14, 14))
    x, y = size[0] / resized.width, size[1] / resized.height
    assert box[:4] == pytest.approx((left * x, top * y, (left + 14) * x, (top + 14) * y))
    assert box.mirrored == bool(torch.rand(1) < 0.5)


def test_a_box_is_drawn_from_its_seed_as_from_a_generator_of_its_own() -> None:
    """The numbers of records: top, left and mirror of a 256 x 256 image, straight from the addressed generator."""
    for row in range(20):
        generator = make_generator(row, "augment")
        top, left = (int(torch.randint(0, 33, (1,), generator=generator)) for _ in range(2))
        mirrored = bool(torch.rand(1, generator=generator) < 0.5)
        box = CropTransform(Crop.crop_flip, 224, 256).sample_box(blank((256, 256)), generator.initial_seed())
        assert box == (left, top, left + 224, top + 224, mirrored)


def test_drawing_a_box_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    CropTransform(Crop.resized_crop_flip, 20, 24).sample_box(blank((40, 30)), 1)
    assert torch.equal(torch.get_rng_state(), before)


@given(SIZES, st.sampled_from(list(Crop)), SEEDS)
def test_a_box_lies_within_the_image(size: tuple[int, int], crop: Crop, seed: int) -> None:
    left, upper, right, lower, _ = CropTransform(crop, 20, 24).sample_box(blank(size), seed)
    assert 0 <= left < right <= size[0]
    assert 0 <= upper < lower <= size[1]


def test_evaluation_uses_the_center_and_never_a_mirror_image() -> None:
    boxes = [CropTransform(crop, 224, 256).sample_box(blank((512, 1024)), None) for crop in Crop]
    assert set(boxes) == {(32.0, 288.0, 480.0, 736.0, False)}  # twice 16, 144, 240, 368: the center of 256 x 512
    assert CropTransform(Crop.none, 224, 256).sample_box(blank((512, 1024)), 0) == boxes[0]


def test_boxes_and_their_mirror_images_are_equally_likely() -> None:
    image, transform = blank((4, 4)), CropTransform(Crop.crop_flip, 2, 4)
    boxes = [transform.sample_box(image, seed) for seed in range(1800)]
    counts = {box: boxes.count(box) for box in boxes}
    assert len(counts) == 3 * 3 * 2
    assert all(60 < count < 140 for count in counts.values())  # expected 100, standard deviation 10


# Pixels


def difference(one: Image.Image, other: Image.Image) -> np.ndarray:
    return np.abs(np.asarray(one).astype(int) - np.asarray(other))


@pytest.mark.parametrize("size", [(500, 375), (60, 90), (41, 300)])
def test_the_center_is_torchvisions_resize_and_center_crop(size: tuple[int, int]) -> None:
    image, transforms = Image.fromarray(pixels(0, *size)), import_torchvision().transforms
    expected = transforms.Compose([transforms.Resize(56), transforms.CenterCrop(48)])(image)
    assert difference(CropTransform(Crop.none, 48, 56)(image), expected).max() <= 1


def test_a_resized_crop_has_torchvisions_pixels_except_at_its_edges() -> None:
    image, transform = Image.fromarray(pixels(1, 300, 200)), CropTransform(Crop.resized_crop_flip, 32, 40)
    v2 = import_torchvision().transforms.functional
    for seed in range(4):
        left, upper, right, lower, mirrored = transform.sample_box(image, seed)
        expected = v2.resized_crop(image, upper, left, lower - upper, right - left, [32, 32], antialias=True)
        expected = v2.hflip(expected) if mirrored else expected
        assert difference(transform(image, seed), expected)[1:-1, 1:-1].max() <= 1


def test_a_draft_decodes_a_smaller_image_and_hardly_differs(tmp_path, monkeypatch) -> None:
    """From 4 times the crop's size: half of the lines are decoded, and the mean error is below half a level."""
    Image.fromarray(pixels(2, 400, 320)).save(tmp_path / "image.jpg", quality=95)
    decoded, resize = [], Image.Image.resize

    def note(image: Image.Image, *args: object, **options: object) -> Image.Image:
        decoded.append(image.size)
        return resize(image, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", note)
    plain, draft = (
        CropTransform(Crop.none, 64, 80, draft)(Image.open(tmp_path / "image.jpg")) for draft in (False, True)
    )
    assert decoded == [(400, 320), (200, 160)]
    assert 0 < difference(plain, draft).mean() < 0.5


@pytest.mark.parametrize(
    ("crop", "digest"),
    [
        (Crop.crop_flip, "201bba33d906b2cd"),
        (Crop.resized_crop_flip, "1ab3b193abff1661"),
        (Crop.none, "3d282d7465c1f893"),
    ],
)
def test_pixels_are_those_that_records_were_made_from(crop: Crop, digest: str) -> None:
    """If they change on purpose, raise the numerics of trainings."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (75, 100, 3), np.uint8))
    squares = [np.asarray(CropTransform(crop, 28, 32)(image, seed)) for seed in range(8)]
    assert hashlib.sha256(np.stack(squares).tobytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize("mode", ["L", "P", "CMYK"])
def test_gray_palette_and_print_images_become_rgb(mode: str) -> None:
    image = Image.fromarray(pixels(3, 20, 20)).convert(mode)
    assert difference(CropTransform(Crop.none, 20, 20)(image), image.convert("RGB")).max() <= 1
