"""Searches compared: conventions are those of `sharpness`, methods cost the same, and the model is left alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout.analysis.options import Convention, SearchMethod
from smoothout.analysis.search_comparison import SearchTrace, compare_searches
from smoothout.analysis.sharpness import sharpness

EPS, BUDGET = 0.01, 25
Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    made(torch.randn(20, 5))
    return made


@pytest.fixture
def halves() -> tuple[Batches, Batches]:
    torch.manual_seed(1)
    train, test = ([(torch.randn(n, 5), torch.randint(0, 3, (n,))) for n in sizes] for sizes in ((12, 7), (9,)))
    return train, test


def drawn(model: nn.Module, halves: tuple[Batches, Batches], **choices) -> dict[tuple[str, str], SearchTrace]:
    settings = {"eps": EPS, "subspace": 4, "budget": BUDGET, **choices}
    return {
        (course.space, course.search): course
        for course in compare_searches(model, *halves, F.cross_entropy, **settings)
    }


def test_a_conventions_answer_is_that_of_sharpness_in_both_spaces(model, halves):
    found = drawn(model, halves, seed=3)
    for space, columns in (("full", None), ("subspace", 4)):
        for convention in Convention:
            batches = halves[convention is Convention.released]
            expected = sharpness(
                model, batches, F.cross_entropy, eps=EPS, subspace=columns, convention=convention, seed=3
            )
            course = found[space, convention]
            assert (course.answer, course.failed) == (expected.value, expected.failed)
            assert (course.status, len(course.values)) == (expected.status, expected.evaluations)
            assert (course.loss, course.dimension) == (expected.loss, expected.dimension)


def test_every_course_starts_at_the_network_itself_and_never_falls(model, halves):
    for course in drawn(model, halves).values():
        assert course.values[0] == 0.0
        assert all(left <= right for left, right in pairwise(course.values))
        assert course.answer <= course.values[-1]
        if course.search in {Convention.converged, *SearchMethod}:
            assert course.answer == course.values[-1]


def test_the_methods_have_the_same_number_of_evaluations_and_say_when_they_are_spent(model, halves):
    found = drawn(model, halves)
    for space in ("full", "subspace"):
        for method in SearchMethod:
            course = found[space, method]
            assert len(course.values) <= BUDGET
            assert (course.status == "evaluations spent") == (len(course.values) == BUDGET)
        assert len(found[space, SearchMethod.ascents].values) == BUDGET


class Quadratic(nn.Module):
    """Its output is sum c_i w_i^2, whatever goes in: over a box it is highest at the corner away from 0."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64))
        self.register_buffer("c", torch.tensor([1.0, 3.0, 0.2], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (self.c * self.w**2).sum().expand(len(x))


def test_at_a_quadratic_every_method_finds_the_corner_of_the_box():
    model, batches = Quadratic(), [(torch.zeros(2, 1), torch.zeros(2))]
    found = compare_searches(
        model, batches, batches, lambda outputs, _: outputs.mean(), eps=EPS, subspace=None, budget=BUDGET
    )
    w = model.w.detach()
    corner = (model.c * (w.abs() + EPS * (w.abs() + 1)) ** 2).sum().item()
    loss = (model.c * w**2).sum().item()
    for course in found:
        if course.search != Convention.released:
            assert course.answer == pytest.approx(100 * (corner - loss) / (1 + loss), rel=1e-9)
    assert {course.space for course in found} == {"full"}
    assert len(found) == len(Convention) + len(SearchMethod)


def test_a_search_that_finds_nothing_is_failed_and_ends_though_it_never_climbs():
    model, batches = nn.Linear(2, 1), [(torch.zeros(2, 2), torch.zeros(2))]
    found = compare_searches(
        model, batches, batches, lambda outputs, _: 0.0 * outputs.sum() + 1.0, subspace=1, budget=5
    )
    assert all(course.failed and course.answer == 0.0 for course in found)
