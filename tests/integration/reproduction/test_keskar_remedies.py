"""Tables 6 and 7 of Keskar et al., and robust training: published numbers, and what each column trains."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from helpers.paths import CONFIGS, PUBLISHED

from smoothout.config.compose import compose_config
from smoothout.data.augment import Augment
from smoothout.jobs.runtime import Folders, Runtime
from smoothout.reproduction.table import RunSelection, TablePlan
from smoothout.training.methods.adversarial import Adversarial
from smoothout.training.methods.conservative import Conservative
from smoothout.training.methods.sam import SAM
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.methods.stability import Stability

ROWS = {
    "keskar-table6": ["C1", "C2", "C3", "C4"],
    "keskar-table7": ["F1", "F2", "C1", "C2", "C3", "C4"],
    "keskar-robust": ["F1", "F2", "C1", "C2", "C3", "C4"],
}


@pytest.fixture(scope="module")
def plans() -> dict[str, TablePlan]:
    return {name: plan(name) for name in (*ROWS, "keskar-table2")}


def plan(name: str) -> TablePlan:
    table = compose_config(CONFIGS, "reproduce", [f"table={name}"])["table"]
    return TablePlan(table, RunSelection("keskar"), CONFIGS, PUBLISHED)


def training(plan: TablePlan, row: str, method: str) -> Any:
    [job] = plan.cell(row, method, "last").jobs.values()
    return job.settings


@pytest.mark.parametrize("name", ["keskar-table6", "keskar-table7"])
def test_without_records_every_published_number_and_its_spread_stand_beside_not_run(
    name: str, plans: dict[str, TablePlan], tmp_path: Any
) -> None:
    runtime = Runtime(Folders(*[str(tmp_path)] * 4), torch.device("cpu"))
    table = plans[name].render(runtime)
    published = pd.read_csv(PUBLISHED / f"{name}.csv").set_index("name")
    assert list(published.index) == ROWS[name]
    numbers = [column for column in published if not column.endswith("_sd")]
    truth = {(n, published[c][n], published[f"{c}_sd"][n]) for n in ROWS[name] for c in numbers}
    shown = {(cell.row, cell.published, cell.published_std) for cell in table.cells}
    assert {cell for cell in shown if cell[1] is not None} == truth
    assert all(cell.text(2).startswith("not run") for cell in table.cells if not cell.records)


@pytest.mark.parametrize("name", ROWS)
def test_the_large_batch_without_a_remedy_is_that_of_table_2(name: str, plans: dict[str, TablePlan]) -> None:
    for row in ROWS[name]:
        assert training(plans[name], row, "plain") == training(plans["keskar-table2"], row, "large")


def test_table_6_augments_both_batches(plans: dict[str, TablePlan]) -> None:
    table = plans["keskar-table6"]
    for row in ROWS["keskar-table6"]:
        for method in ("small", "large"):
            augmented, plain = training(table, row, method), training(plans["keskar-table2"], row, method)
            assert augmented == replace(plain, data=replace(plain.data, augment=Augment.affine_flip))


def test_the_other_tables_change_the_method_alone(plans: dict[str, TablePlan]) -> None:
    methods = {
        "keskar-table7": {"small": NoiseConfig(), "large": Conservative(1e-3, 3)},
        "keskar-robust": {"sam": SAM(0.05), "adversarial": Adversarial(0.25), "stability": Stability(0.01, 0.2)},
    }
    for name, columns in methods.items():
        for row in ROWS[name]:
            for column, method in columns.items():
                plain = training(plans["keskar-table2"], row, "small" if column == "small" else "large")
                changed = training(plans[name], row, column)
                assert changed.method.canonicalized() == method
                assert replace(changed, method=plain.method) == plain
