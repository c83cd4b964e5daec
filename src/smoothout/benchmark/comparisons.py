"""The comparisons: what is measured against what, and the target that each has to meet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import Bounds, minimize
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout.analysis.box import box_around
from smoothout.analysis.box_search import BoxObjective
from smoothout.analysis.hessian_product import HessianVectorProduct
from smoothout.analysis.interpolation import PUBLISHED_ALPHAS, interpolate
from smoothout.analysis.noise_sensitivity import noise_curve
from smoothout.benchmark.baselines import bare_updates, eager_steps, epoch_by_loader
from smoothout.benchmark.family import FAMILY_COMPARISONS, Comparison
from smoothout.benchmark.rows import Row, speed_ratio, time_ratio
from smoothout.benchmark.timing import Work, seconds, subprocess_work, synchronize
from smoothout.benchmark.workloads import (
    ADASMOOTHOUT,
    C1,
    C3,
    F1,
    PLAIN,
    SMOOTHOUT,
    Workload,
    advance,
    random_split,
    updates,
)
from smoothout.nn.options import Precision
from smoothout.nn.parameters import parameters_to_vector, preserve_state, trainable_parameters
from smoothout.training.checkpoint import TrainingState
from smoothout.training.engine import Engine, MemoryFormat
from smoothout.training.methods.smoothout import NoiseConfig

# Updates


def noisy_step(device: torch.device, workload: Workload, noise: NoiseConfig, target: float, what: str) -> Row:
    """A noisy update against a plain one, batch 256."""
    # As many examples as a training has, so that the curvature is measured as often.
    plain, noisy = (updates(workload, device, method=n, examples=workload.examples) for n in (PLAIN, noise))
    note = _noise_floor(workload.parameters(), device)
    return _step(f"{what} step / plain step, batch 256", target, noisy, plain, device, note=note)


def trainer_update(device: torch.device, noise: NoiseConfig, target: float, what: str) -> Row:
    """The trainer's update of F1 against a bare loop that has the same kind of batches and no noise, batch 256."""
    split = random_split(F1.shape, F1.classes, F1.examples, device)
    bare = bare_updates(F1.network().to(device), split.images, split.labels, 256)
    ours = updates(F1, device, method=noise, data=split)
    loop = "the bare loop takes uint8 images from a tensor and updates by fused Adam, operation by operation"
    floor = _noise_floor(F1.parameters(), device) if noise.a else ""
    note = "; ".join(filter(None, (loop, floor)))
    return _step(f"F1, trainer's update{what} / bare loop, batch 256", target, ours, bare, device, note=note)


def _step(
    what: str, target: float, ours: Iterator[object], reference: Iterator[object], device: torch.device, *, note: str
) -> Row:
    """One update against another; fifty of each on a GPU, where a single one is too short to be timed."""
    count = 1 if device.type == "cpu" else 50
    work = partial(advance, ours, count), partial(advance, reference, count)
    return replace(time_ratio(what, target, *work, device, turns=100, warm_up=10), note=note)


