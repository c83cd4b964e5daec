"""scripts/train.py under torchrun: one record, one line, whatever a process meets; killed ones are restarted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.common import digits, tree
from helpers.paths import ROOT
from soak.processes import Command, said

from smoothout.results.per_image import read_right
from smoothout.results.records import read_record

TRAIN = ROOT / "scripts" / "train.py"
RUN = (
    *("experiment=digits", "batch=large", "batch.ghost=90", "method=smoothout", "optimizer=momentum"),
    *("optimizer.lr=0.02", "schedule.epochs=4", "threads=1", "tensorboard=false", "device=cpu"),
)
LONG = (*RUN, "schedule.epochs=3000", "checkpoint_seconds=0.05")
pytestmark = [pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found under /proc")]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMOOTHOUT_DATA", digits().name)
    for name in ("results", "checkpoints", "logs"):
        monkeypatch.setenv(f"SMOOTHOUT_{name.upper()}", str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def start(*arguments: str, script: Path = TRAIN, restarts: int = 0) -> subprocess.Popen[str]:
    """Two processes under torchrun."""
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", f"--max-restarts={restarts}"]
    command = [sys.executable, "-m", *torchrun, str(script), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def alone(folder: Path, *arguments: str) -> list[str]:
    """The lines of one process that trains by itself in ``folder``."""
    assert Command("train", arguments).run(TRAIN.parent, folder) == 0
    return said(folder)


def ended(process: subprocess.Popen[str]) -> tuple[int, list[str], list[str]]:
    """Exit code, lines on stdout, and the program's own lines on stderr, without torchrun's."""
    out, err = process.communicate(timeout=300)
    own = (
        "error: ",
        "stopped: ",
        "failed: ",
        "the traceback",
        'Traceback (most recent call last):\n  File "' + str(ROOT),
    )
    return process.returncode, out.splitlines(), [line for line in err.splitlines() if line.startswith(own)]


def records(root: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((root / "results" / "train").glob("*.json"))}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    [path] = folder.glob("*.pt")
    found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["model"]
    return found


def epochs_done(folder: Path) -> int:
    [path] = folder.glob("*.pt")
    return int(json.loads(torch.load(path, weights_only=True)["json"])["epoch"])


def children(process: subprocess.Popen[str]) -> dict[int, int]:
    """The process number of every rank."""
    found = {}
    for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        names = dict(line.split("=", 1) for line in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in line)
        if "RANK" in names:
            found[int(names["RANK"])] = int(pid)
    return found


def wait_for_checkpoint(root: Path, process: subprocess.Popen[str], newer_than: float = 0.0) -> Path:
    until = time.monotonic() + 200
    while time.monotonic() < until:
        for path in (root / "checkpoints").glob("*.pt"):
            if path.stat().st_mtime > newer_than:
                return path
        if process.poll() is not None:
            pytest.fail(f"the program ended before it wrote a checkpoint: {process.communicate()}")
        time.sleep(0.02)
    process.kill()
    pytest.fail("the program wrote no checkpoint")


def test_processes_that_load_other_data_than_the_first_are_told_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = ROOT / "tests" / "example_package"
    body = "    def _draw(self, n):\n        x, y = super()._draw(n)\n        return x + int(os.environ['RANK']), y\n"
    head = "import os\nfrom lab import *\n@dataclass(frozen=True)\nclass Drifting(Stripes):\n"
    (root / "drifting.py").write_text(head + body)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(package), str(root)]))
    own = (f"--config-dir={package / 'configs'}", "data=stripes", "data._target_=drifting.Drifting")
    code, out, err = ended(start(*own, *RUN, "batch.size=180"))
    assert code == 1
    assert out == []
    assert err == ["error: rank 1: data: rank 1 loaded other examples of stripes than rank 0"]
    assert records(root) == {}


def test_two_processes_begin_where_another_training_of_theirs_ended(root: Path) -> None:
    source = "init_from.run=['schedule.epochs=3','schedule.keep_epochs=[2]']"
    code, out, err = ended(start(*RUN, "method=none", source))
    assert (code, len(out), err) == (0, 1, [])
    first, second = sorted(records(root).values(), key=lambda record: len(record["inputs"]))
    assert second["inputs"] == [first["name"]]
    assert second["environment"]["processes"] == 2
    before, after = (record["outcome"]["curves"]["train_loss"] for record in (first, second))
    assert after[0] < before[-1] < before[0]
    kept = {path.stem for path in (root / "checkpoints").glob("*.pt")} - {first["name"], second["name"]}
    assert [name.rpartition("-")[0] for name in kept] == ["small_mlp-digits-b720-baseline-e2-s0"]
    assert alone(root, *RUN, "method=none", "schedule.epochs=2")[0].startswith(kept.pop()), "it needs no training"


def test_two_processes_train_again_as_far_as_the_best_epoch(root: Path) -> None:
    run = (*RUN, "schedule.milestones=[2]", "schedule.gamma=1000")
    assert ended(start(*run))[0] == 0
    [record] = records(root).values()
    epochs = record["outcome"]["best"]["epoch"] + 1
    assert epochs < 4
    [path] = (root / "checkpoints").glob("*.pt")
    path.unlink()
    analysis = ("analysis=noise_curve", "analysis.strengths=[0,0.1]", "analysis.draws=1", "analysis.examples=50")
    code, out, err = ended(start(*run, *analysis, script=TRAIN.with_name("analyze.py")))
    assert (code, err) == (0, []), out
    assert epochs_done(root / "checkpoints") == epochs
    [curve] = (json.loads(path.read_text()) for path in (root / "results" / "noise_curve").glob("*.json"))
    assert curve["outcome"]["weights"] == [record["outcome"]["weights"]["best"]]


def test_two_processes_make_the_record_that_one_makes(root: Path) -> None:
    code, out, err = ended(start(*RUN))
    assert (code, len(out), err) == (0, 1, [])
    [(name, two)] = records(root).items()
    assert out[0].startswith(f"{name}: test accuracy ")
    [machine] = two["outcome"]["machines"]
    assert machine["processes"] == two["environment"]["processes"] == 2
    record = read_record(root / "results" / "train" / f"{name}.json")
    for which, epoch in (("best", two["outcome"]["best"]["epoch"]), ("last", -1)):
        shared = two["outcome"]["curves"]["test_accuracy"][epoch]  # measured by both processes
        assert read_right([record], which).mean() == two["outcome"][which]["test_accuracy"] == shared
    assert list((root / "here").iterdir()) == []
    before = tree(root)
    assert alone(root, *RUN) == out, "what is there is not made twice"
    assert tree(root) == before

    # In float32: every update's gradient is added up in another order, and the next update sees what came of it.
    together = weights(root / "checkpoints")
    alone(root / "one", *RUN)
    [(other, one)] = records(root / "one").items()
    assert other == name
    assert "processes" not in one["outcome"]["machines"][0]
    for key, tensor in weights(root / "one" / "checkpoints").items():
        torch.testing.assert_close(together[key], tensor, rtol=1e-4, atol=1e-5)
    assert two["outcome"]["curves"]["test_loss"] == pytest.approx(one["outcome"]["curves"]["test_loss"], rel=1e-4)


def test_wrong_input_is_one_line_of_one_process(root: Path) -> None:
    before = tree(root)
    code, out, [line] = ended(start(*RUN, "batch.ghost=null"))
    assert (code != 0, out) == (True, [])
    assert line.startswith("error: batch.ghost: 1 ")
    assert "2 processes" in line
    assert tree(root) == before


def test_an_error_in_one_process_ends_all_with_one_line(root: Path) -> None:
    script = root / "failing.py"
    script.write_text(
        "import os, runpy\n"
        "from smoothout.common.errors import DataError\n"
        "from smoothout.training import trainer\n"
        "update, made = trainer.update, []\n"
        "def failing(*arguments, **settings):\n"
        "    made.append(1)\n"
        "    if os.environ['RANK'] == '1' and len(made) == 3:\n"
        "        raise DataError('data: one.JPEG is damaged')\n"
        "    return update(*arguments, **settings)\n"
        "trainer.update = failing\n"
        f"runpy.run_path({str(TRAIN)!r}, run_name='__main__')\n"
    )
    code, out, err = ended(start(*RUN, script=script))
    assert (code != 0, out) == (True, [])
    assert err == ["error: rank 1: data: one.JPEG is damaged"]
    assert records(root) == {}


def test_a_killed_process_is_restarted_and_all_resume_from_the_last_checkpoint(root: Path) -> None:
    process = start(*LONG, restarts=2)
    wait_for_checkpoint(root, process)
    for rank in (0, 1):
        time.sleep(0.5)
        os.kill(children(process)[rank], signal.SIGKILL)
        killed = time.time()
        time.sleep(0.3)
        before = epochs_done(root / "checkpoints")
        wait_for_checkpoint(root, process, newer_than=killed + 1.0)
        after = epochs_done(root / "checkpoints")
        assert 0 < before <= after < before + 100, "it started again"
    process.send_signal(signal.SIGTERM)
    _, out, err = ended(process)
    assert out == []
    assert err == ["stopped: by SIGTERM; run the same command to resume"]
    assert "processes" in json.loads(torch.load(next((root / "checkpoints").glob("*.pt")))["json"])["machines"][0]


def test_a_run_of_two_processes_is_finished_by_one(root: Path) -> None:
    process = start(*LONG, "schedule.epochs=100")
    wait_for_checkpoint(root, process)
    time.sleep(0.3)
    for pid in [process.pid, *children(process).values()]:
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    done = epochs_done(root / "checkpoints")
    assert 0 < done < 100
    alone(root, *LONG, "schedule.epochs=100")
    [record] = records(root).values()
    assert [machine.get("processes", 1) for machine in record["outcome"]["machines"]] == [2, 1]
    assert len(record["outcome"]["curves"]["test_loss"]) == 100
