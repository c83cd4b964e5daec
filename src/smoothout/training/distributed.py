"""Train with several processes (torchrun's ranks).

Each rank takes its share of an update's ghost batches. Once per update, after its last backward pass, gradients,
BatchNorm's running statistics, the loss and the number of correct predictions are summed over ranks. Every rank then
makes the same update as a single process, up to the rounding of sums.

Gradients are sent as one flat message, not through DistributedDataParallel. DDP hooks into the passes of a module. It
would need to know which ghost batch is the last (no_sync), expects the same number of passes on every rank, and
broadcasts one rank's running statistics instead of summing them. After the last pass the weights are clean and
gradients are plain tensors, whatever buffers the noise used. DDP could overlap communication only with the last of many
backward passes.
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
from smoothout.nn.parameters import BATCHNORM, group_by, vector_to_parameters
from smoothout.training.methods.base import GradientEstimator

TIMEOUT = timedelta(days=20)  # ranks wait while rank 0 measures; torchrun detects ranks that die
EXCHANGE_SECONDS = 0.5  # between two exchanges of signals


class ProcessGroup:
    """The processes that torchrun started, as seen from this one; by default there are no others.

    Rank 0 runs the program. The others do their share of its trainings and write nothing.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Any = None) -> None:
        self.rank, self.size = rank, size
        self._store, self._leading = store, False
        self._exchange_at_once()

    def _exchange_at_once(self) -> None:
        """Exchange signals at the next update: a new training may have slower updates than the last one."""
        self._exchanged, self._interval, self._updates_left = time.monotonic(), 1, 1

    def shard(self, count: int) -> slice:
        """This rank's contiguous share of ``count`` items; the first ranks take one more if shares cannot be equal."""
        share, remainder = divmod(count, self.size)
        first = self.rank * share + min(self.rank, remainder)
        return slice(first, first + share + (self.rank < remainder))

    def device(self, device: torch.device) -> torch.device:
        """This rank's device of the type of ``device``. Raises ValueError if the machine has too few."""
        if self.size == 1 or device.type != "cuda":
            return device
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if str(device) != "cuda" or local >= gpus:
            raise ValueError(
                f"device: each process needs its own GPU, and this machine has {gpus}; use cuda or auto, and at most"
                f" {gpus} processes per machine"
            )
        torch.cuda.set_device(local)
        return torch.device("cuda", local)

    @torch.no_grad()
    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over ranks, in place; one message per dtype."""
        if self.size == 1:
            return
        for group in group_by(tensors, lambda tensor: tensor.dtype):
            flat = torch.cat([tensor.reshape(-1) for tensor in group])
            with _notice_lost_peers():
                dist.all_reduce(flat)
            vector_to_parameters(group, flat)

    def agree_to_stop(self) -> int:
        """The number of a stop signal that any rank has received; 0 if there is none, and between two exchanges.

        Every rank calls this after every update. Ranks exchange signals about every half second. In each exchange they
        agree on the number of updates until the next one, by the slowest rank's estimate.
        """
        if self.size == 1:
            return interrupts.pending_signal()
        self._updates_left -= 1
        if self._updates_left:
            return 0
        now = time.monotonic()
        fitting = self._interval * EXCHANGE_SECONDS / max(now - self._exchanged, 1e-9)
        every = max(1, min(2 * self._interval, int(fitting)))  # at most doubled, because updates may become slower
        answer = torch.tensor([interrupts.pending_signal(), -every])
        with _notice_lost_peers():
            dist.all_reduce(answer, op=dist.ReduceOp.MAX)
        number, every = int(answer[0]), -int(answer[1])
        self._exchanged, self._interval, self._updates_left = now, every, every
        if number:
            interrupts.set_pending_signal(number)
        return number

    @contextmanager
    def broadcast_work(self, order: Callable[[], Any]) -> Iterator[None]:
        """On rank 0: while the block runs, the other ranks work on ``order()``. An error in it ends all ranks."""
        if self.size == 1:
            yield
            return
        content = io.BytesIO()
        torch.save(order(), content)
        _broadcast(content.getvalue())
        self._exchange_at_once()
        self._leading = True
        try:
            yield
        except Exception as error:
            raise DistributedAbort from error
        self._leading = False

    def receive_work(self) -> Iterator[Any]:
        """On other ranks: yield the work that rank 0 broadcasts (tensors on the CPU) until it dismisses this rank."""
        while (content := _broadcast()) is not None:
            self._exchange_at_once()
            yield torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)

    def shutdown(self) -> None:
        """Release the other ranks at the end of the program; during a training they detect that this rank is gone."""
        if self.size > 1 and not self._leading:
            with suppress(PeerLostError), _notice_lost_peers():
                if self.rank == 0:
                    _broadcast()
                dist.destroy_process_group()

    def may_report(self) -> bool:
        """Whether this rank reports its error; if several ranks fail, only the first one does."""
        if self._store is None:
            return True
        with suppress(RuntimeError):  # the store is gone with torchrun
            return bool(self._store.compare_set("reporter", "", str(self.rank)) == str(self.rank).encode())
        return self.rank == 0


@cache
def current_ranks() -> ProcessGroup:
    """This process's group; the first call waits for all processes that torchrun started."""
    if not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        return ProcessGroup()
    store, rank, size = next(iter(rendezvous("env://", timeout=TIMEOUT)))
    store = PrefixStore(f"start {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)  # the store outlives a restart
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    del os.environ["TORCHELASTIC_RUN_ID"]  # processes that this one starts are not ranks
    return ProcessGroup(rank, size, store)


@contextmanager
def _notice_lost_peers() -> Iterator[None]:
    """Raise PeerLostError if another rank has ended."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise PeerLostError(str(error)) from error
        raise


def _broadcast(content: bytes | None = None) -> bytes | None:
    """Rank 0's ``content``, on every rank."""
    message = [content]
    with _notice_lost_peers():
        dist.broadcast_object_list(message, src=0, device=torch.device("cpu"))
    return message[0]


class GradientSync:
    """Sums over ranks at the end of an update of ``model``.

    A ghost batch moves a running statistic r of BatchNorm to (1 - m) r + m s, which is linear in r. Rank 0 starts from
    r, the others from 0. Each result is multiplied by 1 - m for every ghost batch after the rank's own, so the sum over
    ranks is the result of all ghost batches in turn. With several ranks, raises ValueError for
    layers without momentum and for SyncBatchNorm.
    """

    def __init__(self, ranks: ProcessGroup, model: nn.Module, estimator: GradientEstimator) -> None:
        layers = [m for m in model.modules() if isinstance(m, BATCHNORM) and m.running_mean is not None]
        if ranks.size > 1 and any(layer.momentum is None for layer in layers):
            raise ValueError("momentum: None in a BatchNorm layer is not possible with several processes; use a number")
        if ranks.size > 1 and any(isinstance(layer, nn.SyncBatchNorm) for layer in layers):
            raise ValueError(
                "model: SyncBatchNorm layers are not possible with several processes, because ghost batches share no"
                " statistics; use BatchNorm"
            )
        self._ranks, self._estimator = ranks, estimator
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._statistics = [
            (r, m.momentum or 0.0) for m in layers for r in (m.running_mean, m.running_var) if r is not None
        ]
        self._seen = [m.num_batches_tracked for m in layers if m.num_batches_tracked is not None]

    @torch.no_grad()
    def begin(self, shard: slice, num_ghosts: int) -> Callable[[Tensor], None]:
        """Prepare an update of ``num_ghosts`` ghost batches; ``shard`` is this rank's part.

        Returns a function to call after the last backward pass: it sums gradients, running statistics and its argument.
        """
        if self._ranks.size == 1:
            return lambda sums: None
        seen = [number.clone() for number in self._seen]
        for statistic, _ in self._statistics if self._ranks.rank else []:
            statistic.zero_()
        self._estimator.skip(range(shard.start))
        return partial(self._end, shard, num_ghosts, seen)

    @torch.no_grad()
    def _end(self, shard: slice, num_ghosts: int, seen: list[Tensor], sums: Tensor) -> None:
        self._estimator.skip(range(shard.stop, num_ghosts))
        passes = self._estimator.statistics_passes

        # The later ranks' ghost batches decay this rank's running statistics.
        for statistic, momentum in self._statistics:
            statistic.mul_((1 - momentum) ** (passes * (num_ghosts - shard.stop)))
        for number, before in zip(self._seen, seen, strict=True):
            number.copy_(before + passes * num_ghosts)

        for parameter in self._parameters:
            if parameter.grad is None:  # this rank had no ghost batch
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        self._ranks.all_reduce([*gradients, *(statistic for statistic, _ in self._statistics), sums])
