"""The comparisons: what is measured against what, and the bar that each has to meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from smoothout.analysis.interpolation import interpolate
from smoothout.analysis.noise_sensitivity import noise_curve
from smoothout.benchmark.baselines import bare_updates, eager_steps, epoch_by_loader
from smoothout.benchmark.rows import Row, faster, row
from smoothout.benchmark.timing import SubprocessWork, Work, compare, seconds, warm_profiler
from smoothout.data.split import Split
from smoothout.models.mlp import MLP
from smoothout.models.shallow import Shallow
from smoothout.nn.options import NoiseScaling, Precision
from smoothout.nn.parameters import parameters_to_vector, preserve_state, trainable_parameters
from smoothout.training.batch import Batch
from smoothout.training.checkpoint import TrainingState
from smoothout.training.engine import Engine, MemoryFormat
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.optimizers import Adam
from smoothout.training.schedule import Schedule
from smoothout.training.trainer import Trainer

SMOOTHOUT, ADASMOOTHOUT = NoiseConfig(0.0375), NoiseConfig(0.15, scaling=NoiseScaling.filter)
FOREVER = 10**6  # epochs
F1, C1, C3 = (MLP(), (1, 28, 28), 10), (Shallow(), (3, 32, 32), 10), (Shallow(), (3, 32, 32), 100)
STRENGTHS = [0.01 * i for i in range(11)]


def random_split(shape: tuple[int, int, int], classes: int, examples: int, device: torch.device) -> Split:
    """Images of noise: how long they take does not depend on what they show."""
    channels, height, width = shape
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (examples, height, width, channels), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, classes, (examples,), generator=generator)
    return Split(images.to(device), labels.to(device), (0.5,) * channels, (0.5,) * channels)


def network(setup: tuple[Any, tuple[int, int, int], int], seed: int = 0) -> nn.Module:
    """A fresh network on the CPU."""
    torch.manual_seed(seed)
    model, shape, classes = setup
    built: nn.Module = model.build(shape, classes)
    return built


def updates(
    setup: tuple[Any, tuple[int, int, int], int],
    device: torch.device,
    *,
    noise: NoiseConfig | None = None,
    batch: int = 256,
    examples: int = 10_240,
    precision: Precision = Precision.float32,
    engine: Engine | None = None,
    seed: int = 0,
) -> Iterator[TrainingState]:
    """A training without end, as ``train.py`` makes it; each step of the iterator is an update."""
    warm_profiler(device.type)
    _, shape, classes = setup
    training = Trainer(
        network(setup).to(device),
        random_split(shape, classes, examples, device),
        random_split(shape, classes, 100, device),
        optimizer=Adam(1e-3),
        schedule=Schedule(FOREVER),
        batch=Batch(batch),
        noise=noise or NoiseConfig(),
        seed=seed,
        precision=precision,
        engine=engine,
    )
    return iter(training)


def _advance(steps: Iterator[object], count: int) -> None:
    for _ in range(count):
        next(steps)


def noisy_step(device: torch.device, setup: Any, noise: NoiseConfig, bar: float, what: str) -> Row:
    """A noisy update against a plain one, batch 256."""
    whole = 60_000 if setup is F1 else 50_000  # so that the curvature is measured as often as in a training
    plain, noisy = (updates(setup, device, noise=one, examples=whole) for one in (None, noise))
    weights = sum(p.numel() for p in network(setup).parameters())
    return _step(f"{what} step / plain step, batch 256", bar, noisy, plain, device, note=_noise_floor(weights, device))


def trainer_update(device: torch.device, noise: NoiseConfig, bar: float, what: str) -> Row:
    """The trainer's update of F1 against a bare loop that has the same kind of batches and no noise, batch 256."""
    split = random_split((1, 28, 28), 10, 60_000, device)
    bare = bare_updates(network(F1).to(device), split.images, split.labels, 256)
    ours = updates(F1, device, noise=noise, examples=60_000)
    loop = "the bare loop takes uint8 images from a tensor and updates by fused Adam, operation by operation"
    floor = _noise_floor(sum(p.numel() for p in network(F1).parameters()), device) if noise.a else ""
    note = "; ".join(filter(None, (loop, floor)))
    return _step(f"F1, trainer's update{what} / bare loop, batch 256", bar, ours, bare, device, note=note)


def _step(
    what: str, bar: float, ours: Iterator[object], reference: Iterator[object], device: torch.device, *, note: str
) -> Row:
    """One update against another; on a GPU fifty, for one is over before the clock is read."""
    per_turn = 1 if device.type == "cpu" else 50
    work = partial(_advance, ours, per_turn)
    ratio = compare(work, partial(_advance, reference, per_turn), device, turns=100, warm_up=10)
    return row(what, bar, ratio, work, device, note=note)


