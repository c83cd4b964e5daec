"""Checks of what a GPU computes: against distributions in closed form, float64 and the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout.analysis.hessian import HessianVectorProduct
from smoothout.analysis.sharpness import sharpness
from smoothout.benchmark.gpu_check.check import Finding
from smoothout.benchmark.gpu_check.networks import (
    CLASSES,
    LR,
    PIXELS,
    SHAPE,
    c1,
    distance,
    in_words,
    resnet8,
    smooth,
    training,
)
from smoothout.common.rng import make_generator
from smoothout.nn.evaluation import evaluate
from smoothout.nn.options import NoiseDistribution, Precision
from smoothout.nn.perturbation import AdaSmoothOut, SmoothOut
from smoothout.nn.precision import precision_context
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.optimizers import SGD
from smoothout.training.schedule import Schedule

CPU = torch.device("cpu")
STANDARD_ERRORS = 5.0  # a sound generator exceeds them once in a million times
SQUARES_VARIANCE = {NoiseDistribution.uniform: 0.8, NoiseDistribution.gaussian: 2.0}  # of x^2 / E x^2


def noise_is_distributed(device: torch.device) -> Finding:
    """SmoothOut's noise has the mean and variance of its distribution, and a draw depends on its address alone.

    If this fails, perturbed weights are not those of the method: a broken random kernel, or a fault of this program.
    Report it with the lines above.
    """
    a, parts, passed = 0.1, [], True
    for distribution in NoiseDistribution:
        theta, again, other = (_draw_noise(device, a, distribution, number) for number in (0, 0, 1))
        variance = a * a * distribution.variance
        errors = (
            float(theta.mean()) / (variance / len(theta)) ** 0.5,
            (float(theta.square().mean()) / variance - 1) / (SQUARES_VARIANCE[distribution] / len(theta)) ** 0.5,
        )
        passed &= all(abs(error) < STANDARD_ERRORS for error in errors)  # false for nan
        passed &= torch.equal(theta, again) and not torch.equal(theta, other)
        parts.append(f"{distribution} mean {errors[0]:+.1f}, variance {errors[1]:+.1f} standard errors off")
    return Finding(passed, "; ".join(parts))


def _draw_noise(device: torch.device, a: float, distribution: NoiseDistribution, number: int) -> Tensor:
    """Draw ``number`` of the noise, flat, float64 on the CPU."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(PIXELS, 256), nn.Linear(256, CLASSES)).to(device)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()  # w + theta is theta, to the last bit
    with SmoothOut(model, a, distribution, generator=make_generator(0, "noise", number, device=device)):
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).double().cpu()


def noise_scales_to_filters(device: torch.device) -> Finding:
    """AdaSmoothOut's noise is a share of each filter's length.

    If this fails, AdaSmoothOut perturbs by another strength than it says. Report it with the lines above.
    """
    a, worst = 0.15, 0.0
    model = c1().to(device)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with AdaSmoothOut(model, a, generator=make_generator(0, "noise", 0, device=device)):
        for name, parameter in model.named_parameters():
            w, theta = (tensor.detach().double().cpu() for tensor in (before[name], parameter - before[name]))
            if w.dim() > 1:
                lengths, expected = theta.flatten(1).norm(dim=1), a * w.flatten(1).norm(dim=1)
                worst = max(worst, float((lengths / expected - 1).abs().max()))
    return Finding(0 < worst < 1e-3, f"||theta|| / ||w|| of a filter is {a}, to {worst:.0e}")


def weights_are_restored(device: torch.device) -> Finding:
    """After SmoothOut's context every weight has the bits that it had before.

    If this fails, noise stays in the weights and every training is wrong. Report it with the lines above.
    """
    failing = []
    for context in (SmoothOut, AdaSmoothOut):
        model = c1().to(device)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        with context(model, 0.1):
            perturbed = not all(map(torch.equal, model.parameters(), before))
        restored = all(map(torch.equal, model.parameters(), before))
        failing += [] if perturbed and restored else [context.__name__]
    return Finding(not failing, f"not after {' and '.join(failing)}" if failing else "the same bits")


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "product": lambda x, w: x.flatten(1) @ w.flatten(1).T,
    "convolution": lambda x, w: F.conv2d(x, w, padding=1),
}
OPERATION_ERRORS = {  # relative errors allowed; float32's convolutions may use Winograd's, which round more often
    Precision.float32: {"product": 2e-6, "convolution": 1e-5},
    Precision.tf32: {"product": 2e-3, "convolution": 2e-3},
    Precision.bfloat16: {"product": 2e-2, "convolution": 2e-2},
}


