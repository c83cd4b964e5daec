"""Jobs: a record is made once, from a training that can be stopped anywhere, and nothing is written for a bad one."""

from __future__ import annotations

import json
import platform
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import tree
from torch import Tensor, nn

from smoothout import jobs, progress, runs, work
from smoothout.analysis.recorded import NoiseCurve
from smoothout.batchnorm import BatchNormStart
from smoothout.data import sources
from smoothout.data.images import Images
from smoothout.data.sources import DataError, Name
from smoothout.evaluation import evaluate
from smoothout.jobs import ensure, together
from smoothout.ledger import Record, RecordError
from smoothout.models.mlp import MLP
from smoothout.models.shallow import Shallow
from smoothout.perturbation import Course, Law, Noise, Scaling
from smoothout.settings import Experiment, Folders, SettingsError
from smoothout.training import checkpoint
from smoothout.training.checkpoint import CheckpointError, Snapshot
from smoothout.training.engine import Engine
from smoothout.training.loop import Training
from smoothout.training.optimizers import Adam, Momentum
from smoothout.training.schedule import Schedule
from smoothout.training.step import Batch
from smoothout.work import Job, Workplace

DIGITS = Images(Name.digits, (0.5,), (0.5,))
UPDATES = 12  # an epoch of 1438 digits in batches of 128


def trained(job: Job, place: Workplace) -> Snapshot:
    """The training gone through to its end."""
    steps = runs.training(job, place)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


def tiny(**changes: Any) -> Job:
    """A training of less than a tenth of a second."""
    settings: dict[str, Any] = {
        "model": MLP(16, 2, "tiny"),
        "data": DIGITS,
        "optimizer": Adam(lr=0.01),
        "schedule": Schedule(2),
        "batch": Batch(128),
    }
    return Job(Experiment(**{**settings, **changes}))


def workplace(folder: Path, **changes: Any) -> Workplace:
    folders = Folders(*(str(folder / name) for name in ("data", "results", "checkpoints", "logs")))
    return Workplace(folders, torch.device("cpu"), **{"download": False, **changes})


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return workplace(tmp_path)


def checkpoint_of(job: Job, place: Workplace) -> Path:
    return Path(place.folders.checkpoints) / f"{job.name}.pt"


def record_of(job: Job, place: Workplace) -> Path:
    return Path(place.folders.results) / "train" / f"{job.name}.json"


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Records


def test_a_record_is_made_once(place: Workplace, trainings: list[Snapshot | None]) -> None:
    first = ensure(tiny(), place)
    assert len(trainings) == 1
    before = tree(Path(place.folders.results))
    assert ensure(tiny(), place) == first
    assert len(trainings) == 1
    assert tree(Path(place.folders.results)) == before


def test_a_record_is_enough_when_checkpoint_and_data_are_gone(
    place: Workplace, trainings: list[Snapshot | None]
) -> None:
    first = ensure(tiny(), place)
    shutil.rmtree(place.folders.checkpoints)
    assert ensure(tiny(), place) == first
    assert len(trainings) == 1
    assert not Path(place.folders.checkpoints).exists()


def test_every_setting_that_changes_the_outcome_gets_a_record_of_its_own(place: Workplace) -> None:
    names = {ensure(tiny(schedule=Schedule(1), **change), place).name for change in ({}, {"seed": 1})}
    assert {path.stem for path in (Path(place.folders.results) / "train").iterdir()} == names
    assert len(names) == 2


def test_a_record_says_what_was_run_and_what_came_out(place: Workplace) -> None:
    job = tiny(perturbation=Noise(a=0.05), batchnorm_start=BatchNormStart.uniform)
    record = ensure(job, place)
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
    assert out["data_sha256"] == sources.load(Name.digits, Path("nowhere")).fingerprint()
    assert out["train_seconds"] == sum(out["curves"]["seconds"])
    assert 0 < out["train_seconds"] < out["wall_seconds"]
    assert 10**7 < out["peak_memory"] < 10**11 if sys.platform == "linux" else out["peak_memory"] is None
    [machine] = out["machines"]
    engine = {"launch": "eager", "compile": False, "layout": "channels_last", "ghosts": "in_turn", "together": 1}
    assert machine == {**record.environment, "engine": {"class": "Engine", **engine}}