def _noise_floor(weights: int, device: torch.device) -> str:
    """What noise takes at least on a CPU: numpy's generator, and one pass that adds the noise to the weights."""
    if device.type != "cpu":
        return ""
    theta, w, cpu = torch.ones(weights), torch.ones(weights), torch.device("cpu")
    parts: list[Work] = [partial(np.random.SFC64(0).random_raw, weights // 4), partial(theta.add_, w)]
    draw, add = (1000 * min(seconds(part, cpu) for _ in range(20)) for part in parts)
    return f"the noise cannot take less than its generator, {draw:.2g} ms, and one pass over the weights, {add:.2g} ms"


def throughput(device: torch.device) -> Row:
    """F1's epoch at the fastest setting against the ordinary loop's."""
    split = random_split((1, 28, 28), 10, 30_000, torch.device("cpu"))
    images, labels = split.images[:, 0].numpy(), split.labels.numpy()
    steps, tried = _fastest(F1, device, [MemoryFormat.channels_first], examples=30_000)
    ours = partial(_advance, steps, 118)
    with SubprocessWork(
        epoch_by_loader, (network(F1), images, labels, 256, str(device)), torch.get_num_threads()
    ) as ordinary:
        ratio = compare(ours, ordinary, device, turns=3, warm_up=1)
    ordinarily = "torchvision transforms, DataLoader with 2 workers, eager, default allocator; 30,000 images"
    what = "F1 images/s, fastest setting / the ordinary loop's, batch 256"
    return faster(what, 8, ratio, ours, device, note=f"{tried}; ordinary: {ordinarily}")


def fastest_convolutions(device: torch.device) -> Row:
    """C1's update at the fastest setting against eager float32 channels-first."""
    steps, tried = _fastest(C1, device, [MemoryFormat.channels_first, MemoryFormat.channels_last])
    ours = partial(_advance, steps, 4)
    inputs = torch.randn(256, 3, 32, 32)
    arguments = (network(C1), inputs, torch.randint(0, 10, (256,)), 4, str(device))
    with SubprocessWork(eager_steps, arguments, torch.get_num_threads()) as ordinary:
        ratio = compare(ours, ordinary, device, turns=8, warm_up=1)
    what = "C1 update, fastest setting / eager float32 channels-first, batch 256"
    return row(what, 0.5, ratio, ours, device, note=f"{tried}; reference with the default allocator")


def _fastest(
    setup: Any, device: torch.device, layouts: list[MemoryFormat], examples: int = 10_240
) -> tuple[Iterator[TrainingState], str]:
    """The fastest of the precisions and layouts that the device has, and what each takes an update."""
    precisions = [Precision.float32, *([Precision.bfloat16] if _has_bfloat16(device) else [])]
    candidates = {
        f"{precision}, {layout}": updates(
            setup, device, examples=examples, precision=precision, engine=Engine(memory_format=layout)
        )
        for precision, layout in product(precisions, layouts)
    }
    taken = {}
    for name, steps in candidates.items():
        taken[name] = min(seconds(partial(_advance, steps, 1), device) for _ in range(10))
    best = min(taken, key=taken.__getitem__)
    tried = "; ".join(f"{name} {1000 * s:.3g} ms" for name, s in taken.items())
    return candidates[best], f"fastest: {best}; tried, the best of ten updates: {tried}"


def _has_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` has instructions for bfloat16: emulated, convolutions take fifteen times as long."""
    return device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _batches(examples: int, size: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    return list(random_split((1, 28, 28), 10, examples, device).batches(size))


def _forward(model: nn.Module, batches: list[tuple[Tensor, Tensor]], times: int) -> None:
    with torch.no_grad():
        for _ in range(times):
            for inputs, _ in batches:
                model(inputs)


def sharpness_evaluation(device: torch.device) -> Row:
    """f and its gradient at one point of the box, against the bare passes."""
    model, batches = network(F1).to(device).eval(), _batches(30_000, 1000, device)
    parameters = trainable_parameters(model)

    def bare() -> None:
        for inputs, labels in batches:
            torch.autograd.grad(F.cross_entropy(model(inputs), labels), parameters)

    with preserve_state(model):
        objective = BoxObjective(
            model, batches, F.cross_entropy, box_around(parameters_to_vector(parameters), 5e-4), lambda: None
        )
        x = objective.evaluate_center()
        z = torch.linspace(-1, 1, len(x.z), dtype=torch.float64)
        ours: Work = lambda: objective(z)  # noqa: E731
        ratio = compare(ours, bare, device, turns=6, warm_up=1)
        return row("sharpness evaluation / forward + backward, F1, batches of 1000", 1.05, ratio, ours, device)


def interpolation_point(device: torch.device) -> Row:
    """Two points of an interpolation against two forward passes."""
    first, second, batches = network(F1).to(device), network(F1, 1).to(device), _batches(10_000, 1000, device)
    ours: Work = lambda: interpolate(first.eval(), second, batches, [0.3, 0.6])  # noqa: E731
    ratio = compare(ours, partial(_forward, first.eval(), batches, 2), device, turns=8)
    return row("interpolation point / forward passes, F1, batches of 1000", 1.05, ratio, ours, device)


def noise_point(device: torch.device, size: int) -> Row:
    """A noise curve of eleven strengths against eleven forward passes."""
    model, batches = network(F1).to(device).eval(), _batches(4000, size, device)
    n = sum(p.numel() for p in model.parameters())
    ours: Work = lambda: noise_curve(model, batches, STRENGTHS)  # noqa: E731
    ratio = compare(ours, partial(_forward, model, batches, len(STRENGTHS)), device, turns=6, warm_up=1)
    moved, read = (f"{k * n / 1e6:.0f} MB" for k in (12, 4))
    note = f"eleven strengths a draw; making w + a theta moves {moved}, the pass itself reads {read}"
    return row(f"noise-curve point / forward passes, F1, batches of {size}", 1.05, ratio, ours, device, note=note)


def solver_cost(device: torch.device, maxcor: int) -> Row:
    """What L-BFGS-B takes for itself, on a linear function of F1's size."""
    n = sum(p.numel() for p in network(F1).parameters())
    slope, zero = np.full(n, 1e-3), np.zeros(n)

    def linear(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        return float(slope @ x), slope

    def solve() -> None:
        options: Any = {"maxiter": 2, "maxcor": maxcor}
        box = Bounds(zero - 1, zero + 1)
        minimize(linear, zero, (), "L-BFGS-B", True, bounds=box, options=options)

    took = seconds(solve, torch.device("cpu"))
    room = (2 * maxcor + 5) * n * 8 / 1e6
    note = f"a search over {n:,} weights with an objective that costs nothing; workspace {room:.0f} MB"
    return Row(f"scipy's L-BFGS-B itself, maxcor {maxcor}", reached=took, unit="s", note=note)


def in_turn(device: torch.device, runs: int = 20) -> Row:
    """So many seeds of F1 in turn on streams of their own, against one after another."""
    trainings = [updates(F1, device, noise=SMOOTHOUT, seed=seed) for seed in range(runs)]
    streams = [torch.cuda.Stream(device) for _ in range(runs)]  # type: ignore[no-untyped-call]

    def together() -> None:
        for _ in range(100):
            for steps, stream in zip(trainings, streams, strict=True):
                with torch.cuda.stream(stream):
                    next(steps)

    def alone() -> None:
        for steps in trainings:
            _advance(steps, 100)

    ratio = compare(together, alone, device, turns=5)
    return faster(f"F1, {runs} seeds in turn / {runs} alone, batch 256", 5, ratio, together, device)


def table2(device: torch.device) -> Row:
    """Minutes for Table 2's twelve settings with five seeds, from measured updates."""
    total, parts, count = 0.0, [], 50
    setups = {"F1": (F1, 60_000, 6000), "C1": (C1, 50_000, 5000), "C3": (C3, 50_000, 5000)}
    for name, (setup, examples, large) in setups.items():
        for batch, noise in product((256, large), (NoiseConfig(), SMOOTHOUT)):
            steps = updates(setup, device, noise=noise, batch=batch, examples=examples)
            _advance(steps, 20)
            epoch = seconds(partial(_advance, steps, count), device) / count * -(-examples // batch)
            total += 200 * 5 * epoch / 60
            parts.append(f"{name} {batch} {noise.slug} {epoch:.3f}")
    note = f"200 epochs, from {count} updates a setting, evaluation apart; seconds an epoch: {', '.join(parts)}"
    return Row("Table 2, 12 settings x 5 seeds", 10, reached=total, unit="min", note=note)


DEVICE_INDEPENDENT: dict[str, Callable[[torch.device], Row]] = {
    "throughput": throughput,
    "sharpness": sharpness_evaluation,
    "interpolation": interpolation_point,
    "noise-curve": partial(noise_point, size=100),
    "noise-curve-1000": partial(noise_point, size=1000),
    "solver": partial(solver_cost, maxcor=10),
    "solver-3": partial(solver_cost, maxcor=3),
}
COMPARISONS: dict[str, dict[str, Callable[[torch.device], Row]]] = {
    "cpu": {
        "smoothout-f1": partial(noisy_step, setup=F1, noise=SMOOTHOUT, bar=1.11, what="F1, SmoothOut"),
        "adasmoothout-f1": partial(noisy_step, setup=F1, noise=ADASMOOTHOUT, bar=1.18, what="F1, AdaSmoothOut"),
        "trainer-f1": partial(trainer_update, noise=NoiseConfig(), bar=1.05, what=""),
        "trainer-smoothout-f1": partial(trainer_update, noise=SMOOTHOUT, bar=1.16, what=" with SmoothOut"),
        "c1": fastest_convolutions,
        **DEVICE_INDEPENDENT,
    },
    "cuda": {
        **{
            f"{method}-{name}": partial(noisy_step, setup=setup, noise=noise, bar=bar, what=f"{name.upper()}, {title}")
            for name, setup in (("f1", F1), ("c1", C1))
            for method, title, noise, bar in (
                ("smoothout", "SmoothOut", SMOOTHOUT, 1.03),
                ("adasmoothout", "AdaSmoothOut", ADASMOOTHOUT, 1.05),
            )
        },
        "trainer-f1": partial(trainer_update, noise=NoiseConfig(), bar=1.0, what=""),
        "trainer-smoothout-f1": partial(trainer_update, noise=SMOOTHOUT, bar=1.0, what=" with SmoothOut"),
        "in-turn": in_turn,
        "table2": table2,
        **DEVICE_INDEPENDENT,
    },
}
