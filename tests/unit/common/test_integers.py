"""Whole numbers of any library are taken, equal ones are the same number, and nothing else is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from smoothout.common.integers import whole_number
from smoothout.common.rng import derive_seed


class Index:
    def __index__(self) -> int:
        return 3

    def __repr__(self) -> str:
        return "Index()"


THREES = [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), torch.tensor(3, dtype=torch.uint8), Index()]


@pytest.mark.parametrize("three", THREES, ids=repr)
def test_any_integer_is_that_int_and_that_seed(three: Any) -> None:
    assert type(whole_number("count", three, 3)) is int
    assert whole_number("count", three) == 3
    assert derive_seed(three, "order") == derive_seed(3, "order")


@pytest.mark.parametrize(
    "value",
    [3.0, True, "3", None, np.float64(3), torch.tensor(3.0), np.array([3, 3]), [3], np.True_, torch.tensor(True)],
)
def test_what_is_no_integer_is_refused_by_name_and_value(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^seed: .* whole number, not ") as refused:
        derive_seed(value, "order")
    assert repr(value) in str(refused.value)


def test_a_number_below_the_least_is_refused_with_it() -> None:
    with pytest.raises(ValueError, match=r"^copies: .* at least 1, not .*0"):
        whole_number("copies", np.int64(0), 1)
