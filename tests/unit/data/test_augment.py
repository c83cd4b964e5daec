"""Augmentation: each image as written out by hand, uniform and independent, known by seed, epoch and row alone."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from smoothout.common.rng import make_generator
from smoothout.common.torchvision_compat import import_torchvision
from smoothout.data.augment import PAD, AffineFlip, Augmentation, CropFlip
from smoothout.data.split import AugmentedExamples, Split

RED = (127, 0, 0)
KINDS = [CropFlip(RED), AffineFlip(RED)]


def pictures(count: int, channels: int = 3, height: int = 6, width: int = 5) -> Tensor:
    chance = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, height, width), generator=chance, dtype=torch.uint8)


def by_hand(image: Tensor, top: int, left: int, mirrored: int, border: tuple[int, ...]) -> Tensor:
    """One image, (C, H, W), with nothing but numpy's padding and slices."""
    _, height, width = image.shape
    planes = [
        np.pad(plane, PAD, constant_values=value)[top : top + height, left : left + width]
        for plane, value in zip(image.numpy(), border, strict=True)
    ]
    return torch.from_numpy(np.stack(planes)[:, :, :: -1 if mirrored else 1].copy())


@given(st.data(), st.sampled_from([1, 3]), st.integers(1, 7), st.integers(1, 7))
def test_every_image_is_cropped_and_mirrored_as_by_hand(data: Any, channels: int, height: int, width: int) -> None:
    images, corner = pictures(3, channels, height, width), st.integers(0, 2 * PAD)
    draws = data.draw(st.lists(st.tuples(corner, corner, st.integers(0, 1)), min_size=3, max_size=3))
    border = tuple(data.draw(st.lists(st.integers(0, 255), min_size=channels, max_size=channels)))
    before = images.clone()
    found = CropFlip(border).apply(images, torch.tensor(draws).T)
    wanted = [by_hand(image, *draw, border) for image, draw in zip(images, draws, strict=True)]
    assert found.dtype is torch.uint8
    assert torch.equal(found, torch.stack(wanted))
    assert torch.equal(images, before)


def test_it_is_what_torchvision_does_with_the_same_draws() -> None:
    functional = pytest.importorskip("PIL") and import_torchvision().transforms.functional
    images = pictures(40, height=32, width=32)
    draws = CropFlip(RED).draws(images.shape, torch.Generator().manual_seed(1))
    found = CropFlip(RED).apply(images, draws)
    for number, (image, (top, left, mirrored)) in enumerate(zip(images, draws.T.tolist(), strict=True)):
        padded = functional.pad(functional.to_pil_image(image), [PAD] * 4, fill=RED)
        piece = functional.crop(padded, top, left, 32, 32)
        piece = functional.hflip(piece) if mirrored else piece
        assert torch.equal(found[number], functional.pil_to_tensor(piece))


def test_corners_and_flips_are_uniform_and_independent() -> None:
    draws = CropFlip(RED).draws((162_000, 3, 32, 32), torch.Generator().manual_seed(0))
    assert draws.shape == (3, 162_000)
    top, left, mirrored = draws
    cells = torch.bincount((top * 9 + left) * 2 + mirrored, minlength=162)
    assert len(cells) == 162, "81 places, mirrored or not"
    chi_square = float(((cells - 1000.0) ** 2 / 1000).sum())
    assert abs(chi_square - 161) < 5 * (2 * 161) ** 0.5


@pytest.mark.parametrize(("channels", "height", "width"), [(3, 32, 32), (1, 28, 28), (3, 9, 14)])
def test_rotation_and_translation_are_torchvisions_with_the_same_draws(channels: int, height: int, width: int) -> None:
    import_torchvision()
    functional = importlib.import_module("torchvision.transforms.v2.functional")
    images, flip = pictures(60, channels, height, width), AffineFlip(RED[:channels])
    draws = flip.draws(images.shape, torch.Generator().manual_seed(1))
    found, before = flip.apply(images, draws), images.clone()
    for number, (image, (angle, right, down, mirrored)) in enumerate(zip(images, draws.T.tolist(), strict=True)):
        # In float64, because with float32 torchvision rounds a few positions the other way.
        moved = functional.affine(image.double(), angle, [right, down], 1.0, [0.0, 0.0], fill=list(flip.border))
        wanted = functional.horizontal_flip(moved) if mirrored else moved
        assert torch.equal(found[number].double(), wanted)
    assert found.dtype is torch.uint8
    assert torch.equal(images, before)


