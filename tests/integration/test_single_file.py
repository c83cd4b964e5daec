"""notebooks/smoothout_f1.py, the algorithm in one file: it ends with the bits of the trainer."""

from __future__ import annotations

import runpy

import numpy as np
import pytest
import torch
from helpers.common import same_bits
from helpers.paths import CONFIGS, ROOT

from smoothout.config.compose import compose_config
from smoothout.config.experiment import build_experiment
from smoothout.data.split import Split
from smoothout.jobs.prepared_run import init_model
from smoothout.jobs.runtime import build_runtime
from smoothout.training.trainer import Trainer


@pytest.mark.parametrize("a", [0.0, 0.0375])
def test_the_single_file_gives_the_trainers_bits(a, tmp_path, capsys):
    examples = np.random.default_rng(0)
    sizes = {"train": 100, "test": 30}
    data = {f"x_{part}": examples.integers(0, 256, (n, 28, 28), dtype=np.uint8) for part, n in sizes.items()}
    data |= {f"y_{part}": examples.integers(0, 10, n) for part, n in sizes.items()}

    overrides = ["experiment=f1_mnist", "batch.size=40", f"method.a={a}", "schedule.epochs=2", "seed=3", "device=cpu"]
    config = compose_config(CONFIGS, "train", overrides)
    experiment = build_experiment(config)
    model = init_model(experiment, build_runtime(config))
    splits = (
        Split(torch.from_numpy(data[f"x_{part}"])[..., None], torch.from_numpy(data[f"y_{part}"]), (0.5,), (0.5,))
        for part in sizes
    )
    trained = Trainer(
        model,
        *splits,
        optimizer=experiment.optimizer,
        schedule=experiment.schedule,
        batch=experiment.batch,
        method=experiment.method,
        seed=3,
    ).run()

    program = runpy.run_path(str(ROOT / "notebooks" / "smoothout_f1.py"))
    alone = program["initialize"](3)
    program["train"](data, alone, batch=40, a=a, epochs=2, seed=3)
    assert same_bits(alone.state_dict(), trained.model)
    printed = [
        f"epoch {n}: test accuracy {100 * value:.2f}%" for n, value in enumerate(trained.curves["test_accuracy"], 1)
    ]
    assert capsys.readouterr().out.splitlines() == printed
