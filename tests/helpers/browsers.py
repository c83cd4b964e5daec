"""Chromium, and pages in it that must not fail."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WIDE, PHONE = ({"width": width, "height": 900} for width in (1280, 390))
Open = Callable[..., "Page"]


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser without a window; skips where there is none."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def open_pages(browser: Browser) -> Iterator[Open]:
    """Gives a function that opens an address; pages are offline, but for those that a server on this machine gives."""
    errors, contexts = list[str](), list[Any]()

    def opened(address: Path | str, place: str = "", *, script: str = "", **options: Any) -> Page:
        text = address.as_uri() if isinstance(address, Path) else address
        host = urlsplit(text).netloc
        context = browser.new_context(**{"viewport": WIDE, "offline": not host, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: errors.append(request.url) if asks_elsewhere(request.url, host) else None)
        if script:
            page.add_init_script(script)
        page.goto(text + place)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert errors == []


def asks_elsewhere(address: str, host: str) -> bool:
    return address.startswith(("http", "ws")) and urlsplit(address).netloc != host
