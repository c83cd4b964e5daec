"""Jobs: a record is made once, says what was run, and has one writer at a time."""

from __future__ import annotations

import json
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.common import tree
from helpers.tiny_jobs import DIGITS, UPDATES, checkpoint_of, record_of, tiny, workplace

from smoothout.common.errors import ConfigError, RecordError
from smoothout.data import datasets
from smoothout.data.datasets import DatasetName
from smoothout.data.image_folder import Collection, ImageFolder
from smoothout.jobs import prepared_run, training_job
from smoothout.jobs.prepared_run import prepare_run
from smoothout.jobs.runner import get_or_run
from smoothout.jobs.runtime import Runtime
from smoothout.models.mlp import MLP
from smoothout.nn.evaluation import evaluate
from smoothout.nn.options import BatchNormInit
from smoothout.results import records
from smoothout.results.per_image import read_right
from smoothout.training import checkpoint
from smoothout.training.checkpoint import TrainingState
from smoothout.training.distributed import ProcessGroup
from smoothout.training.engine import Engine, Launch
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.optimizers import SGD, Adam, Epsilon
from smoothout.training.schedule import Schedule
from smoothout.training.trainer import Trainer

# Records


def test_a_record_is_made_once(runtime: Runtime, trainings: list[TrainingState | None]) -> None:
    first = get_or_run(tiny(), runtime)
    assert len(trainings) == 1
    before = tree(Path(runtime.folders.results))
    assert get_or_run(tiny(), runtime) == first
    assert len(trainings) == 1
    assert tree(Path(runtime.folders.results)) == before


def test_a_record_is_enough_when_checkpoint_and_data_are_gone(
    runtime: Runtime, trainings: list[TrainingState | None]
) -> None:
    first = get_or_run(tiny(), runtime)
    shutil.rmtree(runtime.folders.checkpoints)
    assert get_or_run(tiny(), runtime) == first
    assert len(trainings) == 1
    assert not Path(runtime.folders.checkpoints).exists()


def test_a_record_says_what_was_run_and_what_came_out(runtime: Runtime) -> None:
    job = tiny(method=NoiseConfig(a=0.05), batchnorm_init=BatchNormInit.uniform)
    record = get_or_run(job, runtime)
    assert (record.kind, record.name, record.digest, record.inputs) == ("train", job.name, job.digest, [])
    assert record.settings["perturbation"]["a"] == 0.05
    assert record.settings["model"] == {"class": "MLP", "width": 16, "depth": 2}
    assert record.labels == {
        "model": "tiny",
        "data": "digits",
        "method": "smoothout0.05",
        "batch": 128,
        "epochs": 2,
        "seed": 0,
    }
    out = record.outcome
    assert {name: len(curve) for name, curve in out["curves"].items()} == dict.fromkeys(checkpoint.CURVES, 2)
    assert out["examples"] == {"train": 1438, "test": 359}
    layers = 64 * 16 + 16 + 16 * 16 + 16 + 16 * 10 + 10
    assert out["parameters"] == layers + 2 * (16 + 16)
    assert out["diverged"] is False
    assert out["data_sha256"] == datasets.load(DatasetName.digits, Path("nowhere")).fingerprint()
    assert out["train_seconds"] == sum(out["curves"]["seconds"])
    assert 0 < out["train_seconds"] < out["wall_seconds"]
    assert 10**7 < out["peak_memory"] < 10**11 if sys.platform == "linux" else out["peak_memory"] is None
    [machine] = out["machines"]
    engine = {"launch": "eager", "compile": False, "layout": "channels_last", "ghosts": "sequential", "together": 1}
    assert machine == {**record.environment, "engine": {"class": "Engine", **engine}}


def test_best_and_last_are_the_curves_best_and_last_epochs(runtime: Runtime) -> None:
    # A learning rate that is multiplied by 1000 after two epochs undoes what was learnt.
    out = get_or_run(tiny(schedule=Schedule(4, milestones=(2,), gamma=1000.0)), runtime).outcome
    accuracies = out["curves"]["test_accuracy"]
    assert out["best"]["epoch"] == accuracies.index(max(accuracies))
    assert out["best"]["test_accuracy"] == max(accuracies)
    assert out["last"]["epoch"] == 3
    assert out["last"]["test_accuracy"] == accuracies[-1]
    assert out["last"]["test_loss"] == out["curves"]["test_loss"][-1]
    assert out["best"]["epoch"] == 1, "this test needs a run whose best epoch is not its last"


def test_evaluating_the_checkpoint_again_gives_the_recorded_numbers_exactly(runtime: Runtime) -> None:
    job = tiny(method=NoiseConfig(a=0.05))
    out = get_or_run(job, runtime).outcome
    snapshot = checkpoint.load(checkpoint_of(job, runtime), job.digest)
    train_split, test_split, _ = DIGITS.load(Path(runtime.folders.data), runtime.device)
    model = job.settings.model.build(DIGITS.shape, DIGITS.classes)
    for which, weights in (("best", snapshot.best), ("last", snapshot.model)):
        model.load_state_dict(weights)
        for name, split in (("train", train_split), ("test", test_split)):
            measured = evaluate(model, split.batches(1000))
            assert measured.loss == out[which][f"{name}_loss"]
            assert measured.accuracy == out[which][f"{name}_accuracy"]
        images, labels = test_split.gather(slice(None))
        [right] = read_right([get_or_run(job, runtime)], which)
        assert right.tolist() == (model.eval()(images).argmax(1) == labels).tolist()
        assert right.mean() == out[which]["test_accuracy"]


