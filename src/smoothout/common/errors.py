"""Errors that are the user's to correct: each message is one line that names the setting or file."""

from __future__ import annotations


class UserError(Exception):
    """Input that cannot be used; the message is one line that names the culprit and what is allowed."""


class ConfigError(UserError):
    """Settings that cannot be used; the message names the key and what is allowed."""


class DataError(UserError):
    """Data that is missing or damaged."""


class RecordError(UserError):
    """A record that must not be used (damaged, edited, of another version), or a folder that can hold none."""


class CheckpointError(UserError):
    """A checkpoint that cannot be used."""
