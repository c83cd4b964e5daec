"""Random numbers by address, uniform and normal numbers: distribution, independence, and source."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from smoothout.common.rng import derive_seed, make_generator, normal_, uniform_

COUNT = 100_001  # odd: half a word of the last pair is left over
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def drawn(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return uniform_(torch.empty(shape, dtype=dtype), torch.Generator().manual_seed(seed))


def correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.double().flatten(), other.double().flatten()]))[0, 1])


# Addresses


def test_parts_of_an_address_do_not_run_into_each_other() -> None:
    places = [(1, "x", 1, 1), (1, "x", 11), (11, "x", 1), (1, "x", 1, 11), (1, "x", 11, 1), (111, "x")]
    assert len({derive_seed(*place) for place in places}) == len(places)


def test_an_address_never_changes() -> None:
    """Each record hangs on these numbers: a change here changes every outcome and needs a new `numerics`."""
    assert derive_seed(0, "order", 0) == 6942163024847554866
    assert derive_seed(3, "noise", 17, 2) == 5603608039770962531


def test_a_uniform_draw_never_changes() -> None:
    """The same holds for these."""
    drawn = uniform_(torch.empty(5), make_generator(0, "noise", 0, 0), 0.0375).tolist()
    assert drawn == pytest.approx([0.00511286035, -0.027553156, -0.0250388905, 0.0364307612, -0.0324180387], rel=1e-6)


@pytest.mark.parametrize("count", [COUNT - 2, COUNT - 1, COUNT])
def test_a_large_draw_is_one_run_through_the_generator(count: int) -> None:
    """Four numbers come of a word; of the last one some may be left over."""
    seed = int(torch.randint(2**63 - 1, (), generator=torch.Generator().manual_seed(3)))
    first, *rest = np.random.SFC64(seed).random_raw(1 + -(-count // 4))
    integers = np.array(rest, np.uint64).view(np.int16)[:count]
    wanted = (torch.from_numpy(integers).double() + float(first) * 2.0**-64) * 0.3 * 2.0**-15
    found = uniform_(torch.empty(count), torch.Generator().manual_seed(3), 0.3)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=1e-9)


@given(st.integers(0, 2**40), st.text("abcdef", min_size=1), st.lists(st.integers(0, 2**40), max_size=3))
def test_an_address_is_a_seed_that_torch_and_numpy_take(seed: int, purpose: str, position: list[int]) -> None:
    found = derive_seed(seed, purpose, *position)
    assert 0 <= found < 2**63
    assert found == derive_seed(seed, purpose, *position)
    assert make_generator(seed, purpose, *position).initial_seed() == found


# The uniform law


@pytest.mark.parametrize("dtype", DTYPES)
def test_uniform_numbers_have_the_moments_of_the_uniform_law(dtype: torch.dtype) -> None:
    x = drawn(1, COUNT, dtype=dtype).double()
    for power, mean in [(1, 0.0), (2, 1 / 3), (3, 0.0), (4, 1 / 5)]:
        error = math.sqrt((1 / (2 * power + 1) - mean**2) / COUNT)
        rounding = 2.0**-8 if dtype == torch.bfloat16 else 0.0
        assert abs(float((x**power).mean()) - mean) < 4 * error + rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_numbers_pass_the_kolmogorov_smirnov_test(dtype: torch.dtype) -> None:
    x = drawn(2, COUNT, dtype=dtype).numpy()
    assert stats.kstest(x, stats.uniform(-1, 2).cdf).pvalue > 1e-3


@pytest.mark.parametrize("dtype", DTYPES)
def test_uniform_numbers_reach_for_the_bounds_and_never_leave_them(dtype: torch.dtype) -> None:
    x = drawn(3, COUNT, dtype=dtype)
    step = 2.0**-7 if dtype == torch.bfloat16 else 2.0**-12
    assert -1 <= x.min() < -1 + step
    assert 1 - step <= x.max() <= 1


def test_numbers_of_a_call_share_their_place_between_two_steps_of_a_grid_and_no_two_calls_do() -> None:
    places = []
    for call in range(500):
        x = 2**15 * drawn(call, 100).double()
        place = x - x.floor()
        assert place.max() - place.min() < 2**-7 or place.max() > 1 - 2**-7  # float32's rounding
        places.append(float(place.median()))
    assert stats.kstest(places, stats.uniform().cdf).pvalue > 1e-3


# The normal law


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_numbers_have_the_normal_law(dtype: torch.dtype) -> None:
    x = normal_(torch.empty(COUNT, dtype=dtype), torch.Generator().manual_seed(2)).double()
    for power, mean, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs(float((x**power).mean()) - mean) < 4 * math.sqrt(variance / COUNT)
    assert stats.kstest(x.numpy(), stats.norm.cdf).pvalue > 1e-3


def test_a_normal_number_is_the_quantile_of_a_uniform_one() -> None:
    seed = int(torch.randint(2**63 - 1, (), generator=torch.Generator().manual_seed(3)))
    first, *rest = np.random.SFC64(seed).random_raw(1 + -(-COUNT // 4))
    words = np.array(rest, np.uint64).view(np.uint16)[:COUNT]
    signs = np.where(words >> 15, -1.0, 1.0)
    wanted = stats.norm.ppf(0.5 + signs * ((words & 0x7FFF) + float(first) * 2.0**-64) * 2.0**-16)
    found = normal_(torch.empty(COUNT), torch.Generator().manual_seed(3)).double().numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("word", [0, 2**64 - 1])
def test_normal_numbers_are_finite_at_the_bounds(word: int, monkeypatch: pytest.MonkeyPatch) -> None:
    words = np.array([word, 0xFFFF7FFF_FFFF7FFF], np.uint64)  # the largest n, with either sign
    monkeypatch.setattr(np.random, "SFC64", lambda seed: SimpleNamespace(random_raw=lambda count: words))
    x = normal_(torch.empty(4))
    assert x.isfinite().all()
    assert x.abs().min() > 3.9
    assert x.sum() == 0


def test_normal_numbers_fill_any_tensor() -> None:
    whole = torch.full((50, 60), 50.0)
    normal_(whole[:, ::2], torch.Generator().manual_seed(0))
    assert (whole[:, 1::2] == 50).all()
    assert (whole[:, ::2].abs() < 9).all()
    assert normal_(torch.empty(0)).numel() == 0
    assert normal_(torch.empty(3, 5, 7)).shape == (3, 5, 7)


# Independence: a correlation of n independent pairs has the standard deviation 1 / sqrt(n)


@pytest.mark.parametrize("lag", [1, 2, 3, 64, 1000])
def test_numbers_of_one_draw_do_not_correlate_at_any_lag(lag: int) -> None:
    x = drawn(5, COUNT)
    assert abs(correlation(x[:-lag], x[lag:])) < 4 / math.sqrt(COUNT - lag)


def test_two_successive_draws_of_a_generator_do_not_correlate() -> None:
    generator = torch.Generator().manual_seed(6)
    first, second = (uniform_(torch.empty(COUNT), generator) for _ in range(2))
    assert abs(correlation(first, second)) < 4 / math.sqrt(COUNT)


@pytest.mark.parametrize("other", [(0, "noise", 0, 1), (0, "noise", 1, 0), (1, "noise", 0, 0), (0, "copy", 0, 0)])
def test_the_draws_at_two_addresses_do_not_correlate(other: tuple[int, str, int, int]) -> None:
    first, second = (uniform_(torch.empty(COUNT), make_generator(*place)) for place in ((0, "noise", 0, 0), other))
    assert abs(correlation(first, second)) < 4 / math.sqrt(COUNT)


# Any tensor, any generator


@pytest.mark.parametrize("shape", [(0,), (), (1,), (2,), (7,), (3, 5), (3, 1, 5, 7)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_entry_of_a_tensor_of_any_size_is_drawn(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.full(shape, math.nan, dtype=dtype) for _ in range(2))
    assert uniform_(one, generator) is one
    uniform_(other, generator)
    assert one.isfinite().all()
    assert (one != other).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_only_the_view_is_filled_where_a_tensor_is_not_contiguous(dtype: torch.dtype) -> None:
    whole = torch.full((50, 60), 5.0, dtype=dtype)
    uniform_(whole[:, ::2], torch.Generator().manual_seed(0))
    assert (whole[:, 1::2] == 5).all()
    assert (whole[:, ::2].abs() <= 1).all()
    assert abs(whole[:, ::2].double().mean()) < 4 / math.sqrt(3 * 1500) + 2**-8


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_global_generator_is_honoured_and_moves_on(dtype: torch.dtype) -> None:
    def draw() -> Tensor:
        return uniform_(torch.empty(11, dtype=dtype))

    torch.manual_seed(3)
    first, second = draw(), draw()
    torch.manual_seed(3)
    assert torch.equal(draw(), first)
    assert torch.equal(draw(), second)
    assert not torch.equal(first, second)
