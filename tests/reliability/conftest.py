"""What the reliability tests share: the programs, and a training that was made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from smoothout.reliability.inputs import template

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="session")
def scripts() -> Path:
    return SCRIPTS


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a training's record and weights; not to be changed."""
    return template(SCRIPTS, tmp_path_factory.mktemp("template") / "trained")
