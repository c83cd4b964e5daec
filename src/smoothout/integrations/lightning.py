"""SmoothOut in Lightning, imported as ``lightning`` or ``pytorch_lightning``.

    trainer = lightning.Trainer(callbacks=[SmoothOutCallback(a=0.0375)])
    trainer.fit(module, loader)

README.md has complete programs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from smoothout.integrations.noise import CallbackBlocks, CallbackMethod, CallbackNoise
from smoothout.nn.batchnorm import freeze_running_stats
from smoothout.nn.filter_noise import ARWP
from smoothout.nn.passes import Passes
from smoothout.nn.weight_context import WeightContext

if TYPE_CHECKING or "lightning" in sys.modules or "pytorch_lightning" not in sys.modules:
    from lightning.pytorch import Callback  # also for type checkers
else:
    from pytorch_lightning import Callback


class _Hooks(CallbackBlocks, Callback):  # type: ignore[misc]
    """The trainer's hooks: the forward and backward pass of a batch run in the two halves of one block."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse manual optimization before training starts."""
        if stage == "fit" and not pl_module.automatic_optimization:
            raise ValueError(
                f"{type(self).__name__}: {type(pl_module).__name__} has automatic_optimization=False and so runs its "
                "own backward passes; put `with SmoothOut(model, a):` around each forward pass and its manual_backward"
                " in training_step instead (smoothout/integrations/README.md)"
            )

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Run the forward and the backward pass of each batch inside blocks."""
        self._start(pl_module, trainer.optimizers[0])
        forward, backward = self._halves(trainer, pl_module)

        def within(half: Callable[..., Any], run: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
            # No noise while StochasticWeightAveraging updates statistics, or a tuner disables callbacks.
            if getattr(trainer.fit_loop, "_skip_backward", False) or self not in trainer.callbacks:
                return run(*arguments, **keywords)
            return half(run, *arguments, **keywords)

        self._wrap(trainer.strategy, "training_step", partial(within, forward))
        self._wrap(trainer.strategy.precision_plugin, "backward", partial(within, backward))

    def _halves(self, trainer: Any, pl_module: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Replacements of the forward and backward pass of a batch, called with the original and its arguments."""

        def forward(step: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
            with self._forward_half(trainer.global_step):
                output = step(*arguments, **keywords)
            if output is None:  # no backward pass will follow
                self._leave()
            return output

        def backward(run: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
            with self._backward_half():
                return run(*arguments, **keywords)

        return forward, backward

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Restore the trainer's methods for the two passes."""
        self._stop()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Restore these methods after an exception, with clean weights."""
        self._stop()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Restore these methods if a tuner skips `on_train_end`."""
        self._stop()


class SmoothOutCallback(CallbackNoise, _Hooks):
    """Trains a LightningModule under SmoothOut or AdaSmoothOut, with new noise for every batch.

    The module's trainable parameters are perturbed during `training_step` and, with the same noise, during the backward
    pass. At all other times they are clean: in hooks of the module and of other callbacks (also between the two
    passes), in validation, in checkpoints and in weight averages. With ``accumulate_grad_batches`` each batch gets
    separate noise. There is no noise while StochasticWeightAveraging updates BatchNorm's running statistics, or in the
    trial runs of LearningRateFinder and BatchSizeFinder, which disable other callbacks.

    Manual optimization, and therefore several optimizers, is refused because the module then runs the backward passes.
    Put a `SmoothOut` block into its `training_step`, around each forward pass and its `manual_backward`.

    With a seed (see `CallbackNoise`), the noise depends only on the seed, ``trainer.global_step`` and the number of the
    micro-batch, so this callback stores nothing in checkpoints.
    """


class MethodCallback(CallbackMethod, _Hooks):
    """Trains a LightningModule with any method of the library.

        callbacks=[MethodCallback(lambda module, optimizer: SAM(module, rho=0.05))]

    For a method with two passes, `training_step` is called again for the second pass, after the backward pass of the
    first. For NSO, where the first pass is not at the module's weights, it is called again for both. Each call logs.
    Otherwise this works like `SmoothOutCallback`.
    """

    def __init__(self, make: Callable[[Any, Any], WeightContext | Passes], *, seed: int | None = None) -> None:
        super().__init__(make, seed=seed)
        self._state: dict[str, Any] = {}  # of the last training
        self._loaded: dict[str, Any] = {}  # from a checkpoint, for the next one

    def state_dict(self) -> dict[str, Any]:
        """The F of `ARWP` for checkpoints; empty for other methods, which have no state."""
        return self._noise.state_dict() if isinstance(self._noise, ARWP) else self._state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load this state when the next training starts."""
        self._loaded = state_dict

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Run the passes of each batch inside blocks."""
        super().on_train_start(trainer, pl_module)
        loaded, self._loaded = self._loaded, {}
        if loaded and isinstance(self._noise, ARWP):
            self._noise.load_state_dict(loaded)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Pass the gradients to a method that uses them."""
        self._observe()

    def _stop(self) -> None:
        self._state = self.state_dict()
        super()._stop()

    def _halves(self, trainer: Any, pl_module: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """As the first pass, use that of the framework if it is at the module's weights; add the others."""
        if self._passes is None:
            return super()._halves(trainer, pl_module)
        calls: list[Callable[[], Any]] = []
        passes, plugin = self._passes, trainer.strategy.precision_plugin
        first_is_clean = passes[0].backward_only = passes[0].at_clean_weights

        def forward(step: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
            self._address_noise(trainer.global_step)
            calls[:] = [partial(step, *arguments, **keywords)]
            with nullcontext() if first_is_clean and passes[0].updates_statistics else freeze_running_stats(pl_module):
                return calls[0]()

        def backward(run: Callable[..., Any], loss: Any, *arguments: Any, **keywords: Any) -> None:
            for index, block in enumerate(passes):
                with block:
                    if index or not first_is_clean:
                        output = calls[0]()
                        if output is None:  # None skips the pass, as it skips a batch
                            continue
                        loss = output if isinstance(output, Tensor) else output["loss"]
                        loss = loss / trainer.accumulate_grad_batches
                        loss = plugin.scaler.scale(loss) if getattr(plugin, "scaler", None) else loss
                    run(loss, *arguments, **keywords)

        return forward, backward
