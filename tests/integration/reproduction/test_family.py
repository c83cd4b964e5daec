"""The table of SmoothOut's family: what its rows compare, and its searches and its best methods from records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.paths import CONFIGS
from helpers.tiny_jobs import workplace

from smoothout.common.errors import ConfigError
from smoothout.config.compose import compose_config
from smoothout.jobs.runner import get_or_run
from smoothout.reproduction.table import RunSelection, TablePlan

PUBLISHED = CONFIGS.parent / "results" / "published"
SHORT = RunSelection(profile="short", seeds=(0, 1))


def plan(table: dict[str, Any], selection: RunSelection | None = None) -> TablePlan:
    return TablePlan(table, selection or RunSelection(), CONFIGS, PUBLISHED)


@pytest.fixture(scope="module", params=["family", "family-c1"])
def family(request: pytest.FixtureRequest) -> dict[str, Any]:
    return compose_config(CONFIGS, "reproduce", [f"table={request.param}"])["table"]  # type: ignore[no-any-return]


FIFTH = {"family": 40, "family-c1": 20}  # of the epochs


def with_strengths(table: dict[str, Any]) -> TablePlan:
    """The table as if every search had chosen its first value."""
    methods = {
        name: {**method, "strengths": {}, "overrides": [*method["overrides"], f"{key}={values[0]}"]}
        for name, method in table["methods"].items()
        for key, values in (*method.get("strengths", {}).items(), ("epoch_multiplier", [1]))[:1]
    }
    methods["longer"], methods["smoothout"] = (
        table["methods"]["longer"],
        {**methods["smoothout"], "chosen_strength": False},
    )
    rows = [row for row in table["rows"] if not row.get("best_methods")]
    return plan({**table, "methods": methods, "rows": rows, "strength_choice": None})


def test_every_searched_method_has_a_grid_of_five_and_trainings_of_a_fifth_without_test_images(family: Any) -> None:
    searches = plan(family).unique_searches
    assert len(searches) == 12
    for search in searches:
        trainings = [job.settings for job in search.choice.dependencies]
        assert len(trainings) == 5
        assert len({training.method for training in trainings}) == 5
        assert {(t.schedule.epochs, t.data.validation_size, t.batch.size) for t in trainings} == {
            (FIFTH[family["name"]], 6000, 256)
        }


@pytest.mark.parametrize("profile", ["short", "smoke"])
def test_a_fifth_is_a_fifth_of_every_profile(family: Any, profile: str) -> None:
    runs = plan(family, RunSelection(profile=profile)).runs
    fifth, full = (
        runs[f"large batch, {what}", "baseline"].settings.experiment().schedule.epochs
        for what in ("equal epochs", "full length")
    )
    assert fifth == max(1, full // 5)


def test_rows_that_are_asked_for_need_only_the_searches_of_their_methods(family: Any) -> None:
    table = plan(family)
    assert table.of_rows(["equal noise"]).unique_searches == []
    assert table.of_rows(["full length"]).searches == table.of_rows(["equal epochs"]).searches == table.searches


def test_rows_have_equal_epochs_or_equal_gradients(family: Any) -> None:
    table, fifth = with_strengths(family), FIFTH[family["name"]]
    for batch in ("small", "large"):
        of_row = {
            what: {
                method: runs.settings.experiment()
                for (row, method), runs in table.runs.items()
                if row == f"{batch} batch, {what}"
            }
            for what in ("equal epochs", "equal gradients", "equal noise")
        }
        epochs = {name: run.schedule.epochs for name, run in of_row["equal epochs"].items()}
        assert epochs.pop("longer") == 2 * fifth
        assert set(epochs.values()) == {fifth}
        assert ("augmentation" in epochs) == (family["name"] == "family-c1")
        epochs.pop("augmentation", None)
        assert len(epochs) == 16
        gradients = {n: r.schedule.epochs * r.method.passes for n, r in of_row["equal gradients"].items()}
        assert gradients.pop("conservative") == pytest.approx(fifth, abs=1.5), "three in an epoch"
        assert set(gradients.values()) == {fifth}
        assert {*gradients, "conservative"} == epochs.keys()
        equal = of_row["equal noise"]
        torch.manual_seed(0)
        settings = next(iter(equal.values()))
        model = settings.model.build(settings.data.shape, settings.data.classes)
        strengths = {name: run.method.relative_strength(model, 0, 1) for name, run in equal.items()}
        assert strengths.pop("baseline") is None
        assert list(strengths.values()) == pytest.approx([0.15] * 3, rel=0.02)


def tiny(*, best: int | None = None) -> dict[str, Any]:
    """The family's form on digits."""
    setting = ["experiment=digits", "model.width=16", "schedule.epochs=150"]
    rows = [{"name": "digits", "overrides": [*setting, "batch=large"]}]
    return {
        "name": "tiny",
        "title": "tiny",
        "metrics": ["best", "last"],
        "strength_choice": {
            "overrides": [*setting, "batch=small", "method=smoothout", "data.validation_size=200"],
            "grid": {"strengths": [0.01, 50], "seeds": [0]},
        },
        "methods": {
            "baseline": {"title": "Baseline", "overrides": ["method=none"]},
            "smoothout": {"title": "SmoothOut", "overrides": ["method=smoothout"], "chosen_strength": True},
            "sam": {"title": "SAM", "overrides": ["method=sam"], "strengths": {"method.rho": [0.05, 500]}},
            "nso": {"title": "NSO", "overrides": ["method=nso"], "strengths": {"method.sigma": [50, 60]}},
        },
        "rows": [*rows, *([{**rows[0], "name": "best", "best_methods": best}] if best else [])],
    }


