"""Records with known true effects, and claims that are tested on them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from helpers.paths import CONFIGS, PUBLISHED
from smoothout.jobs.job import Job
from smoothout.jobs.runtime import Runtime
from smoothout.reproduction.claims import Claims, ClaimScope, ClaimTest
from smoothout.reproduction.table import RunSelection
from smoothout.reproduction.verdict_page import VerdictPage
from smoothout.results.digest import canonical_settings
from smoothout.results.records import Record

SEEDS = (0, 1, 2, 3, 4)
F1 = {"small": "table2 | F1, MNIST, 256 | ", "large": "table2 | F1, MNIST, 6000 | "}
PROSE = SimpleNamespace(title="Verdicts", introduction="Words.")


def write(runtime: Runtime, job: Job, outcome: dict[str, Any]) -> None:
    run = job.dependencies[0] if job.dependencies else job
    runtime.records.write(
        Record(
            job.kind,
            job.name,
            job.digest,
            job.identity,
            canonical_settings(job.settings),
            run.settings.labels,
            [],
            outcome,
            {},
        )
    )


def simulate(
    claims: Claims,
    runtime: Runtime,
    cell: str,
    accuracies: list[float],
    sharpness: list[float | None],
    *,
    losses: list[float] | None = None,
    diverged: tuple[int, ...] = (),
) -> None:
    """Records of trainings with these accuracies (percent), and of what searches found (percent; None: nothing).

    ``losses`` are those of the trained weights on the training split; ``diverged`` are the seeds whose training did.
    """
    for seed, accuracy in enumerate(accuracies):
        best = {"test_accuracy": accuracy / 100, "train_loss": losses[seed] if losses else 0.001}
        outcome = {"best": best, "last": best, "examples": {"train": 60_000, "test": 10_000}}
        outcome |= {"diverged": seed in diverged, "curves": {"test_accuracy": [0.1, 0.1, 0.1, accuracy / 100]}}
        write(runtime, claims._cell(cell, "best").jobs[seed], outcome)
    for seed, value in enumerate(sharpness):
        outcome = {"failed": value is None, "value": value or 0.0, "loss": 0.1}
        write(runtime, claims._cell(cell, "sharpness_converged").jobs[seed], outcome)


def judged(given: dict[str, Any], runtime: Runtime) -> list[ClaimTest]:
    claims = Claims(
        [{"statement": "It is so.", "source": "p. 1"} | given],
        RunSelection("authors_code", seeds=SEEDS),
        CONFIGS,
        PUBLISHED,
    )
    return list(claims.tests(runtime))


def page(tests: list[ClaimTest]) -> VerdictPage:
    return VerdictPage(tests, PROSE, ["More words."], ClaimScope(seeds=SEEDS), "python judge.py")
