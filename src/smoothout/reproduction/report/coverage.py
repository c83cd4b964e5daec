"""How much of a table or a figure was run, network by network, what the rest costs, and the command that makes it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from os.path import commonprefix

from smoothout.common.formatting import format_hours
from smoothout.config.experiment import Experiment
from smoothout.jobs.cost_estimate import RuntimeEstimator
from smoothout.jobs.job import Job, with_dependencies
from smoothout.jobs.lookup import find_record
from smoothout.jobs.runtime import Runtime
from smoothout.reproduction.report.evidence import Evidence
from smoothout.reproduction.table import RunSelection, TablePlan
from smoothout.results.tables import Table


@dataclass
class Coverage:
    """How many numbers of a network are recorded, and which jobs are missing, in one table or several."""

    recorded: int = 0  # numbers with records of a seed or more, without differences
    numbers: int = 0
    missing: dict[Job, float | None] = field(default_factory=dict)  # hours; trainings of missing analyses included
    waits: bool = False  # whether some methods wait for a choice of their strength, so that their cost is unknown
    commands: dict[str, None] = field(default_factory=dict)  # an ordered set

    def add(self, other: Coverage) -> None:
        """Add the counts of ``other``; a job that is missing in both counts once."""
        self.recorded += other.recorded
        self.numbers += other.numbers
        self.missing |= other.missing
        self.waits |= other.waits
        self.commands |= other.commands

    @property
    def cost(self) -> str:
        """The cost of what is missing, in words; empty if nothing is missing, or no cost is known."""
        return format_hours([*self.missing.values(), *([None] if self.waits else [])])


def total(parts: Iterable[Coverage]) -> Coverage:
    """All ``parts`` together."""
    everything = Coverage()
    for part in parts:
        everything.add(part)
    return everything


def coverage_of(plan: TablePlan, table: Table, runtime: Runtime, evidence: Evidence) -> dict[str, Coverage]:
    """The coverage of each network in a table, which is ``plan`` rendered."""
    found, planned = dict[str, Coverage](), plan.plan()
    networks = {spec.row: evidence.network(job) for spec in plan.cells for job in spec.jobs.values()}
    for cell in table.cells:
        if not cell.compared:
            part = found.setdefault(networks[cell.row], Coverage())
            part.recorded += bool(cell.records)
            part.numbers += 1
    waiting = {network for search in plan.unique_searches for network in map(evidence.network, search.jobs())}
    for network, part in found.items():
        rows = [row for row, name in networks.items() if name == network]
        part.waits = network in waiting and any(method not in plan.methods for method in plan.searches)
        part.missing = _missing({job: s for row in rows for job, s in planned[row].items()}, runtime, evidence.costs)
        if part.missing or part.waits:
            part.commands = {make_command(plan, rows): None}
    return found


def coverage_of_figure(
    planned: Mapping[Job, float | None], command: str, runtime: Runtime, evidence: Evidence
) -> dict[str, Coverage]:
    """The ``planned`` jobs that a figure is missing, by network; it has no numbers."""
    found = dict[str, Coverage]()
    networks = dict[str, dict[Job, float | None]]()
    for job, seconds in planned.items():
        if isinstance(job.training_job.settings, Experiment):
            networks.setdefault(evidence.network(job), {})[job] = seconds
    for network, jobs in networks.items():
        missing = _missing(jobs, runtime, evidence.costs)
        found[network] = Coverage(missing=missing, commands={command: None} if missing else {})
    return found


def _missing(seconds: Mapping[Job, float | None], runtime: Runtime, costs: RuntimeEstimator) -> dict[Job, float | None]:
    """The jobs without a record, with hours; ``seconds`` are the configs' estimates of an epoch.

    Weights are not kept with records, so an analysis that is missing costs its training as well.
    """
    lacking = with_dependencies(job for job in seconds if find_record(job, runtime) is None)
    by_training = {job.training_job: estimate for job, estimate in seconds.items()}
    return {job: costs.hours(job, seconds.get(job, by_training.get(job.training_job))) for job in lacking}


def make_command(plan: TablePlan, rows: Sequence[str] = ()) -> str:
    """The command that makes the table, or only its ``rows`` if a part of their names distinguishes them."""
    changes = []
    names = {row.name for row in plan.rows}
    shared = rows[0] if len(rows) == 1 else commonprefix(rows).rpartition(", ")[0] + ","  # noqa: RUF071 -- of letters
    for part in (min(rows, key=len, default="").partition(",")[0], shared):
        if rows and {name for name in names if part in name} == set(rows) < names:
            changes.append(f"rows=[{part}]" if re.fullmatch(r"[\w-]+", part) else f"""'rows=["{part}"]'""")
            break
    return command_of(f"reproduce-{plan.config.name}", plan.scope, changes)


def command_of(target: str, scope: RunSelection, changes: Sequence[str] = ()) -> str:
    """The call of make for ``target`` in ``scope``, with other overrides."""
    words = [f"make {target}", f"PROTOCOL={scope.protocol}", f"PROFILE={scope.profile}"]
    if scope.seeds != (0,):
        words.append(f"SEEDS={','.join(map(str, scope.seeds))}")
    changes = [*([] if scope.precision == "float32" else [f"scope.precision={scope.precision}"]), *changes]
    return " ".join([*words, *([f"ARGS={quoted(' '.join(changes))}"] if changes else [])])


def quoted(text: str) -> str:
    """``text`` for a shell."""
    return '"' + text.replace('"', '\\"') + '"' if "'" in text else f"'{text}'"
