"""Public names of earlier versions still work, each with a warning that names the new one."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from smoothout import AdaSmoothOut, SmoothOut, interpolate, noise_curve
from smoothout.nn.curvature import noise_variances


def linear() -> nn.Module:
    return nn.Linear(3, 2)


BATCHES = [(torch.ones(2, 3), torch.tensor([0, 1]))]
CALLS: dict[str, tuple[dict[str, Any], dict[str, Any], Callable[..., object]]] = {
    "SmoothOut": (
        {"law": "gaussian"},
        {"distribution": "gaussian"},
        lambda **k: SmoothOut(linear(), 0.1, **k).distribution,
    ),
    "AdaSmoothOut": (
        {"law": "gaussian"},
        {"distribution": "gaussian"},
        lambda **k: AdaSmoothOut(linear(), 0.1, **k).distribution,
    ),
    "noise_variances": (
        {"law": "gaussian"},
        {"distribution": "gaussian"},
        lambda **k: noise_variances([torch.ones(2)], 0.1, **k),
    ),
    "noise_curve": (
        {"law": "gaussian"},
        {"distribution": "gaussian"},
        lambda **k: len(noise_curve(linear(), BATCHES, [0.1], **k)),
    ),
    "interpolate": (
        {"averages": "recomputed", "averages_from": BATCHES},
        {"running_stats": "recomputed", "running_stats_from": BATCHES},
        lambda **k: len(interpolate(linear(), linear(), BATCHES, [0.5], **k)),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_renamed_argument_works_under_its_old_name_with_a_warning(name: str) -> None:
    old, new, call = CALLS[name]
    with pytest.warns(DeprecationWarning, match="is now") as warned:
        assert call(**old) == call(**new)
    assert [str(each.message) for each in warned] == [
        f"{name}: the argument {before} is now {after}" for before, after in zip(old, new, strict=True)
    ]


@pytest.mark.parametrize("name", CALLS)
def test_both_names_at_once_are_refused(name: str) -> None:
    old, new, call = CALLS[name]
    with pytest.raises(TypeError, match=re.escape(f"{next(iter(old))}: is now {next(iter(new))}")):
        call(**old, **new)


@pytest.mark.parametrize(
    ("old", "new"), [("law", "distribution"), ("clean", "clean_weights"), ("noise", "current_noise")]
)
def test_a_renamed_attribute_of_a_context_can_be_read(old: str, new: str) -> None:
    with SmoothOut(linear(), 0.1, generator=torch.Generator().manual_seed(0)) as context:
        with pytest.warns(DeprecationWarning, match=f"^{old} is now {new}$"):
            before = getattr(context, old)
        after = getattr(context, new)
        if callable(after):
            before, after = before(), after()
    assert str(before) == str(after)
