"""Errors of Hydra, OmegaConf and YAML as one line that names the setting, without their trailers."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, ConfigTypeError, OmegaConfBaseException

from smoothout.config.build import unknown_choice, unknown_key
from smoothout.config.moved import RENAMED

HYDRA_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError)
_TRAILERS = ("Config search path", "full_key:", "object_type=", "Set the environment variable", "To append to your")
_WITHOUT_KEYS = ("experiment", "protocol")  # groups that set the keys of others
_INSTEAD = {
    "reproduce": {"protocol": "scope.protocol", "profile": "scope.profile"},
    "verdicts": {"protocol": "claim_scope.protocols", "profile": "claim_scope.profile"},
}
_NO_OPTION = re.compile(
    r"In '[^']*': Could not find '([^']+)/([^'/]+)'\s+Available options in '[^']+':\s+(.*?)\n(?=\S|$)", re.S
)
_ADDED_TWICE = re.compile(r"Multiple values for ([\w/]+)\. To override a value use 'override [\w/]+: ([^']+)'")
_NO_PACKAGE = re.compile(r"In '([^']+)': Could not override '(\w+)@\w+\.\2'")
_NO_CHOICE = re.compile(r"Could not override '([^']+)'\. No match in the defaults list\.")


def format_hydra_error(error: BaseException, overrides: Sequence[str]) -> str:
    """The message of ``error`` as one line; if it does not name the setting, the ``overrides`` follow."""
    if isinstance(error, OverrideParseException):
        return _not_parsed(error)
    text = _misspelled(error) or str(error) or type(error).__name__
    if found := _NO_PACKAGE.search(text):
        return f"{found[1]}.yaml: must begin with the line '# @package _global_', to override the choice of {found[2]}"
    text = _NO_OPTION.sub(_no_option, _NO_CHOICE.sub(_no_choice, text))
    added = _ADDED_TWICE.search(text)
    if added and f"+{added[1]}={added[2]}" in overrides:  # not a defaults list of a user's own
        return f"{added[1]}: has a choice already; write {added[1]}={added[2]}, without +"
    kept = []
    for line in text.splitlines():
        if line.strip().startswith(_TRAILERS):
            break
        kept.append(line.strip())
    joined = " ".join(line for line in kept if line)
    culprit = getattr(error, "override", None) or getattr(error, "full_key", None)  # Hydra's, or OmegaConf's
    if culprit:
        return joined if str(culprit) in joined else f"{culprit}: {joined}"
    return joined if isinstance(error, HydraException | yaml.YAMLError) else f"{joined}; among: {' '.join(overrides)}"


def _not_parsed(error: OverrideParseException) -> str:
    """The error line for an override that breaks Hydra's grammar."""
    reasons = [line for line in error.message.splitlines() if not line.startswith(("Error parsing", "See https"))]
    reason = reasons[0].partition(" expecting ")[0] if reasons else "it ends too early"
    if reason.startswith("Lexer"):  # the name of the parser's error, and the override again
        reason = "a character needs quotes"
    key = error.override.partition("=")[0]
    return (
        f"{error.override}: cannot be parsed ({reason}); must be KEY=VALUE, with quotes around special characters for"
        f" Hydra and for the shell, such as '{key}=\"a text\"' or \"{key}=['seed=1']\""
    )


def _no_choice(match: re.Match[str]) -> str:
    """The error line for a group that this program does not have."""
    group = match[1]
    meant = _INSTEAD.get(Path(sys.argv[0]).stem, {}).get(group) or RENAMED.get(group)
    hint = f" (did you mean {meant}?)" if meant else ""
    return f"{group}: is not a choice of this program{hint}; --help has examples of its settings"


def _no_option(match: re.Match[str]) -> str:
    """The error line for a choice that a group does not have."""
    return unknown_choice(match[1], match[2], match[3].split()) + "\n"


def _misspelled(error: BaseException) -> str | None:
    """The error line for a key that the config does not have; Hydra's advises to add it with a +."""
    cause = error.__cause__
    if not isinstance(error, HydraException) or not isinstance(
        cause, ConfigAttributeError | ConfigKeyError | ConfigTypeError
    ):
        return None
    if not isinstance(cause.parent_node, DictConfig):
        return None
    node = OmegaConf.to_container(cause.parent_node)
    assert isinstance(node, dict)
    if isinstance(cause, ConfigTypeError) and str(cause).splitlines()[0].endswith(("pop", "deletion")):
        return f"{cause.full_key}: cannot be deleted; set it to another value"
    if isinstance(cause, ConfigTypeError):
        return f"{cause.full_key}: is a group of settings; set one of these: {', '.join(map(str, node))}"
    known = [str(name) for name in node if name not in ("_target_", "hydra")]
    within = [f"{name}.{key}" for name in known if isinstance(node[name], dict) for key in node[name]]
    if "model" in known and "." not in str(cause.full_key):
        known = [*_WITHOUT_KEYS, *known]
    return unknown_key(str(cause.full_key), known, within)