def test_each_method_takes_the_strength_that_did_best_and_the_best_go_on(tmp_path: Path) -> None:
    runtime, table = workplace(tmp_path), plan(tiny(best=2), SHORT)
    assert {method for _, method in table.runs} == {"baseline"}, "nothing is planned before the choice"
    assert "not chosen yet: the table's first 6 trainings" in table.choice_notes[-1]
    for search in table.unique_searches[:2]:
        get_or_run(search.choice, runtime)
    assert {m for row, m in table.with_choice(runtime).runs if row == "best"} == {"baseline"}, "one has not chosen"
    get_or_run(table.unique_searches[2].choice, runtime)
    chosen = table.with_choice(runtime)
    strengths = {
        name: runs.settings.experiment().method for (row, name), runs in chosen.runs.items() if row == "digits"
    }
    assert (strengths["smoothout"].a, strengths["sam"].rho) == (0.01, 0.05)
    assert chosen.methods["sam"].title == "SAM, rho = 0.05"
    assert {m for row, m in chosen.runs if row == "best"} == {"baseline", "smoothout", "sam"}
    assert any(
        note.startswith("Strength of SAM: rho = 0.05 has the best mean accuracy") for note in chosen.choice_notes
    )
    for job in chosen.jobs():
        outcome = get_or_run(job, runtime).outcome
        method = job.training_job.settings.method
        assert outcome.get("passes", 1) == method.passes
        assert ("relative_strength" in outcome) == (method.slug != "baseline")
    assert all(len(cell.values) == 2 for cell in chosen.render(runtime).cells)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strengths": {"method.rho": [1, 2]}, "chosen_strength": True}, "strengths, chosen_strength"),
        ({"strengths": {"rho": [1, 2]}}, r"strengths: must name one setting, as method\.KEY, not rho"),
        ({"strengths": {"method.a": [1, 2], "method.b": [1, 2]}}, "must name one setting"),
        ({"strengths": {"method.x": [1, 2]}}, r"method\.x: sam0\.05 has no such setting"),
        ({"strengths": {"method.rho": [-1, 2]}}, "must be at least two different numbers >= 0"),
        ({"strengths": {"method.rho": [0, 2]}}, r"method\.rho: must be a finite number above 0"),
    ],
)
def test_wrong_strengths_are_refused(change: dict[str, Any], message: str) -> None:
    table = tiny()
    table["methods"]["sam"] = {"title": "SAM", "overrides": ["method=sam"], **change}
    with pytest.raises((ConfigError, ValueError), match=message):
        plan(table)
