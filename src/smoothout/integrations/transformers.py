"""SmoothOut in the Trainer of Hugging Face.

    trainer = Trainer(model, arguments, train_dataset=data, callbacks=[SmoothOutCallback(a=0.01)])
    trainer.train()

README.md has a whole program.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import transformers

from smoothout.integrations.noise import CallbackNoise


class SmoothOutCallback(CallbackNoise, transformers.TrainerCallback):  # type: ignore[misc]
    """Trains a model under SmoothOut or AdaSmoothOut, with new noise for every call of the trainer's `training_step`.

    That is one forward and backward pass: with ``gradient_accumulation_steps`` each micro-batch has noise of its own.
    At any other time the weights are clean: in clipping, updates, events of other callbacks, evaluation, checkpoints.

    The events of the Trainer would allow noise from `on_step_begin` to `on_pre_optimizer_step`, but no event tells of
    an exception, which would leave the noise in the weights. So the callback puts the trainer's `training_step` into a
    block, as a subclass could do. A subclass with a `training_step` of its own is fine.

    A seed (see `CallbackNoise`) addresses noise by ``trainer.state.global_step``, so a resumed training goes on with
    the noise of an uninterrupted one. Without a seed it does so too: the Trainer restores torch's global generator.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **unused: Any) -> None:
        """Put `training_step` into a block."""
        trainer = _calling_trainer()
        self._start(model)

        def within(training_step: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
            if self not in trainer.callback_handler.callbacks:  # removed after an exception, which no event tells of
                return training_step(*arguments, **keywords)
            with self._block(trainer.state.global_step):
                return training_step(*arguments, **keywords)

        self._wrap(trainer, "training_step", within)

    def on_train_end(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        """Give `training_step` back."""
        self._stop()


def _calling_trainer() -> Any:
    """The Trainer that called the event, which is not among its arguments."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, transformers.Trainer):
            return caller
        frame = frame.f_back
    raise RuntimeError("SmoothOutCallback: must be called by a transformers.Trainer; pass it as callbacks=[...]")
