"""What the system tests share: one worker for each file, the programs, and a training that is made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.browsers import Open, launched, open_pages
from helpers.paths import SCRIPTS
from soak import kills
from soak.bad_input_runner import template
from soak.kills import Unbroken

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each file to one worker, unless it names its group: what its tests share takes seconds to make."""
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(scope="session")
def scripts() -> Path:
    return SCRIPTS


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a training's record and weights; not to be changed."""
    return template(SCRIPTS, tmp_path_factory.mktemp("template") / "trained")


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Unbroken]:
    """What a command of kills.WORK leaves when nothing stops it; each is run once."""

    @cache
    def made(work: str) -> Unbroken:
        return kills.unbroken(work, SCRIPTS, tmp_path_factory.mktemp("unbroken") / work)

    return made


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens an address in a context of its own; at the end, no page may have had an error or asked elsewhere."""
    with open_pages(browser) as opened:
        yield opened
