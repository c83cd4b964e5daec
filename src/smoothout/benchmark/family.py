"""Time per update of the methods of SmoothOut's family, against a plain update and against a widely used SAM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from smoothout.benchmark.rows import Row
from smoothout.benchmark.timing import Work, time_in_turn
from smoothout.benchmark.workloads import ADASMOOTHOUT, F1, PLAIN, advance, random_split, updates
from smoothout.training.methods.arwp import ARWP
from smoothout.training.methods.asam import ASAM
from smoothout.training.methods.averaging import Average, WeightAveraging
from smoothout.training.methods.base import Method
from smoothout.training.methods.lpf_sgd import LPFSGD
from smoothout.training.methods.mixed_rwp import MixedRWP
from smoothout.training.methods.msam import MSAM
from smoothout.training.methods.nso import NSO
from smoothout.training.methods.sam import SAM

FAMILY: dict[str, Method] = {
    "lpf-sgd": LPFSGD(),
    "arwp": ARWP(),
    "msam": MSAM(),
    "swa": WeightAveraging(start=0.0),
    "ema": WeightAveraging(Average.ema, start=0.0),
    "sam": SAM(),
    "asam": ASAM(),
    "m-rwp": MixedRWP(),
    "nso": NSO(),
}
TURNS = 30


def least_ratio(
    what: str, target: float | None, ours: Work, reference: Work, device: torch.device, *, note: str = ""
) -> Row:
    """Time both in turn; the row compares the shortest time of each, which other processes disturb least."""
    times = time_in_turn({"ours": ours, "reference": reference}, device, TURNS, warm_up=5)
    ratio = min(times["ours"]) / min(times["reference"])
    return Row(what, target, measured=ratio, note=f"shortest of {TURNS}; {note}".rstrip("; "), times=times)


def _steps(method: Method, device: torch.device) -> Work:
    """Updates of F1 at batch 256: one, or fifty on a GPU, where a single one is too short to be timed."""
    return partial(advance, updates(F1, device, method=method), 1 if device.type == "cpu" else 50)


def family_step(device: torch.device, name: str) -> Row:
    """A method's update of F1 against a plain one."""
    method = FAMILY[name]
    note = f"{method.passes:g} passes"
    return least_ratio(
        f"F1, {name} step / plain step, batch 256",
        None,
        _steps(method, device),
        _steps(PLAIN, device),
        device,
        note=note,
    )


def filter_noise_step(device: torch.device) -> Row:
    """LPF-SGD's update of F1 against AdaSmoothOut's."""
    ours, reference = _steps(LPFSGD(), device), _steps(ADASMOOTHOUT, device)
    return least_ratio("F1, LPF-SGD step / AdaSmoothOut step, batch 256", 1.05, ours, reference, device)


def two_pass_step(device: torch.device, name: str) -> Row:
    """A method of two passes against davda54's SAM around the same optimizer, as pytorch_optimizer has it."""
    what = f"F1, {name} step / davda54's SAM step, batch 256"
    if find_spec("pytorch_optimizer") is None:
        return Row(what, 0.97, note="pytorch_optimizer is not installed")
    steps = peers_sam(F1.network().to(device), device)
    count = 1 if device.type == "cpu" else 50
    row = least_ratio(what, 0.97, _steps(FAMILY[name], device), partial(advance, steps, count), device)
    return replace(row, note=f"{row.note}; both around Adam, theirs in a bare loop over batches on the device")


def peers_sam(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Endless updates by the other SAM on random images; each step is an update."""
    import pytorch_optimizer  # noqa: PLC0415

    split = random_split(F1.shape, F1.classes, 10_240, device)
    base: Any = torch.optim.Adam
    optimizer = pytorch_optimizer.SAM(model.parameters(), base, rho=0.05, lr=2.0**-10)
    model.train()
    while True:
        for rows in torch.split(torch.randperm(len(split), device=device), 256):
            inputs, labels = split.gather(rows)
            F.cross_entropy(model(inputs), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.first_step(zero_grad=True)
            F.cross_entropy(model(inputs), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.second_step(zero_grad=True)
            yield


Comparison = Callable[[torch.device], Row]
FAMILY_COMPARISONS: dict[str, Comparison] = {
    **{f"{name}-f1": partial(family_step, name=name) for name in FAMILY},
    "lpf-sgd-adasmoothout": filter_noise_step,
    **{f"{name}-peer": partial(two_pass_step, name=name) for name in ("sam", "asam", "nso", "m-rwp")},
}
