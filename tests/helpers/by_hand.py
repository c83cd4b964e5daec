"""One epoch of a training, written out with nothing but autograd: what methods are compared with, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from smoothout.common.rng import derive_seed, make_generator
from smoothout.data.split import Split
from smoothout.training.batch import Batch
from smoothout.training.methods.base import Method
from smoothout.training.optimizers import SGD, Adam, Epsilon, Optimizer
from smoothout.training.schedule import Schedule
from smoothout.training.trainer import Trainer

EXAMPLES, SIZE = 22, 6  # the last batch of the epoch has 4 examples
SETTINGS: list[tuple[Optimizer, Batch, float]] = [  # the last number is of dropout
    (SGD(0.1, momentum=0.0), Batch(SIZE), 0.0),
    (SGD(0.1, weight_decay=0.1, clip_norm=0.2), Batch(SIZE, 2), 0.0),
    (Adam(0.01, weight_decay=0.1), Batch(SIZE, 3, 2), 0.0),
    (Adam(0.01, epsilon=Epsilon.uncorrected), Batch(SIZE, 3), 0.5),
    (Adam(0.01, clip_norm=0.2), Batch(SIZE), 0.5),
]
Loss = Callable[[nn.Module, Tensor, Tensor, int, int], tuple[Tensor, Tensor]]  # model, images, labels, update, ghost


class Convolutional(nn.Module):
    """A network in float64 for images of 3 x 4 x 4, whatever the type of the images."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        first = nn.Conv2d(3, 6, 3, bias=False)  # before BatchNorm a bias has a gradient of rounding alone
        head = nn.Sequential(nn.Tanh(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(24, 3))
        self.layers = nn.Sequential(first, nn.BatchNorm2d(6), *head).double()

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.double())


def split(examples: int = EXAMPLES, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (examples,), generator=generator)
    pixels = torch.randint(0, 120, (examples, 4, 4, 3), generator=generator) + 60 * labels.view(-1, 1, 1, 1)
    return Split(pixels.to(torch.uint8), labels, (0.5,) * 3, (0.5,) * 3)


def apart(model: nn.Module, images: Tensor) -> Tensor:
    """The logits of a pass that leaves BatchNorm's running statistics as they are."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    logits: Tensor = functional_call(model, buffers, (images,))
    return logits


def mask(update: int, ghost: int) -> None:
    """Dropout's masks of this ghost batch, in the next pass."""
    torch.manual_seed(derive_seed(0, "dropout", update, ghost))


def epoch(
    model: nn.Module, optimizer: Optimizer, batch: Batch, loss: Loss, *, steps: int = 1, penalty: float = 0.0
) -> float:
    """Train ``model`` for one epoch with seed 0, ``steps`` steps per batch; returns the mean of the recorded loss.

    Args:
        loss: returns what is minimized on a ghost batch, and what is recorded.
        penalty: of the squared distance from the weights before the batch.
    """
    model.train()
    parameters, examples, recorded = list(model.parameters()), split(), 0.0
    stepper = optimizer.build(parameters)
    order = torch.randperm(EXAMPLES, generator=make_generator(0, "order", 0))
    for number, rows in enumerate(order.split(batch.examples_per_update)):
        start = [p.detach().clone() for p in parameters]
        ghosts = [examples.gather(part) for part in batch.split(rows)]
        for step in range(steps):
            moves = [p - s for p, s in zip(parameters, start, strict=True)]
            held_back = penalty * torch.stack([move.square().sum() for move in moves]).sum()
            gradients = [torch.autograd.grad(held_back, parameters)]
            for ghost, (images, labels) in enumerate(ghosts):
                mask(number, ghost)
                minimized, counted = loss(model, images, labels, number, ghost)
                gradients.append(torch.autograd.grad(minimized / len(ghosts), parameters))
                recorded += counted.item() * len(labels) * (step == 0)
            for p, *parts in zip(parameters, *gradients, strict=True):
                p.grad = torch.stack(parts).sum(0)
            if optimizer.clip_norm is not None:
                nn.utils.clip_grad_norm_(parameters, optimizer.clip_norm)
            stepper.step()
    return recorded / EXAMPLES


def assert_same_epoch(
    method: Method,
    optimizer: Optimizer,
    batch: Batch,
    dropout: float,
    loss: Loss,
    *,
    tolerance: float = 1e-12,
    **by_hand: Any,
) -> None:
    """A training of one epoch by ``method`` ends where `epoch` does, to ``tolerance``."""
    wanted, found = Convolutional(dropout), Convolutional(dropout)
    recorded = epoch(wanted, optimizer, batch, loss, **by_hand)
    plan: dict[str, Any] = {"optimizer": optimizer, "schedule": Schedule(1), "batch": batch, "seed": 0}
    end = Trainer(found, split(), split(10, seed=1), method=method, **plan).run()
    for name, tensor in wanted.state_dict().items():
        torch.testing.assert_close(end.model[name], tensor, rtol=tolerance, atol=tolerance)
    assert abs(end.curves["train_loss"][0] - recorded) < tolerance