def _noise_floor(weights: int, device: torch.device) -> str:
    """The least time of noise on a CPU: NumPy's generator, and one pass that adds the noise to the weights."""
    if device.type != "cpu":
        return ""
    theta, w, cpu = torch.ones(weights), torch.ones(weights), torch.device("cpu")
    parts: list[Work] = [partial(np.random.SFC64(0).random_raw, weights // 4), partial(theta.add_, w)]
    draw, add = (1000 * min(seconds(part, cpu) for _ in range(20)) for part in parts)
    return f"the noise cannot take less than its generator, {draw:.2g} ms, and one pass over the weights, {add:.2g} ms"


def throughput(device: torch.device) -> Row:
    """F1's epoch at the fastest setting against the ordinary loop's."""
    examples, batch = 30_000, 256
    split = random_split(F1.shape, F1.classes, examples, torch.device("cpu"))
    steps, tried = _fastest(F1, device, [MemoryFormat.channels_first], examples=examples)
    arguments = F1.network(), split.images[:, 0].numpy(), split.labels.numpy(), batch, str(device)
    what = "F1 images/s, fastest setting / the ordinary loop's, batch 256"
    with subprocess_work(epoch_by_loader, arguments) as ordinary:
        epoch = partial(advance, steps, -(-examples // batch))
        row = speed_ratio(what, 8, epoch, ordinary, device, turns=3, warm_up=1)
    ordinarily = "torchvision transforms, DataLoader with 2 workers, eager, default allocator; 30,000 images"
    return replace(row, note=f"{tried}; ordinary: {ordinarily}")


def fastest_convolutions(device: torch.device) -> Row:
    """C1's update at the fastest setting against eager float32 channels-first."""
    steps, tried = _fastest(C1, device, [MemoryFormat.channels_first, MemoryFormat.channels_last])
    images, labels = torch.randn(256, *C1.shape), torch.randint(0, C1.classes, (256,))
    what = "C1 update, fastest setting / eager float32 channels-first, batch 256"
    arguments = C1.network(), images, labels, 4, str(device)
    with subprocess_work(eager_steps, arguments) as ordinary:
        row = time_ratio(what, 0.5, partial(advance, steps, 4), ordinary, device, turns=8, warm_up=1)
    return replace(row, note=f"{tried}; reference with the default allocator")


def _fastest(
    workload: Workload, device: torch.device, formats: list[MemoryFormat], examples: int = 10_240
) -> tuple[Iterator[TrainingState], str]:
    """The fastest of the device's precisions and memory formats, and what an update takes with each."""
    # Emulated bfloat16, on a CPU without its instructions, takes fifteen times as long.
    has_bfloat16 = device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    precisions = [Precision.float32, *([Precision.bfloat16] if has_bfloat16 else [])]
    candidates, taken = {}, {}
    for precision, memory_format in product(precisions, formats):
        engine, name = Engine(memory_format=memory_format), f"{precision}, {memory_format}"
        steps = candidates[name] = updates(workload, device, examples=examples, precision=precision, engine=engine)
        taken[name] = min(seconds(partial(advance, steps, 1), device) for _ in range(10))
    best = min(taken, key=taken.__getitem__)
    tried = "; ".join(f"{name} {1000 * s:.3g} ms" for name, s in taken.items())
    return candidates[best], f"fastest: {best}; tried, the best of ten updates: {tried}"


# Analyses


def _batches(examples: int, size: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    return list(random_split(F1.shape, F1.classes, examples, device).batches(size))


@torch.no_grad()
def _forward(model: nn.Module, batches: list[tuple[Tensor, Tensor]], times: int) -> None:
    for inputs, _ in times * batches:
        model(inputs)


def sharpness_evaluation(device: torch.device) -> Row:
    """f and its gradient at one point of the box, against the bare passes."""
    model, batches = F1.network().to(device).eval(), _batches(30_000, 1000, device)
    parameters = trainable_parameters(model)

    def bare() -> None:
        for inputs, labels in batches:
            torch.autograd.grad(F.cross_entropy(model(inputs), labels), parameters)

    what = "sharpness evaluation / forward + backward, F1, batches of 1000"
    with preserve_state(model):
        box = box_around(parameters_to_vector(parameters), 5e-4)
        objective = BoxObjective(model, batches, F.cross_entropy, box, lambda: None)
        z = torch.linspace(-1, 1, len(objective.evaluate_center().z), dtype=torch.float64)
        return time_ratio(what, 1.05, lambda: objective(z), bare, device, turns=6, warm_up=1)


def hessian_product(device: torch.device) -> Row:
    """A product with the Hessian, after the first, against a gradient."""
    model, batches = F1.network().to(device).eval(), _batches(5000, 5000, device)
    parameters = trainable_parameters(model)
    [(inputs, labels)] = batches

    def gradient() -> None:
        torch.autograd.grad(F.cross_entropy(model(inputs), labels), parameters)

    product = HessianVectorProduct(model, batches, F.cross_entropy)
    vector = torch.linspace(-1, 1, product.dimension, dtype=torch.float64, device=product.device)
    what = "product with the Hessian / gradient, F1, one batch of 5000"
    return time_ratio(what, 2.4, lambda: product(vector), gradient, device, turns=6, warm_up=2)


def interpolation_point(device: torch.device) -> Row:
    """The published points of an interpolation against as many forward passes."""
    first, second = (F1.network(seed).to(device).eval() for seed in (0, 1))
    batches = _batches(5000, 1000, device)
    points = len(PUBLISHED_ALPHAS)
    what = "interpolation point / forward passes, F1, batches of 1000"
    ours, reference = partial(interpolate, first, second, batches), partial(_forward, first, batches, points)
    row = time_ratio(what, 1.05, ours, reference, device, turns=6, warm_up=1)
    return replace(row, note=f"{points} points; one more pass checks that two agree")


def noise_point(device: torch.device, size: int) -> Row:
    """A noise curve of eleven strengths against eleven forward passes."""
    model, batches = F1.network().to(device).eval(), _batches(4000, size, device)
    strengths = [0.01 * i for i in range(11)]
    what = f"noise-curve point / forward passes, F1, batches of {size}"
    ours = partial(noise_curve, model, batches, strengths)
    row = time_ratio(what, 1.05, ours, partial(_forward, model, batches, len(strengths)), device, turns=6, warm_up=1)
    moved, read = (f"{factor * F1.parameters() / 1e6:.0f} MB" for factor in (12, 4))
    traffic = f"w + a theta moves {moved}, the pass itself reads {read}"
    return replace(row, note=f"eleven strengths, two more passes check that they agree; {traffic}")


def solver_cost(device: torch.device, maxcor: int) -> Row:
    """The time of L-BFGS-B itself, measured on a linear function of F1's size."""
    n = F1.parameters()
    slope, zero = np.full(n, 1e-3), np.zeros(n)

    def linear(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        return float(slope @ x), slope

    def solve() -> None:
        options: Any = {"maxiter": 2, "maxcor": maxcor}
        minimize(linear, zero, (), "L-BFGS-B", True, bounds=Bounds(zero - 1, zero + 1), options=options)

    took = seconds(solve, torch.device("cpu"))
    workspace = (2 * maxcor + 5) * n * 8 / 1e6
    note = f"a search over {n:,} weights with an objective that costs nothing; workspace {workspace:.0f} MB"
    return Row(f"scipy's L-BFGS-B itself, maxcor {maxcor}", measured=took, unit="s", note=note)


# Many trainings on a GPU


def concurrent_trainings(device: torch.device, runs: int = 20) -> Row:
    """Trainings of F1 with ``runs`` seeds that take turns on their own streams, against one after another."""
    trainings = [updates(F1, device, method=SMOOTHOUT, seed=seed) for seed in range(runs)]
    synchronize(device)  # the streams below do not wait for the copies of splits and networks
    streams = [torch.cuda.Stream(device) for _ in range(runs)]  # type: ignore[no-untyped-call]

    def together() -> None:
        for _ in range(100):
            for steps, stream in zip(trainings, streams, strict=True):
                with torch.cuda.stream(stream):
                    next(steps)

    def alone() -> None:
        for steps in trainings:
            advance(steps, 100)

    return speed_ratio(f"F1, {runs} seeds in turn / {runs} alone, batch 256", 5, together, alone, device, turns=5)


def table2(device: torch.device) -> Row:
    """Minutes for Table 2's twelve settings with five seeds, from measured updates."""
    total, parts, count = 0.0, [], 50
    for name, workload, large in (("F1", F1, 6000), ("C1", C1, 5000), ("C3", C3, 5000)):
        for batch, noise in product((256, large), (PLAIN, SMOOTHOUT)):
            steps = updates(workload, device, method=noise, batch=batch, examples=workload.examples)
            advance(steps, 20)
            epoch = seconds(partial(advance, steps, count), device) / count * -(-workload.examples // batch)
            total += 200 * 5 * epoch / 60
            parts.append(f"{name} {batch} {noise.slug} {epoch:.3f}")
    note = f"200 epochs, from {count} updates per setting, without evaluation; seconds per epoch: {', '.join(parts)}"
    return Row("Table 2, 12 settings x 5 seeds", 10, measured=total, unit="min", note=note)


ON_ANY_DEVICE: dict[str, Comparison] = {
    "throughput": throughput,
    "sharpness": sharpness_evaluation,
    "hessian": hessian_product,
    "interpolation": interpolation_point,
    "noise-curve": partial(noise_point, size=100),
    "noise-curve-1000": partial(noise_point, size=1000),
    "solver": partial(solver_cost, maxcor=10),
    "solver-3": partial(solver_cost, maxcor=3),
}


def _noisy_steps(network: str, workload: Workload, smoothout: float, adasmoothout: float) -> dict[str, Comparison]:
    """SmoothOut's and AdaSmoothOut's updates of a network, with their targets."""
    methods = (("SmoothOut", SMOOTHOUT, smoothout), ("AdaSmoothOut", ADASMOOTHOUT, adasmoothout))
    return {
        f"{method}-{network}".lower(): partial(
            noisy_step, workload=workload, noise=noise, target=target, what=f"{network}, {method}"
        )
        for method, noise, target in methods
    }


def _trainer_updates(plain: float, smoothout: float) -> dict[str, Comparison]:
    return {
        "trainer-f1": partial(trainer_update, noise=PLAIN, target=plain, what=""),
        "trainer-smoothout-f1": partial(trainer_update, noise=SMOOTHOUT, target=smoothout, what=" with SmoothOut"),
    }


COMPARISONS: dict[str, dict[str, Comparison]] = {
    "cpu": {
        **_noisy_steps("F1", F1, 1.11, 1.18),
        **_trainer_updates(1.05, 1.16),
        "c1": fastest_convolutions,
        **FAMILY_COMPARISONS,
        **ON_ANY_DEVICE,
    },
    "cuda": {
        **_noisy_steps("F1", F1, 1.03, 1.05),
        **_noisy_steps("C1", C1, 1.03, 1.05),
        **_trainer_updates(1.0, 1.0),
        "in-turn": concurrent_trainings,
        "table2": table2,
        **FAMILY_COMPARISONS,
        **ON_ANY_DEVICE,
    },
}
