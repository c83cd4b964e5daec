"""scripts/train.py as a user meets it: sweeps and --help."""

from __future__ import annotations

import io
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from helpers.common import tree
from helpers.programs import ROOT, SHORT, Program, records
from omegaconf import OmegaConf

from smoothout.cli import sweep
from smoothout.cli.sweep import SweepSummary
from smoothout.common.errors import ConfigError
from smoothout.jobs import training_job
from smoothout.training.checkpoint import TrainingState
from smoothout.training.trainer import Trainer

# Sweeps


def test_a_sweep_finishes_what_it_can_names_what_failed_and_repeats_nothing(
    root: Path, program: Program, trainings: list[TrainingState | None]
) -> None:
    sweep = ("-m", *SHORT, "seed=0,1", "method.a=0,-1")
    code, out, err = program(*sweep)
    assert code == 2
    assert [record["labels"]["seed"] for record in records(root).values()] == [0, 1]
    assert [line.partition(":")[0] for line in out] == list(records(root))
    for seed, line in enumerate(out):
        assert line.endswith(f"batch=large schedule.epochs=2 seed={seed} method.a=0]")
    failed = [line for line in err if line.startswith("failed: ")]
    assert len(failed) == 2
    assert err == ["Error executing job with overrides: " + err[0].partition(": ")[2], *failed]  # the first is Hydra's
    for seed, line in enumerate(failed):
        assert f"seed={seed} method.a=-1: method.a: the noise's strength must be" in line
    assert len(trainings) == 2

    before = tree(root / "results"), tree(root / "checkpoints")
    assert program(*sweep)[0] == 2
    assert len(trainings) == 2
    assert (tree(root / "results"), tree(root / "checkpoints")) == before


def test_ctrl_c_ends_the_whole_sweep(
    root: Path, program: Program, trainings: list[TrainingState | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = training_job.Trainer

    def pressed(*arguments: Any, **settings: Any) -> Trainer:
        signal.raise_signal(signal.SIGINT)
        return train(*arguments, **settings)

    monkeypatch.setattr(training_job, "Trainer", pressed)
    code, out, err = program("-m", *SHORT, "seed=0,1,2")
    assert (code, out) == (130, [])
    assert "stopped: by SIGINT; run the same command to resume" in err
    assert len(trainings) == 1
    assert records(root) == {}


def test_a_sweep_whose_folder_cannot_be_written_runs_and_leaves_nothing_behind(
    root: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(root / "scratch"))
    (root / "logs").write_text("not a folder")
    code, out, [line] = program("-m", *SHORT, "seed=0,1")
    assert (code, len(out)) == (0, 2)
    assert line.startswith(f"warning: folders.logs: {root / 'logs' / 'sweeps'}: ")
    assert len(records(root)) == 2
    assert [*(root / "scratch").glob("smoothout*"), *(root / "here").iterdir()] == []


@pytest.mark.parametrize("sweep", [(), ("-m",), ("-m", "hydra.sweep.subdir=${hydra.job.num}")])
def test_hydras_own_folder_moves_no_other(
    root: Path, program: Program, monkeypatch: pytest.MonkeyPatch, sweep: tuple[str, ...]
) -> None:
    for name in ("results", "checkpoints"):
        monkeypatch.setenv(f"SMOOTHOUT_{name.upper()}", name)
    assert program(*sweep, *SHORT, "hydra.job.chdir=true", f"hydra.run.dir={root / 'elsewhere'}")[0] == 0
    assert sorted(path.name for path in (root / "here").iterdir()) == ["checkpoints", "results"]
    assert not list((root / "logs").rglob("*.json"))


@pytest.mark.parametrize("split", ["test", "held-out"])
def test_a_sweeper_that_searches_sees_the_accuracy_of_the_last_epoch(
    root: Path, program: Program, split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[float]()
    monkeypatch.setattr(SweepSummary, "on_job_end", lambda _, job_return, **__: seen.append(job_return.return_value))
    held_out = ["data.validation_size=100"] if split == "held-out" else []
    code, out, _ = program("-m", *SHORT, "seed=0,1", *held_out)
    assert code == 0
    assert all(f"{split} accuracy" in line for line in out)
    accuracies = [record["outcome"]["last"]["test_accuracy"] for record in records(root).values()]
    assert sorted(seen) == sorted(accuracies)


def test_optuna_searches_for_the_best_accuracy(root: Path, program: Program) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="hydra-optuna-sweeper is not installed")
    search = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.direction=maximize")
    code, _, told = program("-m", *SHORT, *search, "seed=0,1")
    assert code == 0
    assert all(word in "".join(told) for word in ("last epoch", "held-out", "test", "hydra.sweeper.direction=maximize"))
    found = OmegaConf.load(root / "logs" / "sweeps" / "optimization_results.yaml")["best_value"]
    assert found in [record["outcome"]["last"]["test_accuracy"] for record in records(root).values()]


@pytest.mark.parametrize("trials", [0, -3])
def test_a_search_without_trials_is_refused(trials: int) -> None:
    config = OmegaConf.create({"hydra": {"sweeper": {"n_trials": trials}}})
    with pytest.raises(ConfigError, match=rf"^hydra\.sweeper\.n_trials: must be at least 1, not {trials}$"):
        sweep._refuse_empty(config)


def test_a_search_over_what_gives_no_number_is_refused_before_anything_is_run() -> None:
    config = OmegaConf.create({"hydra": {"sweeper": {"direction": "minimize"}, "job": {"name": "analyze"}}})
    with pytest.raises(ConfigError, match=r"^hydra/sweeper: analyze\.py gives .*hydra/sweeper=basic$"):
        sweep._tell_objective(config)


# Help


@pytest.mark.parametrize("unbuffered", [True, False])  # as a pool's processes have it, and as a pipe has it
def test_what_a_run_says_is_written_at_once_and_as_a_whole(
    root: Path, program: Program, monkeypatch: pytest.MonkeyPatch, unbuffered: bool
) -> None:
    """The processes of a sweep share one output: else their lines would run into each other."""
    written: list[bytes] = []

    class Output(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, content: Any) -> int:
            written.append(bytes(content))
            return len(content)

    output = Output() if unbuffered else io.BufferedWriter(Output())
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", io.TextIOWrapper(output, write_through=unbuffered))
        code, _, _ = program("-m", *SHORT, "seed=0,1")
    assert code == 0
    assert [line.decode().partition(":")[0] for line in written] == list(records(root))
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in written)


def test_help_names_every_choice_that_a_user_can_make(root: Path, program: Program) -> None:
    code, out, err = program("--help")
    assert (code, err) == (0, [])
    choices = {line.partition(": ")[0]: line.partition(": ")[2].split(", ") for line in out if ": " in line}
    for group in ("model", "data", "optimizer", "schedule", "batch", "method", "protocol", "experiment", "profile"):
        assert choices[group] == sorted(path.stem for path in (ROOT / "configs" / group).glob("*.yaml"))
    assert "  python scripts/train.py -m method=none,smoothout,adasmoothout seed=0,1,2" in "\n".join(out)


@pytest.mark.parametrize(
    ("name", "own"), {"reproduce": "figure table", "verdicts": "claims", "prepare_data": "data"}.items()
)
def test_help_of_a_program_names_the_choices_that_it_takes_and_no_others(script: Program, name: str, own: str) -> None:
    code, out, err = script(name, "--help")
    assert (code, err) == (0, [])
    groups = [path.name for path in (ROOT / "configs").iterdir() if path.is_dir()]
    assert sorted(group for group in groups if any(line.startswith(f"{group}: ") for line in out)) == own.split()
