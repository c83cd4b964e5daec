"""The pages of verdicts that configs/verdicts.yaml lists, tested together."""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from smoothout.common.errors import ConfigError
from smoothout.config.build import validate
from smoothout.config.compose import ConfigFolders, compose_config
from smoothout.reproduction.claim_tests import Claims, ClaimTest
from smoothout.reproduction.claims import ClaimScope
from smoothout.reproduction.verdict_page import Prose, VerdictPage

_HINT = {"hint": "a file of configs/claims/ begins with '# @package _global_', as papers.yaml"}


@dataclass(frozen=True)
class PageConfig:
    """A page of verdicts: its claims, the runs that they are tested on, and its text."""

    page: str = field(metadata=_HINT)
    prose: Prose
    claims: list[Any] = field(metadata=_HINT)
    claim_scope: ClaimScope
    reading: tuple[str, ...]
    assumptions: tuple[str, ...]

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-]+\.md", self.page):
            raise ValueError(f"page: must be the name of a Markdown file, such as mine.md, not {self.page!r}")

    @property
    def file(self) -> str:
        """The name of its file."""
        return self.claim_scope.file(self.page)


def listed_page(configs: ConfigFolders, overrides: Sequence[str]) -> PageConfig:
    """The page that ``overrides`` of configs/verdicts.yaml make. Raises ConfigError."""
    config = compose_config(configs, "verdicts", list(overrides))
    return validate(PageConfig, {key.name: config[key.name] for key in fields(PageConfig)}, "")


def check_overwritable(path: Path) -> None:
    """Raise ConfigError if ``path`` is a file that is not a page of verdicts."""
    if path.exists() and "scripts/verdicts.py" not in path.read_text(encoding="utf-8"):
        raise ConfigError(f"page: {path} exists and is not a page of verdicts; must have another name")


@dataclass(frozen=True)
class Page:
    """A page with its claims, and the overrides of configs/verdicts.yaml that make it."""

    config: PageConfig
    overrides: tuple[str, ...]
    claims: Claims

    def verdicts(self, tests: Mapping[str, Sequence[ClaimTest]], folder: Path) -> VerdictPage:
        """Its verdicts, given the ``tests`` of every page by file; ``folder`` is where the pages are."""
        config = self.config
        others = [test for file, found in tests.items() if file != config.file for test in found]
        return VerdictPage(
            tests[config.file],
            config.prose,
            config.reading,
            config.assumptions,
            config.claim_scope,
            shlex.join(["python", "scripts/verdicts.py", *self.overrides]),
            config.page,
            linked=(folder / config.page).exists(),
            elsewhere=others if len(tests) > 1 else None,
        )


def find_pages(
    requested: PageConfig,
    overrides: Sequence[str],
    listed: Sequence[Sequence[str]],
    configs: ConfigFolders,
    published: Path,
) -> tuple[Page, list[Page]]:
    """The page that was ``requested``, and all pages over whose exploratory tests its p-values are corrected.

    These are the ``listed`` ones (overrides that make each) if it is one of them, else it is alone. Raises ConfigError.
    """
    known = [(listed_page(configs, given), given) for given in listed]
    if requested not in [config for config, _ in known]:
        for config, given in known:
            if config.file == requested.file:
                _check_replaced(requested, config, given)
        known = [(requested, overrides)]
    pages = [
        Page(config, tuple(given), Claims(config.claims, config.claim_scope, configs, published))
        for config, given in known
    ]
    return next(page for page in pages if page.config == requested), pages


def _check_replaced(requested: PageConfig, listed: PageConfig, overrides: Sequence[str]) -> None:
    """Warn that ``requested`` replaces the ``listed`` page of its file. Raises ConfigError for other claims."""
    command = shlex.join(["python", "scripts/verdicts.py", *overrides])
    if requested.claims != listed.claims:
        raise ConfigError(f"page: {requested.page} is the page that `{command}` writes; must be another name")
    others = [each.name for each in fields(PageConfig) if getattr(requested, each.name) != getattr(listed, each.name)]
    warnings.warn(f"{requested.file}: has another {', '.join(others)} than `{command}` gives it", stacklevel=2)
