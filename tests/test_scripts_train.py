"""scripts/train.py as a user meets it: killed, stopped, misspelt, swept, asked for help."""

from __future__ import annotations

import io
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tree

from smoothout import runs
from smoothout.training import checkpoint
from smoothout.training.checkpoint import Snapshot
from smoothout.training.loop import Training

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "train.py"
PLACES = ("data", "results", "checkpoints", "logs")
QUIET = ("threads=1", "tensorboard=false", "download=false")
SHORT = (*QUIET, "batch=large", "schedule.epochs=2")

Ended = tuple[int, list[str], list[str]]
Program = Callable[..., Ended]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own for everything that the program writes, and an empty one to start it from."""
    for name in PLACES:
        monkeypatch.setenv(f"SMOOTHOUT_{name.upper()}", str(tmp_path / name))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # set by the program; put back after the test
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.fixture
def program(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """Runs the script in this process; gives its exit code and the lines on stdout and stderr."""

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out.splitlines(), err.splitlines()

    return run


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start the script in a process of its own."""
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def wait_for(pattern: str, folder: Path, process: subprocess.Popen[str]) -> Path:
    """Wait for the running ``process`` to write a file."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        found = list(folder.rglob(pattern))
        if found:
            return found[0]
        if process.poll() is not None:
            pytest.fail(f"the program ended before it wrote {pattern}: {process.communicate()}")
        time.sleep(0.005)
    process.kill()
    pytest.fail(f"the program wrote no {pattern}")


def records(root: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((root / "results" / "train").glob("*.json"))}


def without_times(outcome: dict[str, Any]) -> dict[str, Any]:
    """What came out of a training, but for how long it took and what it ran on."""
    measured = ("wall_seconds", "train_seconds", "peak_memory", "machines")
    kept = {name: value for name, value in outcome.items() if name not in measured}
    kept["curves"] = {name: curve for name, curve in outcome["curves"].items() if name != "seconds"}
    return kept


# One training


def test_a_training_leaves_its_record_and_one_line(root: Path, program: Program) -> None:
    code, out, err = program(*SHORT, "perturbation=smoothout")
    assert (code, err) == (0, [])
    (name,) = records(root)
    assert re.fullmatch(r"small_mlp-digits-b720-smoothout0\.0375-e2-s0-[0-9a-f]{8}", name)
    best = records(root)[name]["outcome"]["best"]["test_accuracy"]
    assert len(out) == 1
    assert out[0].startswith(f"{name}: test accuracy {100 * best:.2f}% (best, epoch ")
    assert list((root / "here").iterdir()) == []
    assert [path.name for path in (root / "checkpoints").iterdir()] == [f"{name}.pt"]


def test_a_training_that_has_a_record_says_the_same_and_is_not_repeated(
    root: Path, program: Program, trainings: list[Snapshot | None]
) -> None:
    first = program(*SHORT)
    before = tree(root)
    assert program(*SHORT) == first
    assert len(trainings) == 1
    assert tree(root) == before


def test_curves_for_tensorboard_lie_under_the_logs_folder(root: Path, program: Program) -> None:
    assert program(*SHORT, "tensorboard=true")[0] == 0
    (name,) = records(root)
    (events,) = (root / "logs" / "tensorboard" / name).iterdir()
    assert events.name.startswith("events.out.tfevents")
    assert b"test_accuracy" in events.read_bytes()


def test_a_training_that_was_killed_goes_on_and_ends_with_the_same_weights(
    root: Path, program: Program, trainings: list[Snapshot | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    long = (*QUIET, "perturbation=smoothout", "schedule.epochs=12", "checkpoint_seconds=0.05")
    process = start(*long)
    wait_for("*.pt", root / "checkpoints", process)
    time.sleep(0.05)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert records(root) == {}, "the training was over before it could be killed"

    assert program(*long)[0] == 0
    resumed = trainings.pop()
    assert resumed is not None, "the second run started anew"
    (killed,) = records(root).values()
    assert len(killed["outcome"]["curves"]["test_loss"]) == 12

    monkeypatch.setenv("SMOOTHOUT_RESULTS", str(root / "unbroken"))
    monkeypatch.setenv("SMOOTHOUT_CHECKPOINTS", str(root / "unbroken"))
    assert program(*long)[0] == 0
    assert trainings == [None]
    (path,) = (root / "unbroken" / "train").glob("*.json")
    unbroken = json.loads(path.read_text())
    assert killed["outcome"]["weights"] == unbroken["outcome"]["weights"]
    assert without_times(killed["outcome"]) == without_times(unbroken["outcome"])


def test_a_training_that_is_terminated_leaves_a_checkpoint_one_line_and_code_143(root: Path) -> None:
    process = start(*QUIET, "schedule.epochs=1000", "checkpoint_seconds=1e9")
    lock = wait_for("weights-*.lock", root / "results", process)
    process.terminate()
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (143, "")
    assert err == "stopped: by SIGTERM; the same command goes on from here\n"
    (path,) = (root / "checkpoints").iterdir()
    assert path.stem.endswith(lock.stem.removeprefix("weights-"))
    content = torch.load(path, weights_only=True)
    assert json.loads(content["json"])["digest"].startswith(lock.stem.removeprefix("weights-"))
    assert records(root) == {}


def test_ctrl_c_leaves_a_checkpoint_one_line_and_code_130(
    root: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = runs.Training

    def pressed(*arguments: Any, **settings: Any) -> Training:
        signal.raise_signal(signal.SIGINT)
        return train(*arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "Training", pressed)
        assert program(*SHORT) == (130, [], ["stopped: by SIGINT; the same command goes on from here"])
    (path,) = (root / "checkpoints").iterdir()
    snapshot = checkpoint.load(path, json.loads(torch.load(path, weights_only=True)["json"])["digest"])
    assert (snapshot.epoch, snapshot.step) == (0, 1)
    assert records(root) == {}
    assert program(*SHORT)[0] == 0
    assert len(records(root)) == 1


def test_signals_are_handled_as_before_when_the_program_is_done(root: Path, program: Program) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    program(*SHORT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# Wrong input

WRONG = {
    "model=vit": "Could not find 'model/vit' Available options in 'model': ",
    "sede=1": "Could not override 'sede'",
    "perturbation.strength=1": "Could not override 'perturbation.strength'",
    "+perturbation.strength=1": "perturbation.strength: unknown key; allowed: a, law, ",
    "+strength=1": "strength: unknown setting; known are ",
    "~seed": "seed: is missing; a training needs ",
    "seed=1=[": "mismatched input",
    "batch.size=5000": "batch.size: 5000 is more than the 1438 training examples",
    "batch.size=${sizes.medium}": "Interpolation key 'sizes.medium' not found",
    "model=c1": "model: the convolutions need images of at least 11x11 pixels, not 8x8",
    "data=mnist": "data: mnist was not found: looked for ",
    "threads=0": "threads: must be null or a whole number >= 1, not 0",
    "device=tpu": "device: 'tpu' is not one of auto, cpu, cuda, cuda:N",
    "checkpoint_seconds=often": "checkpoint_seconds: ",
    "model._target_=os.system": "model._target_: 'os.system' is no class of settings in the package smoothout",
}


@pytest.mark.parametrize("override", WRONG)
def test_wrong_input_ends_with_code_2_and_one_line_and_leaves_no_trace(
    root: Path, program: Program, override: str
) -> None:
    before = tree(root)
    code, out, err = program(*SHORT, override)
    assert (code, out, len(err)) == (2, [], 1)
    assert err[0].startswith("error: ")
    assert WRONG[override] in err[0]
    assert tree(root) == before


def test_wrong_input_is_one_line_in_a_process_of_its_own_too(root: Path) -> None:
    before = tree(root)
    process = start(*SHORT, "seed=-1")
    assert process.communicate(timeout=120) == ("", "error: seed: must be a whole number >= 0, not -1\n")
    assert process.returncode == 2
    assert tree(root) == before


def _fails(*_: Any, **__: Any) -> None:
    raise RuntimeError("a bug")


def test_a_fault_ends_with_code_1_and_its_traceback_lies_in_the_logs(
    root: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "Training", _fails)
    log = root / "logs" / "failure.txt"
    expected = ["error: RuntimeError: a bug", f"the traceback is in {log}"]
    assert program(*SHORT) == (1, [], expected)
    assert "_fails" in log.read_text()
    assert records(root) == {}


# Sweeps


def test_a_sweep_finishes_what_it_can_names_what_failed_and_repeats_nothing(
    root: Path, program: Program, trainings: list[Snapshot | None]
) -> None:
    sweep = ("-m", *SHORT, "seed=0,1", "perturbation.a=0,-1")
    code, out, err = program(*sweep)
    assert code == 2
    assert [record["labels"]["seed"] for record in records(root).values()] == [0, 1]
    assert [line.partition(":")[0] for line in out] == list(records(root))
    failed = [line for line in err if line.startswith("failed: ")]
    assert len(failed) == 2
    assert err[-2:] == failed
    for seed, line in enumerate(failed):
        assert f"seed={seed} perturbation.a=-1: perturbation.a: the noise's strength must be" in line
    assert len(trainings) == 2

    before = tree(root / "results"), tree(root / "checkpoints")
    assert program(*sweep)[0] == 2
    assert len(trainings) == 2
    assert (tree(root / "results"), tree(root / "checkpoints")) == before


def test_a_sweep_in_which_nothing_fails_ends_with_code_0_and_leaves_nothing_where_it_was_started(
    root: Path, program: Program
) -> None:
    code, out, err = program("-m", *SHORT, "perturbation=none,smoothout")
    assert (code, len(out), err) == (0, 2, [])
    assert {record["labels"]["method"] for record in records(root).values()} == {"baseline", "smoothout0.0375"}
    assert list((root / "here").iterdir()) == []


def test_a_fault_in_a_sweep_is_named_and_its_traceback_lies_in_the_logs(
    root: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = runs.Training

    def once(*arguments: Any, **settings: Any) -> Training:
        if settings["seed"] == 1:
            _fails()
        return train(*arguments, **settings)

    monkeypatch.setattr(runs, "Training", once)
    code, out, err = program("-m", *SHORT, "seed=0,1,2")
    assert code == 1
    assert len(out) == 2
    assert [line for line in err if line.startswith("failed: ")] == [
        f"failed: {' '.join(SHORT).replace('=false', '=False')} seed=1: RuntimeError: a bug"
    ]
    assert "_fails" in (root / "logs" / "failure-1.txt").read_text()
    assert [record["labels"]["seed"] for record in records(root).values()] == [0, 2]


def test_ctrl_c_ends_the_whole_sweep(
    root: Path, program: Program, trainings: list[Snapshot | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = runs.Training

    def pressed(*arguments: Any, **settings: Any) -> Training:
        signal.raise_signal(signal.SIGINT)
        return train(*arguments, **settings)

    monkeypatch.setattr(runs, "Training", pressed)
    code, out, err = program("-m", *SHORT, "seed=0,1,2")
    assert (code, out) == (130, [])
    assert "stopped: by SIGINT; the same command goes on from here" in err
    assert len(trainings) == 1
    assert records(root) == {}


@pytest.mark.slow
def test_a_sweep_over_two_processes_gives_the_records_of_a_serial_one(
    root: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = ("-m", *SHORT, "seed=0,1", "perturbation.a=0.05,-1")
    process = start(*sweep, "hydra/launcher=local", "hydra.launcher.n_jobs=2")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2
    parallel = records(root)
    assert sorted(line.partition(":")[0] for line in out.splitlines()) == list(parallel)
    assert sum(line.startswith("failed: ") for line in err.splitlines()) == 2
    assert list((root / "here").iterdir()) == []

    monkeypatch.setenv("SMOOTHOUT_RESULTS", str(root / "serial" / "results"))
    monkeypatch.setenv("SMOOTHOUT_CHECKPOINTS", str(root / "serial" / "checkpoints"))
    assert program(*sweep)[0] == 2
    serial = records(root / "serial")
    assert len(serial) == 2
    assert serial.keys() == parallel.keys()
    for name, record in serial.items():
        assert without_times(record["outcome"]) == without_times(parallel[name]["outcome"])


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
    for group in ("model", "data", "optimizer", "schedule", "batch", "perturbation", "regime", "experiment", "profile"):
        assert choices[group] == sorted(path.stem for path in (ROOT / "configs" / group).glob("*.yaml"))
    assert "  python scripts/train.py -m perturbation=none,smoothout,adasmoothout seed=0,1,2" in "\n".join(out)


def test_the_settings_can_be_shown_without_running_anything(root: Path, program: Program) -> None:
    before = tree(root)
    code, out, err = program("--cfg", "job", "perturbation=smoothout")
    assert (code, err) == (0, [])
    assert "  a: 0.0375" in out
    assert tree(root) == before
