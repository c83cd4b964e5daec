"""From a composed config to typed settings, and every error line about settings.

A node of the config carries ``_target_``, the full name of a frozen dataclass of this package, and that dataclass's
fields. ``build`` makes the object; it calls nothing outside the package and refuses what the dataclass does not know.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import importlib
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from smoothout.common.enums import keep_members
from smoothout.config.protocols import Data, Model, lacking
from smoothout.nn.batchnorm import BatchNormStart
from smoothout.nn.evaluation import Precision
from smoothout.nn.perturbation import Noise
from smoothout.training.schedule import Schedule
from smoothout.training.trainer import OptimizerSettings
from smoothout.training.update import Batch

PACKAGE = "smoothout"
_GROUPS = ("model", "data", "optimizer", "schedule", "batch", "perturbation", "profile")
EXPERIMENT_KEYS = (*_GROUPS, "batchnorm_start", "longer", "precision", "seed")
T = TypeVar("T")


class SettingsError(Exception):
    """Settings that cannot be used; the message is one line that names the key and what is allowed."""


@dataclass(frozen=True)
class Experiment:
    """One training: everything that decides its outcome."""

    kind: ClassVar[str] = "train"

    model: Model
    data: Data
    optimizer: OptimizerSettings
    schedule: Schedule
    batch: Batch
    perturbation: Noise = dataclasses.field(default_factory=Noise)
    batchnorm_start: BatchNormStart = BatchNormStart.one
    precision: Precision = Precision.float32
    seed: int = 0

    def __post_init__(self) -> None:
        keep_members(self)
        if self.seed < 0:
            raise ValueError(f"seed: must be a whole number >= 0, not {self.seed}")
        limit = self.data.train_examples
        if limit is not None:
            _made(self.batch.fitting, {"examples": limit}, "batch.")

    def simplified(self) -> Experiment:
        """Without ``batchnorm_start`` where the model sets it, without learning-rate scaling where it scales by 1.

        A batch of one ghost batch forgets its ghost size; learning-rate scaling that refers to it keeps it.
        """
        start = BatchNormStart.one if self.model.sets_batchnorm_start else self.batchnorm_start
        schedule = self.schedule
        if schedule.lr_scale(self.batch) == 1:
            schedule = schedule.unscaled()
        elif self.batch.ghosts == 1:
            schedule = replace(schedule, lr_reference=schedule.lr_reference or self.batch.ghost)
        return replace(self, batchnorm_start=start, schedule=schedule)

    @property
    def numerics(self) -> int:
        """Raised when a change of the program changes outcomes; 2: another generator draws the noise."""
        return 2 if self.perturbation.a else 1

    @property
    def labels(self) -> dict[str, Any]:
        """Names for people."""
        return {
            "model": self.model.name,
            "data": str(self.data.name),
            "method": self.perturbation.slug,
            "batch": self.batch.examples,
            "epochs": self.schedule.epochs,
            "seed": self.seed,
        }

    def slug(self) -> str:
        """The readable part of a record's name."""
        return "{model}-{data}-b{batch}-{method}-e{epochs}-s{seed}".format(**self.labels)


@dataclass(frozen=True)
class Profile:
    """How much of the published experiment is run: a share of its epochs, and the first examples of each split.

    Args:
        epochs: share of the published epochs, above 0; learning-rate drops move along.
        train_examples: number of training images, or those of one update where it takes more; None is all.
        test_examples: number of test images, None for all.
        analysis_examples: number of images that post-hoc analyses look at, None for all of a split.
    """

    epochs: float = 1.0
    train_examples: int | None = None
    test_examples: int | None = None
    analysis_examples: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.epochs <= 1000:
            raise ValueError(f"epochs: must be a share above 0, at most 1000, not {self.epochs}")
        for name in ("train_examples", "test_examples", "analysis_examples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be null (all) or at least 1, not {value}")

    def train_examples_for(self, batch: Batch) -> int | None:
        """How many training images there are to be for updates of ``batch``, None for all."""
        return None if self.train_examples is None else max(self.train_examples, batch.examples)


@dataclass(frozen=True)
class Folders:
    """Where things lie: data sets, records, checkpoints, logs. Never part of a record's identity."""

    data: str
    results: str
    checkpoints: str
    logs: str

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not getattr(self, field.name):
                raise ValueError(f"{field.name}: must be the path of a folder, not ''")


