"""What is not the program's fault: full disks, folders that cannot be written, nan, memory, clocks, locks."""

from __future__ import annotations

import errno
import itertools
import os
import resource
import runpy
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.common import tree
from helpers.paths import SCRIPTS
from soak.bad_input_runner import RUN
from soak.kills import left
from soak.processes import PLACES, QUIET

from smoothout.cli.error_messages import format_error
from smoothout.common import interrupts
from smoothout.common.errors import DataError
from smoothout.common.torchvision_compat import import_torchvision
from smoothout.data import datasets
from smoothout.data.datasets import DatasetName
from smoothout.jobs import training_job

Ended = tuple[int, list[str]]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Callable[..., Ended]:
    """Runs a program in this process, in a folder of its own; gives its exit code and its lines on stderr."""
    for name in PLACES:
        monkeypatch.setenv(f"SMOOTHOUT_{name.upper()}", str(tmp_path / name))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
        return int(ended.value.code or 0), capsys.readouterr().err.splitlines()

    return run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 100 kB: less than one checkpoint."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", folder], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"cannot mount a small file system: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_one_line_and_with_room_the_same_command_goes_on(
    program: Callable[..., Ended], small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMOOTHOUT_CHECKPOINTS", str(small_disk))
    code, lines = program("train", *RUN)
    assert code == 1
    [line] = lines
    assert line.startswith(f"error: {small_disk}/small_mlp-digits-b720-baseline-e2-s0-")
    assert line.endswith("No space left on device; fix this and rerun the same command to resume")
    assert tree(small_disk) == {}
    assert not list((tmp_path / "results").rglob("*.json"))
    subprocess.run(["mount", "-o", "remount,size=10m", small_disk], check=True)
    assert program("train", *RUN)[0] == 0


