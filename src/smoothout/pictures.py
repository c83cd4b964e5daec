"""A picture as the jobs that it needs: one of configs/figure/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smoothout.analysis.recorded import Interpolation, NoiseCurve
from smoothout.figures import line_and_noise
from smoothout.jobs import recorded
from smoothout.reproduction import Scope
from smoothout.settings import compose_config, experiment
from smoothout.tables import stem
from smoothout.work import Job, Workplace


class Picture:
    """Small batch against large batch: along the line between two runs, and under noise (SmoothOut Figures 3 and 7)."""

    def __init__(self, figure: dict[str, Any], scope: Scope, configs: Path) -> None:
        self.figure, self.scope = figure, scope
        ends = []
        for end in ("small", "large"):
            overrides = [*figure["overrides"], *figure[end], *scope.overrides(), f"seed={scope.seeds[0]}"]
            config = compose_config(configs, "train", overrides)
            ends.append(Job(experiment(config)))
        examples = config["profile"]["analysis_examples"]
        self.line = Job(Interpolation(examples=examples), tuple(ends))
        self.curves = {
            name: Job(NoiseCurve(examples=examples), (run,))
            for name, run in zip(("small batch", "large batch"), ends, strict=True)
        }

    def jobs(self) -> list[Job]:
        """Every job that the picture needs, trainings first."""
        return [*self.line.inputs, self.line, *self.curves.values()]

    def plan(self) -> dict[str, dict[Job, float | None]]:
        """The picture's jobs; their estimates come from records alone."""
        return {f"figure {self.figure['name']}": dict.fromkeys(self.jobs())}

    def save(self, place: Workplace, folder: Path) -> list[Path]:
        """Draw it from the present records; nothing is drawn while one is missing."""
        line = recorded(self.line, place)
        curves = [(name, recorded(job, place)) for name, job in self.curves.items()]
        there = [(name, record) for name, record in curves if record is not None]
        if line is None or len(there) < len(curves):
            return []
        name = stem(self.figure["name"], self.scope.regime, self.scope.profile, self.scope.precision)
        return line_and_noise(line, there, self.figure["title"], folder / name)
