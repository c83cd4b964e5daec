"""The networks: parameter counts of the papers' table, order of layers, initialization, images that are too small."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers.common import FALSE_ALARM
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from smoothout.config.protocols import Model
from smoothout.models.blocks import BasicBlock
from smoothout.models.keskar import KeskarDeep, KeskarShallow
from smoothout.models.mlp import MLP
from smoothout.models.resnet import ResNet
from smoothout.models.shallow import Shallow
from smoothout.models.vgg import VGG11

MNIST, CIFAR, TIMIT = (1, 28, 28), (3, 32, 32), (1, 1, 360)


def kinds(model: nn.Sequential) -> list[str]:
    return [type(layer).__name__ for layer in model]


@pytest.mark.parametrize(
    ("settings", "shape", "classes", "count"),
    [
        (MLP(), MNIST, 10, 1_462_794),
        (Shallow(), CIFAR, 10, 1_388_490),
        (Shallow(), CIFAR, 100, 1_405_860),
        # By hand: convolutions 3 x 64 x 25 + 64 x 64 x 25, BatchNorm 2 (64 + 64 + 384 + 192), 64 maps of 2 x 2 or 8 x 8
        # to 384, 384 x 192, 193 per class.
        (KeskarShallow(), CIFAR, 10, 107_200 + 1_408 + 256 * 384 + 73_728 + 1_930),
        (KeskarShallow(), CIFAR, 100, 107_200 + 1_408 + 256 * 384 + 73_728 + 19_300),
        (KeskarShallow(stride=1), CIFAR, 10, 107_200 + 1_408 + 4_096 * 384 + 73_728 + 1_930),
        # Convolutions 9 (3 x 64 + 64 x 64 + ... + 512 x 512), BatchNorm 2 (2 x 64 + 2 x 128 + 3 x 256 + 6 x 512) and
        # 2 x 512 of the dense layer, which has 512 x 512, and 513 per class.
        (KeskarDeep(), CIFAR, 10, 14_710_464 + 8_448 + 1_024 + 262_144 + 5_130),
        (KeskarDeep(), CIFAR, 100, 14_710_464 + 8_448 + 1_024 + 262_144 + 51_300),
        # F2: 361 x 512, 6 x 513 x 512, BatchNorm 7 x 1,024, 513 per class.
        (MLP(depth=7), TIMIT, 1_973, 184_832 + 1_575_936 + 7_168 + 1_012_149),
        (ResNet(), CIFAR, 10, 661_338),
        (ResNet(), CIFAR, 100, 667_188),
        (ResNet(56), CIFAR, 10, 855_770),
        (VGG11(), CIFAR, 10, 9_228_362),
    ],
)
def test_the_published_networks_have_their_number_of_parameters(
    settings: Model, shape: tuple[int, int, int], classes: int, count: int
) -> None:
    with torch.device("meta"):
        model = settings.build(shape, classes)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count
    assert model(torch.empty(2, *shape, device="meta")).shape == (2, classes)


def test_f1_is_five_times_linear_batchnorm_relu_of_512_and_a_linear_layer() -> None:
    model = MLP().build(MNIST, 10)
    assert kinds(model) == ["Flatten", *["Linear", "BatchNorm1d", "ReLU"] * 5, "Linear"]
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    assert [layer.in_features for layer in layers] == [784, 512, 512, 512, 512, 512]
    assert layers[-1].out_features == 10
    assert all(layer.bias is not None for layer in layers)


def test_c1_is_convolution_pool_batchnorm_relu_twice_and_dense_layers_with_dropout() -> None:
    model = Shallow().build(CIFAR, 10)
    dense = ["Linear", "BatchNorm1d", "ReLU", "Dropout"]
    assert kinds(model) == [*["Conv2d", "MaxPool2d", "BatchNorm2d", "ReLU"] * 2, "Flatten", *dense * 2, "Linear"]
    for layer in model:
        if isinstance(layer, nn.Conv2d):
            assert (layer.out_channels, layer.kernel_size, layer.stride, layer.padding) == (64, (5, 5), (1, 1), (2, 2))
        if isinstance(layer, nn.MaxPool2d):
            assert (layer.kernel_size, layer.stride) == (3, 2)
        if isinstance(layer, nn.Dropout):
            assert layer.p == 0.5
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    assert [layer.in_features for layer in layers] == [3136, 384, 192]
    weighted = [layer for layer in model if isinstance(layer, nn.Linear | nn.Conv2d)]
    assert [layer.bias is not None for layer in weighted] == [False, False, False, False, True]


def test_keskars_c1_has_stride_2_and_pools_after_batchnorm_and_relu() -> None:
    model = KeskarShallow().build(CIFAR, 10)
    dense = ["Linear", "BatchNorm1d", "ReLU", "Dropout"]
    assert kinds(model) == [*["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"] * 2, "Flatten", *dense * 2, "Linear"]
    for layer in model:
        if isinstance(layer, nn.Conv2d):
            assert (layer.out_channels, layer.kernel_size, layer.stride) == (64, (5, 5), (2, 2))
        if isinstance(layer, nn.MaxPool2d):
            assert (layer.kernel_size, layer.stride) == (3, 2)
        if isinstance(layer, nn.Dropout):
            assert layer.p == 0.5
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    assert [layer.in_features for layer in layers] == [64 * 2 * 2, 384, 192]


def test_keskars_c2_has_five_stacks_that_pooling_halves_and_one_dense_layer() -> None:
    with torch.device("meta"):
        model, x = KeskarDeep().build(CIFAR, 10), torch.empty(2, *CIFAR)
    stacks, filters = [], []
    for layer in model:
        x = layer(x)
        if isinstance(layer, nn.Conv2d):
            assert (layer.kernel_size, layer.stride, layer.bias) == ((3, 3), (1, 1), None)
            filters.append(layer.out_channels)
        if isinstance(layer, nn.MaxPool2d):
            stacks.append((filters, tuple(x.shape[1:])))
            filters = []
    assert stacks == [
        ([64] * 2, (64, 16, 16)),
        ([128] * 2, (128, 8, 8)),
        ([256] * 3, (256, 4, 4)),
        ([512] * 3, (512, 2, 2)),
        ([512] * 3, (512, 1, 1)),
    ]
    assert kinds(model)[-6:] == ["Flatten", "Linear", "BatchNorm1d", "ReLU", "Dropout", "Linear"]
    with pytest.raises(ValueError, match="at least 32x32 pixels, not 28x28"):
        KeskarDeep().build(MNIST, 10)


@pytest.mark.parametrize(("wrong", "named"), [({"stride": 3}, "stride"), ({"dropout": 1.0}, "dropout")])
def test_keskars_networks_refuse_what_no_account_has(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}: must .*, not {wrong[named]}"):
        KeskarShallow(**wrong)


@pytest.mark.parametrize("settings", [MLP(), Shallow(), KeskarShallow()])
def test_linear_and_convolution_layers_start_uniform_within_one_over_the_root_of_their_inputs(
    settings: MLP | Shallow | KeskarShallow,
) -> None:
    """PyTorch's default then and now; BatchNorm starts at weight 1 and bias 0, today's default."""
    model = settings.build(CIFAR, 10)
    for layer in model:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            weight = layer.weight.detach().flatten()
            assert weight.abs().max() <= bound * (1 + 1e-6)
            assert stats.kstest(weight[:5000].numpy(), stats.uniform(-bound, 2 * bound).cdf).pvalue > FALSE_ALARM
            if layer.bias is not None:
                assert 0 < layer.bias.abs().max() <= bound * (1 + 1e-6)
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            assert (layer.weight == 1).all()
            assert (layer.bias == 0).all()


@given(st.integers(1, 4), st.integers(1, 30), st.integers(1, 30), st.integers(2, 5))
def test_shallow_fits_any_image_that_it_does_not_refuse(channels: int, height: int, width: int, classes: int) -> None:
    with torch.device("meta"):
        if min(height, width) < 11:
            with pytest.raises(ValueError, match=f"11x11 pixels, not {height}x{width}"):
                Shallow().build((channels, height, width), classes)
        else:
            model = Shallow().build((channels, height, width), classes)
            assert model(torch.empty(3, channels, height, width)).shape == (3, classes)


@given(st.integers(1, 4), st.integers(1, 30), st.integers(1, 30), st.integers(1, 2))
def test_keskars_c1_fits_any_image(channels: int, height: int, width: int, stride: int) -> None:
    with torch.device("meta"):
        model = KeskarShallow(stride=stride).build((channels, height, width), 10)
        assert model(torch.empty(3, channels, height, width)).shape == (3, 10)


@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.integers(1, 3))
def test_an_mlp_has_its_width_and_depth(channels: int, height: int, width: int, units: int, depth: int) -> None:
    model = MLP(units, depth).build((channels, height, width), 4)
    pixels = channels * height * width
    # weights and biases of each layer, and BatchNorm's weight and bias
    count = (pixels + 1 + 2) * units + (depth - 1) * (units + 1 + 2) * units + (units + 1) * 4
    assert sum(p.numel() for p in model.parameters()) == count
    assert model(torch.randn(3, channels, height, width)).shape == (3, 4)


def test_resnet44_has_three_stages_of_seven_blocks_of_16_32_and_64_channels() -> None:
    model = ResNet().build(CIFAR, 10).eval()
    blocks = [block for block in model if isinstance(block, BasicBlock)]
    assert len(blocks) == 21
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 45
    assert len(list(model.parameters())) == 137
    sides, x = [], model.stem(torch.randn(2, *CIFAR))
    for block in blocks:
        x = block(x)
        sides.append(tuple(x.shape[1:]))
    assert sides == [(16, 32, 32)] * 7 + [(32, 16, 16)] * 7 + [(64, 8, 8)] * 7
    assert [i for i, block in enumerate(blocks) if len(block.shortcut)] == [7, 14]


@pytest.mark.parametrize("before", [16, 32])
def test_a_block_adds_its_shortcut_before_the_last_relu(before: int) -> None:
    torch.manual_seed(0)
    stride = 32 // before
    block = BasicBlock(before, 32, stride).eval().double()
    x = torch.randn(2, before, 8, 8, dtype=torch.float64)
    first, norm, _, second, other = block.residual
    inner = other(second(norm(first(x)).relu()))
    skip = x if before == 32 else block.shortcut[1](nn.functional.conv2d(x, block.shortcut[0].weight, stride=2))
    torch.testing.assert_close(block(x), (inner + skip).relu())


def test_residual_networks_start_as_he_et_al_start_them() -> None:
    """Convolutions from N(0, 2 / (k k out)), BatchNorm at 1 and 0, the last layer from U(-1/8, 1/8)."""
    model = ResNet(depth=32).build(CIFAR, 10)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            deviation = math.sqrt(2 / (layer.kernel_size[0] ** 2 * layer.out_channels))
            assert stats.kstest(layer.weight.detach().flatten().numpy() / deviation, "norm").pvalue > FALSE_ALARM
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all()
            assert (layer.bias == 0).all()
    assert model.head.weight.abs().max() <= 1 / 8


def test_vgg11_is_eight_convolutions_with_batchnorm_in_five_pooled_stacks_and_one_linear_layer() -> None:
    with torch.device("meta"):
        model = VGG11().build(CIFAR, 100)
    convolutions = [layer for layer in model if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [64, 128, 256, 256, 512, 512, 512, 512]
    assert all(layer.kernel_size == (3, 3) and layer.padding == (1, 1) and layer.bias is None for layer in convolutions)
    stacks = "".join({"Conv2d": "c", "MaxPool2d": "p"}.get(kind, "") for kind in kinds(model))
    assert stacks == "cpcpccpccpccp"
    assert kinds(model)[-2:] == ["Flatten", "Linear"]
    with pytest.raises(ValueError, match="32x32 pixels, not 28x28"):
        VGG11().build(MNIST, 10)