def test_a_run_that_diverges_is_recorded_as_such(runtime: Runtime) -> None:
    job = tiny(optimizer=SGD(lr=1e30), schedule=Schedule(5))
    out = get_or_run(job, runtime).outcome
    assert out["diverged"] is True
    assert len(out["curves"]["train_loss"]) < 5
    assert out["curves"]["train_loss"][-1] is None
    assert out["last"]["test_loss"] is None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from (key, *_strings(item))
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, str):
        yield value


def test_a_record_names_no_host_and_no_path(runtime: Runtime) -> None:
    job = tiny()
    get_or_run(job, runtime)
    texts = list(_strings(json.loads(record_of(job, runtime).read_text())))
    assert {"tiny", "float32", job.digest} <= set(texts), "all texts were looked at"
    host = re.compile(rf"\b{re.escape(platform.node())}\b")
    for text in texts:
        assert not host.search(text)
        assert not re.search(r"(^|\s)(/|~|\w:\\)\w", text)
        assert str(Path.home()) not in text
        assert Path(runtime.folders.results).parent.name not in text


def test_a_default_that_drifted_is_refused_by_the_records_name(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tiny(model=MLP(width=16, name="tiny"))
    assert job.settings.model.depth == 5
    get_or_run(job, runtime)
    # A later version has depth 2 as its default: the settings that differ from the defaults are the same.
    monkeypatch.setattr(MLP.__dataclass_fields__["depth"], "default", 2)
    later = tiny(model=MLP(width=16, depth=2, name="tiny"))
    assert later.digest == job.digest
    with pytest.raises(RecordError, match=f"^record: {job.name} .*default") as refused:
        get_or_run(later, runtime)
    assert "\n" not in str(refused.value)


def test_a_field_that_a_later_version_adds_leaves_old_records_good(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = get_or_run(tiny(), runtime)
    described = records.canonical_settings

    def with_one_more(settings: Any, defaults: bool = True) -> Any:
        values = described(settings, defaults)
        return {**values, "label_smoothing": 0.0} if defaults else values

    monkeypatch.setattr(records, "canonical_settings", with_one_more)
    assert get_or_run(tiny(), runtime) == record


# Two at once


# TensorBoard


def test_tensorboard_has_every_epoch_of_an_interrupted_run_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    job, runtime = tiny(), workplace(tmp_path, tensorboard=True, checkpoint_seconds=0.0)
    steps = training_job.train(prepare_run(job, runtime))
    for _ in range(UPDATES + 3):
        next(steps)
    steps.close()
    curves = get_or_run(job, runtime).outcome["curves"]
    events = EventAccumulator(str(tmp_path / "logs" / "tensorboard" / job.name)).Reload()
    for name in ("train_loss", "test_accuracy"):
        scalars = events.Scalars(name)
        assert [event.step for event in scalars] == [0, 1]
        assert [event.value for event in scalars] == pytest.approx(curves[name], rel=1e-6)


def test_curves_that_cannot_be_written_cost_one_line_and_no_record(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("not a folder")
    with pytest.warns(UserWarning, match=r"^folders.logs: .*; training continues without curves") as warned:
        record = get_or_run(tiny(), workplace(tmp_path, tensorboard=True))
    assert len(warned) == 1
    assert len(record.outcome["curves"]["test_loss"]) == 2


def test_a_fault_in_the_training_leaves_no_record(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(training_job, "Trainer", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            get_or_run(tiny(), runtime)
    assert not record_of(tiny(), runtime).exists()
    assert get_or_run(tiny(), runtime).name == tiny().name


@pytest.mark.parametrize(
    ("changes", "capturable"),
    [
        ({}, True),
        ({"optimizer": Adam(0.01, epsilon=Epsilon.uncorrected)}, False),
        ({"method": NoiseConfig(0.1, copies=2)}, False),
        ({"method": NoiseConfig(0.0, copies=2)}, True),
        ({"data": ImageFolder(Collection.imagenette, (0.5,) * 3, (0.5,) * 3)}, False),
    ],
)
def test_a_cuda_graph_that_settings_rule_out_is_refused_before_anything_is_written(
    changes: dict[str, Any], capturable: bool, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared_run, "load_splits", lambda *_: (range(1438), range(359), "fingerprint"))
    on_cuda = replace(runtime, device=torch.device("cuda"), engine=Engine(Launch.graph))
    for ranks, allowed in ((ProcessGroup(), capturable), (ProcessGroup(0, 2), False)):
        refusal = r"^engine.launch: graph is not possible with method.copies, image folders, several processes"
        with nullcontext() if allowed else pytest.raises(ConfigError, match=refusal):
            prepare_run(tiny(**changes), replace(on_cuda, ranks=ranks))
    assert not Path(runtime.folders.checkpoints).exists()


def test_a_finished_run_is_prepared_whatever_the_engine(runtime: Runtime) -> None:
    on_a_graph = replace(runtime, engine=Engine(Launch.graph))
    with pytest.raises(ConfigError, match=r"^engine.launch: graph needs a CUDA device, not cpu"):
        prepare_run(tiny(), on_a_graph)
    get_or_run(tiny(), runtime)
    assert prepare_run(tiny(), on_a_graph).is_done  # an analysis of it trains nothing


def test_a_record_lists_every_engine_that_trained_it(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    class FallsBack(Trainer):
        def _end_epoch(self) -> None:
            super()._end_epoch()
            self.engine = replace(self.engine, compile=True)  # as after a capture that fails in the second epoch

    monkeypatch.setattr(training_job, "Trainer", FallsBack)
    record = get_or_run(tiny(), replace(runtime, checkpoint_seconds=0.0))
    assert [machine["engine"]["compile"] for machine in record.outcome["machines"]] == [False, True]