def precision_is_kept(device: torch.device) -> Finding:
    """Products and convolutions are as exact as their precision: float32 is not rounded to TF32 on the way.

    If float32 fails, something forces TF32 on: unset TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, which some containers set, or
    what records call float32 is not. If another precision fails, do not use it on this machine.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 32, 8, 8, generator=generator)
    shapes = {"product": (128, 32, 8, 8), "convolution": (64, 32, 3, 3)}
    parts, passed = [], True
    for precision, allowed in OPERATION_ERRORS.items():
        errors = {}
        for name, operation in OPERATIONS.items():
            w = torch.randn(shapes[name], generator=generator)
            exact = operation(x.double(), w.double())
            with precision_context(precision, device):
                computed = operation(x.to(device), w.to(device)).double().cpu()
            errors[name] = _relative_error(computed, exact)
            passed &= errors[name] < allowed[name]
        parts.append(f"{precision} " + ", ".join(f"{name} {error:.0e}" for name, error in errors.items()))
    return Finding(passed, "relative errors: " + "; ".join(parts))


def training_equals_cpu(device: torch.device) -> Finding:
    """A training ends where it ends on the CPU, to rounding; without noise, which a GPU draws differently.

    If this fails, a kernel of this GPU or its libraries computes something else: try another version of torch or the
    driver before you trust any result.
    """
    settings: dict[str, Any] = {"model": smooth, "optimizer": SGD(LR), "schedule": Schedule(1), "method": NoiseConfig()}
    on_cpu, on_gpu = (training(processor, **settings).run().model for processor in (CPU, device))
    share = distance(on_cpu, on_gpu, smooth())
    return Finding(share < 1e-3, in_words(share))


ANALYSIS_ERRORS = {"loss": 1e-5, "gradient": 2e-2, "sharpness": 2e-2, "H v": 1e-3}  # a flipped ReLU moves gradients


def analyses_equal_cpu(device: torch.device) -> Finding:
    """Loss, gradient, sharpness and a Hessian-vector product are the CPU's, to rounding.

    If this fails, sharpness and spectra from this GPU cannot be compared with recorded ones: run analyses with
    device=cpu, and report it with the lines above.
    """
    on_cpu, on_gpu = _analyze(CPU), _analyze(device)
    errors = {name: _relative_error(on_gpu[name], on_cpu[name]) for name in on_cpu}
    text = ", ".join(f"{name} off by {error:.0e}" for name, error in errors.items())
    return Finding(all(error < ANALYSIS_ERRORS[name] for name, error in errors.items()), text)


def _analyze(device: torch.device) -> dict[str, Tensor]:
    """ResNet8's loss and gradient; sharpness and H v, which kinks would disturb, of a network without them."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(100, *SHAPE, generator=generator).to(device)
    labels = torch.randint(0, CLASSES, (100,), generator=generator).to(device)
    batches = [(inputs, labels)]
    resnet, kinkless = (network().to(device).eval() for network in (resnet8, smooth))
    v = torch.randn(sum(p.numel() for p in kinkless.parameters()), generator=generator, dtype=torch.float64)
    with precision_context(Precision.float32, device):
        return {
            "loss": torch.tensor(evaluate(resnet, batches).loss),
            "gradient": _gradient(resnet, inputs, labels),
            "sharpness": torch.tensor(sharpness(kinkless, batches, F.cross_entropy, iterations=3).value),
            "H v": HessianVectorProduct(kinkless, batches, F.cross_entropy)(v).double().cpu(),
        }


def _gradient(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    gradients = torch.autograd.grad(F.cross_entropy(model(inputs), labels), list(model.parameters()))
    return torch.cat([gradient.flatten() for gradient in gradients]).double().cpu()


def _relative_error(computed: Tensor, exact: Tensor) -> float:
    return float((computed - exact).norm() / exact.norm())
