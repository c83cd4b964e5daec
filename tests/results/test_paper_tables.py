"""The papers' tables as configs: every row has the published settings, every published number is shown, all train."""

from __future__ import annotations

import math
from collections import Counter
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.paths import CONFIGS, PUBLISHED

from smoothout.config.compose import compose_config
from smoothout.config.experiment import Experiment
from smoothout.jobs.job import Job
from smoothout.jobs.runner import run_jobs
from smoothout.jobs.runtime import Folders, Runtime
from smoothout.reproduction.table import RunSelection, TablePlan
from smoothout.results.records import Record

PAPERS = ("table1", "table2", "table3", "tableII", "tableIII", "tableIV", "tableV")
TINY = [
    "batch_sizes.small=16",
    "batch_sizes.large=48",
    "batch_sizes.ghost=16",
    "batch_sizes.multiplier=1",
    "schedule.epochs=2",
    "schedule.milestones=[1]",
    "data.train_examples=96",
    "data.test_examples=32",
]


def config(name: str, shrink: bool = False) -> dict[str, Any]:
    table: dict[str, Any] = compose_config(CONFIGS, "reproduce", [f"table={name}"])["table"]
    if shrink:
        table["rows"] = [row for row in table["rows"] if "imagenet" not in row["overrides"][0]]
        for row in table["rows"]:
            resnet = any("resnet" in override for override in row["overrides"])
            row["overrides"] = [*row["overrides"], *TINY, *(["model.depth=8"] if resnet else []), "epoch_multiplier=1"]
    return table


@lru_cache
def made(name: str, protocol: str = "authors_code", shrink: bool = False) -> TablePlan:
    return TablePlan(config(name, shrink), RunSelection(protocol), CONFIGS, PUBLISHED)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    """A runtime whose data sets are a few images of noise; what tables share is trained once."""
    tmp_path = tmp_path_factory.mktemp("place")
    generator = np.random.default_rng(0)
    for name, shape, classes in (("mnist", (28, 28), 10), ("cifar10", (32, 32, 3), 10), ("cifar100", (32, 32, 3), 100)):
        arrays = {}
        for split, count in (("train", 128), ("test", 128)):
            arrays[f"x_{split}"] = generator.integers(0, 256, (count, *shape), np.uint8)
            arrays[f"y_{split}"] = np.arange(count, dtype=np.int64) % classes
        (tmp_path / "data").mkdir(exist_ok=True)
        np.savez(tmp_path / "data" / f"{name}.npz", **arrays)
    folders = Folders(*(str(tmp_path / n) for n in ("data", "results", "checkpoints", "logs")))
    return Runtime(folders, torch.device("cpu"), download=False)


@pytest.mark.parametrize("name", PAPERS)
def test_every_published_number_is_shown_once_next_to_a_row_that_names_its_line(name: str, runtime: Runtime) -> None:
    plan = made(name)
    elsewhere = {(row.name, column) for row in plan.rows for column in row.published_elsewhere}
    shown = [cell for cell in plan.render(runtime).cells if cell.published is not None]
    numbers = (
        pd.read_csv(PUBLISHED / plan.config.published).select_dtypes(float).drop(columns=["lr", "a"], errors="ignore")
    )
    truth = Counter(float(number) for column in numbers for number in numbers[column].dropna())
    assert Counter(cell.published for cell in shown if (cell.row, cell.column) not in elsewhere) == truth
    for row in plan.rows:  # "ResNet44 (Hoffer)" is ResNet44 with ghost batches
        assert [value for value in row.match.values() if str(value).partition(" (")[0] not in row.name] == []


@pytest.mark.parametrize(
    ("name", "row", "column", "number"),
    [
        ("table1", "C1, CIFAR-10, 5000", "baseline sharpness_keskar", 227.31),  # Keskar et al., Table 3
        ("table2", "C3, CIFAR-100, 5000", "smoothout sharpness_released", 10.7303),
        ("table3", "ResNet44, CIFAR-100, 1024", "adasmoothout gap", 0.17),
        ("tableV", "2048, 400 epochs", "gaussian_noise_only best", 91.38),
    ],
)
def test_a_published_number_as_it_is_printed(name: str, row: str, column: str, number: float, runtime: Runtime) -> None:
    cells = {(cell.row, cell.column): cell.published for cell in made(name).render(runtime).cells}
    assert cells[row, column] == number


