"""Processes that form a group as torchrun's do, and carry out what a test asks of all of them at once.

They are forked from the server of `soak.processes`, which has imported torch: it takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from soak.processes import SERVER

from smoothout.training.distributed import ProcessGroup


class Crew(AbstractContextManager["Crew"]):
    """``size`` processes with one thread each; calling it runs ``work(ranks, *arguments)`` on all, answers by rank.

    ``work`` stands at the top of a module.
    """

    def __init__(self, size: int, meeting: Path) -> None:
        self._pipes, self._processes = [], []
        for rank in range(size):
            here, there = SERVER.Pipe()
            process = SERVER.Process(target=_serve, args=(there, rank, size, str(meeting)), daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)

    def __call__(self, work: Callable[..., Any], *arguments: Any) -> list[Any]:
        for pipe in self._pipes:
            pipe.send((work, arguments))
        answers = [pipe.recv() for pipe in self._pipes]
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join()


def _serve(pipe: Any, rank: int, size: int, meeting: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    while (asked := pipe.recv()) is not None:
        work, arguments = asked
        try:
            pipe.send(work(ProcessGroup(rank, size), *arguments))
        except Exception as error:
            pipe.send(error)
    dist.destroy_process_group()
