"""Numbers that are read from the records of analyses."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from smoothout.reproduction.metrics import METRICS


def read(metric: str, train: object, test: object = None) -> float | None:
    return METRICS[metric].read(SimpleNamespace(outcome={"train": train, "test": test or train}))


def curve(clean: float, before: float, noisy: float | None) -> dict[str, object]:
    points = [
        {"a": a, "loss": loss, "accuracy": 1 - a}
        for a, loss in ((0.0, clean), (0.03, before), (0.04, noisy), (0.05, 9.0))
    ]
    return {"points": points, "slopes": [0.0, None if noisy is None else (noisy - before) / 0.01, 1.0]}


def test_a_noise_curve_gives_the_rise_of_each_split_the_fall_of_accuracy_and_the_slope():
    train, test = curve(0.1, 0.3, 0.6), curve(0.2, 0.4, 0.5)
    found = {name: read(name, train, test) for name in ("noise_rise", "noise_rise_test", "noise_fall", "noise_slope")}
    assert found == pytest.approx({"noise_rise": 0.5, "noise_rise_test": 0.3, "noise_fall": 4.0, "noise_slope": 30.0})
    assert read("noise_fall_test", train, test) == pytest.approx(4.0)


@pytest.mark.parametrize("metric", ["noise_rise", "noise_rise_test", "noise_slope"])
def test_a_noise_curve_with_an_infinite_loss_has_none_of_them(metric):
    assert read(metric, curve(0.1, 0.3, None)) is None


def test_a_filter_normalized_line_gives_the_mean_rise_at_its_two_ends_over_all_directions():
    at = {-0.30000000000000004: [1.0, 2.0], 0.0: [0.5, 0.5], 0.30000000000000004: [3.0, 4.0], 1.0: [None, None]}
    line = [{"alpha": alpha, "losses": losses} for alpha, losses in at.items()]
    assert read("line_rise", line) == pytest.approx(2.0)
    assert read("line_rise_test", line, [*line[1:], {"alpha": -0.3, "losses": [None, 1.0]}]) is None


def test_the_distance_from_the_start_is_missing_in_records_that_were_made_before_it_was_measured():
    assert METRICS["distance"].read(SimpleNamespace(outcome={"last": {"distance": 3.5}})) == 3.5
    assert METRICS["distance"].read(SimpleNamespace(outcome={"last": {}})) is None


def of_epochs(metric: str, *accuracies: float) -> float | None:
    return METRICS[metric].read(SimpleNamespace(outcome={"curves": {"test_accuracy": accuracies}}))


def test_a_typical_late_epoch_is_the_median_of_the_last_quarter():
    assert of_epochs("late", 0.5) == pytest.approx(50.0)
    assert of_epochs("late", 0.1, 0.9) == pytest.approx(90.0)
    assert of_epochs("late", 0.9, 0.9, 0.9, 0.1, 0.3) == pytest.approx(20.0)
    assert of_epochs("late", *[0.9] * 9, 0.1, 0.7, 0.8) == pytest.approx(70.0)


def test_the_second_quarter_of_the_epochs_has_a_median_too():
    assert of_epochs("second_quarter", 0.5) == pytest.approx(50.0)
    assert of_epochs("second_quarter", *[0.9] * 3, 0.4, 0.6, 0.5, *[0.1] * 6) == pytest.approx(50.0)
