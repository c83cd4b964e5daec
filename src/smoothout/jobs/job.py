"""A piece of work, and the place where it is done. A job is a pure function of its kind, settings and inputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from smoothout.results.digest import canonical_settings, digest


@dataclass(frozen=True)
class Job:
    """A training (``settings`` is an Experiment), or an analysis of the trained runs ``dependencies``."""

    settings: Any
    dependencies: tuple[Job, ...] = ()

    @property
    def kind(self) -> str:
        """The kind of job, and the folder of its records."""
        return str(self.settings.kind)

    @property
    def training_job(self) -> Job:
        """The training that it is, or the first of those that it looks at."""
        return (self.dependencies or (self,))[0]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the digest covers."""
        return {
            "kind": self.kind,
            "numerics": self.settings.numerics,
            "settings": canonical_settings(self.settings, defaults=False),
            "inputs": [job.digest for job in self.dependencies],
        }

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the identity."""
        return digest(self.identity)

    @property
    def name(self) -> str:
        """The record's name: a slug for people and eight digits of the digest."""
        return f"{self.settings.slug(*(job.settings.slug() for job in self.dependencies))}-{self.digest[:8]}"


def with_dependencies(jobs: Iterable[Job]) -> list[Job]:
    """The ``jobs`` and the runs that they look at, each once, trainings first."""
    unique = {job.digest: job for one in jobs for job in (*one.dependencies, one)}
    return sorted(unique.values(), key=lambda job: bool(job.dependencies))
