"""Worker processes of image folders: same outcome for any number of them, and how they end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.common import same_bits
from helpers.image_tree import tree
from helpers.small_image_folder import loaded, run, whole

from smoothout.common.errors import DataError
from smoothout.data.crops import Crop
from smoothout.data.image_loader import CHUNK
from smoothout.data.split import Split


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with an imagenette of 60 and 20 images."""
    return tree(tmp_path_factory.mktemp("data") / "imagenette", {"train": 6, "val": 2}).parent


def test_a_training_ends_with_the_same_bits_for_any_number_of_workers(folder: Path) -> None:
    ends = [run(folder, workers).run() for workers in (0, 1, 2)]
    for end in ends[1:]:
        assert same_bits(end.model, ends[0].model)
        assert end.curves["test_loss"] == ends[0].curves["test_loss"]


def test_a_training_that_stopped_within_an_epoch_resumes_with_the_same_bits(folder: Path) -> None:
    unbroken, first = run(folder, 2).run(), run(folder, 2)
    for now in first:
        if (now.epoch, now.step) == (1, 2):
            break
    assert same_bits(run(folder, 1, first.state()).run().model, unbroken.model)


@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK, 2 * CHUNK + 5])
def test_batches_of_any_size_and_abandoned_orders_give_the_images_of_their_rows(folder: Path, size: int) -> None:
    plain, split = loaded(folder)[0], loaded(folder, workers=2)[0]
    expected = whole(plain)
    next(iter(split.batches(3)))
    assert torch.equal(torch.cat([images for images, _ in split.batches(size)]), expected)
    rows = torch.arange(59, 10, -3)
    assert torch.equal(split.gather(rows)[0], expected[rows])
    assert torch.equal(torch.cat([images for images, _ in split.first(7).batches(size)]), expected[:7])


def test_a_corrupt_image_stops_the_run_in_one_line_and_its_order_starts_afresh(tmp_path: Path) -> None:
    root = tree(tmp_path / "imagenette", {"train": 2, "val": 1})
    (root / "train" / "n004" / "train_001.JPEG").write_text("not an image")
    train = loaded(tmp_path, workers=2)[0]
    for _ in range(2):
        with pytest.raises(DataError, match=r"^data: \S*n004/train_001.JPEG is corrupt \(.*on_corrupt=skip[^\n]*$"):
            whole(train)


def workers_of(split: Split, augmentation: Crop) -> list[multiprocessing.Process]:
    """The workers of a training on ``split``, once they have begun."""
    before = multiprocessing.active_children()
    examples = split.training_view(augmentation, 0)
    rows = examples.prefetch(torch.arange(len(split)), 0)
    examples.gather(rows[:2])
    workers_of.kept = examples  # they live as long as it
    return [child for child in multiprocessing.active_children() if child not in before]


def test_workers_ignore_signals_of_others_and_end_with_what_they_read_for(folder: Path) -> None:
    workers = workers_of(loaded(folder, workers=2)[0], Crop.crop_flip)
    assert len(workers) == 2
    for worker in workers:
        for number in (signal.SIGINT, signal.SIGTERM):
            subprocess.run([sys.executable, "-c", f"import os; os.kill({worker.pid}, {int(number)})"], check=True)
    time.sleep(0.3)
    assert all(worker.is_alive() for worker in workers)
    del workers_of.kept
    for worker in workers:
        worker.join(10)
        assert worker.exitcode == 0


def test_workers_end_when_their_parent_tells_them_to_or_has_died(folder: Path) -> None:
    worker, *_ = workers_of(loaded(folder, workers=1)[0], Crop.crop_flip)
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0
    program = f"""
import os, signal, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
import test_image_workers as tests
kept = tests.loaded(Path({str(folder)!r}), workers=2)[0]
print(*(worker.pid for worker in tests.workers_of(kept, tests.Crop.crop_flip)), flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""
    path = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    for end in ("killed", "by itself"):
        done = subprocess.run(
            [sys.executable, "-c", program, end],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == (-signal.SIGKILL if end == "killed" else 0), done.stderr
        pids = [int(pid) for pid in done.stdout.split()]
        assert len(pids) == 2
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
