"""A job: a training or an analysis, as a pure function of its kind, settings and inputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from smoothout.results.digest import canonical_settings, digest


@dataclass(frozen=True)
class Job:
    """A training (``settings`` is an Experiment), or an analysis of the trainings ``dependencies``."""

    settings: Any  # an object of a class derived from `JobSettings`
    dependencies: tuple[Job, ...] = ()

    @cached_property
    def inputs(self) -> tuple[Job, ...]:
        """The trainings that provide weights: the analyzed ones, or the one that a training starts from."""
        return (Job(self.settings.source),) if self.settings.source else self.dependencies

    @property
    def kind(self) -> str:
        """The kind of job, and the folder of its records."""
        return str(self.settings.kind)

    @property
    def training_job(self) -> Job:
        """The job itself if it is a training, otherwise its first dependency."""
        return (self.dependencies or (self,))[0]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The settings and inputs that the digest covers."""
        return {
            "kind": self.kind,
            "numerics": self.settings.numerics,
            "settings": canonical_settings(self.settings, defaults=False),
            "inputs": [job.digest for job in self.inputs],
        }

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the identity."""
        return digest(self.identity)

    @property
    def valid_digests(self) -> list[str]:
        """The digest, and the digests of earlier versions of the program that are still valid."""
        earlier = self.settings.valid_numerics
        return [self.digest, *(digest({**self.identity, "numerics": numerics}) for numerics in earlier)]

    @property
    def name(self) -> str:
        """The record's name: a readable slug and eight digits of the digest."""
        return f"{self.settings.slug(*(job.settings.slug() for job in self.dependencies))}-{self.digest[:8]}"


def with_dependencies(jobs: Iterable[Job]) -> list[Job]:
    """The ``jobs`` and their dependencies, each once and after its inputs; trainings first."""
    unique = dict[str, Job]()

    def add(job: Job) -> None:
        for needed in job.inputs:
            add(needed)
        unique[job.digest] = job

    for job in jobs:
        add(job)
    return sorted(unique.values(), key=lambda job: bool(job.dependencies))
