"""Checks of what a GPU computes: against laws in closed form, float64 and the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout.analysis.hessian import HessianVectorProduct
from smoothout.analysis.sharpness import sharpness
from smoothout.benchmark.gpu_check.check import Found
from smoothout.benchmark.gpu_check.small import CLASSES, LR, PIXELS, SHAPE, apart, c1, resnet, smooth, told, training
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
SPREAD = {
    NoiseDistribution.uniform: 0.8,
    NoiseDistribution.gaussian: 2.0,
}  # variance of (x^2 / its mean), which the variance's error comes from


def noise_has_its_law(device: torch.device) -> Found:
    """The mean and variance of SmoothOut's noise are the law's, and a draw depends on its address alone.

    If this fails, perturbed weights are not those of the method: a broken random kernel, or a fault of this program.
    Report it with the lines above.
    """
    a, found, sound = 0.1, [], True
    for law in NoiseDistribution:
        theta, again, other = (_drawn(device, a, law, number) for number in (0, 0, 1))
        variance = a * a * law.variance
        errors = (
            float(theta.mean()) / (variance / len(theta)) ** 0.5,
            (float(theta.square().mean()) / variance - 1) / (SPREAD[law] / len(theta)) ** 0.5,
        )
        sound &= all(abs(error) < STANDARD_ERRORS for error in errors)  # nan is not
        sound &= torch.equal(theta, again) and not torch.equal(theta, other)
        found.append(f"{law} mean {errors[0]:+.1f}, variance {errors[1]:+.1f} standard errors off")
    return Found(sound, "; ".join(found))


def _drawn(device: torch.device, a: float, law: NoiseDistribution, number: int) -> Tensor:
    """The noise of a draw, in one row, float64 on the CPU."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(PIXELS, 256), nn.Linear(256, CLASSES)).to(device)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()  # w + theta is theta, to the last bit
    with SmoothOut(model, a, law, generator=make_generator(0, "noise", number, device=device)):
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).double().cpu()


def filters_have_their_length(device: torch.device) -> Found:
    """AdaSmoothOut's noise is a share of each filter's length.

    If this fails, AdaSmoothOut perturbs by another strength than it says. Report it with the lines above.
    """
    a, off = 0.15, 0.0
    model = c1().to(device)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with AdaSmoothOut(model, a, generator=make_generator(0, "noise", 0, device=device)):
        for name, parameter in model.named_parameters():
            w, theta = (t.detach().double().cpu() for t in (before[name], parameter - before[name]))
            if w.dim() > 1:
                lengths, wanted = theta.flatten(1).norm(dim=1), a * w.flatten(1).norm(dim=1)
                off = max(off, float((lengths / wanted - 1).abs().max()))
    return Found(0 < off < 1e-3, f"||theta|| / ||w|| of a filter is {a}, to {off:.0e}")


def weights_come_back(device: torch.device) -> Found:
    """After SmoothOut's context every weight has the bits that it had before.

    If this fails, noise stays in the weights and every training is wrong. Report it with the lines above.
    """
    lost = []
    for context in (SmoothOut, AdaSmoothOut):
        model = c1().to(device)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        with context(model, 0.1):
            moved = not all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
        back = all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
        lost += [] if moved and back else [context.__name__]
    return Found(not lost, f"not after {' and '.join(lost)}" if lost else "the same bits")


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "product": lambda x, w: x.flatten(1) @ w.flatten(1).T,
    "convolution": lambda x, w: F.conv2d(x, w, padding=1),
}
OFF = {  # relative errors allowed; float32's convolutions may use Winograd's transforms, which round more often
    Precision.float32: {"product": 2e-6, "convolution": 1e-5},
    Precision.tf32: {"product": 2e-3, "convolution": 2e-3},
    Precision.bfloat16: {"product": 2e-2, "convolution": 2e-2},
}


def precision_is_what_it_says(device: torch.device) -> Found:
    """Products and convolutions are as exact as their precision: float32 is not rounded to TF32 on the way.

    If float32 fails, something forces TF32 on: unset TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, which some containers set, or
    what records call float32 is not. If another precision fails, do not use it on this machine.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 32, 8, 8, generator=generator)
    shapes = {"product": (128, 32, 8, 8), "convolution": (64, 32, 3, 3)}
    found, sound = [], True
    for precision, bars in OFF.items():
        errors = {}
        for name, work in OPERATIONS.items():
            w = torch.randn(shapes[name], generator=generator)
            right = work(x.double(), w.double())
            with precision_context(precision, device):
                made = work(x.to(device), w.to(device)).double().cpu()
            errors[name] = _relative(made, right)
            sound &= errors[name] < bars[name]
        found.append(f"{precision} " + ", ".join(f"{name} {error:.0e}" for name, error in errors.items()))
    return Found(sound, "relative errors: " + "; ".join(found))


def training_is_the_cpus(device: torch.device) -> Found:
    """A training without noise, which a GPU draws otherwise, ends where it ends on the CPU, to rounding.

    If this fails, a kernel of this GPU or its libraries computes something else: try another version of torch or the
    driver before you trust any result.
    """
    settings: dict[str, Any] = {"model": smooth, "optimizer": SGD(LR), "schedule": Schedule(1), "noise": NoiseConfig()}
    there, here = (training(place, **settings).run().model for place in (CPU, device))
    share = apart(there, here, smooth())
    return Found(share < 1e-3, told(share))


@dataclass(frozen=True)
class _Analysed:
    """What is found of small networks: ResNet8's loss and gradient, and of one without kinks what hangs on them."""

    loss: float
    gradient: Tensor
    sharpness: float
    image: Tensor  # H v


OFF_THE_CPU = {"loss": 1e-5, "gradient": 2e-2, "sharpness": 2e-2, "H v": 1e-3}  # a ReLU that flips moves gradients


def analyses_are_the_cpus(device: torch.device) -> Found:
    """Loss, gradient, sharpness and a Hessian-vector product are the CPU's, to rounding.

    If this fails, sharpness and spectra from this GPU cannot be compared with recorded ones: run analyses with
    device=cpu, and report it with the lines above.
    """
    wanted, found = _analysed(CPU), _analysed(device)
    off = {
        "loss": abs(found.loss / wanted.loss - 1),
        "gradient": _relative(found.gradient, wanted.gradient),
        "sharpness": abs(found.sharpness / wanted.sharpness - 1),
        "H v": _relative(found.image, wanted.image),
    }
    text = ", ".join(f"{name} off by {share:.0e}" for name, share in off.items())
    return Found(all(share < OFF_THE_CPU[name] for name, share in off.items()), text)


def _analysed(device: torch.device) -> _Analysed:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(100, *SHAPE, generator=generator).to(device)
    batches = [(inputs, torch.randint(0, CLASSES, (100,), generator=generator).to(device))]
    plain, kinkless = (network().to(device).eval() for network in (resnet, smooth))
    v = torch.randn(sum(p.numel() for p in kinkless.parameters()), generator=generator, dtype=torch.float64)
    with precision_context(Precision.float32, device):
        return _Analysed(
            evaluate(plain, batches).loss,
            _gradient(plain, batches),
            sharpness(kinkless, batches, F.cross_entropy, iterations=3).value,
            HessianVectorProduct(kinkless, batches, F.cross_entropy)(v).double().cpu(),
        )


def _gradient(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    [(inputs, labels)] = batches
    gradients = torch.autograd.grad(F.cross_entropy(model(inputs), labels), list(model.parameters()))
    return torch.cat([gradient.flatten() for gradient in gradients]).double().cpu()


def _relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())