@dataclass(frozen=True)
class _Scalars:
    batchnorm_start: BatchNormStart
    longer: int
    precision: Precision
    seed: int

    def __post_init__(self) -> None:
        if not 1 <= self.longer <= 1000:
            raise ValueError(f"longer: must be a whole number from 1 to 1000, not {self.longer}")


def compose_config(folder: Path, name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The config ``name`` under ``folder`` with ``overrides``, resolved to plain values.

    Hydra takes a tenth of a second, and tables share rows: it is asked again only where a file or a place changed.
    Raises SettingsError for a folder without configs.
    """
    files = [(path, path.stat().st_mtime_ns) for path in folder.rglob("*.yaml")]
    if not files:
        raise SettingsError(f"configs: {folder} must be the folder of this repository's configs, and has none")
    places = [(key, value) for key, value in os.environ.items() if key.startswith("SMOOTHOUT_")]
    return copy.deepcopy(_composed(folder.resolve(), name, tuple(overrides), frozenset([*files, *places])))


@lru_cache(maxsize=4096)
def _composed(folder: Path, name: str, overrides: tuple[str, ...], _circumstances: frozenset[Any]) -> dict[str, Any]:
    GlobalHydra.instance().clear()  # a program of Hydra's own may be running
    with initialize_config_dir(config_dir=str(folder), version_base="1.3"):
        return plain(compose(config_name=name, overrides=list(overrides)))


def plain(config: DictConfig) -> dict[str, Any]:
    """A composed config as plain values, interpolations resolved."""
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def experiment(config: dict[str, Any]) -> Experiment:
    """The training that a composed config describes, its profile applied. Raises SettingsError."""
    missing = [key for key in EXPERIMENT_KEYS if key not in config]
    if missing:
        raise SettingsError(f"{missing[0]}: is missing; a training needs {', '.join(EXPERIMENT_KEYS)}")
    profile = build(config["profile"], "profile", Profile)
    data = data_settings(config["data"])
    batch = build(config["batch"], "batch", Batch)
    scalars = typed(_Scalars, {f.name: config[f.name] for f in dataclasses.fields(_Scalars)}, "").__dict__.copy()
    longer = scalars.pop("longer")
    settings = {
        "model": _model(config["model"]),
        "data": replace(
            data,
            train_examples=_smaller(data.train_examples, profile.train_examples_for(batch)),
            test_examples=_smaller(data.test_examples, profile.test_examples),
        ),
        "optimizer": build(config["optimizer"], "optimizer", role=OptimizerSettings),
        "schedule": build(config["schedule"], "schedule", Schedule).scaled(profile.epochs * longer),
        "batch": batch,
        "perturbation": build(config["perturbation"], "perturbation", Noise),
    }
    return _made(Experiment, {**settings, **scalars}, "")


def data_settings(node: Any) -> Any:
    """The data's settings at the config node ``data``: images as arrays, or photographs."""
    return build(node, "data", role=Data)


def _model(node: Any) -> Any:
    model: Any = build(node, "model", role=Model)
    if not re.fullmatch(r"\w[\w.+-]*", model.name):
        raise SettingsError(f"model.name: {model.name!r} must be letters, digits and . + - _: it is part of file names")
    return model


def _smaller(one: int | None, other: int | None) -> int | None:
    given = [n for n in (one, other) if n is not None]
    return min(given) if given else None


def build(node: Any, key: str, kind: type[T] | None = None, role: type[Any] | None = None) -> T:
    """The settings object that the config node at ``key`` describes.

    ``kind`` is the class that it must be; ``role`` a protocol whose members it must have.

    Raises SettingsError: an unknown ``_target_`` or key, a missing or wrong value.
    """
    if not isinstance(node, dict) or "_target_" not in node:
        raise SettingsError(f"{key}: must be a group of settings with a _target_, not {node!r}")
    values = dict(node)
    cls = _component(str(values.pop("_target_")), key)
    if kind is not None and cls is not kind:
        raise SettingsError(f"{key}._target_: must be {kind.__module__}.{kind.__qualname__}, not {node['_target_']}")
    if role is not None and (members := lacking(cls, role)):
        raise SettingsError(f"{key}._target_: {node['_target_']} cannot be the {key}: it lacks {', '.join(members)}")
    made: T = typed(cls, values, f"{key}.")
    return made


def _component(target: str, key: str) -> type[Any]:
    module, _, name = target.rpartition(".")
    found = None
    if module.split(".")[0] == PACKAGE:
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ImportError as error:
            if error.name not in _parents(module):  # the module is there, and imports what is not
                raise SettingsError(f"{key}._target_: {module} cannot be imported: {error}") from error
    is_ours = isinstance(found, type) and dataclasses.is_dataclass(found) and found.__module__ == module
    if not is_ours:
        raise SettingsError(f"{key}._target_: {target!r} is no class of settings in the package {PACKAGE}")
    assert isinstance(found, type)
    return found


def _parents(module: str) -> list[str]:
    """A module's name, and those of the packages that it lies in."""
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(1, 1 + len(parts))]


