"""Several processes, one training: torchrun's ranks, and what they add up.

Each rank takes its share of an update's ghost batches. Once an update, after its last backward pass, gradients,
BatchNorm's running averages and the sums of loss and right answers are added up over ranks; then every rank makes the
update that one process would make. A ghost batch's noise and dropout have the address that they have in one process:
so ranks have noise of their own (``draw=ghost``) or share one (``draw=batch``), and a run on p ranks is the run on one,
but for the rounding of sums.

Gradients travel as one flat message and not through DistributedDataParallel. That hangs its hooks on the passes of a
module that it wraps: it would have to be told which ghost batch is the last (no_sync), wants as many passes on every
rank, and spreads one rank's running averages
instead of adding up all. After the last pass the weights are clean and the gradients plain tensors, whatever buffers
the noise lay in; and of many backward passes DistributedDataParallel could hide its messages behind the last alone.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache, partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from smoothout.common import interrupts
from smoothout.common.errors import DistributedAbort, PeerLostError
from smoothout.nn.parameters import BATCHNORM
from smoothout.training.methods.base import GradientEstimator

TIMEOUT = timedelta(days=20)  # ranks wait while the first one measures; torchrun notices those that die

ASK_SECONDS = 0.5  # between two questions whether a rank was asked to stop


class ProcessGroup:
    """This process among those that torchrun started; by default it is alone.

    Rank 0 runs the program. The others do their share of the trainings that it leads, and write nothing.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Any = None) -> None:
        self.rank, self.size = rank, size
        self._store, self._leading = store, False
        self._asked, self._asked_every, self._until_asked = time.monotonic(), 1, 1

    def shard(self, count: int) -> slice:
        """Which of ``count`` things in a row are this rank's: as many as another's, one more in the first ranks."""
        each, more = divmod(count, self.size)
        first = self.rank * each + min(self.rank, more)
        return slice(first, first + each + (self.rank < more))

    def device(self, device: torch.device) -> torch.device:
        """The device of ``device``'s type that is this rank's. Raises ValueError where the machine has too few."""
        if self.size == 1 or device.type != "cuda":
            return device
        local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if str(device) != "cuda" or local >= there:
            raise ValueError(f"device: each process takes a GPU of its own (cuda or auto), and there are {there} here")
        torch.cuda.set_device(local)
        return torch.device("cuda", local)

    @torch.no_grad()
    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over ranks, in place: one message for all of a dtype."""
        if self.size == 1:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            group = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in group])
            with _noticing():
                dist.all_reduce(flat)
            parts = torch.split(flat, [tensor.numel() for tensor in group])
            torch._foreach_copy_(group, [part.view(t.shape) for t, part in zip(group, parts, strict=True)])

    def agree_to_stop(self) -> int:
        """Let a signal that one rank was sent count for all; returns its number, 0 for none that all know of.

        Every rank calls it after every update. They ask one another about every half second: with each answer they
        agree on how many updates the next one is away, as far as the slowest expects them to take that long.
        """
        if self.size == 1:
            return interrupts.pending_signal()
        self._until_asked -= 1
        if self._until_asked:
            return 0
        now = time.monotonic()
        fitting = self._asked_every * ASK_SECONDS / max(now - self._asked, 1e-9)
        every = max(1, min(2 * self._asked_every, int(fitting)))  # at most twice as far: updates may become slower
        answer = torch.tensor([interrupts.pending_signal(), -every])
        with _noticing():
            dist.all_reduce(answer, op=dist.ReduceOp.MAX)
        number, every = int(answer[0]), -int(answer[1])
        self._asked, self._asked_every, self._until_asked = now, every, every
        if number:
            interrupts.set_pending_signal(number)
        return number

    def _ask_at_once(self) -> None:
        """Ask at the next update, as at the start of every training: one may be slower than the last."""
        self._asked, self._asked_every, self._until_asked = time.monotonic(), 1, 1

    @contextmanager
    def broadcast_work(self, order: Callable[[], Any]) -> Iterator[None]:
        """A block in which the other ranks carry out ``order()``; an error in it ends all. For rank 0."""
        if self.size == 1:
            yield
            return
        self._send(order())
        self._ask_at_once()
        self._leading = True
        try:
            yield
        except Exception as error:
            raise DistributedAbort from error
        self._leading = False

    def receive_work(self) -> Iterator[Any]:
        """What rank 0 wants done, tensors on the CPU, until it dismisses this rank. For the others."""
        while True:
            content: list[bytes | None] = [None]
            with _noticing():
                dist.broadcast_object_list(content, src=0, device=torch.device("cpu"))
            if content[0] is None:
                return
            self._ask_at_once()
            yield torch.load(io.BytesIO(content[0]), map_location="cpu", weights_only=False)

    def shutdown(self) -> None:
        """Dismiss the other ranks, at the end of the program; within a training they learn it from silence."""
        if self.size > 1 and not self._leading:
            with suppress(PeerLostError), _noticing():
                if self.rank == 0:
                    dist.broadcast_object_list([None], src=0, device=torch.device("cpu"))
                dist.destroy_process_group()

    def may_report(self) -> bool:
        """Whether an error is this rank's to tell: of several that fail, it is the first one's."""
        if self._store is None:
            return True
        with suppress(RuntimeError):  # the store is gone with torchrun
            return bool(self._store.compare_set("teller", "", str(self.rank)) == str(self.rank).encode())
        return self.rank == 0

    def _send(self, order: Any) -> None:
        content = io.BytesIO()
        torch.save(order, content)
        with _noticing():
            dist.broadcast_object_list([content.getvalue()], src=0, device=torch.device("cpu"))


@cache
def current_ranks() -> ProcessGroup:
    """This process among those that torchrun started; the first call waits for all of them."""
    if not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        return ProcessGroup()
    store, rank, size = next(iter(rendezvous("env://", timeout=TIMEOUT)))
    store = PrefixStore(f"start {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)  # the store outlives a restart
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    del os.environ["TORCHELASTIC_RUN_ID"]  # processes that this one starts are alone
    return ProcessGroup(rank, size, store)


@contextmanager
def _noticing() -> Iterator[None]:
    """Notice that another rank has ended."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise PeerLostError(str(error)) from error
        raise


