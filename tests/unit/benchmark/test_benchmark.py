"""The benchmark: ratios and verdicts by hand, work in a fresh process, and the report."""

from __future__ import annotations

import json
import re
from functools import partial

import pytest
import torch
from helpers.image_tree import tree

from smoothout.benchmark import comparisons, image_loading, report
from smoothout.benchmark.baselines import GrayImages, bare_updates, eager_steps, epoch_by_loader
from smoothout.benchmark.rows import Row, ratio_of
from smoothout.benchmark.timing import time_in_turn
from smoothout.benchmark.workloads import Workload
from smoothout.data.split import Split
from smoothout.models.mlp import MLP
from smoothout.training.methods.smoothout import NoiseConfig

CPU = torch.device("cpu")
ENVIRONMENT = {
    "processor": "Some CPU @ 3 GHz",
    "device": "cpu",
    "threads": 2,
    "cores": 2,
    "versions": {"torch": "2.0"},
    "commit": "abc",
}


def test_a_ratio_is_that_of_the_medians_and_its_spread_the_quartiles_turn_by_turn():
    assert ratio_of(ours=[1.0, 2.0, 9.0, 2.0], reference=[1.0] * 4) == (2.0, (1.25, 7.25))


def test_both_sides_are_timed_in_turn_each_going_first_every_other_time():
    order: list[str] = []
    works = {name: partial(order.append, name) for name in ("ours", "reference")}
    times = time_in_turn(works, CPU, turns=4, warm_up=1)
    assert order == ["ours", "reference"] + ["reference", "ours", "ours", "reference"] * 2
    assert len(times["ours"]) == len(times["reference"]) == 4


@pytest.mark.parametrize("make", [epoch_by_loader, eager_steps])
def test_the_ordinary_loops_run_on_the_device_they_are_given(make):
    """Told by the weights: tensors on the meta device hold none, so the loop cannot read its loss."""
    model = MLP(width=8, depth=1).build((1, 28, 28), 2)
    images = torch.zeros(8, 28, 28, dtype=torch.uint8).numpy(), torch.zeros(8, dtype=torch.int64).numpy()
    tensors = torch.zeros(8, 1, 28, 28), torch.zeros(8, dtype=torch.int64)
    make(model, *(images if make is epoch_by_loader else tensors), 4, "meta")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (Row("", 1.1, measured=1.1), True),
        (Row("", 1.1, measured=1.11), False),
        (Row("", 8, at_least=True, measured=8.1), True),
        (Row("", 8, at_least=True, measured=7.9), False),
        (Row("", 8), None),
        (Row("", measured=3.0), None),
    ],
)
def test_a_target_is_met_from_its_side(row, met):
    assert row.target_met is met


def test_the_ordinary_loops_images_are_the_trainers():
    images = torch.randint(0, 256, (5, 28, 28, 1), dtype=torch.uint8)
    split = Split(images, torch.arange(5), (0.5,), (0.5,))
    ordinary = GrayImages(images[..., 0].numpy(), split.labels.numpy())
    for index in range(5):
        image, label = ordinary[index]
        assert torch.allclose(image, split.gather(slice(index, index + 1))[0][0], atol=1e-6)
        assert label == index


def _accuracy(model: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    return float((model.eval()(inputs).argmax(1) == labels).float().mean())


def test_the_ordinary_loops_learn():
    """They are not straw men: they tell dark images from bright ones."""
    labels = torch.arange(64) % 2
    images = (labels.view(-1, 1, 1) * 200).expand(-1, 28, 28).to(torch.uint8)
    inputs = images.unsqueeze(1) / 127.5 - 1
    by_loader, on_one_batch, bare = (MLP(width=8, depth=1).build((1, 28, 28), 2) for _ in range(3))
    epoch = epoch_by_loader(by_loader, images.numpy(), labels.numpy(), 16, "cpu")
    for _ in range(6):
        epoch()
    eager_steps(on_one_batch, inputs, labels, 30, "cpu")()
    for _ in zip(range(30), bare_updates(bare, images.unsqueeze(1), labels, 16), strict=False):
        pass
    assert _accuracy(by_loader, inputs, labels) == 1
    assert _accuracy(on_one_batch, inputs, labels) == 1
    assert _accuracy(bare, inputs, labels) == 1


def test_image_files_are_read_against_torchvisions_pipeline_on_the_same_files(tmp_path, monkeypatch):
    tree(tmp_path / "imagenette", {"train": 4, "val": 1})
    monkeypatch.setattr(image_loading, "EXAMPLES", 20)
    [compared] = report.comparisons(CPU, tmp_path, ["images-alexnet"])
    row = compared()
    assert row.target_met is not None
    assert len(row.times["ours"]) == len(row.times["reference"]) == 5
    fastest = (20 / min(row.times[side]) for side in ("ours", "reference"))
    assert "best turn {:.0f} images/s, torchvision {:.0f}".format(*fastest) in row.note


def test_without_image_files_the_row_says_what_is_missing(tmp_path):
    [compared] = report.comparisons(CPU, tmp_path, ["images-alexnet"])
    row = compared()
    assert row.measured is None
    assert "imagenette was not found" in row.note


def test_the_report_says_what_was_reached_what_was_missed_and_what_was_not_measured(tmp_path):
    rows = [
        Row("one", 1.1, measured=1.05, spread=(1.0, 1.2), times={"ours": [1.0], "reference": [1.0]}),
        Row("two", 8, True, 3.0, (2.0, 4.0), "times as fast", "a note", [("aten::mm", 0.75)]),
        Row("three", measured=2.5, unit="s"),
    ]
    markdown, data = report.save(rows, CPU, ENVIRONMENT, tmp_path)
    text = markdown.read_text()
    assert markdown.name == "cpu-some-cpu-3-ghz-2-threads.md"
    assert re.search(r"\| one +\| <= 1.1 +\| 1.05 +\| 1 to 1.2 +\| met +\|", text)
    assert re.search(r"\| two +\| >= 8 times as fast +\| 3 times as fast +\| 2 to 4 +\| missed +\|", text)
    assert re.search(r"\| three +\| +\| 2.5 s +\|", text)
    assert "- two: aten::mm 75%." in text
    assert "- two: a note." in text
    assert "cuda: in-turn, cuda: table2" in text
    found = json.loads(data.read_text())
    assert [row["met"] for row in found["rows"]] == [True, False, None]
    assert found["environment"] == ENVIRONMENT


def test_a_comparison_gives_a_ratio_with_its_times(monkeypatch):
    """Of a small network."""
    monkeypatch.setattr(comparisons, "F1", Workload(MLP(64, 2), (1, 28, 28)))
    row = comparisons.trainer_update(CPU, noise=NoiseConfig(0.0375), target=1.1, what=" with SmoothOut")
    assert row.spread[0] <= row.spread[1]
    assert len(row.times["ours"]) == len(row.times["reference"]) >= 6
    assert sum(share for _, share in row.hot_spots) <= 1.0001
