"""Tables 2 to 4 of Keskar et al.: every published number with its spread, and what the records of a run become."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch
from helpers.paths import CONFIGS, PUBLISHED

from smoothout.analysis.jobs.sharpness import Sharpness
from smoothout.analysis.options import Convention, RunningStats, WhichWeights
from smoothout.config.compose import compose_config
from smoothout.jobs.job import Job
from smoothout.jobs.runtime import Folders, Runtime
from smoothout.reproduction.claim_values import MetricValues
from smoothout.reproduction.table import RunSelection, TablePlan
from smoothout.results.records import Record

NAMES = ["keskar-table2", "keskar-table3", "keskar-table4"]
NETWORKS = ["F1", "F2", "C1", "C2", "C3", "C4"]


def composed(name: str) -> dict[str, Any]:
    return compose_config(CONFIGS, "reproduce", [f"table={name}"])


@pytest.fixture(scope="module")
def plans() -> dict[str, TablePlan]:
    selection = RunSelection("keskar", seeds=(0, 1))
    return {name: TablePlan(composed(name)["table"], selection, CONFIGS, PUBLISHED) for name in NAMES}


@pytest.fixture
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    folder = str(tmp_path_factory.mktemp("place"))
    return Runtime(Folders(folder, folder, folder, folder), torch.device("cpu"))


def record(job: Job, **outcome: Any) -> Record:
    labels, inputs = job.training_job.settings.labels, [one.name for one in job.dependencies]
    environment = {"device": "cpu", "processor": "a processor", "threads": 1}
    return Record(job.kind, job.name, job.digest, job.identity, {}, labels, inputs, outcome, environment)


def test_a_table_of_keskar_et_al_has_their_protocol_unless_another_is_asked_for() -> None:
    assert {composed(name)["scope"]["protocol"] for name in NAMES} == {"keskar"}
    assert composed("table2")["scope"]["protocol"] == "authors_code"
    asked = compose_config(CONFIGS, "reproduce", ["table=keskar-table2", "scope.protocol=paper_text"])
    assert asked["scope"]["protocol"] == "paper_text"


@pytest.mark.parametrize("name", NAMES)
def test_without_records_every_published_number_and_its_spread_stand_beside_not_run(
    name: str, plans: dict[str, TablePlan], runtime: Runtime
) -> None:
    table = plans[name].render(runtime)
    published = pd.read_csv(PUBLISHED / f"{name}.csv").set_index("name")
    assert list(published.index) == NETWORKS
    shown = {(cell.row, cell.published, cell.published_std) for cell in table.cells if cell.row in NETWORKS}
    numbers = [column for column in published if not column.endswith("_sd")]
    truth = {(n, published[c][n], published[f"{c}_sd"][n]) for n in NETWORKS for c in numbers}
    assert {cell for cell in shown if cell[1] is not None} == truth
    texts = table.texts(table.blocks[0])
    assert [row for row in texts[""] if row not in NETWORKS] == ["F1, 200 epochs", "C1, stride 1", "C3, stride 1"]
    assert all(text.startswith("not run [") and " ± " in text for text in (*texts["SB"], *texts["LB"]))
    assert "published_std" in table.long()
    assert "- F2: " in table.markdown().partition("## Not run")[2]


def test_tables_3_and_4_measure_the_last_iterate_with_recomputed_statistics_in_the_full_space_and_in_100_directions(
    plans: dict[str, TablePlan],
) -> None:
    for name, subspace in (("keskar-table3", None), ("keskar-table4", 100)):
        analyses = {job.settings for job in plans[name].jobs() if job.dependencies}
        assert analyses == {
            Sharpness(
                convention=convention,
                eps=eps,
                subspace=subspace,
                checkpoint=WhichWeights.last,
                running_stats=RunningStats.recomputed,
            )
            for convention in (Convention.keskar, Convention.converged)
            for eps in (1e-3, 5e-4)
        }


def test_all_three_tables_are_of_the_same_trainings(plans: dict[str, TablePlan]) -> None:
    trainings = [{job.digest for job in plans[name].jobs() if not job.dependencies} for name in NAMES]
    assert trainings[0] == trainings[1] == trainings[2]
    assert len(trainings[0]) == 9 * 2 * 2  # networks, batches, seeds


def test_table_2_shows_the_accuracies_of_recomputed_statistics_and_their_gap(
    plans: dict[str, TablePlan], runtime: Runtime
) -> None:
    plan = plans["keskar-table2"].of_rows(["C1"])
    measured = {("small", 0): 0.80, ("small", 1): 0.81, ("large", 0): 0.77, ("large", 1): 0.775}
    for (method, seed), accuracy in measured.items():
        job = plan.cell("C1", method, "last_recalibrated").jobs[seed]
        halves = {"train": {"accuracy": 0.99, "loss": 0.02}, "test": {"accuracy": accuracy, "loss": 1.0}}
        wrong = {name: {"accuracy": 0.1, "loss": 9.0} for name in ("train", "test")}
        runtime.records.write(record(job, kept=wrong, recomputed=halves))
    cells = {cell.column: cell for cell in plan.render(runtime).cells if cell.row == "C1"}
    assert cells["small last_recalibrated"].text(2) == "80.50 ± 0.71 [80.04 ± 0.12]"
    assert cells["large last_train_recalibrated"].text(2) == "99.00 ± 0.00 [99.66 ± 0.20]"
    assert cells["large last_train_loss_recalibrated"].mean == pytest.approx(0.02)
    assert cells["large gap last_recalibrated"].values == pytest.approx({0: 3.0, 1: 3.5})
    assert cells["small last"].text(2) == "not run"


@pytest.mark.parametrize(
    ("metric", "images"),
    [("last_train_recalibrated", 50_000), ("last_recalibrated", 10_000), ("last_train_loss_recalibrated", 0)],
)
def test_an_accuracy_is_a_share_of_the_images_that_it_is_measured_on(
    metric: str, images: int, plans: dict[str, TablePlan], runtime: Runtime
) -> None:
    assert MetricValues.read(plans["keskar-table2"].cell("C1", "small", metric), runtime).images == images


def test_table_3_shows_mean_and_deviation_as_published_and_failed_searches(
    plans: dict[str, TablePlan], runtime: Runtime
) -> None:
    plan = plans["keskar-table3"].of_rows(["C1"])
    for convention, outcomes in (("keskar", [(30.0, False), (0.0, True)]), ("converged", [(50.0, False)] * 2)):
        jobs = plan.cell("C1", "small", f"sharpness_{convention}_5e-4_last_recalibrated").jobs
        for seed, (value, failed) in enumerate(outcomes):
            runtime.records.write(record(jobs[seed], value=value, failed=failed))
    table = plan.render(runtime)
    texts = {block.heading: table.texts(block)["SB"][0] for block in table.blocks}
    assert texts == {
        "Sharpness in %, convention `keskar`, eps = 1e-3, last epoch, BatchNorm recalibrated": (
            "not run [28.58 ± 3.13]"
        ),
        "Sharpness in %, convention `converged`, eps = 1e-3, last epoch, BatchNorm recalibrated": "not run",
        "Sharpness in %, convention `keskar`, eps = 5e-4, last epoch, BatchNorm recalibrated": (
            "30.00 (1 failed of 2) [7.08 ± 0.88]"
        ),
        "Sharpness in %, convention `converged`, eps = 5e-4, last epoch, BatchNorm recalibrated": "50.00 ± 0.00",
    }
