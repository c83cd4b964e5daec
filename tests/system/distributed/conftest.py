"""Crews of two and of three processes for all tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers.process_group import Crew


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    with Crew(2, tmp_path_factory.mktemp("two") / "meeting") as crew:
        yield crew