def typed(cls: type[T], values: dict[Any, Any], prefix: str) -> T:
    """``cls`` (a dataclass) made from ``values``, each checked against its field's type; ``prefix`` names the node."""
    schema = OmegaConf.structured(cls)
    OmegaConf.set_readonly(schema, False)  # frozen dataclasses come read-only
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    for key, value in values.items():
        if key not in names:
            raise SettingsError(unknown_key(f"{prefix}{key}", names))
        try:
            schema[key] = _strict(value, hints[key])
            if isinstance(value, list):
                OmegaConf.to_object(schema[key])  # raises where an item is missing (???)
        except (OmegaConfBaseException, TypeError):
            raise SettingsError(f"{prefix}{key}: {value!r} is not {_allowed(hints[key])}") from None
    missing = [name for name in names if OmegaConf.is_missing(schema, name)]
    if missing:
        raise SettingsError(f"{prefix}{missing[0]}: must be given: {_allowed(hints[missing[0]])}")
    settled = {name: _frozen(schema[name]) for name in names}
    for name, value in settled.items():
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(n, float) and not math.isfinite(n) for n in numbers):
            raise SettingsError(f"{prefix}{name}: must be finite, not {value}")
    return _made(cls, settled, prefix)


def unknown_key(key: str, names: Iterable[str], more: Sequence[str] = ()) -> str:
    """The line about a full ``key`` where only ``names`` are known; ``more``, full keys too, may have been meant."""
    names, end = list(names), key.rpartition(".")[2]
    elsewhere = {name.rpartition(".")[2]: name for name in reversed(more) if name != key}
    near = [elsewhere[end]] if end in elsewhere else difflib.get_close_matches(end, names, 1)
    near += [elsewhere[name] for name in difflib.get_close_matches(end, elsewhere, 1, 0.75)]
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"{key}: unknown key{hint}; allowed: {', '.join(names) or 'none'}"


def chosen(settings: Any, prefix: str = "", **hints: Any) -> Any:
    """The settings named in ``hints`` as attributes of one object, each checked against its type; others are left."""
    if not isinstance(settings, dict):
        raise SettingsError(f"{prefix.rstrip('.')}: must be a group of settings, not {settings!r}")
    kind = dataclasses.make_dataclass("Chosen", hints.items())
    return typed(kind, {name: settings[name] for name in hints if name in settings}, prefix)


def _strict(value: Any, hint: Any) -> Any:
    """``value``, unless it is a truth value for a number or a number for a truth value: OmegaConf converts 0 and 1."""
    options = get_args(hint) or (hint,)
    if isinstance(value, bool) != (bool in options) and isinstance(value, bool | int | float):
        raise TypeError
    return value


def _made(cls: Callable[..., T], values: dict[str, Any], prefix: str) -> T:
    try:
        return cls(**values)
    except ValueError as error:
        raise SettingsError(f"{prefix}{error}") from error


def _frozen(value: Any) -> Any:
    return tuple(value) if OmegaConf.is_list(value) else value


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


def _allowed(hint: Any) -> str:
    """What a field of that type takes, in words."""
    options = [option for option in get_args(hint) or (hint,) if option is not Ellipsis]
    words = []
    for option in options:
        if get_origin(option) is tuple:
            words.append(_allowed(option))
        elif isinstance(option, type) and issubclass(option, Enum):
            words.append("one of " + ", ".join(member.name for member in option))
        else:
            words.append(_WORDS[option])
    text = " or ".join(words)
    return f"a list, each {text}" if get_origin(hint) is tuple else text
