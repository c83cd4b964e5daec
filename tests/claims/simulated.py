"""Records of known truth, and what is judged by them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from smoothout.jobs.job import Job
from smoothout.jobs.runtime import Workplace
from smoothout.reproduction.claims import Claims, Judged, Judging
from smoothout.reproduction.metrics import QUANTITIES
from smoothout.reproduction.table import Scope
from smoothout.reproduction.verdict_page import Page
from smoothout.results.digest import described
from smoothout.results.records import Record

ROOT = Path(__file__).resolve().parents[2]
CONFIGS, PUBLISHED = ROOT / "configs", ROOT / "results" / "published"
SEEDS = (0, 1, 2, 3, 4)
F1 = {"small": "table2 | F1, MNIST, 256 | ", "large": "table2 | F1, MNIST, 6000 | "}
PROSE = SimpleNamespace(title="Verdicts", introduction="Words.")


def write(place: Workplace, job: Job, outcome: dict[str, Any]) -> None:
    run = job.inputs[0] if job.inputs else job
    place.ledger.write(
        Record(
            job.kind, job.name, job.digest, job.identity, described(job.settings), run.settings.labels, [], outcome, {}
        )
    )


def simulate(
    claims: Claims,
    place: Workplace,
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
        write(place, claims._entry(cell, QUANTITIES["best"]).jobs[seed], outcome)
    for seed, value in enumerate(sharpness):
        outcome = {"failed": value is None, "value": value or 0.0, "loss": 0.1}
        write(place, claims._entry(cell, QUANTITIES["converged"]).jobs[seed], outcome)


def judged(given: dict[str, Any], place: Workplace) -> list[Judged]:
    claims = Claims(
        [{"says": "It is so.", "source": "p. 1"} | given], Scope("released", seeds=SEEDS), CONFIGS, PUBLISHED
    )
    return list(claims.tests(place))


def page(tests: list[Judged]) -> Page:
    return Page(tests, PROSE, ["More words."], Judging(seeds=SEEDS), "python judge.py")
