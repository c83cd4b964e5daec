"""ImageNet's networks: number of parameters, order of layers, initialisation, and images that they do not take."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.common import FALSE_ALARM
from scipy import stats
from torch import nn

from smoothout.models.alexnet import AlexNet
from smoothout.models.resnet18 import ResNet18

IMAGENET = (3, 224, 224)


@pytest.mark.parametrize(("model", "count"), [(AlexNet(), 61_110_184), (ResNet18(), 11_689_512)])
def test_the_published_networks_have_their_number_of_parameters(model: AlexNet | ResNet18, count: int) -> None:
    with torch.device("meta"):
        built = model.build(IMAGENET, 1000)
    assert sum(p.numel() for p in built.parameters() if p.requires_grad) == count
    assert built(torch.empty(2, *IMAGENET, device="meta")).shape == (2, 1000)


def test_alexnet_has_its_layers_in_their_order() -> None:
    """In the first layer pool - BatchNorm - ReLU; in the others (pool -) ReLU - BatchNorm."""
    with torch.device("meta"):
        model = AlexNet().build(IMAGENET, 1000)
    assert [type(layer).__name__ for layer in model] == [
        *["Conv2d", "MaxPool2d", "BatchNorm2d", "ReLU"],
        *["Conv2d", "MaxPool2d", "ReLU", "BatchNorm2d"],
        *["Conv2d", "ReLU", "BatchNorm2d"] * 2,
        *["Conv2d", "MaxPool2d", "ReLU", "BatchNorm2d"],
        "Flatten",
        *["Linear", "BatchNorm1d", "ReLU", "Dropout"] * 2,
        "Linear",
    ]
    convolutions = [layer for layer in model if isinstance(layer, nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size[0], c.stride[0], c.padding[0]) for c in convolutions] == [
        (64, 11, 4, 2),
        (192, 5, 1, 2),
        (384, 3, 1, 1),
        (256, 3, 1, 1),
        (256, 3, 1, 1),
    ]
    assert {(layer.kernel_size, layer.stride) for layer in model if isinstance(layer, nn.MaxPool2d)} == {(3, 2)}
    dense = [layer for layer in model if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in dense] == [(9216, 4096), (4096, 4096), (4096, 1000)]
    assert [layer.bias is not None for layer in [*convolutions, *dense]] == [False] * 7 + [True]
    assert {layer.p for layer in model if isinstance(layer, nn.Dropout)} == {0.5}


def test_resnet18_starts_as_published() -> None:
    """Convolutions from N(0, 2 / (k k out)), BatchNorm at 1 and 0, the last layer within 1 / sqrt(512)."""
    model = ResNet18().build(IMAGENET, 10)
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 20
    for layer in convolutions:
        deviation = math.sqrt(2 / (layer.kernel_size[0] ** 2 * layer.out_channels))
        sample = layer.weight.detach().flatten()[:20_000].numpy() / deviation
        assert stats.kstest(sample, "norm").pvalue > FALSE_ALARM
        assert layer.bias is None
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all()
            assert (layer.bias == 0).all()
    assert model.fc.weight.abs().max() <= 1 / math.sqrt(512)


def test_resnet18_has_four_stages_of_two_blocks_with_projections_where_the_shape_changes() -> None:
    with torch.device("meta"):
        model = ResNet18().build(IMAGENET, 1000)
    stages = [model.layer1, model.layer2, model.layer3, model.layer4]
    assert [len(stage) for stage in stages] == [2, 2, 2, 2]
    assert [stage[0].conv1.out_channels for stage in stages] == [64, 128, 256, 512]
    assert [stage[0].downsample is None for stage in stages] == [True, False, False, False]
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in model.modules()) == 20
