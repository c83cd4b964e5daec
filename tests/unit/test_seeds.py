"""Every test starts from its own seed."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from helpers.common import seed_of, start_from
from hypothesis import given
from hypothesis import strategies as st


def test_the_global_generators_start_from_the_seed_of_the_tests_name(request: pytest.FixtureRequest) -> None:
    seed = seed_of(request.node.nodeid)
    assert torch.initial_seed() == seed
    assert random.getstate() == random.Random(seed).getstate()
    assert np.array_equal(np.random.get_state()[1], np.random.RandomState(seed).get_state()[1])  # noqa: NPY002


def test_a_seed_is_the_same_in_every_process_and_another_for_another_name_or_base() -> None:
    assert seed_of("a.py::test", "0") == 745735127
    assert len({seed_of("a.py::test", "0"), seed_of("a.py::test", "1"), seed_of("b.py::test", "0")}) == 3


def test_hypothesis_draws_by_the_seed_too() -> None:
    def drawn(seed: int) -> list[int]:
        found = []

        @given(st.integers(0, 2**60))
        def test(number: int) -> None:
            found.append(number)

        start_from(seed, test)
        test()
        return found

    assert drawn(1) == drawn(1) != drawn(2)
