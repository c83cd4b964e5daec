"""Pieces of photographs: torchvision's own with the same chance, and within the photograph whatever its shape."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from smoothout.common.torchvision_compat import import_torchvision
from smoothout.data.crops import RATIO, SHARE, Crop, CropTransform

SIZES = st.tuples(st.integers(20, 700), st.integers(20, 700))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(SIZES, st.integers(0, 10**6))
def test_a_resized_crop_is_torchvisions_with_the_same_chance(size: tuple[int, int], seed: int) -> None:
    piece = CropTransform(Crop.resized_crop_flip, 224, 256).sample_box(*size, generator(seed))
    torch.manual_seed(seed)
    image = Image.new("RGB", size)
    top, left, height, width = import_torchvision().transforms.RandomResizedCrop.get_params(
        image, list(SHARE), list(RATIO)
    )
    assert piece[:4] == (left, top, left + width, top + height)
    assert piece.mirrored == bool(torch.rand(1) < 0.5)


@given(SIZES, st.integers(0, 10**6))
def test_a_random_crop_is_torchvisions_of_the_resized_photograph(size: tuple[int, int], seed: int) -> None:
    piece = CropTransform(Crop.crop_flip, 14, 16).sample_box(*size, generator(seed))
    transforms = import_torchvision().transforms
    resized = transforms.Resize(16)(Image.new("RGB", size))
    torch.manual_seed(seed)
    top, left, *_ = transforms.RandomCrop.get_params(resized, (14, 14))
    x, y = size[0] / resized.width, size[1] / resized.height
    assert piece[:4] == pytest.approx((left * x, top * y, (left + 14) * x, (top + 14) * y))
    assert piece.mirrored == bool(torch.rand(1) < 0.5)


@given(SIZES, st.sampled_from(list(Crop)), st.integers(0, 10**6))
def test_a_piece_lies_within_the_photograph(size: tuple[int, int], crop: Crop, seed: int) -> None:
    left, upper, right, lower, _ = CropTransform(crop, 20, 24).sample_box(*size, generator(seed))
    assert 0 <= left < right <= size[0]
    assert 0 <= upper < lower <= size[1]


def test_what_is_measured_is_the_centre_and_never_mirrored() -> None:
    pieces = [CropTransform(crop, 224, 256).sample_box(512, 1024, None) for crop in Crop]
    assert set(pieces) == {(32.0, 288.0, 480.0, 736.0, False)}  # twice 16, 144, 240, 368: the centre of 256 x 512
    assert CropTransform(Crop.none, 224, 256).sample_box(512, 1024, generator(0)) == pieces[0]


def test_no_piece_is_preferred_over_its_mirror_image() -> None:
    drawn = [CropTransform(Crop.crop_flip, 2, 4).sample_box(4, 4, generator(seed)) for seed in range(1800)]
    counts = {piece: drawn.count(piece) for piece in drawn}
    assert len(counts) == 3 * 3 * 2
    assert all(60 < count < 140 for count in counts.values())  # 100 is expected, 10 the deviation
