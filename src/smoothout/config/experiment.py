"""One training experiment, built from a composed config."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from smoothout.common.enums import coerce_enum_fields
from smoothout.common.errors import ConfigError
from smoothout.config.build import build, construct, validate
from smoothout.config.protocols import Data, Model
from smoothout.nn.options import BatchNormInit, Precision
from smoothout.training.batch import Batch
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.optimizers import OptimizerConfig
from smoothout.training.schedule import Schedule

_GROUPS = ("model", "data", "optimizer", "schedule", "batch", "method", "profile")

EXPERIMENT_KEYS = (*_GROUPS, "batchnorm_init", "epoch_multiplier", "precision", "seed")


@dataclass(frozen=True)
class Experiment:
    """One training: everything that decides its outcome."""

    kind: ClassVar[str] = "train"

    model: Model
    data: Data
    optimizer: OptimizerConfig
    schedule: Schedule
    batch: Batch
    method: NoiseConfig = dataclasses.field(default_factory=NoiseConfig, metadata={"recorded_as": "perturbation"})
    batchnorm_init: BatchNormInit = field(default=BatchNormInit.one, metadata={"recorded_as": "batchnorm_start"})
    precision: Precision = Precision.float32
    seed: int = 0

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        if self.seed < 0:
            raise ValueError(f"seed: must be a whole number >= 0, not {self.seed}")
        limit = self.data.train_examples
        if limit is not None:
            construct(self.batch.check_fits, {"examples": limit}, "batch.")

    def canonicalized(self) -> Experiment:
        """Without ``batchnorm_init`` where the model sets it, without learning-rate scaling where it scales by 1.

        A batch of one ghost batch forgets its ghost size; learning-rate scaling that refers to it keeps it.
        """
        start = BatchNormInit.one if self.model.initializes_batchnorm else self.batchnorm_init
        schedule = self.schedule
        if schedule.lr_scale(self.batch) == 1:
            schedule = schedule.unscaled()
        elif self.batch.ghosts_per_batch == 1:
            schedule = replace(schedule, base_batch_size=schedule.base_batch_size or self.batch.ghost)
        return replace(self, batchnorm_init=start, schedule=schedule)

    @property
    def numerics(self) -> int:
        """Raised when a change of the program changes outcomes; 2: another generator draws the noise."""
        return 2 if self.method.a else 1

    @property
    def labels(self) -> dict[str, Any]:
        """Names for people."""
        return {
            "model": self.model.name,
            "data": str(self.data.name),
            "method": self.method.slug,
            "batch": self.batch.examples_per_update,
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
        return None if self.train_examples is None else max(self.train_examples, batch.examples_per_update)


@dataclass(frozen=True)
class _Scalars:
    batchnorm_init: BatchNormInit
    epoch_multiplier: int
    precision: Precision
    seed: int

    def __post_init__(self) -> None:
        if not 1 <= self.epoch_multiplier <= 1000:
            raise ValueError(f"epoch_multiplier: must be a whole number from 1 to 1000, not {self.epoch_multiplier}")


def build_experiment(config: dict[str, Any]) -> Experiment:
    """The training that a composed config describes, its profile applied. Raises SettingsError."""
    missing = [key for key in EXPERIMENT_KEYS if key not in config]
    if missing:
        raise ConfigError(f"{missing[0]}: is missing; a training needs {', '.join(EXPERIMENT_KEYS)}")
    profile = build(config["profile"], "profile", Profile)
    data = build_data(config["data"])
    batch = build(config["batch"], "batch", Batch)
    scalars = validate(_Scalars, {f.name: config[f.name] for f in dataclasses.fields(_Scalars)}, "").__dict__.copy()
    multiplier = scalars.pop("epoch_multiplier")
    settings = {
        "model": _model(config["model"]),
        "data": replace(
            data,
            train_examples=_smaller(data.train_examples, profile.train_examples_for(batch)),
            test_examples=_smaller(data.test_examples, profile.test_examples),
        ),
        "optimizer": build(config["optimizer"], "optimizer", role=OptimizerConfig),
        "schedule": build(config["schedule"], "schedule", Schedule).scaled(profile.epochs * multiplier),
        "batch": batch,
        "method": build(config["method"], "method", NoiseConfig),
    }
    return construct(Experiment, {**settings, **scalars}, "")


def build_data(node: Any) -> Any:
    """The data's settings at the config node ``data``: images as arrays, or photographs."""
    return build(node, "data", role=Data)


def _model(node: Any) -> Any:
    model: Any = build(node, "model", role=Model)
    if not re.fullmatch(r"\w[\w.+-]*", model.name):
        raise ConfigError(f"model.name: {model.name!r} must be letters, digits and . + - _: it is part of file names")
    return model


def _smaller(one: int | None, other: int | None) -> int | None:
    given = [n for n in (one, other) if n is not None]
    return min(given) if given else None
