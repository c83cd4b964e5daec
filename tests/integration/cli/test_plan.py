"""The plan of several jobs: which have a record, which are to run, each once."""

from __future__ import annotations

import re

import pytest
from helpers.tiny_jobs import tiny, workplace

from smoothout.cli import plan as terminal
from smoothout.cli.error_messages import JobsFailedError
from smoothout.jobs.job import Job
from smoothout.jobs.runner import get_or_run


class Row:
    """One row of a table."""

    def __init__(self, *jobs: Job) -> None:
        self._jobs = list(jobs)

    def jobs(self) -> list[Job]:
        return self._jobs

    def plan(self) -> dict[str, dict[Job, float | None]]:
        return {"the row": dict.fromkeys(self._jobs, 1.0)}


def test_rows_of_one_name_are_planned_together(tmp_path, capsys):
    """The same row under two protocols, say."""
    runtime = workplace(tmp_path)
    wanted = [Row(tiny(seed=0), tiny(seed=1)), Row(tiny(seed=2))]
    get_or_run(tiny(seed=0), runtime)
    assert terminal.plan_and_run(wanted, runtime) is None
    shown = capsys.readouterr().out
    assert re.search(r"the row +1 +2 ", shown)
    assert "2 jobs to run" in shown
    assert "rerun the command to resume" in shown


def test_what_was_lost_is_named_and_returned_and_the_rest_is_made(tmp_path, capsys):
    runtime, jobs = workplace(tmp_path), [tiny(seed=0), tiny(seed=1)]
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / f"{jobs[0].name}.pt").write_bytes(b"no checkpoint")
    lost = terminal.plan_and_run([Row(*jobs)], runtime)
    assert isinstance(lost, JobsFailedError)
    assert (lost.code, str(lost)) == (2, "1 of its jobs failed, as reported above")
    assert f"failed: {jobs[0].name}: checkpoint: " in capsys.readouterr().err
    assert [runtime.records.get("train", job.digest) is None for job in jobs] == [True, False]


@pytest.mark.parametrize("setting", ["results", "checkpoints"])
def test_a_folder_that_cannot_be_written_is_named_once_with_the_jobs_that_it_stops(setting, tmp_path, capsys):
    (tmp_path / setting).write_text("a file")
    lost = terminal.plan_and_run([Row(*(tiny(seed=seed) for seed in range(3)))], workplace(tmp_path))
    assert isinstance(lost, JobsFailedError)
    assert lost.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: folders.{setting}: {tmp_path / setting} cannot be used (Not a directory)")
    assert line.endswith("; this stopped 3 jobs")
