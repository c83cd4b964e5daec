"""Loss and accuracy over a split."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout.common.pass_cache import cached_pass
from smoothout.nn.parameters import in_float64, parameters_to_vector, preserve_training_mode

AllReduce = Callable[[Tensor], None]


def eval_batch_size(device: torch.device) -> int:
    """Examples in a batch that is only evaluated: what a CPU's caches hold, and few launches elsewhere."""
    return 1000 if device.type == "cpu" else 5000


class EvalResult(NamedTuple):
    """Mean cross entropy (nats) and accuracy (a share in [0, 1]) over all examples of a split."""

    loss: float
    accuracy: float


class MetricAccumulator(Protocol):
    """Adds up what a network answers, batch by batch."""

    def update(self, outputs: Any, targets: Any, inputs: Any) -> None: ...  # noqa: D102
    def compute(self, add_up: AllReduce = ...) -> EvalResult: ...  # noqa: D102


class ClassificationMetrics:
    """Loss and right answers, added up on the device batch by batch; every example has the same weight.

    Losses are added up in float64, on the CPU where the device has none. Labels are looked at as they are added up:
    that some are no class is said by `compute`, which waits for the device, once.
    """

    def __init__(self) -> None:
        self._loss: Tensor | float = 0.0
        self._correct: Tensor | int = 0
        self._classes: Tensor | int = 0  # labels that are one
        self._examples = 0

    def update(self, logits: Tensor, labels: Tensor, inputs: object = None) -> None:
        """Count a batch: ``logits`` of shape (examples, classes), ``labels`` of shape (examples,), else ValueError."""
        tensors = isinstance(logits, Tensor) and isinstance(labels, Tensor)
        if not tensors or logits.dim() != 2 or labels.shape != logits.shape[:1]:
            forms = f"{_form(logits)} and {_form(labels)}"
            raise ValueError(
                f"model, batches: must give logits (examples, classes) and labels (examples,), not {forms};"
                " what is no classifier needs a loss"
            )
        if labels.is_floating_point():
            raise ValueError(
                f"batches: labels must be whole numbers, not {labels.dtype}; what is no class needs a loss"
            )
        self._loss = self._loss + in_float64(F.cross_entropy(logits.float(), labels, reduction="sum"))
        self._correct = self._correct + (logits.argmax(1) == labels).sum()
        self._classes = self._classes + ((labels >= 0) & (labels < logits.shape[1])).sum()
        self._examples += len(labels)

    def compute(self, add_up: AllReduce = lambda sums: None) -> EvalResult:
        """The means so far, of all ranks whose sums ``all_reduce`` adds up.

        Raises ValueError when nothing was counted, and for labels that are no class, as the -100 that torch ignores.
        """
        found = parameters_to_vector([torch.as_tensor(each) for each in (self._loss, self._correct, self._classes)])
        sums = torch.tensor([*found.tolist(), self._examples], dtype=torch.float64)
        add_up(sums)
        loss, correct, classes, examples = sums.tolist()
        if not examples:
            raise ValueError("nothing to evaluate: the split is empty")
        if classes < examples:
            raise ValueError(f"batches: {examples - classes:.0f} labels are no class of the logits; leave these out")
        return EvalResult(loss / examples, correct / examples)


def _form(given: object) -> str:
    return str(tuple(given.shape)) if isinstance(given, Tensor) else type(given).__name__


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Any, Any]],
    add_up: AllReduce = lambda sums: None,
    tally: Callable[[], MetricAccumulator] = ClassificationMetrics,
) -> EvalResult:
    """Measure ``model`` in evaluation mode over ``batches`` of (inputs, labels); its mode is given back afterwards.

    Where ranks share the batches, ``all_reduce`` replaces a tensor by its sum over ranks. ``tally`` makes what counts.

    Raises ValueError when there is no example, and for what is no classifier of single labels.
    """

    def measured() -> Tensor:
        counted = tally()
        with preserve_training_mode(model):
            model.eval()
            for inputs, labels in batches:
                counted.update(model(inputs), labels, inputs)
        return torch.tensor(counted.compute(add_up), dtype=torch.float64)

    return EvalResult(*cached_pass(measured).tolist())
