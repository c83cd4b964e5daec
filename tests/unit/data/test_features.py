"""Features in place of images: TIMIT's frames, 360 float32 numbers each, from a file of made-up ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.small_arrays import CPU, images, one_line
from numpy.typing import NDArray

from smoothout.common.errors import DataError
from smoothout.data.augment import Augment

FEATURES, CLASSES = 360, 1973


@pytest.fixture
def frames(tmp_path: Path) -> dict[str, NDArray[Any]]:
    """Made-up frames, 40 for training and 20 for the test, saved as timit.npz in ``tmp_path``."""
    generator = np.random.default_rng(0)
    arrays = {
        "x_train": generator.normal(size=(40, FEATURES)).astype(np.float32),
        "y_train": generator.integers(0, CLASSES, 40),
        "x_test": generator.normal(size=(20, FEATURES)).astype(np.float32),
        "y_test": generator.integers(0, CLASSES, 20),
    }
    np.savez(tmp_path / "timit.npz", **arrays)
    return arrays


def test_features_reach_the_network_as_they_are(tmp_path: Path, frames: dict[str, NDArray[Any]]) -> None:
    train, test, _ = images("timit", mean=(0.0,), std=(1.0,)).load(tmp_path, CPU)
    rows = torch.tensor([7, 3])
    for split, name in ((train, "train"), (test, "test")):
        for chosen in (rows, slice(2, 5)):
            inputs, labels = split.gather(chosen)
            expected = torch.from_numpy(frames[f"x_{name}"])[chosen]
            assert torch.equal(inputs, expected.view(len(expected), 1, 1, FEATURES))
            assert torch.equal(labels, torch.from_numpy(frames[f"y_{name}"])[chosen])


def test_a_batch_of_features_is_normalized_in_a_copy(tmp_path: Path, frames: dict[str, NDArray[Any]]) -> None:
    """Twice: a slice of the split is a view, and writing to it would change the data."""
    train, _, _ = images("timit", mean=(0.5,), std=(2.0,)).load(tmp_path, CPU)
    expected = (torch.from_numpy(frames["x_train"]).view(40, 1, 1, FEATURES) - 0.5) / 2
    for _ in range(2):
        torch.testing.assert_close(train.gather(slice(0, 40))[0], expected)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"x_train": np.zeros((40, FEATURES))}, ["x_train", "float32, N x 360", "float64"]),
        ({"x_test": np.zeros((20, 40), np.float32)}, ["x_test", "float32, N x 360", "(20, 40)"]),
        ({"x_train": np.full((40, FEATURES), np.nan, np.float32)}, ["x_train", "finite", "14400 entries"]),
        ({"y_test": np.full(20, CLASSES)}, ["y_test", "0..1972", "1973..1973"]),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(
    tmp_path: Path, frames: dict[str, NDArray[Any]], changes: dict[str, NDArray[Any]], parts: list[str]
) -> None:
    np.savez(tmp_path / "timit.npz", **{**frames, **changes})
    with pytest.raises(DataError) as refused:
        images("timit").load(tmp_path, CPU)
    assert [part for part in [str(tmp_path / "timit.npz"), *parts] if part not in one_line(refused)] == []


def test_without_the_file_the_user_is_told_what_to_save_where(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        images("timit").load(tmp_path, CPU)
    assert f"timit was not found: save it as {tmp_path / 'timit.npz'}" in one_line(refused)


def test_features_cannot_be_cropped_or_mirrored() -> None:
    with pytest.raises(ValueError, match=r"^augment: must be none for timit"):
        images("timit", augment=Augment.crop_flip)