def test_best_and_last_are_the_curves_best_and_last_epochs(place: Workplace) -> None:
    # A learning rate that is multiplied by 1000 after two epochs undoes what was learnt.
    out = ensure(tiny(schedule=Schedule(4, drops=(2,), factor=1000.0)), place).outcome
    accuracies = out["curves"]["test_accuracy"]
    assert out["best"]["epoch"] == accuracies.index(max(accuracies))
    assert out["best"]["test_accuracy"] == max(accuracies)
    assert out["last"]["epoch"] == 3
    assert out["last"]["test_accuracy"] == accuracies[-1]
    assert out["last"]["test_loss"] == out["curves"]["test_loss"][-1]
    assert out["best"]["epoch"] == 1, "this test needs a run whose best epoch is not its last"


def test_evaluating_the_checkpoint_again_gives_the_recorded_numbers_exactly(place: Workplace) -> None:
    job = tiny(perturbation=Noise(a=0.05))
    out = ensure(job, place).outcome
    snapshot = checkpoint.load(checkpoint_of(job, place), job.digest)
    train_split, test_split, _ = DIGITS.load(Path(place.folders.data), place.device)
    model = job.settings.model.build(DIGITS.shape, DIGITS.classes)
    for which, weights in (("best", snapshot.best), ("last", snapshot.model)):
        model.load_state_dict(weights)
        for name, split in (("train", train_split), ("test", test_split)):
            measured = evaluate(model, split.batches(1000))
            assert measured.loss == out[which][f"{name}_loss"]
            assert measured.accuracy == out[which][f"{name}_accuracy"]


def test_a_run_that_diverges_is_recorded_as_such(place: Workplace) -> None:
    job = tiny(optimizer=Momentum(lr=1e30), schedule=Schedule(5))
    out = ensure(job, place).outcome
    assert out["diverged"] is True
    assert len(out["curves"]["train_loss"]) < 5
    assert out["curves"]["train_loss"][-1] is None
    assert out["last"]["test_loss"] is None


def test_a_run_that_diverged_is_not_trained_on(place: Workplace, trainings: list[Snapshot | None]) -> None:
    job = tiny(optimizer=Momentum(lr=1e30), schedule=Schedule(5))
    first = ensure(job, place)
    record_of(job, place).unlink()
    assert ensure(job, place).outcome["weights"] == first.outcome["weights"]
    assert len(trainings) == 1


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from (key, *_strings(item))
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, str):
        yield value


def test_a_record_names_no_host_and_no_path(place: Workplace) -> None:
    job = tiny()
    ensure(job, place)
    texts = list(_strings(json.loads(record_of(job, place).read_text())))
    assert {"tiny", "float32", job.digest} <= set(texts), "all texts were looked at"
    host = re.compile(rf"\b{re.escape(platform.node())}\b")
    for text in texts:
        assert not host.search(text)
        assert not re.search(r"(^|\s)(/|~|\w:\\)\w", text)
        assert str(Path.home()) not in text
        assert Path(place.folders.results).parent.name not in text


def test_a_record_that_was_edited_is_refused_and_not_trained_anew(
    place: Workplace, trainings: list[Snapshot | None]
) -> None:
    job = tiny()
    ensure(job, place)
    path = record_of(job, place)
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    before = tree(Path(place.folders.results))
    with pytest.raises(RecordError, match=job.name):
        ensure(job, place)
    assert len(trainings) == 1
    assert tree(Path(place.folders.results)) == before


