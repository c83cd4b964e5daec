"""Trainings and methods compared image by image."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from helpers.common import a_record
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import t

from smoothout.results.per_image import compare_right, crossed_test, has_right, mcnemar, pack_right, read_right
from smoothout.results.records import Record
from smoothout.results.significance import TestResult, paired_t_test

Bits = NDArray[np.bool_]


def run(right: Bits, name: str = "run", *, data: str = "sha", last: Bits | None = None, **of_data: Any) -> Record:
    outcome = {
        which: {"test_accuracy": float(bits.mean()), "test_right": pack_right(bits)}
        for which, bits in (("best", right), ("last", right if last is None else last))
    }
    outcome |= {"examples": {"test": len(right)}, "data_sha256": data}  # type: ignore[dict-item]
    return a_record("train", outcome, name=name, settings={"data": of_data})


# Bits


@given(st.lists(st.lists(st.booleans(), min_size=19, max_size=19), min_size=1, max_size=4))
def test_bits_are_read_as_they_were_packed(rows: list[list[bool]]) -> None:
    right = np.array(rows)
    assert np.array_equal(read_right([run(bits, last=~bits) for bits in right]), right)
    assert np.array_equal(read_right([run(bits, last=~bits) for bits in right], "last"), ~right)


@pytest.mark.parametrize(("images", "characters"), [(10_000, 1668), (50_000, 8336)])
def test_bits_take_a_sixth_of_a_character_each(images: int, characters: int) -> None:
    assert len(pack_right(np.ones(images, dtype=bool))) == characters


def test_records_that_do_not_say_or_are_of_other_images_are_named() -> None:
    bits = np.array([True, False, True])
    old = a_record("train", {"best": {"test_accuracy": 0.5}}, name="old")
    assert has_right(run(bits))
    assert not has_right(old)
    with pytest.raises(ValueError, match=r"^records: must be at least one$"):
        read_right([])
    with pytest.raises(ValueError, match=r"^records: old does not say which images are right"):
        read_right([run(bits), old])
    others = [run(bits, "other", data="changed"), run(bits, "other", held_out=3), run(np.append(bits, True), "other")]
    for other in others:
        with pytest.raises(ValueError, match=r"^records: other was not tested on the images of run$"):
            read_right([run(bits), other])


# Two trainings


def test_mcnemars_p_is_the_binomial_share_of_outcomes_that_are_as_uneven() -> None:
    one = np.repeat([True, True, False, False], [50, 9, 2, 3])
    other = np.repeat([True, False, True, False], [50, 9, 2, 3])
    found = mcnemar(one, other)
    assert (found.both, found.only_one, found.only_other, found.neither) == (50, 9, 2, 3)
    uneven = [k for k in range(12) if abs(k - 5.5) >= 9 - 5.5]
    assert found.p == pytest.approx(sum(math.comb(11, k) for k in uneven) / 2**11)
    assert mcnemar(other, one).p == found.p
    assert mcnemar(one, one).p == 1.0


# Two methods


def drawn(generator: np.random.Generator, shape: tuple[int, int], sizes: tuple[float, float, float]) -> Any:
    """Effects of seeds, of images and of both, with these standard deviations."""
    seeds, images = shape
    shapes = (seeds, 1), (1, images), (seeds, images)
    return sum(size * generator.normal(size=shape) for size, shape in zip(sizes, shapes, strict=True))


def test_the_variance_is_that_of_the_mean_squares_worked_out_one_by_one() -> None:
    d = np.array([[3.0, 1.0, -2.0, 4.0], [5.0, 0.0, 1.0, 6.0], [1.0, 0.0, -1.0, 5.0]])
    mean, seeds, images = d.mean(), d.mean(axis=1), d.mean(axis=0)
    by_seed = 4 * sum((m - mean) ** 2 for m in seeds) / 2
    by_image = 3 * sum((m - mean) ** 2 for m in images) / 3
    rest = sum((d[s, i] - seeds[s] - images[i] + mean) ** 2 for s, i in product(range(3), range(4))) / 6
    assert min(by_seed, by_image) > rest
    variance = (by_seed + by_image - rest) / 12
    degrees = (by_seed + by_image - rest) ** 2 / (by_seed**2 / 2 + by_image**2 / 3 + rest**2 / 6)
    found = crossed_test(d)
    assert found.value == pytest.approx(mean)
    assert found.p_greater == pytest.approx(t.sf(mean / math.sqrt(variance), degrees))
    assert found.p_less == pytest.approx(t.cdf(mean / math.sqrt(variance), degrees))
    assert found.ci_high - mean == pytest.approx(mean - found.ci_low)
    assert found.ci_high - mean == pytest.approx(t.isf(0.025, degrees) * math.sqrt(variance))


def test_where_only_seeds_or_only_images_differ_it_is_the_t_test_over_them() -> None:
    generator = np.random.default_rng(0)
    seeds, images = generator.normal(1, 1, 6), generator.normal(1, 1, 50)
    for differences, alone in (
        (np.repeat(seeds[:, None], 50, axis=1), seeds),
        (np.repeat(images[None], 6, axis=0), images),
    ):
        found, wanted = crossed_test(differences), paired_t_test(alone.tolist())
        assert found.p_greater == pytest.approx(wanted.p_greater)
        assert (found.ci_low, found.ci_high) == pytest.approx((wanted.ci_low, wanted.ci_high))


@pytest.mark.parametrize(
    "sizes", [(0.0, 0.0, 1.0), (0.0, 0.5, 1.0), (0.1, 0.5, 1.0), (0.3, 0.5, 1.0), (0.05, 1.0, 0.3)]
)
def test_it_errs_at_its_level_for_other_seeds_and_other_images(sizes: tuple[float, float, float]) -> None:
    """Of 500 tests without an effect, 0.05 err; 0.1 would lie five standard deviations above."""
    generator = np.random.default_rng(0)
    errors = [crossed_test(drawn(generator, (5, 200), sizes)).p < 0.05 for _ in range(500)]
    assert np.mean(errors) < 0.1


def test_a_t_test_over_seeds_alone_takes_the_images_for_all_there_are() -> None:
    generator = np.random.default_rng(0)
    samples = [drawn(generator, (5, 200), (0.02, 1.0, 1.0)) for _ in range(300)]
    assert np.mean([paired_t_test(d.mean(axis=1).tolist()).p < 0.05 for d in samples]) > 0.2
    assert np.mean([crossed_test(d).p < 0.05 for d in samples]) < 0.12


def test_a_real_difference_is_found() -> None:
    d = 0.3 + drawn(np.random.default_rng(0), (5, 400), (0.02, 0.5, 1.0))
    found = crossed_test(d)
    assert found.p_greater < 1e-3
    assert found.ci_low < 0.3 < found.ci_high


def test_equal_classifiers_do_not_differ_and_one_seed_decides_nothing() -> None:
    assert crossed_test(np.zeros((3, 5))).p == 1.0
    single = crossed_test(np.ones((1, 5)))
    assert repr(single) == repr(TestResult(n=1, value=1.0))  # from Python 3.13 on, nan makes them unequal
    assert not single.is_testable


@pytest.mark.parametrize("shape", [(5,), (0, 5), (3, 1), (2, 3, 4)])
def test_what_is_no_table_of_seeds_and_images_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^differences: must have the shape \(seeds, images\)") as raised:
        crossed_test(np.zeros(shape))
    assert str(shape) in str(raised.value)


# The line of a page


def test_a_line_has_mean_counts_the_range_of_p_and_the_difference_in_points() -> None:
    first = np.array([[1, 1, 1, 1, 1, 1, 0, 0, 0, 1]] * 2, dtype=bool)
    second = np.array([[1, 1, 1, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 1, 0, 0, 1]], dtype=bool)
    line = compare_right([run(bits) for bits in first], [run(bits) for bits in second])
    counts = [line[name] for name in ("both right", "only the first", "only the second", "both wrong")]
    assert counts == ["3.5", "3.5", "0.5", "2.5"]
    assert line["seeds"] == "2"
    assert line["McNemar's p by seed"] == "0.12 to 0.62"
    assert line["difference, points [95%]"].startswith("+30.00 [")
    alone = compare_right([run(first[0])], [run(second[0])])
    assert (alone["McNemar's p by seed"], alone["difference, points [95%]"], alone["p"]) == ("0.12", "+40.00", "")
