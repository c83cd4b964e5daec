"""Records with known true effects, and claims that are tested on them."""

from __future__ import annotations

from typing import Any

from helpers.paths import CONFIGS, PUBLISHED
from smoothout.jobs.job import Job
from smoothout.jobs.runtime import Runtime
from smoothout.reproduction.cells import CellSpec
from smoothout.reproduction.claim_tests import Claims, ClaimTest
from smoothout.reproduction.claims import CellName, ClaimScope
from smoothout.reproduction.verdict_page import Prose, VerdictPage
from smoothout.results.digest import canonical_settings
from smoothout.results.records import Record
from smoothout.results.significance import Verdict

SEEDS = (0, 1, 2, 3, 4)
SCOPE = ClaimScope(("authors_code",), seeds=SEEDS)
F1 = {"small": "table2 | F1, MNIST, 256 | ", "large": "table2 | F1, MNIST, 6000 | "}
PROSE = Prose("Verdicts", "Words.")


def cell(claims: Claims, name: str, metric: str = "best", protocol: str = "authors_code") -> CellSpec:
    return claims._cell(CellName.parse(name), metric, protocol)


def write(runtime: Runtime, job: Job, outcome: dict[str, Any], environment: dict[str, Any] | None = None) -> None:
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
            environment or {},
        )
    )


def simulate(
    claims: Claims,
    runtime: Runtime,
    name: str,
    accuracies: list[float],
    sharpness: list[float | None],
    *,
    losses: list[float] | None = None,
    diverged: tuple[int, ...] = (),
    retrained: tuple[int, ...] = (),
    protocol: str = "authors_code",
) -> None:
    """Records of trainings with these accuracies (percent), and of what searches found (percent; None: nothing).

    ``losses`` are those of the trained weights on the training split; ``diverged`` are the seeds whose training did,
    ``retrained`` those whose search saw weights that were trained again.
    """
    trainings, searches = (
        list(cell(claims, name, metric, protocol).jobs.values()) for metric in ("best", "sharpness_converged")
    )
    for seed, accuracy in enumerate(accuracies):
        best = {"test_accuracy": accuracy / 100, "train_loss": losses[seed] if losses else 0.001}
        outcome = {"best": best, "last": best, "examples": {"train": 60_000, "test": 10_000}}
        outcome |= {"diverged": seed in diverged, "curves": {"test_accuracy": [0.1, 0.1, 0.1, accuracy / 100]}}
        write(runtime, trainings[seed], outcome | {"weights": {"best": "first", "last": "first"}})
    for seed, value in enumerate(sharpness):
        outcome = {"failed": value is None, "value": value or 0.0, "loss": 0.1}
        outcome |= {"weights": ["second" if seed in retrained else "first"]}
        write(runtime, searches[seed], outcome)


def judged(given: dict[str, Any], runtime: Runtime, scope: ClaimScope = SCOPE) -> list[ClaimTest]:
    claims = Claims([{"statement": "It is so.", "source": "p. 1"} | given], scope, CONFIGS, PUBLISHED)
    return claims.tests(runtime)


def page(tests: list[ClaimTest]) -> VerdictPage:
    return VerdictPage(tests, PROSE, ["On verdicts."], ["More words."], SCOPE, "python judge.py")


def verdicts(tests: list[ClaimTest]) -> list[Verdict]:
    return [one.verdict for one in page(tests).judged]
