"""Faults of the machine: full disks, folders that cannot be written, nan, memory, clocks, locks."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.common import tree
from helpers.programs import Program
from hydra.core.utils import JobReturn, JobStatus
from soak.bad_input_runner import RUN
from soak.kills import left
from soak.processes import QUIET

from smoothout.cli.error_messages import exit_code, format_error
from smoothout.common import interrupts
from smoothout.common.errors import DataError
from smoothout.common.torchvision_compat import import_torchvision
from smoothout.data import datasets
from smoothout.data.datasets import DatasetName


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


def test_a_full_disk_is_one_line_and_with_room_the_same_command_resumes(
    root: Path, script: Program, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMOOTHOUT_CHECKPOINTS", str(small_disk))
    code, _, lines = script("train", *RUN)
    assert code == 1
    [line] = lines
    assert line.startswith(f"error: {small_disk}/small_mlp-digits-b720-baseline-e2-s0-")
    assert line.endswith("No space left on device; fix this and rerun the same command to resume")
    assert tree(small_disk) == {}
    assert not list((root / "results").rglob("*.json"))
    subprocess.run(["mount", "-o", "remount,size=10m", small_disk], check=True)
    assert script("train", *RUN)[0] == 0


def test_a_file_that_may_not_grow_leaves_what_was_there(root: Path, script: Program) -> None:
    """As a quota does; it needs no mount."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        code, _, lines = script("train", *RUN)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (code, len(lines)) == (1, 1), lines
    assert "File too large; fix this and rerun the same command to resume" in lines[0]
    assert tree(root / "checkpoints") == {}
    assert script("train", *RUN)[0] == 0


@pytest.mark.parametrize(
    "what", [("table=quickstart",), ("table=none", "figure=quickstart"), ("-m", "table=quickstart")]
)
def test_a_read_only_folder_is_shown_and_not_written(root: Path, script: Program, what: tuple[str, ...]) -> None:
    (root / "results").mkdir()
    (root / "logs").mkdir()
    mounted = [root / name for name in ("results", "logs")]
    try:
        for folder in mounted:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder], check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"cannot mount a read-only file system: {error.stderr.decode().strip()}")
    try:
        code, out, err = script("reproduce", *QUIET, *what, "run=false")
    finally:
        for folder in mounted:
            subprocess.run(["umount", folder], check=True)
    assert code == 0
    assert any("digits, 32" in line for line in out) is ("table=quickstart" in what)
    assert f"warning: folders.results: {root / 'results'} cannot be written, so nothing is saved" in err
    assert len(err) == (2 if "-m" in what else 1)


def test_a_results_folder_that_is_a_file_is_refused(root: Path, script: Program) -> None:
    (root / "results").write_text("not a folder")
    before = tree(root)
    code, _, [line] = script("train", *RUN)
    assert code == 2
    assert f"folders.results: {root / 'results'} cannot be used (" in line
    assert tree(root) == before


def test_a_file_system_without_locks_is_refused_before_anything_is_trained(
    root: Path, script: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: Any) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    with monkeypatch.context() as patch:
        patch.setattr("fcntl.flock", flock)
        code, _, [line] = script("train", *RUN)
    assert code == 2
    assert "on a file system with locks" in line
    assert not list(root.rglob("*.pt"))
    assert script("train", *RUN)[0] == 0


_OVERRIDES = "'experiment=digits','batch=large','optimizer=momentum','optimizer.lr=1e30'"
DIVERGING = f"table.rows=[{{name:x,overrides:[{_OVERRIDES}]}}]"


def test_loss_that_turns_nan_stops_the_run_and_the_table_says_so(root: Path, script: Program) -> None:
    table = ("table=quickstart", "table.metrics=[best,late,last]", DIVERGING, "scope.profile=smoke", *QUIET)
    code, _, lines = script("reproduce", *table)
    assert (code, [line for line in lines if "error" in line]) == (0, [])
    for record in left(root).values():
        if isinstance(record, dict):
            assert record["outcome"]["diverged"] is True
            assert record["outcome"]["last"]["test_loss"] is None
    [rendered] = (root / "results" / "tables").glob("*.md")
    row = next(line for line in rendered.read_text().splitlines() if line.startswith("| x "))
    assert [cell.strip() for cell in row.split("|")[2:5]] == ["diverged"] * 3


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


def test_what_a_process_of_a_pool_met_is_not_blamed_on_the_user() -> None:
    """Hydra raises it again, without the frames of that process."""
    job = JobReturn(_return_value=RuntimeError("a bug"), status=JobStatus.FAILED)
    with pytest.raises(RuntimeError) as raised:
        _ = job.return_value
    assert (format_error(raised.value), exit_code(raised.value)) == ("RuntimeError: a bug", 1)


def call(modules: list[str], error: Exception) -> None:
    """Raise ``error`` in the last of ``modules``, each of which calls the next."""
    namespace: dict[str, Any] = {"__name__": modules[0], "modules": modules[1:], "error": error, "call": call}
    exec("if modules:\n    call(modules, error)\nraise error", namespace)


@pytest.mark.parametrize(
    ("modules", "code"),
    [
        (["hydra._internal.utils", "hydra_plugins.hydra_optuna_sweeper._impl", "optuna.storages"], 2),
        (["hydra_plugins.hydra_optuna_sweeper._impl", "smoothout.training.trainer", "torch.nn"], 1),
        (["hydra_plugins.hydra_joblib_launcher._core", "hydra.core.utils"], 1),
        (["hydra._internal.utils", "torch.nn"], 1),
    ],
)
def test_an_error_of_a_package_that_a_plugin_calls_is_wrong_input_and_one_of_a_job_is_not(
    modules: list[str], code: int
) -> None:
    with pytest.raises(RuntimeError) as raised:
        call(modules, RuntimeError("unable to open\ndatabase file"))
    raised.value.__traceback__ = raised.value.__traceback__.tb_next  # this test's own frame
    assert exit_code(raised.value) == code
    assert "unable to open database file" in format_error(raised.value)


@pytest.mark.parametrize("mode", [(), ("hydra.job.chdir=true",)])
def test_a_folder_of_hydras_own_that_cannot_be_made_is_one_line(
    root: Path, script: Program, mode: tuple[str, ...]
) -> None:
    code, _, [line] = script("train", *RUN, "hydra.run.dir=/proc/nowhere", *mode)
    assert code == 2
    assert line.startswith("error: [Errno 2] No such file or directory: '/proc/nowhere'")
    assert not list((root / "results").rglob("*.json"))


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
