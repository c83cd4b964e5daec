"""What a record says of the machine: enough to tell two processors apart, nothing that names a host."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from smoothout.common import environment as module
from smoothout.common.environment import environment

CPUINFO = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC
stepping\t: 1
flags\t\t: fpu avx2 avx512f avx512_bf16

processor\t: 1
cpu family\t: 26
model name\t: another
"""


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cpuinfo"
    path.write_text(CPUINFO, encoding="utf-8")
    monkeypatch.setattr(module, "CPUINFO", path)
    return path


def test_processors_of_one_name_are_told_apart_by_model_and_instructions(cpuinfo: Path) -> None:
    made = environment(torch.device("cpu"))
    assert made["processor"] == "AMD EPYC"
    assert made["instructions"] == {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "family": "25",
        "model": "17",
        "stepping": "1",
        "avx512f": True,
        "avx512_bf16": True,
        "amx_bf16": False,
    }
    cpuinfo.write_text(CPUINFO.replace("avx512_bf16", "amx_bf16"), encoding="utf-8")
    other = environment(torch.device("cpu"))
    assert other["processor"] == made["processor"]
    assert other["instructions"] != made["instructions"]


def test_a_cpu_has_no_gpus_keys_and_torch_is_named_with_its_build() -> None:
    made = environment(torch.device("cpu"))
    assert "gpu" not in made
    assert made["versions"]["torch"] == torch.__version__
    assert list(made["versions"]) == ["torch", "numpy", "scipy"]


def test_a_gpus_build_libraries_driver_and_chip_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    chip = SimpleNamespace(major=9, minor=0, multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: chip)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91400)
    monkeypatch.setattr(module, "driver_version", lambda: "580.65.06")
    made = environment(torch.device("cuda", 0))
    assert made["device"] == "NVIDIA H200"
    assert made["gpu"] == {
        "cuda": "13.0",
        "hip": None,
        "cudnn": 91400,
        "cudnn_benchmark": False,
        "driver": "580.65.06",
        "capability": "9.0",
        "multiprocessors": 132,
    }
    assert json.loads(json.dumps(made)) == made


def test_a_change_anywhere_in_the_package_marks_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        author = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        subprocess.run(["git", "-C", str(tmp_path), *author, *arguments], check=True, capture_output=True)

    changed = tmp_path / "package" / "room" / "module.py"
    changed.parent.mkdir(parents=True)
    changed.write_text("one")
    (tmp_path / "package" / "common").mkdir()
    (tmp_path / "package" / "common" / "environment.py").touch()
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "package" / "common" / "environment.py"))
    index = tmp_path / ".git" / "index"
    before = index.read_bytes()
    changed.touch()  # git status would write the new time to the index, under a lock
    assert re.fullmatch("[0-9a-f]{12}", module._commit.__wrapped__())
    assert index.read_bytes() == before
    changed.write_text("two")
    assert module._commit.__wrapped__().endswith("+")
    installed = tmp_path / ".venv" / "package" / "common"
    installed.mkdir(parents=True)
    monkeypatch.setattr(module, "__file__", str(installed / "environment.py"))
    assert module._commit.__wrapped__() == "unknown"  # and not the commit of whatever project it is installed in
