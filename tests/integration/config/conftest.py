"""Hydra for all tests of settings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers.composed import CONFIGS
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra


@pytest.fixture(scope="module")
def hydra() -> Iterator[None]:
    """Hydra's composition, started once."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
        yield
