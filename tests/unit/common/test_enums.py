"""Settings that are one of a few names mean the same by name and as members."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from smoothout.analysis.jobs.interpolation import Interpolation
from smoothout.analysis.jobs.noise_curve import NoiseCurve
from smoothout.analysis.jobs.sharpness import Sharpness
from smoothout.data.image_arrays import ImageArrays
from smoothout.data.image_folder import ImageFolder
from smoothout.nn.options import Precision
from smoothout.results.digest import canonical_settings
from smoothout.training.engine import Engine
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.optimizers import Adam
from smoothout.training.schedule import Schedule

GREY = {"mean": (0.5,), "std": (0.5,)}
NAMED: list[tuple[type[Any], dict[str, Any], dict[str, str]]] = [
    (Schedule, {"epochs": 10}, {"lr_scaling": "linear"}),
    (ImageArrays, {"name": "mnist", **GREY}, {"augment": "crop_flip"}),
    (
        ImageFolder,
        {"name": "imagenette", "mean": (0.5,) * 3, "std": (0.5,) * 3},
        {"augment": "none", "on_corrupt": "skip"},
    ),
    (
        NoiseConfig,
        {"a": 0.1},
        {"distribution": "gaussian", "scaling": "filter", "noise_per": "batch", "strength_schedule": "anneal"},
    ),
    (Engine, {}, {"launch": "eager", "memory_format": "channels_last", "ghosts": "sequential"}),
    (Adam, {"lr": 0.1}, {"epsilon": "uncorrected"}),
    (Sharpness, {}, {"convention": "released", "split": "train", "checkpoint": "last"}),
    (Interpolation, {}, {"path": "curvilinear", "running_stats": "kept"}),
    (NoiseCurve, {}, {"distribution": "gaussian", "scaling": "filter"}),
]


@pytest.mark.parametrize(("kind", "others", "names"), NAMED, ids=[kind.__name__ for kind, _, _ in NAMED])
def test_a_name_is_kept_as_the_member(kind: type[Any], others: dict[str, Any], names: dict[str, str]) -> None:
    settings = kind(**others, **names)
    for key, name in names.items():
        member = getattr(settings, key)
        assert (type(member) is not str, member) == (True, name)
        with pytest.raises(ValueError, match=rf"^{key}: 'nonsense' is not one of .*{name}"):
            kind(**others, **names | {key: "nonsense"})
    assert canonical_settings(settings) == canonical_settings(
        kind(**others, **{key: getattr(settings, key) for key in names})
    )


def test_a_training_takes_its_precision_by_name(tiny_split: Any) -> None:
    from helpers.trainer_cases import network, run

    ends = [run(network(), tiny_split, precision=given).model for given in ("bfloat16", Precision.bfloat16, "float32")]
    assert torch.equal(ends[0]["1.weight"], ends[1]["1.weight"])
    assert not torch.equal(ends[0]["1.weight"], ends[2]["1.weight"])