def test_a_file_that_may_not_grow_leaves_what_was_there(program: Callable[..., Ended], tmp_path: Path) -> None:
    """As a quota does; it needs no mount."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        code, lines = program("train", *RUN)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (code, len(lines)) == (1, 1), lines
    assert "File too large; fix this and rerun the same command to resume" in lines[0]
    assert tree(tmp_path / "checkpoints") == {}
    assert program("train", *RUN)[0] == 0


def test_a_results_folder_that_is_a_file_is_refused(program: Callable[..., Ended], tmp_path: Path) -> None:
    (tmp_path / "results").write_text("not a folder")
    before = tree(tmp_path)
    code, [line] = program("train", *RUN)
    assert code == 2
    assert f"folders.results: {tmp_path / 'results'} cannot be used (" in line
    assert tree(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(program: Callable[..., Ended], tmp_path: Path) -> None:
    (tmp_path / "results").mkdir(mode=0o500)
    code, [line] = program("train", *RUN)
    assert code == 2
    assert "Permission denied" in line


def test_a_folder_mounted_for_reading_alone_is_refused(
    program: Callable[..., Ended], small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    monkeypatch.setenv("SMOOTHOUT_RESULTS", str(small_disk))
    code, [line] = program("train", *RUN)
    assert code == 2
    assert f"{small_disk} cannot be used (Read-only file system); it must be a folder that can be written" in line
    monkeypatch.delenv("SMOOTHOUT_RESULTS")
    monkeypatch.setenv("SMOOTHOUT_CHECKPOINTS", str(small_disk))
    code, [line] = program("train", *RUN)
    assert code == 2
    assert f"folders.checkpoints: {small_disk} cannot be used (Read-only file system); it must be" in line


def test_a_file_system_without_locks_is_refused_before_anything_is_trained(
    program: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: Any) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    with monkeypatch.context() as patch:
        patch.setattr("fcntl.flock", flock)
        code, [line] = program("train", *RUN)
    assert code == 2
    assert "on a file system with locks" in line
    assert not list(tmp_path.rglob("*.pt"))
    assert program("train", *RUN)[0] == 0


_OVERRIDES = "'experiment=digits','batch=large','optimizer=momentum','optimizer.lr=1e30'"
DIVERGING = f"table.rows=[{{name:x,overrides:[{_OVERRIDES}]}}]"


def test_loss_that_turns_nan_stops_the_run_and_the_table_says_so(program: Callable[..., Ended], tmp_path: Path) -> None:
    table = ("table=quickstart", "table.metrics=[best,late,last]", DIVERGING, "scope.profile=smoke", *QUIET)
    code, lines = program("reproduce", *table)
    assert (code, [line for line in lines if "error" in line]) == (0, [])
    for record in left(tmp_path).values():
        if isinstance(record, dict):
            assert record["outcome"]["diverged"] is True
            assert record["outcome"]["last"]["test_loss"] is None
    [rendered] = (tmp_path / "results" / "tables").glob("*.md")
    row = next(line for line in rendered.read_text().splitlines() if line.startswith("| x "))
    assert [cell.strip() for cell in row.split("|")[2:5]] == ["diverged"] * 3


def test_a_network_that_does_not_fit_is_one_line_that_says_what_takes_less(program: Callable[..., Ended]) -> None:
    """The second layer alone would take 640 GB."""
    code, [line] = program("train", *RUN, "model.width=400000")
    assert code == 1
    assert line.startswith("error: out of memory: use batch.ghost or a smaller batch.size with batch.multiplier (")


@pytest.mark.parametrize(
    ("error", "ways"),
    [
        (MemoryError(), "batch.ghost or a smaller batch.size with batch.multiplier"),
        *(
            (
                RuntimeError(text),
                "batch.ghost, a smaller batch.size with batch.multiplier, engine.concurrent_trainings=1 or"
                " engine.launch=eager",
            )
            for text in (
                "CUDA out of memory. Tried to\nallocate 2 GiB",
                "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
                "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
            )
        ),
    ],
    ids=str,
)
def test_out_of_memory_is_one_line_that_says_what_takes_less(error: Exception, ways: str) -> None:
    assert format_error(error).startswith(f"out of memory: use {ways} (")
    assert "\n" not in format_error(error)


def test_a_clock_that_jumps_changes_nothing(
    program: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert program("train", *RUN, "checkpoint_seconds=0")[0] == 0
    usual = left(tmp_path)
    monkeypatch.setenv("SMOOTHOUT_RESULTS", str(tmp_path / "again" / "results"))
    monkeypatch.setenv("SMOOTHOUT_CHECKPOINTS", str(tmp_path / "again" / "checkpoints"))
    moments = itertools.cycle([4e9, 0.0, -1e9, 2e9])
    save = training_job.checkpoint.save

    def saved(path: Path, *arguments: Any) -> None:
        save(path, *arguments)
        os.utime(path, (4e9, 4e9))

    monkeypatch.setattr(time, "time", lambda: next(moments))
    monkeypatch.setattr(training_job.checkpoint, "save", saved)
    assert program("train", *RUN, "checkpoint_seconds=0")[0] == 0
    assert left(tmp_path / "again") == usual


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no space", "/scratch/half"), MemoryError()])
def test_a_machine_without_room_is_no_failed_download(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(_: Path) -> datasets.Arrays:
        raise error

    digits = datasets.DATASETS[DatasetName.digits]
    monkeypatch.setitem(datasets.DATASETS, DatasetName.mnist, replace(digits, fetch=fetch, embedded=False))
    with pytest.raises(type(error)) as raised:
        datasets.load(DatasetName.mnist, tmp_path)
    assert raised.value is error


def test_a_full_disk_that_does_not_take_what_was_fetched_is_named_by_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(
        datasets.DATASETS, DatasetName.mnist, replace(datasets.DATASETS[DatasetName.digits], embedded=False)
    )
    monkeypatch.setattr(datasets.np, "savez", full)
    with pytest.raises(OSError, match="No space left") as raised:
        datasets.load(DatasetName.mnist, tmp_path)
    assert raised.value.filename == str(tmp_path / "mnist.npz")
    assert tree(tmp_path) == {}


def test_a_download_that_is_not_the_known_archive_is_refused_and_never_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its digest is checked before it is opened, so its paths lead nowhere."""
    import_torchvision()
    opened = []

    def fetch(url: str, filename: Any, *_: Any, **__: Any) -> None:
        (tmp_path / "mark").write_text("x")
        with tarfile.open(filename, "w:gz") as archive:
            archive.add(tmp_path / "mark", "../../outside")

    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", lambda url, **_: url)
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", fetch)
    monkeypatch.setattr("torchvision.datasets.utils.extract_archive", lambda *a, **k: opened.append(a))
    with pytest.raises(DataError, match=r"cifar10 was not found: .* the download failed .*corrupted"):
        datasets.load(DatasetName.cifar10, tmp_path / "data")
    assert opened == []
    assert not (tmp_path / "data").exists()


def test_a_request_that_comes_after_the_last_question_is_not_forgotten() -> None:
    with pytest.raises(interrupts.Interrupted, match="by SIGTERM"), interrupts.defer_signals():
        signal.raise_signal(signal.SIGTERM)
