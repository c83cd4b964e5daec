"""SmoothOut in the Hugging Face Trainer.

    trainer = Trainer(model, arguments, train_dataset=data, callbacks=[SmoothOutCallback(a=0.01)])
    trainer.train()

README.md has a complete program.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import transformers
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from smoothout.common.files import atomic_write
from smoothout.integrations.noise import CallbackMethod, CallbackNoise
from smoothout.nn.filter_noise import ARWP


class SmoothOutCallback(CallbackNoise, transformers.TrainerCallback):  # type: ignore[misc]
    """Trains a model under SmoothOut or AdaSmoothOut, with new noise for every call of the trainer's `training_step`.

    Each call is one forward and backward pass. With ``gradient_accumulation_steps``, each micro-batch gets separate
    noise. At all other times the weights are clean: during clipping, updates, events of other callbacks, evaluation and
    checkpoints.

    Noise from the event `on_step_begin` to `on_pre_optimizer_step` would stay in the weights after an exception,
    because no event reports it. The callback therefore wraps the trainer's `training_step` in a block, as a subclass
    could. A subclass may override `training_step`.

    With a seed (see `CallbackNoise`), the noise depends on ``trainer.state.global_step``. A resumed run sees the noise
    of an uninterrupted one, even without a seed, because the Trainer restores torch's global generator.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **unused: Any) -> None:
        """Wrap `training_step` in a block."""
        trainer = _calling_trainer()
        self._start(model)

        def within(training_step: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
            if self not in trainer.callback_handler.callbacks:  # removed after an exception, which no event reports
                return training_step(*arguments, **keywords)
            _set_training_mode(trainer, *arguments)
            with self._block(trainer.state.global_step):
                return training_step(*arguments, **keywords)

        self._wrap(trainer, "training_step", within)

    def on_train_end(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        """Restore `training_step`."""
        self._stop()


class MethodCallback(CallbackMethod, transformers.TrainerCallback):  # type: ignore[misc]
    """Trains a model with any method of the library, around every call of the trainer's `training_step`.

        callbacks=[MethodCallback(lambda model, optimizer: SAM(model, rho=0.05))]

    A method with two passes calls `training_step` twice on the same batch, and logs the last loss. The F of `ARWP` is
    saved as ``arwp.pt`` in the Trainer's checkpoint folders, and a resumed run loads it from its ``output_dir``;
    without that file F starts at 0, with a warning. Otherwise this works like `SmoothOutCallback`.
    """

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **unused: Any
    ) -> None:
        """Wrap `training_step` in blocks."""
        trainer = _calling_trainer()
        self._start(model, optimizer)
        if isinstance(self._noise, ARWP) and state.global_step:  # a resumed run
            _load_state(self._noise, _state_file(args, state))

        def within(training_step: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
            if self not in trainer.callback_handler.callbacks:
                return training_step(*arguments, **keywords)
            _set_training_mode(trainer, *arguments)
            if self._passes is None:
                with self._block(trainer.state.global_step):
                    loss = training_step(*arguments, **keywords)
                if trainer.accelerator.sync_gradients:  # the last micro-batch: clipping comes next
                    scaler = trainer.accelerator.scaler
                    self._observe(scaler.get_scale() if scaler else 1.0)
                return loss
            self._address_noise(trainer.state.global_step)
            loss = None
            for block in self._passes:
                with block:
                    loss = training_step(*arguments, **keywords)
            return loss

        self._wrap(trainer, "training_step", within)

    def on_save(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        """Add the F of `ARWP` to the checkpoint that the Trainer has just written."""
        if not isinstance(self._noise, ARWP) or not args.should_save:
            return
        path = _state_file(args, state)
        if not path.parent.is_dir():  # those of a hyperparameter search are elsewhere
            warnings.warn(f"MethodCallback: {path.parent} does not exist, so the F of ARWP is not saved", stacklevel=2)
            return
        with atomic_write(path) as part:
            torch.save(self._noise.state_dict(), part)

    def on_train_end(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        """Restore `training_step`."""
        self._stop()


def _state_file(args: Any, state: Any) -> Path:
    """Where the state of `ARWP` is in the Trainer's checkpoint of this step."""
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}" / "arwp.pt"


def _load_state(noise: ARWP, path: Path) -> None:
    if path.exists():
        noise.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    else:
        warnings.warn(f"MethodCallback: {path} does not exist, so the F of ARWP starts at 0", stacklevel=2)


def _set_training_mode(trainer: Any, model: Any, *unused: Any) -> None:
    """Set training mode before the block, because this may change weights (LoRA, schedule-free optimizers)."""
    model.train()
    if callable(getattr(trainer.optimizer, "train", None)):
        trainer.optimizer.train()


def _calling_trainer() -> Any:
    """The Trainer that fired the event; it is not among the event's arguments."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, transformers.Trainer):
            return caller
        frame = frame.f_back
    raise RuntimeError("SmoothOutCallback: must be called by a transformers.Trainer; pass it as callbacks=[...]")
