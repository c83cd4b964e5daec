"""A cluster: sweeps and missing jobs become its jobs, their processes torch's ranks; SLURM's own tools are stand-ins.

The stand-in for sbatch runs the script that submitit wrote at once, one process a task, with SLURM's variables.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.common import digits, tree
from helpers.paths import ROOT
from helpers.programs import Program, records
from helpers.tiny_jobs import tiny, workplace
from torch.distributed import is_torchelastic_launched

from smoothout.common.errors import DataError
from smoothout.config.compose import compose_config
from smoothout.data.datasets import DatasetName
from smoothout.data.image_arrays import ImageArrays
from smoothout.jobs import slurm as cluster
from smoothout.jobs.job import Job
from smoothout.jobs.runner import get_or_run
from smoothout.results.records import Record

TOOLS = {
    "sbatch": r"""
import os, re, subprocess, sys
text = open(sys.argv[1]).read()
open(os.environ["SUBMITTED"], "a").write(text)
last = re.search(r"--array=0-(\d+)", text)
number = {name: int(re.search(rf"--{name}=(\d+)", text)[1]) for name in ("nodes", "ntasks-per-node")}
for index in range(int(last[1]) + 1 if last else 1):
    array = {"SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": str(index)} if last else {}
    job = {
        "SLURM_JOB_ID": str(70 + index),
        "SLURM_NTASKS": str(number["nodes"] * number["ntasks-per-node"]),
        "SLURM_JOB_NUM_NODES": str(number["nodes"]),
        "SLURM_JOB_NODELIST": "localhost,other" if number["nodes"] == 2 else "localhost",
        **array,
    }
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.Popen(["bash", sys.argv[1]], env={**os.environ, **job}, **quiet)
print("Submitted batch job 70")
""",
    "srun": r"""
import os, subprocess, sys
command = sys.argv[1:]
while command[0].startswith("-"):
    command = command[2:] if command[0] in ("--output", "--error") else command[1:]
