"""Errors that the user can correct, with one-line messages that name the setting or file; and lost processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

OF_THE_REPORT = ("jinja2", "markdown_it", "markupsafe", "plotly")  # in the extra [report]; others: [experiments]


class UserError(Exception):
    """Input that cannot be used; the one-line message names the setting or file, and what is allowed."""


class ConfigError(UserError):
    """Settings that cannot be used; the message names the key and what is allowed."""


@contextmanager
def config_errors(prefix: str = "", of: type[Exception] = ValueError) -> Iterator[None]:
    """Within the block, turn an error ``of`` this class into a ConfigError, with ``prefix`` before its message."""
    try:
        yield
    except of as error:
        raise ConfigError(f"{prefix}{error}") from error


@contextmanager
def needs_experiments() -> Iterator[None]:
    """Within the block, an error about a missing package says which extra of this project installs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(missing_package(error), name=error.name) from error


def missing_package(error: ModuleNotFoundError) -> str:
    """The message for a missing package: the extra of this project that installs it."""
    extra = "report" if (error.name or "").partition(".")[0] in OF_THE_REPORT else "experiments"
    return f"{error.name} is not installed; it belongs to smoothout's extra [{extra}]: pip install '.[{extra}]'"


def one_line(error: BaseException, limit: int) -> str:
    """The message of ``error`` as one line of at most ``limit`` characters, to be quoted in another message."""
    return " ".join(str(error).split())[:limit]


class DataError(UserError):
    """Data that is missing or damaged."""


class RecordError(UserError):
    """A record that must not be used (damaged, edited, of another version), or a folder that cannot hold records."""


class CheckpointError(UserError):
    """A checkpoint that cannot be used."""


class PeerLostError(Exception):
    """Another rank has ended. Either it has reported the reason, or torchrun names the signal that killed it."""


class DistributedAbort(KeyboardInterrupt):
    """A rank failed during a training, for the reason in ``__cause__``; like Ctrl-C it ends a whole sweep."""