def test_the_rows_of_resnet44_have_the_published_learning_rates_epochs_and_drops() -> None:
    """Learning rates 0.1, 0.1, 0.4 (0.283 on CIFAR-100), linear 0.8; twice the epochs and drops where longer."""
    found = {}
    for name in ("table1", "tableII"):
        for cell in made(name).cells:
            run = cell.jobs[0]
            setup = run.settings if isinstance(run.settings, Experiment) else run.dependencies[0].settings
            if "ResNet44" in cell.row and cell.column.startswith("baseline"):
                lr = setup.optimizer.lr * setup.schedule.lr_factor(0, setup.batch)
                found[cell.row] = (
                    round(lr, 3),
                    setup.batch.examples_per_update,
                    setup.batch.ghosts_per_update,
                    setup.schedule.epochs,
                )
    assert found == {
        "ResNet44, CIFAR-10, 128": (0.1, 128, 1, 200),
        "ResNet44, CIFAR-10, 2048": (0.1, 2048, 1, 200),
        "ResNet44, CIFAR-10, 2048, ghost batches": (0.4, 2048, 16, 200),
        "ResNet44, CIFAR-100, 128": (0.1, 128, 1, 200),
        "ResNet44, CIFAR-100, 1024": (0.1, 1024, 1, 200),
        "ResNet44, CIFAR-100, 1024, ghost batches": (0.283, 1024, 8, 200),
        "ResNet44, CIFAR-10, 2048, 400 epochs, square root": (0.4, 2048, 16, 400),
        "ResNet44, CIFAR-100, 1024, 200 epochs, square root": (0.283, 1024, 8, 200),
        "ResNet44, CIFAR-100, 1024, 400 epochs, square root": (0.283, 1024, 8, 400),
        "ResNet44, CIFAR-100, 1024, 400 epochs, linear": (0.8, 1024, 8, 400),
    }
    longest = next(e for e in made("tableII").cells if e.row.endswith("linear") and e.column == "baseline best")
    assert longest.jobs[0].settings.schedule.milestones == (162, 244, 328)


def test_tables_share_the_trainings_that_they_have_in_common() -> None:
    """What Tables 1 and 3, and II, IV and V, call by other names is trained once."""
    trainings = {name: {j.digest for j in made(name).jobs() if j.kind == "train"} for name in PAPERS}
    assert len(trainings["table1"] & trainings["table3"]) == 6  # three small batches, three with ghost batches
    assert len(trainings["tableII"] & trainings["tableV"]) == 3
    assert len(trainings["tableIV"] & trainings["tableV"]) == 4
    assert len(trainings["tableIII"] & trainings["tableII"]) == 1
    assert {j.digest for j in made("tableI").jobs()} == {j.digest for j in made("table2").jobs()}


@pytest.mark.parametrize(("name", "depth"), [("controls", 44), ("controls-resnet8", 8)])
def test_the_controls_learn_at_one_rate_and_differ_in_what_they_name(name: str, depth: int) -> None:
    rows = {}
    for cell in made(name).cells:
        if cell.column == "smoothout best":
            setup = cell.jobs[0].settings
            assert setup.model.depth == depth
            lr = setup.optimizer.lr * setup.schedule.lr_factor(0, setup.batch)
            rows[cell.row] = (
                round(lr, 6),
                setup.batch.ghosts_per_update,
                str(setup.method.noise_per),
                str(setup.data.augment),
            )
    assert list(rows.values()) == [
        (0.4, 16, "ghost", "crop_flip"),
        (0.4, 16, "batch", "crop_flip"),
        (0.4, 4, "ghost", "crop_flip"),
        (0.4, 1, "ghost", "crop_flip"),
        (0.4, 16, "ghost", "none"),
    ]


def test_the_gap_is_how_far_a_method_stays_below_the_small_batch(runtime: Runtime) -> None:
    """v1, Table 3: 93.18 at batch 128, 91.20 with AdaSmoothOut, gap 1.98."""
    table = made("table3")
    jobs = {cell.column: cell.jobs[0] for cell in table.cells if cell.row == "ResNet44, CIFAR-10, 2048"}
    for method, accuracy in (("small_batch", 0.9318), ("baseline", 0.8924), ("adasmoothout", 0.9120)):
        runtime.records.write(finished(jobs[f"{method} best"], accuracy))
    cells = {cell.column: cell for cell in table.render(runtime).cells if cell.row == "ResNet44, CIFAR-10, 2048"}
    assert cells["adasmoothout gap"].mean == pytest.approx(1.98)
    assert cells["adasmoothout gap"].published == 1.98
    assert cells["adasmoothout improvement"].mean == pytest.approx(1.96)
    assert "small_batch improvement" not in cells
    assert math.isnan(cells["smoothout gap"].mean)


def finished(job: Job, accuracy: float) -> Record:
    epoch = {"test_accuracy": accuracy}
    curves = {"seconds": [1.0], "test_accuracy": [accuracy]}
    outcome = {"best": epoch, "last": epoch, "diverged": False, "curves": curves, "examples": {"train": 50_000}}
    environment = {"device": "cpu", "processor": "a processor", "threads": 1}
    setup = job.settings.labels
    return Record(job.kind, job.name, job.digest, job.identity, {}, setup, [], outcome, environment)


ALL = ("table1", "table3", "tableII", "tableIII", "tableIV", "tableV", "controls")


@pytest.mark.parametrize(("name", "protocol"), [*((name, "authors_code") for name in ALL), ("table3", "paper_text")])
def test_every_row_trains(name: str, protocol: str, runtime: Runtime) -> None:
    """Two epochs of every row and method on a few tiny images, ResNet44 at depth 8; ImageNet's need image folders."""
    jobs = [job for job in made(name, protocol, shrink=True).jobs() if job.kind == Experiment.kind]
    done = dict(run_jobs(jobs, runtime))
    assert len(done) == len({job.digest for job in jobs})
    for outcome in done.values():
        assert isinstance(outcome, Record), outcome
        assert not outcome.outcome["diverged"]
        assert len(outcome.outcome["curves"]["test_loss"]) == 2
