"""One training experiment, built from a composed config."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from smoothout.analysis.options import WhichWeights
from smoothout.common.enums import coerce_enum_fields
from smoothout.common.errors import ConfigError, config_errors
from smoothout.common.files import check_name
from smoothout.common.job_settings import JobSettings
from smoothout.config.build import construct, validate
from smoothout.config.protocols import Data, Model
from smoothout.nn.options import BatchNormInit, Precision
from smoothout.training.batch import Batch
from smoothout.training.methods.base import Method
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.optimizers import Optimizer
from smoothout.training.schedule import Schedule


@dataclass(frozen=True)
class InitFrom:
    """The trained weights that a training starts from: those of ``run``, with BatchNorm's running statistics.

    The run is an input of the training's job, as the runs of an analysis are; its digest is part of the identity.
    """

    run: Experiment = field(metadata={"identity": False})
    checkpoint: WhichWeights = WhichWeights.last

    def __post_init__(self) -> None:
        coerce_enum_fields(self)


@dataclass(frozen=True)
class Experiment(JobSettings):
    """One training: everything that decides its outcome."""

    kind: ClassVar[str] = "train"

    model: Model
    data: Data
    optimizer: Optimizer
    schedule: Schedule
    batch: Batch
    method: Method = dataclasses.field(default_factory=NoiseConfig, metadata={"recorded_as": "perturbation"})
    batchnorm_init: BatchNormInit = field(default=BatchNormInit.one, metadata={"recorded_as": "batchnorm_start"})
    precision: Precision = Precision.float32
    seed: int = 0
    init_from: InitFrom | None = None  # None: random weights

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        if self.seed < 0:
            raise ValueError(f"seed: must be a whole number >= 0, not {self.seed}")
        if self.schedule.keep_epochs and self.method.depends_on_length:
            raise ValueError(
                "schedule.keep_epochs: must be empty, because the method depends on the training's length: a"
                " shorter training is not its beginning"
            )
        if self.method.needs_momentum and not self.optimizer.has_momentum:
            raise ValueError(
                f"optimizer: must have momentum, which {self.method.slug} needs; use optimizer=momentum with"
                " optimizer.momentum above 0, or optimizer=adam"
            )
        limit = self.data.train_examples
        if limit is not None:
            construct(self.batch.check_fits, {"examples": limit}, "batch.")

    def canonicalized(self) -> Experiment:
        """Without ``batchnorm_init`` if it has no effect, and without learning-rate scaling by 1.

        A batch of one ghost batch loses its ghost size; learning-rate scaling relative to that size keeps it.
        """
        no_effect = self.model.initializes_batchnorm or self.init_from
        start = BatchNormInit.one if no_effect else self.batchnorm_init
        schedule = self.schedule
        if schedule.lr_scale(self.batch) == 1:
            schedule = schedule.unscaled()
        elif self.batch.ghosts_per_batch == 1:
            schedule = replace(schedule, base_batch_size=schedule.base_batch_size or self.batch.ghost)
        return replace(self, batchnorm_init=start, schedule=schedule)

    @property
    def numerics(self) -> int:
        """Version of the computation, raised when a fix changes outcomes; 2 since the generator of noise changed."""
        return self.method.numerics

    @property
    def source(self) -> Experiment | None:
        """The training whose weights this one starts from."""
        return self.init_from.run if self.init_from else None

    def with_seed(self, seed: int) -> Experiment:
        """The same with another seed; a training that it starts from gets that seed too if it had the same one."""
        start = self.init_from
        if start and start.run.seed == self.seed:
            start = replace(start, run=start.run.with_seed(seed))
        return replace(self, seed=seed, init_from=start)

    def holding_out(self, images: int) -> Experiment:
        """The same with that many held-out training images, also in a training of the same data that it starts from."""
        data: Any = self.data  # a dataclass
        start = self.init_from
        if start and start.run.data.name == self.data.name:
            start = replace(start, run=start.run.holding_out(images))
        return replace(self, data=replace(data, validation_size=images), init_from=start)

    @property
    def labels(self) -> dict[str, Any]:
        """Readable labels: columns of a data frame of records."""
        start = {"init_from": self.source.slug(), "init_epochs": self.source.schedule.epochs} if self.source else {}
        return {
            "model": self.model.name,
            "data": str(self.data.name),
            "method": self.method.slug,
            "batch": self.batch.examples_per_update,
            "epochs": self.schedule.epochs,
            "seed": self.seed,
            **start,
        }

    def slug(self) -> str:
        """The readable part of a record's name."""
        start = "-from-b{batch}-{method}-e{epochs}".format(**self.source.labels) if self.source else ""
        return "{model}-{data}-b{batch}-{method}-e{epochs}-s{seed}".format(**self.labels) + start


