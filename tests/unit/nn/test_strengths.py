"""A strength may be any real number, and copies and ghost batches any whole one, whatever library they come from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from smoothout import SmoothOut, SmoothOutCopies, ghosted


@pytest.mark.parametrize("a", [np.float32(0.5), np.float64(0.5), np.int64(1), 1])
def test_a_strength_is_taken_as_a_float(a: Any) -> None:
    assert SmoothOut(nn.Linear(2, 2), a).a == float(a)


@pytest.mark.parametrize("a", ["0.5", None, np.array([0.5]), 1j, np.float32("nan")])
def test_what_is_no_finite_number_is_refused(a: Any) -> None:
    with pytest.raises(ValueError, match=r"^a: .* finite number >= 0, not "):
        SmoothOut(nn.Linear(2, 2), a)


def drawn(copies: Any, seed: Any) -> list[torch.Tensor]:
    model, weights = nn.Linear(2, 2), []
    with torch.no_grad():
        model.weight.zero_()
    for copy in SmoothOutCopies(SmoothOut(model, 0.1), copies, seed):
        with copy:
            weights.append(model.weight.detach().clone())
    return weights


def test_copies_and_their_seed_are_numbers_whatever_their_type() -> None:
    expected = drawn(2, 3)
    for two, three in ((np.int32(2), np.int64(3)), (torch.tensor(2), torch.tensor(3))):
        found = drawn(two, three)
        assert len(found) == 2
        assert all(map(torch.equal, found, expected))
    for copies, seed, line in (
        (2.0, 3, "^copies: .* at least 1, not 2.0"),
        (2, 3.0, "^seed: .* whole number, not 3.0"),
    ):
        with pytest.raises(ValueError, match=line):
            SmoothOutCopies(SmoothOut(nn.Linear(2, 2), 0.1), copies, seed)  # type: ignore[arg-type]


def test_ghost_batches_are_a_number_whatever_its_type() -> None:
    x, outputs = torch.randn(8, 3), []
    for ghosts in (2, np.int64(2), torch.tensor(2)):
        with ghosted(model := nn.BatchNorm1d(3), ghosts):
            outputs.append(model(x))
    assert all(torch.equal(outputs[0], other) for other in outputs)
    with pytest.raises(ValueError, match=r"^ghosts: .* at least 1, not 2\.5"), ghosted(nn.BatchNorm1d(3), 2.5):  # type: ignore[arg-type]
        pass
