"""What the report says is missing, network by network: each job once, with the training that an analysis needs."""

from __future__ import annotations

import shlex

import pytest
from helpers.composed import composed
from helpers.paths import CONFIGS, PUBLISHED
from helpers.simulated_records import write

from smoothout.jobs.runtime import Runtime
from smoothout.nn.options import Precision
from smoothout.reproduction.figure import FigurePlan
from smoothout.reproduction.report.coverage import Coverage, coverage_of, coverage_of_figure, make_command, total
from smoothout.reproduction.report.evidence import Evidence
from smoothout.reproduction.table import RunSelection, TablePlan

C1 = "C1 of Keskar on CIFAR-10"
NAMES = {"keskar_c1": "C1 of Keskar", "cifar10": "CIFAR-10"}
MEASURED = {"failed": False, "value": 1.0}
HERE = {"device": "cpu", "threads": 1, "processor": "one"}
SEARCHES = 4  # of table 3, by convention and eps


def plan(name: str = "keskar-table3", **scope: object) -> TablePlan:
    table = composed(f"table={name}", name="reproduce")["table"]
    return TablePlan(table, RunSelection(**({"protocol": "keskar"} | scope)), CONFIGS, PUBLISHED)


def coverage(plan: TablePlan, runtime: Runtime) -> dict[str, Coverage]:
    return coverage_of(plan, plan.render(runtime), runtime, Evidence(runtime, NAMES))


def test_an_analysis_without_a_record_costs_its_training_once(runtime: Runtime) -> None:
    found = coverage(plan(), runtime)[C1]
    trainings = {job for job in found.missing if not job.dependencies}
    assert len(trainings) == 4, "both strides, both batches"
    assert len(found.missing) == len(trainings) * (1 + SEARCHES)
    assert (found.recorded, found.numbers) == (0, len(trainings) * SEARCHES)
    assert found.cost.startswith("about ")


def test_what_is_recorded_costs_nothing_but_weights_are_not_kept(runtime: Runtime) -> None:
    table = plan()
    before = coverage(table, runtime)[C1]
    searches = [cell.jobs[0] for cell in table.cells if (cell.row, cell.method) == ("C1", "small")]
    for analysis in searches[:-1]:
        write(runtime, analysis, MEASURED, HERE)
    write(runtime, searches[0].training_job, {"curves": {"seconds": []}}, HERE)
    after = coverage(table, runtime)[C1]
    assert after.missing.keys() == before.missing.keys() - {*searches[:-1]}, "the last one needs the weights again"
    assert after.recorded == len(searches) - 1
    write(runtime, searches[-1], MEASURED, HERE)
    assert coverage(table, runtime)[C1].missing.keys() == after.missing.keys() - {
        searches[-1],
        searches[-1].training_job,
    }


def test_tables_that_share_jobs_count_them_once(runtime: Runtime) -> None:
    one, other = (coverage(plan(name), runtime)[C1] for name in ("keskar-table2", "keskar-table3"))
    both = total([one, other])
    assert both.numbers == one.numbers + other.numbers
    shared = one.missing.keys() & other.missing.keys()
    assert len(shared) == 4, "the trainings of both strides and batches"
    assert len(both.missing) == len(one.missing) + len(other.missing) - len(shared)
    assert [*both.commands] == [*one.commands, *other.commands]


@pytest.mark.parametrize(
    ("rows", "arguments"),
    [
        (("C1", "C1, stride 1"), " ARGS='rows=[C1]'"),
        (("C1",), ""),  # nothing in its name tells it from the other one
        (("C1, stride 1",), """ ARGS="'rows=[\\"C1, stride 1\\"]'\""""),
        (("F1", "C1"), ""),
        ((), ""),
    ],
)
def test_the_command_names_rows_that_a_part_of_their_names_selects(rows: tuple[str, ...], arguments: str) -> None:
    assert make_command(plan(), rows) == f"make reproduce-keskar-table3 PROTOCOL=keskar PROFILE=paper{arguments}"
    if arguments:
        [given] = [word for word in shlex.split(arguments.replace("ARGS=", "")) if word.strip()]
        [override] = shlex.split(given)  # make passes it to a shell
        parts = composed("table=keskar-table3", override, name="reproduce")["rows"]
        assert {row.name for row in plan().of_rows(parts).rows} == set(rows)


def test_a_figure_costs_what_it_lacks_beyond_the_tables(runtime: Runtime) -> None:
    config = composed("table=none", "figure=keskar2", name="reproduce")["figure"]
    figure = FigurePlan(config, RunSelection(protocol="keskar"), CONFIGS)
    [planned] = figure.plan().values()
    found = coverage_of_figure(planned, "make it", runtime, Evidence(runtime, NAMES))
    for network, part in found.items():
        assert part.missing
        assert len({job.training_job.settings.model.name for job in part.missing}) == 1, network
        assert (part.numbers, [*part.commands]) == (0, ["make it"])
    assert sum(len(part.missing) for part in found.values()) == len(figure.jobs())
    tables = coverage(plan(), runtime)[C1]
    assert len(total([tables, found[C1]]).missing) < len(tables.missing) + len(found[C1].missing), (
        "trainings are shared"
    )


def test_what_nobody_can_estimate_is_said_to_cost_more() -> None:
    one, other = plan().jobs()[:2]
    assert Coverage(missing={one: 1.0, other: None}).cost == "about 1.0 h and more"
    assert Coverage(missing={one: 1.0}, waits=True).cost == "about 1.0 h and more"
    assert Coverage(missing={one: None}).cost == Coverage().cost == ""


def test_the_command_names_seeds_beyond_the_first() -> None:
    assert make_command(plan(seeds=(0, 1))) == "make reproduce-keskar-table3 PROTOCOL=keskar PROFILE=paper SEEDS=0,1"


def test_the_command_names_a_precision_that_is_not_the_reference() -> None:
    command = make_command(plan("table2", protocol="paper_text", precision=Precision.bfloat16))
    assert command.endswith("PROFILE=paper ARGS='scope.precision=bfloat16'")
