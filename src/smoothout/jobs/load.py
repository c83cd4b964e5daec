"""A recorded run's network for whoever writes Python: a notebook, an analysis of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from smoothout.analysis.options import WhichWeights
from smoothout.common.enums import parse_enum
from smoothout.config.compose import compose_config
from smoothout.config.experiment import build_experiment
from smoothout.jobs.job import Job
from smoothout.jobs.runner import load_network
from smoothout.jobs.runtime import build_runtime


def trained(
    overrides: Sequence[str], *, weights: WhichWeights | str = WhichWeights.best, configs: Path | str = "configs"
) -> nn.Module:
    """The network of the run that ``train.py`` makes with the same ``overrides``, in evaluation mode.

    A run that has no record, or whose checkpoint is not here, is trained first. Data, records and checkpoints lie where
    `configs/_place.yaml` says: in folders of the working directory, or where SMOOTHOUT_DATA and its like point.

    Args:
        overrides: of configs/train.yaml, ["experiment=f1_mnist", "batch=large", "seed=1"] say.
        weights: best, those of the best test epoch, or last.
        configs: the folder configs/ of this repository.

    Raises:
        SettingsError: or another error whose message is one line, for overrides that cannot be used or missing data.
        ValueError: for other ``weights``.
    """
    which = parse_enum(WhichWeights, "weights", weights)
    config = compose_config(Path(configs), "train", overrides)
    return load_network(Job(build_experiment(config)), which, build_runtime(config))