class GradientSync:
    """What ranks add up at the end of an update of ``model`` under ``perturb``.

    BatchNorm: a ghost batch moves a running average r to (1 - m) r + m s. That is linear in where it starts: rank 0
    starts from r, the others from 0, each result is aged by 1 - m for every ghost batch after its rank's own, and the
    sum over ranks is what the ghost batches in turn would have made of r.

    Raises:
        ValueError: where several ranks meet BatchNorm without a momentum, which has no such sum.
    """

    def __init__(self, ranks: ProcessGroup, model: nn.Module, estimator: GradientEstimator) -> None:
        layers = [m for m in model.modules() if isinstance(m, BATCHNORM) and m.running_mean is not None]
        if ranks.size > 1 and any(layer.momentum is None for layer in layers):
            raise ValueError("momentum: None in a BatchNorm layer cannot be shared by several processes")
        self._ranks, self._estimator = ranks, estimator
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._averages = [
            (a, m.momentum or 0.0) for m in layers for a in (m.running_mean, m.running_var) if a is not None
        ]
        self._seen = [m.num_batches_tracked for m in layers if m.num_batches_tracked is not None]

    @torch.no_grad()
    def begin(self, own: slice, count: int) -> Callable[[Tensor], None]:
        """Get ready for an update of ``count`` ghost batches, of which ``own`` are this rank's.

        Returns what adds up gradients, running averages and given sums, to be called after the last backward pass.
        """
        if self._ranks.size == 1:
            return _nothing
        seen = [number.clone() for number in self._seen]
        for average, _ in self._averages if self._ranks.rank else []:
            average.zero_()
        self._estimator.skip(range(own.start))
        return partial(self._end, own, count, seen)

    @torch.no_grad()
    def _end(self, own: slice, count: int, seen: list[Tensor], sums: Tensor) -> None:
        self._estimator.skip(range(own.stop, count))
        passes = self._estimator.statistics_passes
        for average, momentum in self._averages:
            average.mul_((1 - momentum) ** (passes * (count - own.stop)))
        for number, before in zip(self._seen, seen, strict=True):
            number.copy_(before + passes * count)
        for parameter in self._parameters:
            if parameter.grad is None:  # no ghost batch was this rank's
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        self._ranks.all_reduce([*gradients, *(average for average, _ in self._averages), sums])


def _nothing(sums: Tensor) -> None:
    """One process has nothing to add up."""
