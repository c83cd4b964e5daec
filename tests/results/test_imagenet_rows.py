"""ImageNet's rows: their settings are the published ones, shown as not run with their cost, and able to train."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.image_tree import tree
from helpers.paths import CONFIGS, PUBLISHED
from helpers.tiny_jobs import workplace

from smoothout.config.compose import compose_config
from smoothout.config.experiment import Experiment
from smoothout.jobs.runner import run_jobs
from smoothout.nn.options import NoiseScaling
from smoothout.reproduction.table import RunSelection, TablePlan
from smoothout.results.records import Record

TINY = [
    "batch_sizes.large=16",
    "batch_sizes.ghost=8",
    "batch_sizes.multiplier=2",
    "schedule.epochs=1",
    "schedule.milestones=[]",
]


def made(name: str, only: str, *overrides: str) -> TablePlan:
    table: dict[str, Any] = compose_config(CONFIGS, "reproduce", [f"table={name}"])["table"]
    for row in table["rows"]:
        row["overrides"] += overrides
    return TablePlan(table, RunSelection(), CONFIGS, PUBLISHED).of_rows([only])


def trainings(table: TablePlan) -> Iterator[tuple[str, str, Experiment]]:
    """Row, method and settings of every training."""
    for cell in table.cells:
        if cell.column.endswith(" best"):
            yield cell.row, cell.column.removesuffix(" best"), cell.jobs[0].settings


@pytest.mark.parametrize("name", ["table3", "tableII"])
def test_the_rows_have_the_published_settings(name: str) -> None:
    seen = set()
    for row, method, setup in trainings(made(name, "ImageNet")):
        alexnet, bare = row.startswith("AlexNet"), method in ("adasmoothout", "control")
        times = 2 if "120 epochs" in row and method != "small_batch" else 1
        epochs, drops, lr, decay = (60, (20, 40), 0.01, 5e-4) if alexnet else (90, (30, 60), 0.1, 1e-4)
        assert setup.schedule.epochs == times * epochs
        assert setup.schedule.milestones == tuple(times * drop for drop in drops)
        assert setup.optimizer.weight_decay == (0 if bare else decay)
        assert setup.model.name == ("alexnet" if alexnet else "resnet18")
        assert getattr(setup.model, "dropout", 0) == (0 if bare or not alexnet else 0.5)
        assert setup.data.augment == ("crop_flip" if alexnet else "resized_crop_flip")
        small = method == "small_batch"
        assert (setup.batch.examples_per_update, setup.batch.ghost) == ((256, None) if small else (16384, 128))
        scale = 1 if small else math.sqrt(16384 / 128)
        assert setup.optimizer.lr * setup.schedule.lr_factor(0, setup.batch) == pytest.approx(lr * scale)
        noise = setup.method
        assert (noise.a, noise.scaling) == (
            (0.15, NoiseScaling.filter) if method == "adasmoothout" else (0, noise.scaling)
        )
        seen.add((row, method))
    methods = {"small_batch", "baseline", "adasmoothout", "control"}
    assert {method for row, method in seen if row.startswith("AlexNet")} == methods
    assert {method for row, method in seen if row.startswith("ResNet18")} <= methods - {"small_batch"}


@pytest.mark.parametrize("name", ["table1", "table3", "tableII"])
def test_they_are_shown_as_not_run_with_the_cost_of_their_epochs(name: str, tmp_path: Path) -> None:
    table = made(name, "ImageNet")
    rendered = table.render(workplace(tmp_path))
    cells = {(cell.row, cell.column): cell for cell in rendered.cells}
    for row, method, setup in trainings(table):
        cell = cells[row, f"{method} best"]
        assert cell.text().startswith("not run")
        assert cell.hours == pytest.approx(setup.schedule.epochs * (27 if row.startswith("Alex") else 74) / 3.6)
    text = rendered.markdown()
    assert "of unknown cost" not in text
    assert text.count(" commands, about ") == len(table.rows)


def test_their_small_forms_train_by_the_multiplier(tmp_path: Path) -> None:
    """An epoch of every row and method on a few images of 64 pixels: batches of two ghost batches."""
    tree(tmp_path / "data" / "imagenette", {"train": 4, "val": 2}, size=(80, 72))
    table = made("imagenette", "imagenette", *TINY, "data.crop_size=64", "data.resize_size=72", "data.workers=0")
    done = dict(run_jobs(table.jobs(), workplace(tmp_path)))
    assert len(done) == 6
    for outcome in done.values():
        assert isinstance(outcome, Record), outcome
        assert not outcome.outcome["diverged"]
        assert outcome.labels["batch"] == 32
    assert "not run" not in table.render(workplace(tmp_path)).markdown()