def test_a_default_that_drifted_is_refused_by_the_records_name(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tiny(model=MLP(width=16, name="tiny"))
    assert job.settings.model.depth == 5
    ensure(job, place)
    # A later version has depth 2 as its default: the settings that differ from the defaults are the same.
    monkeypatch.setattr(MLP.__dataclass_fields__["depth"], "default", 2)
    later = tiny(model=MLP(width=16, depth=2, name="tiny"))
    assert later.digest == job.digest
    with pytest.raises(RecordError, match=f"record: {job.name} was made with other defaults") as refused:
        ensure(later, place)
    assert "\n" not in str(refused.value)


def test_a_field_that_a_later_version_adds_leaves_old_records_good(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = ensure(tiny(), place)
    described = jobs.described

    def with_one_more(settings: Any, defaults: bool = True) -> Any:
        values = described(settings, defaults)
        return {**values, "label_smoothing": 0.0} if defaults else values

    monkeypatch.setattr(jobs, "described", with_one_more)
    assert ensure(tiny(), place) == record


# Weights


@pytest.mark.parametrize("noise", [Noise(), Noise(a=0.05)], ids=["baseline", "smoothout"])
def test_weights_that_are_missing_are_made_again_the_same(
    place: Workplace, trainings: list[Snapshot | None], noise: Noise
) -> None:
    job = tiny(perturbation=noise)
    ensure(job, place)
    first = checkpoint.load(checkpoint_of(job, place), job.digest)
    checkpoint_of(job, place).unlink()
    again = trained(job, place)
    assert len(trainings) == 2
    assert same(again.model, first.model)
    assert same(again.best, first.best)
    assert checkpoint_of(job, place).exists()


def test_an_analysis_of_weights_that_another_machine_rounded_otherwise_is_known(place: Workplace) -> None:
    run = tiny()
    job = Job(NoiseCurve(strengths=(0.0, 0.1), draws=1, examples=50), (run,))
    curve = ensure(job, place)
    assert curve.outcome["weights"] == [ensure(run, place).outcome["weights"]["best"]]
    assert jobs.of_other_weights([run, job], place) == []
    path = checkpoint_of(run, place)
    snapshot = checkpoint.load(path, run.digest)
    next(iter(snapshot.best.values())).mul_(1 + 1e-6)
    checkpoint.save(path, snapshot, run.digest)
    assert jobs.of_other_weights([run, job], place) == []
    (Path(place.folders.results) / job.kind / f"{job.name}.json").unlink()
    ensure(job, place)
    assert jobs.of_other_weights([run, job], place) == [run.name]


def test_finished_weights_are_read_and_not_trained_again(place: Workplace, trainings: list[Snapshot | None]) -> None:
    job = tiny()
    ensure(job, place)
    record_of(job, place).unlink()
    ensure(job, place)
    assert len(trainings) == 1


def test_a_finished_checkpoint_holds_no_optimizer(place: Workplace) -> None:
    ensure(tiny(), place)
    assert checkpoint.load(checkpoint_of(tiny(), place), tiny().digest).optimizer == {}


def _stopping_after(updates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for an end of the work after so many updates."""
    done = iter(range(1, updates + 1))
    monkeypatch.setattr(progress, "asked_to_stop", lambda: False)

    def stop() -> None:
        if next(done) == updates:
            raise progress.Interrupted(15)

    monkeypatch.setattr(progress, "stop_if_asked", stop)


RUNS = {
    "adam": {"perturbation": Noise(a=0.05)},
    "adam made anew every epoch": {
        "optimizer": Adam(lr=0.01, clip_norm=0.5, weight_decay=1e-3, reset_every_epoch=True),
        "perturbation": Noise(a=0.1, scaling=Scaling.filter, course=Course.tanh_falling),
        "batch": Batch(128, ghost=32),
    },
    "momentum with a drop": {
        "optimizer": Momentum(lr=0.1, weight_decay=1e-4),
        "schedule": Schedule(2, drops=(1,)),
        "perturbation": Noise(a=0.05, law=Law.gaussian, denoise=False),
    },
    "copies": {"perturbation": Noise(a=0.05, copies=2)},
}


@pytest.fixture(scope="module", params=RUNS)
def unbroken(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Record]:
    """A training, and its record when nothing interrupts it."""
    job = tiny(**RUNS[request.param])
    return job, ensure(job, workplace(tmp_path_factory.mktemp("unbroken")))


@pytest.mark.parametrize("updates", [1, UPDATES, UPDATES + 5, 2 * UPDATES])
def test_a_run_that_is_stopped_after_any_update_ends_with_the_same_bits(
    unbroken: tuple[Job, Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trainings: list[Snapshot | None],
    updates: int,
) -> None:
    job, expected = unbroken
    place = workplace(tmp_path, checkpoint_seconds=-1.0)
    with monkeypatch.context() as patch:
        _stopping_after(updates, patch)
        with pytest.raises(progress.Interrupted):
            ensure(job, place)
    assert not record_of(job, place).exists()
    left = checkpoint.load(checkpoint_of(job, place), job.digest)
    assert left.epoch * UPDATES + left.step == updates
    record = ensure(job, place)
    assert len(trainings) == 2
    assert trainings[1] is not None
    assert record.outcome["weights"] == expected.outcome["weights"]
    for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy"):
        assert record.outcome["curves"][name] == expected.outcome["curves"][name]
    assert record.outcome["best"] == expected.outcome["best"]
    assert record.outcome["last"] == expected.outcome["last"]


def test_a_run_that_goes_on_elsewhere_says_so(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tiny()
    with monkeypatch.context() as patch:
        _stopping_after(3, patch)
        patch.setattr(progress, "asked_to_stop", lambda: True)
        with pytest.raises(progress.Interrupted):
            ensure(job, place)
    here = work.environment(place.device)
    monkeypatch.setattr(work, "environment", lambda device: {**here, "threads": 64})
    assert [machine["threads"] for machine in ensure(job, place).outcome["machines"]] == [here["threads"], 64]


def test_a_request_to_stop_keeps_a_checkpoint_and_makes_no_record(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tiny()
    _stopping_after(5, monkeypatch)
    with pytest.raises(progress.Interrupted):
        ensure(job, place)
    assert not checkpoint_of(job, place).exists(), "nobody asked, and the time between checkpoints is not over"
    _stopping_after(5, monkeypatch)
    monkeypatch.setattr(progress, "asked_to_stop", lambda: True)
    with pytest.raises(progress.Interrupted):
        ensure(job, place)
    assert checkpoint.load(checkpoint_of(job, place), job.digest).step == 5
    assert not record_of(job, place).exists()


def _start_weights(job: Job, place: Workplace, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """The weights that the training of ``job`` is started with."""
    found: dict[str, Tensor] = {}

    def look(model: nn.Module, *_: Any, **__: Any) -> None:
        found.update({name: tensor.clone() for name, tensor in model.state_dict().items()})
        raise progress.Interrupted(15)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "Training", look)
        with pytest.raises(progress.Interrupted):
            ensure(job, place)
    return found


def test_the_same_seed_gives_all_methods_the_same_start(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(**changes: Any) -> dict[str, Tensor]:
        torch.rand(3)  # what was drawn before does not matter
        return _start_weights(tiny(batchnorm_start=BatchNormStart.uniform, **changes), place, monkeypatch)

    baseline = start()
    assert same(start(perturbation=Noise(a=0.05)), baseline)
    assert same(start(perturbation=Noise(a=0.1, scaling=Scaling.filter)), baseline)
    assert same(start(batch=Batch(700), optimizer=Momentum(lr=0.1)), baseline)
    other = start(seed=1)
    assert not any(torch.equal(other[name], baseline[name]) for name in baseline if baseline[name].ndim == 2)


def test_batchnorm_starts_at_one_or_uniformly_as_asked(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    one = _start_weights(tiny(), place, monkeypatch)
    uniform = _start_weights(tiny(batchnorm_start=BatchNormStart.uniform), place, monkeypatch)
    differ = {name for name in one if not torch.equal(one[name], uniform[name])}
    assert differ == {"2.weight", "5.weight"}  # the BatchNorm layers of the two hidden layers
    for name in differ:
        assert torch.equal(one[name], torch.ones(16))
        assert 0 <= uniform[name].min() < uniform[name].max() < 1


def test_training_leaves_the_global_generator_alone(place: Workplace) -> None:
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    ensure(tiny(perturbation=Noise(a=0.05)), place)
    assert torch.equal(torch.rand(4), expected)


# What cannot be run leaves no trace


def _bad_digits(folder: Path) -> None:
    folder.mkdir(parents=True)
    images, labels = np.zeros((8, 8, 8), np.uint8), np.zeros(8, np.int64)
    np.savez(folder / "digits.npz", x_train=images, y_train=labels + 10, x_test=images, y_test=labels)


def _torn_digits(folder: Path) -> None:
    _bad_digits(folder)
    path = folder / "digits.npz"
    path.write_bytes(path.read_bytes()[:100])


BAD_JOBS: dict[str, tuple[Job, Callable[[Path], None] | None, type[Exception], str]] = {
    "a batch above the data set": (
        tiny(batch=Batch(1439)),
        None,
        SettingsError,
        r"^batch.size: 1439 is more than the 1438 training examples in use$",
    ),
    "a last batch of one example before BatchNorm": (
        tiny(batch=Batch(479)),
        None,
        SettingsError,
        r"^batch.size: the last .* batch has 1 example, and BatchNorm needs 2; take another size$",
    ),
    "a model that images are too small for": (
        tiny(model=Shallow()),
        None,
        SettingsError,
        r"^model: .* at least 11x11 pixels, not 8x8$",
    ),
    "missing data": (
        tiny(data=Images(Name.mnist, (0.5,), (0.5,))),
        None,
        DataError,
        r"^data: mnist was not found: looked for .*mnist.npz; run `python scripts/prepare_data.py",
    ),
    "damaged data": (tiny(), _torn_digits, DataError, r"^data: .*digits.npz is damaged"),
    "wrong data": (tiny(), _bad_digits, DataError, r"^data: .*digits.npz: y_train must lie in 0..9; it has 10..10$"),
}


@pytest.mark.parametrize("what", BAD_JOBS)
def test_what_cannot_be_run_is_refused_in_one_line_and_leaves_no_trace(place: Workplace, what: str) -> None:
    job, prepare, error, message = BAD_JOBS[what]
    root = Path(place.folders.data).parent
    if prepare:
        prepare(Path(place.folders.data))
    before = tree(root)
    with pytest.raises(error, match=message) as refused:
        ensure(job, place)
    assert len(str(refused.value).splitlines()) == 1
    assert tree(root) == before


def _of_another_run(path: Path, place: Workplace) -> None:
    other = tiny(seed=7)
    trained(other, place)
    checkpoint_of(other, place).rename(path)


def _torn(path: Path, place: Workplace) -> None:
    trained(tiny(), place)
    path.write_bytes(path.read_bytes()[:-200])


def _empty(path: Path, place: Workplace) -> None:
    path.parent.mkdir()
    path.touch()


def _text(path: Path, place: Workplace) -> None:
    path.parent.mkdir()
    path.write_text("no tensors")


def _foreign(path: Path, place: Workplace) -> None:
    path.parent.mkdir()
    torch.save({"state_dict": {"weight": torch.zeros(2)}}, path)


def _runs_code(path: Path, place: Workplace) -> None:
    path.parent.mkdir()
    torch.save({"json": Path("of a class that is no tensor")}, path)


BAD_CHECKPOINTS = {
    _of_another_run: "belongs to another run",
    _torn: "is damaged",
    _empty: "is damaged",
    _text: "is damaged",
    _foreign: "is damaged or no checkpoint of this program",
    _runs_code: "is damaged or no checkpoint of this program",
}


@pytest.mark.parametrize("spoil", BAD_CHECKPOINTS, ids=lambda spoil: spoil.__name__.strip("_"))
def test_a_checkpoint_that_cannot_be_used_is_refused_by_name_and_kept(
    place: Workplace, spoil: Callable[[Path, Workplace], None]
) -> None:
    path = checkpoint_of(tiny(), place)
    spoil(path, place)
    root = Path(place.folders.data).parent
    before = tree(root)
    with pytest.raises(CheckpointError, match=BAD_CHECKPOINTS[spoil]) as refused:
        ensure(tiny(), place)
    assert str(path) in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert tree(root) == before


def test_a_fault_in_the_training_leaves_no_record(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(runs, "Training", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            ensure(tiny(), place)
    assert not record_of(tiny(), place).exists()
    assert ensure(tiny(), place).name == tiny().name


# Two at once


def test_two_that_want_the_same_record_at_once_train_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    train = runs.Training

    def slow(*arguments: Any, **settings: Any) -> Training:
        calls.append(threading.current_thread().name)
        time.sleep(0.3)  # long enough for the other one to arrive
        return train(*arguments, **settings)

    monkeypatch.setattr(runs, "Training", slow)
    both = threading.Barrier(2)
    made: list[Record] = []

    def one() -> None:
        both.wait()
        made.append(ensure(tiny(), workplace(tmp_path)))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(calls) == 1
    assert len(made) == 2
    assert made[0] == made[1]


# Several in turn


@dataclass(frozen=True)
class Dropping(MLP):
    """A network whose dropout draws from torch's one global generator, which trainings in turn share."""

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Sequential:
        *layers, last = super().build(shape, classes)
        return nn.Sequential(*layers, nn.Dropout(0.5), last)


CROWD = [
    tiny(perturbation=Noise(a=0.05), model=Dropping(16, 2)),
    tiny(batch=Batch(300), schedule=Schedule(1)),  # 5 updates, the others have 24
    tiny(optimizer=Momentum(lr=0.1), schedule=Schedule(2, drops=(1,)), perturbation=Noise(a=0.05, law=Law.gaussian)),
    tiny(model=Dropping(16, 2), batch=Batch(128, ghost=32), seed=1),
    tiny(optimizer=Adam(lr=0.01, reset_every_epoch=True), perturbation=Noise(a=0.05, copies=2)),
]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[Job, Record]:
    """What each of the crowd's trainings comes to when nothing else is trained beside it."""
    return {job: ensure(job, workplace(tmp_path_factory.mktemp("alone"))) for job in CROWD}


def lasting(record: Record) -> dict[str, Any]:
    """An outcome without its times and machines."""
    measured = {"wall_seconds", "train_seconds", "peak_memory", "machines"}
    out = {name: value for name, value in record.outcome.items() if name not in measured}
    return {**out, "curves": {name: values for name, values in out["curves"].items() if name != "seconds"}}


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Fills with the job of every update, in the order in which they are made."""
    made: list[Job] = []

    def watched(job: Job, place: Workplace) -> Generator[None, None, Snapshot]:
        steps = runs.training(job, place)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                return done.value
            made.append(job)
            yield True

    monkeypatch.setattr(jobs, "training", watched)
    return made


def most_at_once(updates: list[Job]) -> int:
    """The largest number of trainings that were begun and not yet ended."""
    spans = [(updates.index(job), len(updates) - updates[::-1].index(job)) for job in set(updates)]
    return max(sum(first <= now < last for first, last in spans) for now in range(len(updates)))


def noted(wanted: list[Job], asked: list[Job]) -> Iterator[Job]:
    """The jobs one by one; each stands in ``asked`` as soon as somebody wants it."""
    for job in wanted:
        asked.append(job)
        yield job


@pytest.mark.parametrize(("turns", "most"), [(None, 1), (1, 1), (3, 3), (9, 5)])
def test_trainings_that_take_turns_end_with_the_bits_of_each_alone(
    tmp_path: Path, alone: dict[Job, Record], updates: list[Job], turns: int | None, most: int
) -> None:
    made = dict(together(CROWD, workplace(tmp_path, engine=Engine(together=turns))))
    assert made.keys() == alone.keys()
    for job, record in made.items():
        assert isinstance(record, Record)
        assert lasting(record) == lasting(alone[job])
    assert most_at_once(updates) == most
    assert [updates.count(job) for job in CROWD] == [24, 5, 24, 24, 24]


def test_trainings_take_turns_update_by_update_and_the_next_begins_when_one_ends(
    tmp_path: Path, updates: list[Job]
) -> None:
    made = [job for job, _ in together(CROWD, workplace(tmp_path, engine=Engine(together=3)))]
    first, short, third, fourth, fifth = CROWD
    assert updates[:15] == [first, short, third] * 5
    assert updates[15:20] == [first, third, first, third, fourth]
    assert made == [short, first, third, fourth, fifth]


def test_an_error_in_one_training_sinks_no_other(
    tmp_path: Path, alone: dict[Job, Record], updates: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    impossible, failing = tiny(batch=Batch(1439)), CROWD[2]
    watched = jobs.training

    def training(job: Job, place: Workplace) -> Generator[None, None, Snapshot]:
        steps = watched(job, place)
        if job is not failing:
            return (yield from steps)
        for _ in range(7):
            next(steps)
            yield True
        raise RuntimeError("out of memory")

    place = workplace(tmp_path, engine=Engine(together=3))
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "training", training)
        outcomes = list(together([impossible, *CROWD], place))
    made = dict(outcomes)
    assert len(outcomes) == len(made) == 6
    assert isinstance(made.pop(impossible), SettingsError)
    error = made.pop(failing)
    assert isinstance(error, RuntimeError)
    assert str(error) == "out of memory"
    assert updates.count(failing) == 7
    for job, record in made.items():
        assert isinstance(record, Record)
        assert lasting(record) == lasting(alone[job])
    assert not record_of(failing, place).exists()
    assert lasting(ensure(failing, place)) == lasting(alone[failing]), "it can be made once what was wrong is put right"


def test_a_request_to_stop_leaves_a_checkpoint_of_every_training_under_way_and_they_go_on_to_the_same_bits(
    tmp_path: Path, alone: dict[Job, Record], monkeypatch: pytest.MonkeyPatch, trainings: list[Snapshot | None]
) -> None:
    place, pending, asked = workplace(tmp_path, engine=Engine(together=3)), list[int](), list[Job]()
    monkeypatch.setattr(progress, "_pending", pending)
    first, short, third, fourth, fifth = CROWD
    came: dict[Job, Record | Exception] = {}
    step, steps = progress.Bar.step, list[int]()

    def step_and_interrupt(bar: progress.Bar, note: str | None = None) -> None:
        step(bar, note)
        steps.append(1)
        if len(steps) == 22:
            pending.append(2)

    monkeypatch.setattr(progress.Bar, "step", step_and_interrupt)
    with pytest.raises(progress.Interrupted, match="by SIGINT; the same command goes on from here"):
        came.update(together(noted(CROWD, asked), place))
    assert list(came) == [short], "what was done before stays"
    assert asked == [first, short, third, fourth], "nothing new is begun"
    left = {job: checkpoint.load(checkpoint_of(job, place), job.digest) for job in (first, third, fourth)}
    assert [now.epoch * UPDATES + now.step for now in left.values()] == [9, 8, 2]
    assert len(steps) == 5 + 9 + 8 + 2, "the third was asked within its update, the others stop after their next one"
    assert not checkpoint_of(fifth, place).exists()
    assert not any(record_of(job, place).exists() for job in (first, third, fourth, fifth))
    pending.clear()
    trainings.clear()
    came |= together(CROWD, place)
    assert [snapshot is not None for snapshot in trainings] == [True, True, True, False]
    for job, record in came.items():
        assert isinstance(record, Record)
        assert lasting(record) == lasting(alone[job])
    assert came.keys() == alone.keys()


@pytest.mark.parametrize("turns", [1, 3])
def test_jobs_are_asked_for_one_by_one_as_there_is_room(tmp_path: Path, turns: int) -> None:
    """So whoever gives them may look at the outcomes so far."""
    asked, came = list[Job](), list[Job]()
    for job, _ in together(noted(CROWD, asked), workplace(tmp_path, engine=Engine(together=turns))):
        assert len(asked) <= len(came) + turns
        came.append(job)
    assert asked == CROWD
    assert {job.digest for job in came} == {job.digest for job in CROWD}


def test_records_that_are_there_come_without_training(tmp_path: Path, trainings: list[Snapshot | None]) -> None:
    place = workplace(tmp_path, engine=Engine(together=2))
    there = {job: ensure(job, place) for job in (CROWD[1], CROWD[4])}
    shutil.rmtree(place.folders.checkpoints)
    trainings.clear()
    assert dict(together(there, place)) == there
    assert not trainings
    outcomes = dict(together(CROWD[:2], place))
    assert outcomes[CROWD[1]] == there[CROWD[1]]
    assert len(trainings) == 1


def test_nothing_to_do_is_done_at_once(place: Workplace) -> None:
    assert list(together([], place)) == []


def test_two_analyses_at_once_of_a_run_whose_weights_are_gone_train_it_once(
    tmp_path: Path, trainings: list[Snapshot | None]
) -> None:
    place, run = workplace(tmp_path, engine=Engine(together=2)), CROWD[0]
    ensure(run, place)
    checkpoint_of(run, place).unlink()
    trainings.clear()
    analyses = [Job(NoiseCurve(strengths=(0.0, 0.1), examples=20, seed=seed), (run,)) for seed in (0, 1)]
    outcomes = dict(together(analyses, place))
    assert all(isinstance(outcome, Record) for outcome in outcomes.values()), outcomes
    assert len(trainings) == 1


def test_a_job_given_twice_is_made_once(tmp_path: Path, trainings: list[Snapshot | None]) -> None:
    [(job, outcome)] = together([tiny(), tiny()], workplace(tmp_path, engine=Engine(together=2)))
    assert job == tiny()
    assert isinstance(outcome, Record)
    assert len(trainings) == 1


def test_a_job_that_another_process_makes_does_not_hold_up_the_others(tmp_path: Path) -> None:
    place = workplace(tmp_path, engine=Engine(together=2))
    order = []
    lock = place.ledger.lock("train", tiny().digest)
    lock.acquire()
    for job, outcome in together([tiny(), tiny(seed=1), tiny(seed=2)], place):
        assert isinstance(outcome, Record)
        order.append(job.settings.seed)
        if len(order) == 2:
            lock.release()
    assert order == [1, 2, 0]


def test_ctrl_c_from_nowhere_ends_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside the programs nobody turns the signal into a request: all stop, and go on from their last checkpoints."""
    place = workplace(tmp_path, engine=Engine(together=2), checkpoint_seconds=0.0)
    steps, step = [], runs.progress.Bar.step

    def pressed(bar: Any, note: str | None = None) -> None:
        steps.append(bar)
        if len(steps) == 7:
            raise KeyboardInterrupt
        step(bar, note)

    with monkeypatch.context() as patch:
        patch.setattr(runs.progress.Bar, "step", pressed)
        with pytest.raises(KeyboardInterrupt):
            list(together([tiny(), tiny(seed=1)], place))
    assert len(steps) == 7
    assert all(isinstance(outcome, Record) for _, outcome in together([tiny(), tiny(seed=1)], place))


# TensorBoard


def test_tensorboard_gets_the_records_curves(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    job, place = tiny(), workplace(tmp_path, tensorboard=True)
    curves = ensure(job, place).outcome["curves"]
    events = EventAccumulator(str(tmp_path / "logs" / "tensorboard" / job.name)).Reload()
    for name in ("train_loss", "test_accuracy"):
        scalars = events.Scalars(name)
        assert [event.step for event in scalars] == [0, 1]
        assert [event.value for event in scalars] == pytest.approx(curves[name], rel=1e-6)


def test_without_tensorboard_a_run_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert len(ensure(tiny(), workplace(tmp_path, tensorboard=True)).outcome["curves"]["test_loss"]) == 2
    assert "tensorboard is not installed" in capsys.readouterr().err