def test_rotations_translations_and_flips_are_uniform_and_independent() -> None:
    draws = AffineFlip(RED).draws((40_000, 3, 20, 30), torch.Generator().manual_seed(0))
    assert draws.shape == (4, 40_000)
    angle, right, down, mirrored = draws
    for drawn, limit in ((angle, 10.0), (right, 6.0), (down, 4.0)):
        assert drawn.abs().max() <= limit
        assert drawn.mean().abs() < 5 * drawn.std() / 200
    assert angle.std().item() == pytest.approx(10 / 3**0.5, rel=0.02)
    assert set(right.tolist()) == set(range(-6, 7))
    counts = torch.bincount((down + 4).long()) / 40_000
    wanted = torch.tensor([0.5, *[1.0] * 7, 0.5]) / 8  # rounded: half a pixel is left of the outermost
    assert (counts - wanted).abs().max() < 5 * (0.125 * 0.875 / 40_000) ** 0.5
    assert set(mirrored.tolist()) == {0.0, 1.0}
    correlations = torch.corrcoef(draws) - torch.eye(4)
    assert correlations.abs().max() < 5 / 200


# A split as a training sees it


def split(count: int = 12) -> Split:
    return Split(pictures(count).permute(0, 2, 3, 1), torch.arange(count), (0.4, 0.5, 0.6), (0.1, 0.2, 0.3))


def test_without_augmentation_the_split_is_seen_as_it_is() -> None:
    whole, rows = split(), torch.tensor([5, 0, 11])
    seen = AugmentedExamples(whole, None, seed=0)
    seen.set_epoch(3)
    assert len(seen) == 12
    assert all(torch.equal(one, other) for one, other in zip(seen.gather(rows), whole.gather(rows), strict=True))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_images_of_an_epoch_are_those_of_its_address_normalised_as_the_split_does(layout: Any) -> None:
    whole, rows = split().to_memory_format(layout), torch.tensor([5, 0, 11, 5])
    seen = AugmentedExamples(whole, CropFlip(RED), seed=7)
    seen.set_epoch(3)
    inputs, labels = seen.gather(rows)
    draws = CropFlip(RED).draws(whole.images.shape, make_generator(7, "augment", 3)).T.tolist()
    wanted = torch.stack([by_hand(whole.images[row], *draws[row], RED) for row in rows.tolist()])
    assert torch.equal(inputs, whole.normalize(wanted))
    assert labels.tolist() == rows.tolist()
    assert inputs.is_contiguous(memory_format=layout)


@given(st.permutations(range(12)), st.integers(1, 12), st.sampled_from(KINDS))
def test_what_happens_to_an_image_depends_on_no_order_and_no_piece(
    order: list[int], size: int, kind: Augmentation
) -> None:
    seen = AugmentedExamples(split(), kind, seed=0)
    seen.set_epoch(1)
    together, _ = seen.gather(torch.arange(12))
    for rows in torch.tensor(order).split(size):
        assert torch.equal(seen.gather(rows)[0], together[rows])


@pytest.mark.parametrize("kind", KINDS)
def test_seed_and_epoch_change_it_and_an_epoch_can_be_gone_back_to(kind: Augmentation) -> None:
    rows, kept = torch.arange(12), {}
    for seed in (0, 1):
        seen = AugmentedExamples(split(), kind, seed)
        for epoch in (0, 1):
            seen.set_epoch(epoch)
            kept[seed, epoch] = seen.gather(rows)[0]
    assert not any(torch.equal(kept[a], kept[b]) for a in kept for b in kept if a < b)
    seen.set_epoch(0)
    assert torch.equal(seen.gather(rows)[0], kept[1, 0])


def test_the_split_itself_and_so_every_evaluation_is_not_augmented() -> None:
    whole = split()
    [(before, _)] = whole.batches(12)
    seen = AugmentedExamples(whole, CropFlip(RED), seed=0)
    seen.set_epoch(0)
    assert not torch.equal(seen.gather(torch.arange(12))[0], before)
    [(after, _)] = whole.batches(12)
    assert torch.equal(after, before)


def test_trainings_that_share_a_split_do_not_share_their_draws() -> None:
    whole, rows = split(), torch.arange(12)
    one, other = (AugmentedExamples(whole, CropFlip(RED), seed) for seed in (0, 1))
    one.set_epoch(0)
    first = one.gather(rows)[0]
    other.set_epoch(5)
    assert torch.equal(one.gather(rows)[0], first)
