"""Whether an analysis saw the weights that its training's record describes, or weights that were trained again.

Weights are not kept with the records. Where they are missing, the training is repeated, and another processor rounds it
differently: the same settings then lead to other weights. So an analysis records a digest of the weights that it saw,
and, if it is not the digest of the training's record, how these weights do on the test split.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

from smoothout.results.records import Record

# Two evaluations of the same weights on different machines: float32 rounds their logits differently.
LOSS_RELATIVE, LOSS_ABSOLUTE = 1e-4, 1e-7
IMAGES = 1  # one image may be classified differently


class WeightsSeen(IntEnum):
    """Which weights an analysis saw, from the best case to the worst."""

    recorded = 0  # those of the training's record
    agreeing = 1  # trained again; loss and accuracy agree with the record
    unchecked = 2  # trained again; an early analysis that has no digest, and no number to compare with the record
    other = 3  # trained again; loss or accuracy do not agree, or cannot be compared

    @property
    def words(self) -> str:
        """The words that pages use for them."""
        return {
            WeightsSeen.recorded: "as recorded",
            WeightsSeen.agreeing: "trained again, agrees with the record",
            WeightsSeen.unchecked: "trained again, not compared with the record",
            WeightsSeen.other: "trained again, other weights",
        }[self]


def agrees(run: Record, which: str, split: str, loss: float | None, accuracy: float | None) -> bool:
    """Whether ``loss`` and ``accuracy`` on a split are those of a training's ``which`` weights, up to rounding."""
    recorded, images = run.outcome[which], run.outcome["examples"][split]
    expected = recorded[f"{split}_loss"]
    if loss is None or expected is None:  # not finite
        return loss is expected
    if not math.isclose(loss, expected, rel_tol=LOSS_RELATIVE, abs_tol=LOSS_ABSOLUTE):
        return False
    return accuracy is None or abs(accuracy - recorded[f"{split}_accuracy"]) * images < IMAGES + 0.5


def weights_seen(analysis: Record, number: int, run: Record) -> WeightsSeen:
    """Which weights of ``run``, its input with index ``number``, the ``analysis`` saw.

    Early records have no digest but say whether the weights were made again; one that says neither counts as recorded.
    """
    out = analysis.outcome
    digests, made_again = out.get("weights"), out.get("weights_remade")
    if digests is None and not (made_again and made_again[number]):
        return WeightsSeen.recorded
    which = str(analysis.settings["weights"])
    if digests is not None and digests[number] == run.outcome["weights"][which]:
        return WeightsSeen.recorded
    compared = [agrees(run, which, *measured) for measured in _at_the_weights(analysis, number)]
    if not compared:  # another digest alone: only early records leave open how far the weights are apart
        return WeightsSeen.unchecked if digests is None else WeightsSeen.other
    return WeightsSeen.agreeing if all(compared) else WeightsSeen.other


def _at_the_weights(analysis: Record, number: int) -> Iterator[tuple[str, float | None, float | None]]:
    """What an analysis measured at the weights themselves, on whole splits: split, loss, and accuracy if it has one."""
    out, settings = analysis.outcome, analysis.settings
    again = out.get("retrained")
    if again and again[number]:
        yield "test", again[number]["test_loss"], again[number]["test_accuracy"]
        return
    if settings.get("examples") is not None or settings.get("averages") == "recomputed":
        return
    if analysis.kind == "sharpness":
        yield settings["part"], out["loss"], None
    for split in ("train", "test"):
        for point in _points(analysis.kind, out, split):
            at = point.get("alpha", point.get("a", 0))
            if at == (number if analysis.kind == "interpolation" else 0):
                yield split, point["loss"], point["accuracy"]


def _points(kind: str, out: dict[str, Any], split: str) -> list[dict[str, Any]]:
    """The points of a curve, each with loss and accuracy."""
    if kind == "interpolation":
        return list(out[split])
    if kind == "noise_curve":
        return list(out[split]["points"])
    if kind == "landscape":
        return [{**point, "loss": point["losses"][0], "accuracy": point["accuracies"][0]} for point in out[split]]
    return [out["kept"][split]] if kind == "averages" else []
