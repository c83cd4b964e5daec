"""Weights that were trained again, by what the records of analyses say of them."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.common import a_record

from smoothout.results.records import Record
from smoothout.results.retrained import WeightsSeen, agrees, weights_seen

BEST = {"train_loss": 1e-3, "train_accuracy": 1.0, "test_loss": 0.07, "test_accuracy": 0.985}
RUN = a_record(
    "train",
    {"best": BEST, "examples": {"train": 60_000, "test": 10_000}, "weights": {"best": "1b", "last": "2b"}},
)


def analysis(kind: str, settings: dict[str, Any] | None = None, **outcome: Any) -> Record:
    return a_record(kind, outcome, settings={"weights": "best", **(settings or {})})


@pytest.mark.parametrize(
    ("loss", "accuracy", "wanted"),
    [
        (0.07 * (1 + 5e-5), 0.985, True),
        (0.07 * (1 + 5e-4), 0.985, False),
        (0.07, 0.9851, True),
        (0.07, 0.9852, False),
        (0.07, None, True),
        (None, 0.985, False),
    ],
)
def test_two_evaluations_agree_up_to_float32s_rounding_and_one_image(
    loss: float | None, accuracy: float | None, wanted: bool
) -> None:
    assert agrees(RUN, "best", "test", loss, accuracy) is wanted


def test_weights_of_the_records_digest_are_the_records_whatever_was_measured() -> None:
    assert (
        weights_seen(analysis("sharpness", {"part": "train"}, loss=9.0, weights=["1b"]), 0, RUN) is WeightsSeen.recorded
    )
    assert weights_seen(analysis("sharpness", {"part": "train"}, loss=9.0), 0, RUN) is WeightsSeen.recorded


@pytest.mark.parametrize("mark", [{"weights": ["1c"]}, {"weights_remade": [True]}], ids=["digest", "early record"])
@pytest.mark.parametrize(("off", "wanted"), [(0.0, WeightsSeen.agreeing), (0.01, WeightsSeen.other)])
def test_other_digests_are_judged_by_what_the_analysis_measured_at_the_weights(
    mark: dict[str, Any], off: float, wanted: WeightsSeen
) -> None:
    test = {"loss": 0.07 + off, "accuracy": 0.985}
    train = {"loss": 1e-3, "accuracy": 1.0}
    line = {"losses": [1e-3], "accuracies": [1.0]}
    far = {"loss": 5.0, "accuracy": 0.1}
    for seen in (
        analysis("sharpness", {"part": "test"}, loss=test["loss"], **mark),
        analysis(
            "noise_curve",
            train={"points": [{"a": 0.0, **train}, {"a": 0.1, **far}]},
            test={"points": [{"a": 0.0, **test}]},
            **mark,
        ),
        analysis("averages", kept={"train": train, "test": test}, **mark),
        analysis(
            "landscape",
            train=[{"alpha": 0.0, **line}],
            test=[{"alpha": 0.0, "losses": [test["loss"]], "accuracies": [0.985]}],
            **mark,
        ),
        analysis(
            "interpolation",
            train=[{"alpha": 0.0, **train}],
            test=[{"alpha": 0.0, **test}, {"alpha": 1.0, **far}],
            **mark,
        ),
        analysis("hessian", retrained=[{"test_loss": test["loss"], "test_accuracy": 0.985}], **mark),
    ):
        assert weights_seen(seen, 0, RUN) is wanted, seen.kind


def test_the_second_network_of_an_interpolation_lies_at_1() -> None:
    points = [{"alpha": 0.0, "loss": 5.0, "accuracy": 0.1}, {"alpha": 1.0, "loss": 0.07, "accuracy": 0.985}]
    seen = analysis("interpolation", train=[], test=points, weights_remade=[False, True])
    assert weights_seen(seen, 1, RUN) is WeightsSeen.agreeing
    assert weights_seen(seen, 0, RUN) is WeightsSeen.recorded


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("plane", {}),
        ("sharpness", {"part": "train", "averages": "recomputed"}),
        ("sharpness", {"part": "train", "examples": 9}),
    ],
)
def test_without_a_number_that_the_record_has_too_nothing_is_claimed(kind: str, settings: dict[str, Any]) -> None:
    early = weights_seen(analysis(kind, settings, loss=1e-3, weights_remade=[True]), 0, RUN)
    assert early is WeightsSeen.unchecked
    assert "not compared" in early.words
    assert weights_seen(analysis(kind, settings, loss=1e-3, weights=["1c"]), 0, RUN) is WeightsSeen.other
