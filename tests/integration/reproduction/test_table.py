"""A table as jobs, estimates and cells: what is asked for, what is read, what is left."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.paths import CONFIGS, PUBLISHED, ROOT

from smoothout.common.errors import ConfigError, RecordError
from smoothout.config.build import build
from smoothout.config.compose import compose_config
from smoothout.config.experiment import Experiment, build_experiment, training_config
from smoothout.jobs.cost_estimate import RuntimeEstimator
from smoothout.jobs.job import Job
from smoothout.jobs.runtime import Folders, Runtime
from smoothout.reproduction.metrics import METRICS, Metric
from smoothout.reproduction.table import RunSelection, TablePlan
from smoothout.results import records
from smoothout.results.digest import canonical_settings
from smoothout.results.records import Record

HERE = {"device": "cpu", "processor": "a processor", "threads": 1}


@pytest.fixture(scope="module")
def table() -> dict:
    return compose_config(CONFIGS, "reproduce", ["table=table2"])["table"]


def record(job: Job, **outcome) -> Record:
    settings = job.identity
    return Record(
        kind=job.kind,
        name=job.name,
        digest=job.digest,
        identity=settings,
        settings={},
        labels=(job.dependencies or (job,))[0].settings.labels,
        inputs=[one.name for one in job.dependencies],
        outcome=outcome,
        environment=HERE,
    )


def training(job: Job, best: float, last: float, seconds: float = 2.0, diverged: bool = False) -> Record:
    return record(
        job,
        best={"test_accuracy": best},
        last={"test_accuracy": last},
        diverged=diverged,
        curves={"seconds": [seconds, seconds, 50 * seconds], "test_accuracy": [0.1] * 6 + [best, last]},
        examples={"train": 60_000},
    )


def f1_rows(table: dict, seeds: tuple[int, ...] = (0, 1)) -> TablePlan:
    return TablePlan(table, RunSelection(seeds=seeds), CONFIGS, PUBLISHED).of_rows(["F1, MNIST, 6000"])


def test_table_2_needs_its_twelve_trainings_and_five_measurements_on_each(table):
    jobs = TablePlan(table, RunSelection(), CONFIGS, PUBLISHED).jobs()
    trainings = [job for job in jobs if job.kind == Experiment.kind]
    assert len(trainings) == 12
    assert len(jobs) == 12 * 6
    assert jobs[:12] == trainings
    batches = sorted(job.settings.batch.size for job in trainings)
    assert batches == [256] * 6 + [5000] * 4 + [6000] * 2
    assert {job.settings.method.a for job in trainings} == {0.0, 0.0375}
    assert {job.settings.schedule.epochs for job in trainings} == {200}


def test_what_is_only_rendered_is_of_every_seed_that_has_a_record_of_its_rows(table, runtime):
    reproduction = f1_rows(table, (0,))
    assert reproduction.with_recorded_seeds(runtime) is reproduction
    cells = {cell.column: cell for cell in f1_rows(table, (1, 2, 3)).cells}
    seeds = RunSelection(seeds=(4,))
    other = TablePlan(table, seeds, CONFIGS, PUBLISHED).of_rows(["C1, CIFAR-10, 256"]).cells[0]
    for run in (cells["baseline best"].jobs[3], cells["smoothout last"].jobs[1], other.jobs[4]):
        runtime.records.write(training(run, 0.98, 0.97))
    made = reproduction.with_recorded_seeds(runtime)
    assert made.scope.seeds == (1, 3)
    assert {entry.row for entry in made.cells} == {"F1, MNIST, 6000"}
    assert "seeds 1, 3; made on" in made.render(runtime).caption()


def test_cells_are_read_from_the_records_of_all_seeds_that_are_there(table, runtime):
    reproduction = f1_rows(table)
    cells = {cell.column: cell for cell in reproduction.cells}
    runtime.records.write(training(cells["baseline best"].jobs[0], 0.98, 0.97))
    runtime.records.write(training(cells["baseline best"].jobs[1], 0.99, 0.96))
    runtime.records.write(training(cells["smoothout best"].jobs[1], 0.995, 0.99))
    sharp = cells["baseline sharpness_released"].jobs
    runtime.records.write(record(sharp[0], failed=True, value=0.0))
    runtime.records.write(record(sharp[1], failed=False, value=57.0))
    made = {cell.column: cell for cell in reproduction.render(runtime).cells}
    assert made["baseline best"].values == pytest.approx({0: 98.0, 1: 99.0})
    assert made["baseline last"].mean == pytest.approx(96.5)
    assert made["baseline late"].values == pytest.approx({0: 97.5, 1: 97.5})
    assert made["smoothout improvement late"].values == pytest.approx({1: 1.75})
    assert made["smoothout best"].values == pytest.approx({1: 99.5})
    assert made["smoothout best"].hours > 0
    assert made["smoothout improvement"].values == pytest.approx({1: 0.5})
    assert made["smoothout improvement"].published == 0.41
    assert made["baseline sharpness_released"].values == {1: 57.0}
    assert made["baseline sharpness_released"].failed == {0}
    assert made["baseline sharpness_released"].published == 57.8246
    assert made["baseline sharpness_keskar"].published is None


def test_accuracies_with_statistics_recomputed_stand_in_their_own_cells_with_their_differences(table, runtime):
    reproduction = f1_rows(table, (0,))
    cells = {cell.column: cell for cell in reproduction.cells}
    accuracies = {"baseline best": 0.983, "baseline last": 0.981, "smoothout best": 0.985, "smoothout last": 0.984}
    for column, accuracy in accuracies.items():
        job = cells[f"{column}_recalibrated"].jobs[0]
        assert (job.kind, job.settings.checkpoint) == ("averages", column.split()[1])
        assert job.dependencies == (cells[column].jobs[0],)
        kept, recomputed = ({"test": {"accuracy": a}, "train": {"accuracy": 1.0}} for a in (0.5, accuracy))
        runtime.records.write(record(job, kept=kept, recomputed=recomputed))
    made = reproduction.render(runtime)
    means = {cell.column: cell.mean for cell in made.cells}
    assert means["baseline best_recalibrated"] == pytest.approx(98.3)
    assert means["smoothout improvement best_recalibrated"] == pytest.approx(0.2)
    assert means["smoothout improvement last_recalibrated"] == pytest.approx(0.3)
    text = made.markdown()
    assert text.index("last epoch, BatchNorm recalibrated") < text.index("Sharpness in %")
    assert text.count("BatchNorm recalibrated: the same weights") == 1


@pytest.mark.parametrize(
    ("seen", "loss", "said"),
    [("1b", 0.3, None), ("1c", 0.3, "other weights"), ("1c", 0.1 + 1e-8, "agrees with the record")],
)
def test_a_table_says_whose_sharpness_is_that_of_weights_that_were_trained_again(table, runtime, seen, loss, said):
    reproduction = f1_rows(table)
    cells = {cell.column: cell for cell in reproduction.cells}
    run, measured = (cells[f"baseline {column}"].jobs[0] for column in ("best", "sharpness_keskar"))
    trained = training(run, 0.98, 0.97)
    best = {"test_accuracy": 0.98, "train_loss": 0.1}
    digests = {"weights": {"best": "1b", "last": "2b"}, "best": best, "examples": {"train": 60_000, "test": 10_000}}
    runtime.records.write(replace(trained, outcome=trained.outcome | digests))
    measurement = replace(
        record(measured, failed=False, value=57.0, weights=[seen], loss=loss),
        settings=canonical_settings(measured.settings),
    )
    runtime.records.write(measurement)
    made = reproduction.render(runtime)
    assert (f"trained again, {said}: {run.name}" in made.markdown()) is (said is not None)
    [cell] = [cell for cell in made.cells if cell.column == "baseline sharpness_keskar"]
    assert cell.retrained == ({0} if said == "other weights" else set())
    assert ("1 trained again" in cell.text(2, by_ratio=True)) is (said == "other weights")


def test_what_was_measured_on_a_diverged_training_is_no_number_either(table, runtime):
    """Neither in its own column nor in a difference; with or without a record of the measurement."""
    reproduction = f1_rows(table, (0, 1))
    cells = {cell.column: cell.jobs for cell in reproduction.cells}
    for seed in (0, 1):
        runtime.records.write(training(cells["baseline best"][seed], 0.98, 0.98))
        runtime.records.write(training(cells["smoothout best"][seed], 0.98, 0.98, diverged=seed == 1))
        runtime.records.write(record(cells["smoothout sharpness_keskar"][seed], failed=False, value=57.0))
    made = {cell.column: cell for cell in reproduction.render(runtime).cells}
    for column in ("best", "last", "sharpness_keskar", "sharpness_converged", "last_recalibrated", "improvement"):
        assert made[f"smoothout {column}"].diverged == {1}, column
    assert made["smoothout sharpness_keskar"].values == {0: 57.0}
    assert made["smoothout improvement"].values == pytest.approx({0: 0.0})


def test_estimates_come_from_records_of_the_same_network_and_batch_else_from_the_config(table, runtime):
    reproduction = f1_rows(table, (0,))
    entry = reproduction.cells[0]
    job = entry.jobs[0]
    assert RuntimeEstimator(runtime).hours(job, 3.0) == pytest.approx(200 * 3.0 / 3600)
    assert RuntimeEstimator(runtime).hours(job, None) is None
    held_out = Job(replace(job.settings, data=replace(job.settings.data, validation_size=30_000)))
    assert RuntimeEstimator(runtime).hours(held_out, 3.0) == pytest.approx(100 * 3.0 / 3600)  # half the images
    runtime.records.write(training(job, 0.98, 0.98, seconds=9.0))
    assert RuntimeEstimator(runtime).hours(job, 3.0) == pytest.approx(200 * 9.0 / 3600)
    damaged = Path(runtime.folders.results) / "train" / "f1-mnist-b256-baseline-e200-s9-00000000.json"
    damaged.write_text("x")  # an estimate needs no record in particular
    assert RuntimeEstimator(runtime).hours(job, 3.0) == pytest.approx(200 * 9.0 / 3600)
    on_gpu = replace(runtime, device=torch.device("cuda"))
    assert RuntimeEstimator(on_gpu).hours(job, 3.0) == pytest.approx(200 * 3.0 / 3600)


@pytest.mark.parametrize(
    ("overrides", "seconds"),
    [
        (["experiment=f1_mnist", "batch=small"], 4.5),
        (["experiment=f1_mnist", "batch=ghost"], 3.5),  # that of its large batch
        (["experiment=resnet44_cifar10", "batch=ghost"], 173),
        (["experiment=f1_mnist", "batch.size=17"], None),
        ([], 0.1),  # the digits
        (["epoch_seconds.small=null"], None),
    ],
)
def test_an_epochs_rough_cost_is_that_of_its_batch(overrides, seconds):
    assert training_config(compose_config(CONFIGS, "train", overrides)).seconds_per_epoch() == seconds


def test_what_costs_nobody_knows_what_is_still_not_run(table, runtime):
    """No estimate in the config, no record of its like; then one seed's, of which the other's cost is known."""
    reproduction = f1_rows(table)
    reproduction.cells = [replace(entry, epoch_seconds=None) for entry in reproduction.cells]
    made = reproduction.render(runtime)
    assert {cell.hours for cell in made.cells} == {None}
    assert "- F1, MNIST, 6000: 12 commands, of unknown cost" in made.markdown()
    runtime.records.write(training(reproduction.cells[0].jobs[0], 0.98, 0.98, seconds=9.0))
    cells = {cell.column: cell for cell in reproduction.render(runtime).cells}
    assert cells["baseline best"].hours == pytest.approx(200 * 9.0 / 3600)


def test_trainings_that_only_analyses_show_are_counted_once_a_row(table, runtime):
    reproduction = f1_rows({**table, "metrics": ["sharpness_released", "sharpness_keskar"], "accuracy": None})
    text = reproduction.render(runtime).markdown()
    assert re.search(r"- F1, MNIST, 6000: 4 commands, about [^,]+, which first train 4 runs, about ", text)
    runtime.records.write(training(reproduction.cells[0].jobs[0].training_job, 0.98, 0.98))
    assert ", which first train 3 runs, about " in reproduction.render(runtime).markdown()
    assert "first train" not in f1_rows(table).render(runtime).markdown(), "they have commands of their own"


def test_runs_on_different_data_of_one_name_are_not_shown_together(table, runtime):
    reproduction = f1_rows(table)
    cells = {cell.column: cell for cell in reproduction.cells}
    for column, data in (("baseline best", "old"), ("smoothout best", "new")):
        made = training(cells[column].jobs[0], 0.98, 0.97)
        runtime.records.write(replace(made, outcome=made.outcome | {"data_sha256": data}))
    with pytest.raises(RecordError, match=r"^record: f1-.* and f1-.* were trained on different data .* mnist; "):
        reproduction.render(runtime)


NUMBER = ["keskar-table2.csv", "F1", "test_SB"]


CHOICE = {"overrides": ["method=smoothout"], "grid": {"strengths": [0, 0.1]}}


def row_with(**changes) -> Callable[[dict], dict]:
    return lambda table: table | {"rows": [table["rows"][0] | changes]}


def methods_with(**changes) -> Callable[[dict], dict]:
    return lambda table: table | {"methods": {name: method | changes for name, method in table["methods"].items()}}


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (row_with(published_elsewhere=[]), ["published_elsewhere", "[]", "group"]),
        (row_with(published_elsewhere={"baseline best": NUMBER}), ["'baseline best'", "baseline late"]),
        (row_with(published_elsewhere={"baseline last": NUMBER[:2]}), ["baseline last", "[FILE, LINE, COLUMN]"]),
        (row_with(published_elsewhere={"baseline last": ["nowhere.csv", "F1", "x"]}), ["baseline last", "nowhere.csv"]),
        (row_with(published_elsewhere={"baseline last": [*NUMBER[:1], "F9", NUMBER[2]]}), ["0 lines", "F9"]),
        (row_with(published_elsewhere={"baseline last": [*NUMBER[:2], "SB"]}), ["keskar-table2.csv", "'SB'"]),
        (row_with(match={"dnn": "F1", "batch": 17}), ["F1, MNIST, 256: baseline", "0 lines", "17"]),
        (row_with(match={"colour": "F1"}), ["smoothout-v1-table2.csv", "'colour'"]),
        (row_with(match=None), ["match", "smoothout-v1-table2.csv"]),
        (row_with(methods={"adam": []}), ["methods", "'adam'", "baseline, smoothout"]),
        (row_with(methods={"baseline": 3}), ["methods", "3", "a list, each text"]),
        (row_with(colour=1), ["colour", "unknown key", "published_elsewhere"]),
        (row_with(overrides=["experiment=f1_mnist", "seed=1"]), ["rows.0.overrides: seed=1", "scope.seeds"]),
        (row_with(overrides=["protocol=paper_text"]), ["rows.0.overrides: protocol=paper_text", "scope.protocol"]),
        (row_with(methods={"baseline": ["device=cuda"]}), ["methods.baseline: device=cuda", "to the program"]),
        (methods_with(title="Same"), ["methods: title: 'Same' is used twice"]),
        (lambda table: table | {"rows": table["rows"][:1] * 2}, ["rows: name: 'F1, MNIST, 256' is used twice"]),
        (lambda table: table | {"name": "../x"}, ["table.name", "'../x'", "letters"]),
        (row_with(overrides="seed=1"), ["overrides", "'seed=1'", "a list, each text"]),
        (methods_with(colour=1), ["table.methods.baseline.colour", "unknown key", "title, overrides"]),
        (methods_with(accuracy="speed"), ["smoothout-v1-table2.csv", "'speed'"]),
        (lambda table: table | {"methods": {}}, ["methods", "at least one"]),
        (lambda table: table | {"metrics": ["best", "speed"]}, ["table.metrics", "'speed'", "best, late, second"]),
        (lambda table: table | {"metrics": ["late"]}, ["table.metrics", "best"]),
        (lambda table: table | {"accuracy": "last"}, ["table.metrics", "must have last", "must be best or late"]),
        (lambda table: table | {"accuracy": None}, ["table.accuracy", "because the table has best"]),
        (
            lambda table: table | {"accuracy": None, "metrics": ["last"], "small_batch_method": "baseline"},
            ["table.accuracy", "because the table has small_batch_method"],
        ),
        (methods_with(published={"speed": "x"}), ["methods.baseline.published", "'speed'", "best, late"]),
        (lambda table: table | {"metrcs": ["best"]}, ["table.metrcs", "did you mean metrics"]),
        (lambda table: table | {"published": "x.csv"}, ["table.published", "'x.csv'", "smoothout-v1-table2.csv"]),
        (methods_with(chosen_strength=True), ["table.strength_choice", "baseline has chosen_strength"]),
        (
            lambda table: methods_with(chosen_strength=True)(table | {"strength_choice": CHOICE}),
            ["methods.baseline.chosen_strength", "false"],
        ),
        (lambda table: table | {"strength_choice": CHOICE | {"grid": {"strengths": [1]}}}, ["strengths", "two", "[1"]),
        (lambda table: table | {"small_batch_method": "x"}, ["table.small_batch_method", "'x'", "baseline, smoothout"]),
    ],
)
def test_a_table_that_cannot_be_is_refused_by_key_value_and_what_is_allowed(table, change, parts):
    with pytest.raises(ConfigError) as refused:
        TablePlan(change(table), RunSelection(), CONFIGS, PUBLISHED)
    assert [part for part in parts if part not in str(refused.value)] == []


def test_keys_of_earlier_versions_still_work(table):
    old = {key: value for key, value in table.items() if key != "metrics"}
    old |= {"sharpness": ["released"], "recomputed": ["last"], "small": "baseline"}
    old["rows"] = [table["rows"][0] | {"also": {"baseline last_recalibrated": NUMBER}}]
    with pytest.warns(FutureWarning, match="table.metrics"):
        plan = TablePlan(old, RunSelection(), CONFIGS, PUBLISHED)
    assert plan.config.metrics == ("best", "late", "last", "last_recalibrated", "sharpness_released")
    assert plan.config.small_batch_method == "baseline"
    assert plan.cell("F1, MNIST, 256", "baseline", "last_recalibrated").published == (98.03, 0.07)


def test_a_number_is_a_column_by_its_entry_and_its_name(table, runtime, monkeypatch):
    monkeypatch.setitem(METRICS, "epochs", Metric("epochs", "Epochs", lambda r: len(r.outcome["curves"]["seconds"])))
    plan = f1_rows(table | {"metrics": ["best", "epochs"]}, (0,))
    runtime.records.write(training(plan.cells[0].jobs[0], 0.98, 0.97))
    assert "## Epochs" in plan.render(runtime).markdown()
    cells = {cell.column: cell.values for cell in plan.render(runtime).cells}
    assert cells["baseline epochs"] == {0: 3}


@pytest.mark.parametrize("metric", METRICS)
def test_the_command_of_an_analysis_composes_to_the_very_job_of_its_cell(table, metric):
    cell = f1_rows(table, (0,)).cell("F1, MNIST, 6000", "smoothout", metric)
    script, *overrides = cell.command.removeprefix("python ").split()
    config = compose_config(CONFIGS, Path(script).stem, overrides)
    job = Job(build_experiment(config))
    if METRICS[metric].analysis is not None:
        job = Job(build(config["analysis"], "analysis"), (job,))
    assert job.digest == cell.jobs[0].digest


def test_every_record_of_table_2_is_read_once(table, monkeypatch):
    opened, read = Counter(), Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda path, *args, **kwargs: opened.update([path]) or read(path, *args, **kwargs)
    )
    records._read.cache_clear()
    runtime = Runtime(Folders("d", str(ROOT / "results"), "c", "l"), torch.device("cpu"))
    TablePlan(table, RunSelection(), CONFIGS, PUBLISHED).with_recorded_seeds(runtime).render(runtime)
    assert len(opened) > 100
    assert set(opened.values()) == {1}
