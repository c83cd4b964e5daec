"""Load the network of a recorded run: for notebooks and for analyses of your own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import nn

from smoothout.analysis.options import WhichWeights
from smoothout.common.deprecation import renamed_arguments
from smoothout.common.enums import parse_enum
from smoothout.common.errors import needs_experiments


@renamed_arguments(weights="checkpoint")
def trained(
    overrides: Sequence[str],
    *,
    checkpoint: WhichWeights | str = WhichWeights.best,
    configs: Path | str | Sequence[Path | str] = "configs",
) -> nn.Module:
    """The network of the run that ``train.py`` trains with the same ``overrides``, in evaluation mode.

    A run without a record or checkpoint is trained first. Data, records and checkpoints are in folders of the working
    directory, or in those of the environment variables SMOOTHOUT_DATA, SMOOTHOUT_RESULTS, ...

    Args:
        overrides: of configs/train.yaml, for example ["experiment=f1_mnist", "batch=large", "seed=1"].
        checkpoint: ``best`` (of the epoch with the best test accuracy) or ``last``.
        configs: the folder configs/ of a clone of this repository; an installed package does not contain it. In a
            sequence, your own folders may follow, as with --config-dir.

    Raises:
        UserError: with a message of one line, for overrides that cannot be used and for missing data.
        TypeError: for ``overrides`` that are not a list.
        ValueError: for another ``checkpoint``.
        ModuleNotFoundError: without the extra [experiments].
    """
    which = parse_enum(WhichWeights, "checkpoint", checkpoint)
    if isinstance(overrides, str):
        raise TypeError(f'overrides: must be a list, such as ["experiment=f1_mnist", "seed=1"], not {overrides!r}')
    with needs_experiments():
        from smoothout.config.compose import compose_config  # noqa: PLC0415
        from smoothout.config.experiment import build_experiment  # noqa: PLC0415
        from smoothout.jobs.job import Job  # noqa: PLC0415
        from smoothout.jobs.runner import load_network  # noqa: PLC0415
        from smoothout.jobs.runtime import build_runtime  # noqa: PLC0415
    folders = [configs] if isinstance(configs, Path | str) else configs
    config = compose_config(tuple(map(Path, folders)), "train", overrides)
    with _torch_as_in_programs():
        return load_network(Job(build_experiment(config)), which, build_runtime(config))


@contextmanager
def _torch_as_in_programs() -> Iterator[None]:
    """A context with torch's modes and defaults of a new process, because records do not include them."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)
        if torch.get_default_device().type != "cpu":  # otherwise the mode would only slow down torch calls
            stack.enter_context(torch.device("cpu"))
        yield
