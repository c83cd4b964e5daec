"""SmoothOut and AdaSmoothOut as methods of training: their settings, and the noise of each update."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from torch import nn

from smoothout.common.enums import choice, keep_members
from smoothout.nn.perturbation import Law, Scaling, SmoothOut, check_strength


class Draw(StrEnum):
    """How often noise is drawn: anew for every ghost batch (the released program), or once a batch (Algorithm 1)."""

    ghost = "ghost"
    batch = "batch"


class Course(StrEnum):
    """How the strength moves over a training."""

    constant = "constant"
    anneal = "anneal"
    tanh_rising = "tanh_rising"
    tanh_falling = "tanh_falling"


@dataclass(frozen=True)
class Noise:
    """The settings of the noise of one training; ``a = 0`` is training without noise.

    Args:
        a: strength: half-width of the uniform law, standard deviation of the Gaussian, share of the norm when scaled.
        law: uniform (as published) or gaussian (later version, Table V).
        scaling: none (SmoothOut), filter (AdaSmoothOut) or weight.
        batchnorm: whether weight and bias of BatchNorm layers are perturbed too.
        denoise: whether the noise is taken out before the update (Algorithm 1, line 5).
        draw: a fresh draw for every ghost batch, or one a batch.
        course: how the strength moves over the training.
        copies: 0 is Stochastic SmoothOut; N > 0 averages N models whose noise is drawn once before training (Eq. 1).
    """

    a: float = 0.0
    law: Law = Law.uniform
    scaling: Scaling = Scaling.none
    batchnorm: bool = False
    denoise: bool = True
    draw: Draw = Draw.ghost
    course: Course = Course.constant
    copies: int = 0

    def __post_init__(self) -> None:
        check_strength(self.a)
        keep_members(self)
        if self.copies < 0:
            raise ValueError(f"copies: must be 0 (a fresh draw every time) or a number of copies, not {self.copies}")
        if self.copies and not (self.denoise and self.course is Course.constant):
            raise ValueError("copies: the N copies of Eq. 1 need denoise=true and course=constant")

    def simplified(self) -> Noise:
        """The plainest settings with the same outcome: without strength, nothing else matters."""
        return self if self.a else Noise()

    @property
    def slug(self) -> str:
        """A short name for file names and tables."""
        if not self.a:
            return "baseline"
        method = {Scaling.none: "smoothout", Scaling.filter: "adasmoothout", Scaling.weight: "weightsmoothout"}
        law = "" if self.law is Law.uniform else f"-{self.law}"
        return f"{method[self.scaling]}{self.a:g}{law}{'' if self.denoise else '-noisy'}"

    def strength(self, step: int, total: int) -> float:
        """The strength at update ``step`` of ``total``."""
        return self.a * course_factor(self.course, step, total)

    def on(self, model: nn.Module) -> SmoothOut:
        """The context that perturbs ``model`` with these settings, at full strength."""
        return SmoothOut(model, self.a, self.law, scaling=self.scaling, batchnorm=self.batchnorm, denoise=self.denoise)


def course_factor(course: Course | str, step: int, total: int) -> float:
    """The share of the strength that is used at update ``step`` (from 0) of ``total``, as in the released program.

    Raises ValueError for an unknown course.
    """
    course = choice(Course, "course", course)
    if course is Course.constant:
        return 1.0
    if course is Course.anneal:
        return float((1 + step) ** (-0.55 / 2))
    rising = (1 + math.tanh(10 * (step / total - 0.5))) / 2
    return rising if course is Course.tanh_rising else 1 - rising
