"""The engine's layouts of images in memory: the same training to the rounding of sums."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.common import same_bits
from helpers.engine_trainings import DIGEST
from torch import Tensor, nn

from smoothout.common.rng import make_generator
from smoothout.data.split import Split
from smoothout.models.shallow import Shallow
from smoothout.nn.options import NoiseDistribution, NoiseScaling, Precision
from smoothout.training import checkpoint
from smoothout.training.batch import Batch
from smoothout.training.engine import Engine, MemoryFormat
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.optimizers import SGD
from smoothout.training.schedule import Schedule
from smoothout.training.trainer import Trainer

OTHER = {
    MemoryFormat.channels_first: MemoryFormat.channels_last,
    MemoryFormat.channels_last: MemoryFormat.channels_first,
}


def pictures(examples: int, seed: int = 0) -> Split:
    """Images of 12 x 12 colours in three classes that differ in brightness."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (examples,), generator=generator)
    pixels = torch.randint(0, 120, (examples, 12, 12, 3), generator=generator) + 60 * labels.view(-1, 1, 1, 1)
    return Split(pixels.to(torch.uint8), labels, (0.5,) * 3, (0.5,) * 3)


def shallow(start: MemoryFormat = MemoryFormat.channels_first) -> nn.Sequential:
    torch.manual_seed(0)
    model = Shallow().build((3, 12, 12), 3)
    return start.applied_to(model)


def laid_out(layout: MemoryFormat, model: nn.Module, **changes: Any) -> Trainer:
    """Two epochs of three updates; anything can be changed."""
    settings: dict[str, Any] = {
        "optimizer": SGD(0.01),
        "schedule": Schedule(2),
        "batch": Batch(8),
        "method": NoiseConfig(),
        "seed": 0,
        "engine": Engine(memory_format=layout),
        **changes,
    }
    return Trainer(model, pictures(24), pictures(16, seed=1), **settings)


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """How far two ends lie apart, as a share of the way from the start; of all weights the one with the most."""
    way = {name: weight.detach() for name, weight in shallow().named_parameters()}
    return max(float((one[name] - other[name]).norm() / (one[name] - start).norm()) for name, start in way.items())


KEPT, MOVED = (
    [NoiseConfig(), NoiseConfig(0.05, denoise=False)],
    [NoiseConfig(0.05), NoiseConfig(0.15, scaling=NoiseScaling.filter)],
)
MOVED += [NoiseConfig(0.05, copies=2)]  # the parameters are pointed at other memory


@pytest.mark.parametrize(
    ("noise", "start"),
    [
        *product(KEPT + MOVED, [MemoryFormat.channels_last]),
        *product(KEPT, [MemoryFormat.channels_first]),
        *((noise, MemoryFormat.channels_first) for noise in MOVED),
    ],
)
def test_trainings_end_together_in_both_layouts_whatever_the_models_own(
    noise: NoiseConfig, start: MemoryFormat
) -> None:
    """A sum of up to 1600 products in another order is off by 5e-6, and six updates add some; measured: 5e-5."""
    wanted = laid_out(MemoryFormat.channels_first, shallow(), method=noise).run()
    found = laid_out(MemoryFormat.channels_last, shallow(start), method=noise).run()
    assert apart(found.model, wanted.model) < 1e-3
    assert found.curves["train_loss"] == pytest.approx(wanted.curves["train_loss"], rel=1e-4)


@pytest.mark.parametrize("layouts", OTHER.items(), ids="-".join)
def test_a_training_resumes_in_another_layout(layouts: tuple[MemoryFormat, MemoryFormat], tmp_path: Path) -> None:
    wanted = laid_out(layouts[0], shallow(layouts[0])).run()
    first = laid_out(layouts[0], shallow(layouts[0]))
    next(iter(first))
    checkpoint.save(tmp_path / "run.pt", first.state(), DIGEST)
    snapshot = checkpoint.load(tmp_path / "run.pt", DIGEST)
    found = laid_out(layouts[1], shallow(layouts[1]), resume=snapshot).run()
    assert apart(found.model, wanted.model) < 1e-3


@pytest.mark.parametrize("precision", [Precision.float32, Precision.bfloat16])
@pytest.mark.parametrize("noise", [NoiseConfig(), NoiseConfig(0.05)])
@pytest.mark.parametrize("layout", [MemoryFormat.channels_first, MemoryFormat.channels_last])
def test_convolutions_see_images_and_weights_in_the_layout(
    layout: MemoryFormat, noise: NoiseConfig, precision: Precision
) -> None:
    """Outside the noise and inside, in training and evaluation, from the first layer on."""
    model, seen = shallow(layout), set()

    def look(module: nn.Conv2d, given: tuple[Tensor]) -> None:
        seen.add((module.in_channels, module.training, lying(given[0]), lying(module.weight)))

    for module in (model[0], model[4]):
        module.register_forward_pre_hook(look)
    end = laid_out(layout, model, method=noise, precision=precision, schedule=Schedule(1)).run()
    assert seen == {(channels, mode, layout, layout) for channels in (3, 64) for mode in (True, False)}
    assert lying(end.model["4.weight"]) is lying(end.best["4.weight"]) is layout


def lying(tensor: Tensor) -> MemoryFormat:
    [layout] = (one for one in OTHER if tensor.is_contiguous(memory_format=one.memory_format))
    return layout


def test_the_noise_is_the_same_in_both_layouts_to_the_last_bit() -> None:
    for noise in (
        NoiseConfig(0.05),
        NoiseConfig(0.05, NoiseDistribution.gaussian),
        NoiseConfig(0.15, scaling=NoiseScaling.weight),
    ):
        inside = []
        for layout in OTHER:
            model = shallow(layout)
            context = noise.context_for(model)
            context.generator = make_generator(0, "noise", 0, 0)
            with context:
                inside.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        assert same_bits(*inside)
        assert not torch.equal(inside[0]["4.weight"], shallow().state_dict()["4.weight"])
