"""A small image folder for all tests of a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.image_tree import tree


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with an imagenette of 60 and 20 images."""
    return tree(tmp_path_factory.mktemp("data") / "imagenette", {"train": 6, "val": 2}).parent