tasks, nodes = int(os.environ["SLURM_NTASKS"]), int(os.environ["SLURM_JOB_NUM_NODES"])
def place(rank):
    node, local = divmod(rank, tasks // nodes)
    return {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(local), "SLURM_NODEID": str(node)}
started = [subprocess.Popen(command, env={**os.environ, **place(rank)}) for rank in range(tasks)]
sys.exit(max(one.wait() for one in started))
""",
    "sacct": """
print("JobID|State|NodeList")
""",
}


@pytest.fixture(autouse=True)
def imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs find the package, and what the tests have them do."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT / "src", ROOT / "tests", Path(__file__).parent))))


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Puts the stand-ins in the way; gives the scripts that were submitted."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name, text in TOOLS.items():
        (folder / name).write_text(f"#!{sys.executable}{text}")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SUBMITTED", str(tmp_path / "submitted"))
    return (tmp_path / "submitted").read_text


@pytest.fixture
def program(script: Program, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Runs the script of that name in this process; what the cluster starts has digits without scikit-learn."""
    monkeypatch.setenv("SMOOTHOUT_DATA", digits().name)
    return lambda name, *given: script(name, *given, "threads=1", "tensorboard=false")


def resources(launcher: str) -> dict[str, Any]:
    """What configs/hydra/launcher/ gives its jobs."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        hydra = compose("train", [f"hydra/launcher={launcher}"], return_hydra_config=True).hydra
    hydra.job.name = "train"
    made: Any = OmegaConf.to_container(hydra.launcher, resolve=True)
    del made["_target_"]
    return made


def torchs_variables() -> dict[str, str]:
    cluster.init_ranks_from_submitit()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return {name: os.environ.get(name, "") for name in names} | {"TORCHRUN": str(is_torchelastic_launched())}


# Sweeps


def test_a_sweep_is_an_array_of_jobs_with_the_configs_resources(
    root: Path, program: Program, slurm: Callable[[], str]
) -> None:
    code, _, err = program("train", "-m", "profile=smoke", "seed=0,1", "hydra/launcher=slurm")
    assert code == 0, err
    assert [record["labels"]["seed"] for record in records(root).values()] == [0, 1]
    lines = set(slurm().splitlines())
    wanted = {"array=0-1%2", "nodes=1", "ntasks-per-node=1", "gpus-per-node=1", "cpus-per-task=8", "mem=32GB"}
    assert {f"#SBATCH --{one}" for one in (*wanted, "time=720", "signal=USR2@120")} <= lines


# Several processes a job


def test_one_run_over_two_nodes_is_one_job_whose_processes_are_torchs_ranks(
    tmp_path: Path, slurm: Callable[[], str]
) -> None:
    given = {**resources("slurm_nodes"), "submitit_folder": str(tmp_path / "jobs"), "tasks_per_node": 2}
    job = cluster.executor("slurm", given).submit(torchs_variables)
    found = job.results()
    assert [(one["RANK"], one["LOCAL_RANK"]) for one in found] == [("0", "0"), ("1", "1"), ("2", "0"), ("3", "1")]
    assert {(one["WORLD_SIZE"], one["LOCAL_WORLD_SIZE"], one["MASTER_ADDR"]) for one in found} == {
        ("4", "2", "localhost")
    }
    assert {one["TORCHRUN"] for one in found} == {"True"}
    [port] = {int(one["MASTER_PORT"]) for one in found}
    assert 1024 < port < 65536
    assert {"#SBATCH --nodes=2", "#SBATCH --gpus-per-node=8", "#SBATCH --cpus-per-task=16"} <= set(slurm().splitlines())


def test_a_process_that_is_alone_or_that_torchrun_started_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "SUBMITIT_EXECUTOR"):
        monkeypatch.delenv(name, raising=False)
    cluster.init_ranks_from_submitit()
    assert "RANK" not in os.environ
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    cluster.init_ranks_from_submitit()
    assert os.environ["RANK"] == "3"
    assert "MASTER_ADDR" not in os.environ


# Missing jobs


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """The program's settings, as a job of the cluster gets them."""
    folders = [f"folders.{name}={tmp_path / name}" for name in ("data", "results", "checkpoints", "logs")]
    return compose_config(ROOT / "configs", "reproduce", [*folders, "threads=1", "download=false", "tensorboard=false"])


def handed_over(folder: Path, settings: dict[str, Any], *jobs: Job) -> dict[str, Record | Exception]:
    """What comes of ``jobs`` by the local executor, by name."""
    executor = cluster.executor("local", {**resources("submitit_local"), "submitit_folder": str(folder / "jobs")})
    done = cluster.run_on_slurm(executor, cluster.RemoteJob(settings), jobs, workplace(folder, download=False))
    return {job.name: outcome for job, outcome in done}


def test_missing_jobs_are_made_there_and_present_ones_nowhere(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "POLL_SECONDS", 0.1)
    present, missing = tiny(), tiny(seed=1)
    hopeless = tiny(data=ImageArrays(DatasetName.mnist, (0.5,), (0.5,)))
    record = get_or_run(present, workplace(tmp_path))
    found = handed_over(tmp_path, settings, present, missing, hopeless)
    assert found[present.name] == record
    made = found[missing.name]
    assert isinstance(made, Record)
    assert made.outcome["machines"][0]["threads"] == 1
    assert made == get_or_run(missing, workplace(tmp_path))
    assert isinstance(found[hopeless.name], DataError)
    assert len(list((tmp_path / "jobs").glob("*_submitted.pkl"))) == 2

    assert handed_over(tmp_path, settings, present) == {present.name: record}
    assert len(list((tmp_path / "jobs").glob("*_submitted.pkl"))) == 2


def _killed(_: Job) -> None:
    os._exit(9)


def test_a_job_that_is_killed_is_an_error_of_its_own(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "POLL_SECONDS", 0.1)
    monkeypatch.setattr("submitit.core.core.Job._results_timeout_s", 0.5)  # for which it waits for a result
    executor = cluster.executor("local", {**resources("submitit_local"), "submitit_folder": str(tmp_path / "jobs")})
    [(job, outcome)] = cluster.run_on_slurm(executor, _killed, [tiny()], workplace(tmp_path))
    assert job == tiny()
    assert isinstance(outcome, RuntimeError)


def test_a_job_that_ran_out_of_time_is_submitted_again_as_it_was(settings: dict[str, Any]) -> None:
    work, job = cluster.RemoteJob(settings), tiny()
    again = work.checkpoint(job)
    assert (again.function, again.args) == (work, (job,))


def test_a_table_is_made_by_the_cluster_and_rendered_here(
    root: Path, program: Program, slurm: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "POLL_SECONDS", 0.1)
    overrides = ("table=quickstart", "table.metrics=[best,late,last]", "rows=['720']", "scope.profile=smoke")
    code, _, err = program("reproduce", *overrides, "hydra/launcher=slurm")
    assert code == 0, err
    assert len(records(root)) == 3
    assert slurm().count("#SBATCH --array=0-2%3") == 1
    assert "(70_2)" in "".join(err)
    assert (root / "results" / "tables" / "quickstart-authors_code-smoke.md").exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("reproduce", "table=quickstart", "hydra/launcher=local"), "slurm or slurm_nodes"),
        (("reproduce", "table=quickstart", "hydra/launcher=slurm"), "srun was not found"),
        (("train", "-m", "experiment=digits", "seed=0,1", "hydra/launcher=slurm"), "srun was not found"),
    ],
)
def test_where_nothing_can_be_handed_over_one_line_says_so_and_no_file_is_written(
    root: Path, program: Program, command: tuple[str, ...], words: str
) -> None:
    code, _, [line] = program(*command)
    assert code == 2
    assert line.startswith("error: hydra/launcher: ")
    assert words in line
    assert tree(root) == {"here": "folder"}