@dataclass(frozen=True)
class Profile:
    """How much of the published experiment is run: a share of its epochs, and the first examples of each split."""

    epochs: float = 1.0  # share of the published epochs, above 0; milestones are scaled with it
    train_examples: int | None = None  # at least those of one update; None for all
    test_examples: int | None = None  # None for all
    analysis_examples: int | None = None  # of a split, for post-hoc analyses; None for all

    def __post_init__(self) -> None:
        if not 0 < self.epochs <= 1000:
            raise ValueError(f"epochs: must be a share above 0, at most 1000, not {self.epochs}")
        for name in ("train_examples", "test_examples", "analysis_examples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be null (all) or at least 1, not {value}")

    def train_examples_for(self, batch: Batch) -> int | None:
        """The number of training images for updates of ``batch``, None for all."""
        return None if self.train_examples is None else max(self.train_examples, batch.examples_per_update)


@dataclass(frozen=True)
class InitFromConfig:
    """The settings ``init_from`` of configs/train.yaml."""

    run: dict[str, Any] | None = None  # the composed config of the run; None: random weights
    checkpoint: WhichWeights = WhichWeights.last

    def __post_init__(self) -> None:
        coerce_enum_fields(self)

    def build(self) -> InitFrom | None:
        """The weights that a training starts from, or None for random ones. Raises ConfigError."""
        if self.run is None:
            return None
        with config_errors("init_from.run: ", of=ConfigError):
            return InitFrom(training_config(self.run).experiment(), self.checkpoint)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The settings of configs/train.yaml: an experiment before its profile is applied.

    Args:
        epoch_multiplier: "training longer": multiplies epochs and milestones.
        epoch_fraction: trains for this share of the profile's epochs, whatever the profile is.
        batch_sizes: what batch=small, large and ghost mean; read by configs/batch/.
        epoch_seconds: rough cost of an epoch by batch, for estimates without records.
        pad_color: color that crops are padded with; read by configs/data/.
        noise: what a protocol says about noise; read by configs/method/.
        init_from: the run whose weights the training starts from.
    """

    model: Model
    data: Data
    optimizer: Optimizer
    schedule: Schedule
    batch: Batch
    method: Method
    profile: Profile
    batchnorm_init: BatchNormInit
    epoch_multiplier: int
    precision: Precision
    seed: int
    batch_sizes: dict[str, int | None]
    epoch_seconds: dict[str, float | None]
    pad_color: Any = None
    noise: dict[str, Any] = dataclasses.field(default_factory=dict)
    epoch_fraction: float = 1.0
    init_from: InitFromConfig = dataclasses.field(default_factory=InitFromConfig)

    def __post_init__(self) -> None:
        check_name("model.name", self.model.name)
        check_name("data.name", str(self.data.name))
        check_name("method.slug", self.method.slug)
        if not 1 <= self.epoch_multiplier <= 1000:
            raise ValueError(f"epoch_multiplier: must be a whole number from 1 to 1000, not {self.epoch_multiplier}")
        if not 0 < self.epoch_fraction <= 1:
            raise ValueError(f"epoch_fraction: must be a share above 0, at most 1, not {self.epoch_fraction}")

    def experiment(self) -> Experiment:
        """The training, its profile applied. Raises ConfigError."""
        data: Any = self.data  # a dataclass
        limits = {
            "train_examples": smallest_limit(data.train_examples, self.profile.train_examples_for(self.batch)),
            "test_examples": smallest_limit(data.test_examples, self.profile.test_examples),
        }
        epochs = self.profile.epochs * self.epoch_fraction * self.epoch_multiplier
        settings = {
            "model": self.model,
            "data": replace(data, **limits),
            "optimizer": self.optimizer,
            "schedule": self.schedule.scaled(epochs),
            "batch": self.batch,
            "method": self.method,
            "batchnorm_init": self.batchnorm_init,
            "precision": self.precision,
            "seed": self.seed,
        }
        own = construct(Experiment, settings, "")  # first, because the source shares most of its settings
        return replace(own, init_from=self.init_from.build())

    def seconds_per_epoch(self) -> float | None:
        """The config's estimate for the training's batch; None if ``epoch_seconds`` has none for it."""
        ghost_seconds = self.epoch_seconds.get("ghost") if self.batch.ghost else None
        if ghost_seconds is not None:
            return ghost_seconds
        known = {self.batch_sizes.get(name): self.epoch_seconds.get(name) for name in ("small", "large")}
        return known.get(self.batch.size)


def training_config(config: dict[str, Any]) -> TrainingConfig:
    """The training settings among those of a composed ``config``. Raises ConfigError."""
    names = [field.name for field in dataclasses.fields(TrainingConfig)]
    return validate(TrainingConfig, {name: config[name] for name in names if name in config}, "")


def build_experiment(config: dict[str, Any]) -> Experiment:
    """The training that a composed ``config`` describes, its profile applied. Raises ConfigError."""
    return training_config(config).experiment()


def smallest_limit(*limits: int | None) -> int | None:
    """The smallest of ``limits``, where None means no limit."""
    return min((limit for limit in limits if limit is not None), default=None)
