"""(C_eps, A)-sharpness: a search that fails says so."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy
import torch
from helpers.known_maxima import CONVENTIONS, ONE_EXAMPLE, Landscape, height, quadratic
from torch import Tensor, nn

from smoothout.analysis.options import Convention
from smoothout.analysis.sharpness import sharpness


@pytest.fixture(scope="module")
def digits_minimum() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """An MLP trained on 200 real digits until its loss is below 5e-6."""
    data = pytest.importorskip("sklearn.datasets", reason="scikit-learn has the digits").load_digits()
    inputs = torch.tensor(data.data[:200] / 16.0, dtype=torch.float32)
    targets = torch.tensor(data.target[:200])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(2000):
        loss = nn.functional.cross_entropy(model(inputs), targets)
        if loss.item() < 5e-6:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-5
    return model, list(zip(inputs.split(64), targets.split(64), strict=True))


def test_on_converged_digits_keskars_search_fails_and_the_converged_one_rises(
    digits_minimum: tuple[nn.Module, list[tuple[Tensor, Tensor]]],
) -> None:
    model, batches = digits_minimum
    stopped = sharpness(model, batches, nn.functional.cross_entropy, convention="keskar")
    assert stopped.failed
    assert "NORM OF PROJECTED GRADIENT <= PGTOL" in stopped.status.replace("_", " ")  # scipy 1.12 has underscores
    assert (stopped.value, stopped.values, stopped.max_loss) == (0.0, (0.0,), stopped.loss)
    assert str(stopped) == f"failed ({stopped.status})"
    found = sharpness(model, batches, nn.functional.cross_entropy)
    assert not found.failed
    assert found.value > 0.0
    assert found.max_loss > 1.02 * found.loss
    assert str(found) == f"{found.value:.4g}%"


def test_at_a_smooth_minimum_the_released_sign_fails_where_the_right_one_rises() -> None:
    model = quadratic([1.0, -2.0, 0.5], [1e-3, -2e-3, 1e-3], [0.5, 1.0, 0.2])
    wrong = sharpness(model, ONE_EXAMPLE, height, convention="released")
    assert wrong.failed
    assert "ABNORMAL" in str(wrong)
    assert wrong.projected_gradient > 0.0
    for convention in ("keskar", "converged"):
        assert sharpness(model, ONE_EXAMPLE, height, convention=convention).value > 0.0


def test_the_released_sign_ends_where_scipy_ends_on_the_same_contradiction() -> None:
    x, slope, curvature = np.array([0.5, -1.0]), np.array([0.3, -0.2]), np.array([30.0, 5.0])

    def contradiction(w: np.ndarray) -> tuple[float, np.ndarray]:
        y = w - x
        return -(1.0 + slope @ y + 0.5 * curvature @ y**2), slope + curvature * y

    bounds = [(w - 0.1 * (abs(w) + 1.0), w + 0.1 * (abs(w) + 1.0)) for w in x]
    theirs, _, info = scipy.optimize.fmin_l_bfgs_b(contradiction, x, bounds=bounds, maxiter=10)
    found = sharpness(quadratic(x, slope, curvature), ONE_EXAMPLE, height, eps=0.1, convention="released")
    assert info["nit"] > 1
    assert found.max_loss == pytest.approx(-contradiction(theirs)[0], rel=1e-9)


def test_a_flat_loss_is_a_failed_search_in_every_convention() -> None:
    model = quadratic([1.0, 2.0], [0.0, 0.0], [0.0, 0.0])
    for convention in CONVENTIONS:
        found = sharpness(model, ONE_EXAMPLE, height, convention=convention, repeats=2)
        assert found.failed
        assert found.values == (0.0, 0.0)


@pytest.mark.parametrize("convention", [Convention.converged, Convention.keskar])
@pytest.mark.parametrize("wall", [0.02, 0.05])
def test_points_where_the_loss_is_not_finite_do_not_count_and_do_not_end_the_search(
    convention: Convention, wall: float
) -> None:
    model = Landscape([0.0, 0.0], lambda w: -torch.log(wall - w).sum() + 2 * math.log(wall))
    found = sharpness(model, ONE_EXAMPLE, height, eps=0.1, convention=convention, repeats=3)
    assert not found.failed
    assert math.isfinite(found.max_loss)
    assert found.max_loss > 0.3


class Nudge(nn.Module):
    """The loss 1 + w x / 4000, whatever the target: within a box of 5e-4 one float32 number next to 1."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros((), dtype=dtype))

    def forward(self, inputs: Tensor) -> Tensor:
        return 1.0 + self.w * inputs / 4000.0


@pytest.mark.parametrize("convention", [Convention.converged, Convention.keskar])
def test_a_rise_within_the_rounding_of_the_loss_is_a_failure(convention: Convention) -> None:
    """Of ten batches one rounds up: the mean rises by a tenth of what float32 can tell, which float64 can."""

    def measured(dtype: torch.dtype) -> tuple[bool, float]:
        batches = [(torch.full((1,), float(x), dtype=dtype), torch.zeros(1)) for x in [1] + [0] * 9]
        found = sharpness(Nudge(dtype), batches, lambda outputs, _: outputs.mean(), convention=convention)
        return found.failed, found.value

    assert measured(torch.float32) == (True, 0.0)
    if convention is Convention.converged:  # the other stops at once at so small a slope
        assert measured(torch.float64) == (False, pytest.approx(100 * 5e-4 / 4000 / 10 / 2))
