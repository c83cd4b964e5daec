"""Real numbers of any library are taken as floats, and nothing else is."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from smoothout.analysis.arguments import check_positive
from smoothout.common.reals import finite_numbers, finite_or_none
from smoothout.nn.options import check_strength

pd = pytest.importorskip("pandas", reason="comes with the extra [experiments]")

HALVES = [
    0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5, dtype=torch.bfloat16), pd.Series([0.5]).iloc[0],
    Decimal("0.5"), Fraction(1, 2),
]  # fmt: skip
OTHERS = [
    None, True, np.True_, torch.tensor(True), "0.5", 0.5j, np.complex64(0.5), torch.tensor(0.5j), [0.5], pd.NA,
    np.array([0.5]), torch.ones(2), math.nan, -math.inf, 10**400,
]  # fmt: skip


@pytest.mark.parametrize("half", HALVES, ids=repr)
def test_any_real_number_is_that_float(half: Any) -> None:
    assert [type(number) for number in (finite_or_none(half), check_strength(half))] == [float, float]
    assert (check_positive(eps=half), finite_numbers("alphas", [half, 2])) == ([0.5], [0.5, 2.0])


@pytest.mark.parametrize("value", OTHERS, ids=lambda value: repr(value)[:20])
def test_what_is_no_real_number_is_refused_by_name(value: Any) -> None:
    for name, refuse in (
        ("a", lambda: check_strength(value)),
        ("eps", lambda: check_positive(eps=value)),
        ("alphas", lambda: finite_numbers("alphas", [0.0, value])),
    ):
        with pytest.raises(ValueError, match=rf"^{name}: .*finite number"):
            refuse()


def test_numbers_come_in_anything_that_holds_them() -> None:
    for numbers in (np.array([0.0, 0.5]), torch.tensor([0.0, 0.5]), pd.Series([0.0, 0.5]), (x / 2 for x in range(2))):
        assert finite_numbers("alphas", numbers) == [0.0, 0.5]
    for single in (0.5, np.array(0.5), torch.tensor(0.5), None):
        with pytest.raises(ValueError, match=r"^alphas: must be a list of finite numbers, not "):
            finite_numbers("alphas", single)  # type: ignore[arg-type]
