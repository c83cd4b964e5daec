"""Loss and accuracy over a split."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout.common.pass_cache import cached_pass
from smoothout.nn.batches import Batches, Examples, logits_in
from smoothout.nn.forward import forward
from smoothout.nn.parameters import in_float64, parameters_to_vector, preserve_training_mode, set_evaluation_mode

AllReduce = Callable[[Tensor], None]
IGNORED = -100  # torch's cross entropy leaves out examples with this label


def eval_batch_size(device: torch.device) -> int:
    """Examples per batch in evaluation: few on a CPU, to fit its caches; more elsewhere, to launch fewer kernels."""
    return 1000 if device.type == "cpu" else 5000


class EvalResult(NamedTuple):
    """Mean cross entropy (nats) and accuracy (in [0, 1]) over all examples of a split."""

    loss: float
    accuracy: float


class MetricAccumulator(Protocol):
    """Accumulates metrics of a network's outputs, batch by batch."""

    def update(self, outputs: Any, targets: Any, inputs: Any) -> None: ...  # noqa: D102
    def compute(self, all_reduce: AllReduce = ...) -> EvalResult: ...  # noqa: D102


class ClassificationMetrics:
    """Loss and accuracy, accumulated on the device batch by batch; every example has the same weight.

    Losses are summed in float64, on the CPU if the device has no float64. Only `right` and `compute`, which reports
    invalid labels, wait for the device. With ``ignore_others``, examples with invalid labels do not count.
    """

    def __init__(self, *, ignore_others: bool = False) -> None:
        self._ignore_others = ignore_others
        self._loss: Tensor | float = 0.0
        self._right: list[Tensor] = []  # for each batch: which examples are correct
        self._valid: Tensor | int = 0  # number of valid labels
        self._outside: list[Tensor] = []  # for each batch: lowest and highest invalid label, 0 if none
        self._classes = 0
        self._examples = 0

    def update(self, outputs: Any, labels: Any, inputs: object = None) -> None:
        """Add a batch: ``outputs`` that are or carry logits (examples, classes), and ``labels`` (examples,).

        Raises ValueError for other shapes.
        """
        logits = logits_in(outputs)
        tensors = isinstance(logits, Tensor) and isinstance(labels, Tensor)
        if not tensors or logits.dim() != 2 or labels.shape != logits.shape[:1]:
            raise ValueError(
                "model, batches: must give logits (examples, classes) and labels (examples,),"
                f" not {_form(logits)} and {_form(labels)}; for a model that is not a classifier, pass"
                " loss=... (evaluate: metrics_class=...)"
            )
        if labels.is_floating_point():
            raise ValueError(
                f"batches: labels must be whole numbers, not {labels.dtype}; for other targets, pass loss=..."
                " (evaluate: metrics_class=...)"
            )
        labels, self._classes = labels.long(), logits.shape[1]
        valid = (labels >= 0) & (labels < self._classes)
        # `compute` reports invalid labels. Here they would raise IndexError, or on CUDA an assertion that leaves the
        # device unusable.
        loss = F.cross_entropy(logits.float(), torch.where(valid, labels, IGNORED), reduction="sum")
        self._loss = self._loss + in_float64(loss)
        self._right.append(logits.argmax(1) == labels)
        self._valid = self._valid + valid.sum()
        self._outside.append(torch.stack(F.pad(torch.where(valid, 0, labels), (0, 1)).aminmax()))
        self._examples += len(labels)

    def compute(self, all_reduce: AllReduce = lambda sums: None) -> EvalResult:
        """The means so far; ``all_reduce`` sums over processes, in place.

        Raises ValueError if nothing was counted, and for labels outside the classes (such as the -100 of torch's cross
        entropy) unless they are ignored.
        """
        counts = parameters_to_vector([_as_tensor(number) for number in (self._loss, self.right.sum(), self._valid)])
        sums = torch.tensor([*counts.tolist(), self._examples], dtype=torch.float64, device="cpu")
        all_reduce(sums)
        loss, correct, valid, examples = sums.tolist()
        if not examples:
            raise ValueError("nothing to evaluate: the split is empty")
        if self._ignore_others:
            return EvalResult(loss / valid, correct / valid) if valid else EvalResult(math.nan, math.nan)
        if valid < examples:
            raise ValueError(f"batches: {self._describe_invalid(int(examples - valid))}")
        return EvalResult(loss / examples, correct / examples)

    def _describe_invalid(self, count: int) -> str:
        """The error message for ``count`` invalid labels over all processes."""
        outside = [label for pair in self._outside for label in pair.tolist() if label]
        if not outside:
            return f"labels must be classes of the logits; leave out others ({count}, in other processes)"
        allowed = f"labels must be classes of the logits, 0 to {self._classes - 1}"
        return f"{allowed}; leave out others, such as {outside[0]} ({count} in all)"

    @property
    def right(self) -> Tensor:
        """Whether each example of this process's batches is classified correctly, in order: bool, (examples,)."""
        return torch.cat(self._right) if self._right else torch.zeros(0, dtype=torch.bool, device="cpu")


def _as_tensor(number: Tensor | float) -> Tensor:
    return number if isinstance(number, Tensor) else torch.tensor(number, device="cpu")


def _form(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Batches,
    all_reduce: AllReduce = lambda sums: None,
    metrics_class: Callable[[], MetricAccumulator] = ClassificationMetrics,
) -> EvalResult:
    """Measure ``model`` in evaluation mode over ``batches``, in one pass; its mode is restored.

    Args:
        model: a module that returns logits (examples, classes), or outputs that contain them.
        batches: those of this process: pairs (inputs, labels) or mappings, on any device, as analyses take them; labels
            are whole numbers, (examples,).
        all_reduce: replaces a tensor by its sum over processes, in place; called once, at the end.
        metrics_class: creates the accumulator of the metrics, which may accept other outputs and targets.

    Returns:
        Mean cross entropy (nats) and accuracy (in [0, 1]) over the examples of all processes.

    Raises:
        ValueError: if ``batches`` does not hold batches, or no examples; with the default ``metrics_class``, for
            outputs and labels of other shapes, and labels that are not classes.
    """
    examples = Examples("batches", batches, model)

    def measured() -> Tensor:
        metrics = metrics_class()
        with preserve_training_mode(model):
            set_evaluation_mode(model)
            for inputs, labels in examples:
                metrics.update(forward(model, inputs), labels, inputs)
        return torch.tensor(metrics.compute(all_reduce), dtype=torch.float64, device="cpu")

    return EvalResult(*cached_pass(measured).tolist())
