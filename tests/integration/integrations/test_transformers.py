"""Hugging Face's Trainer with the callback makes the weights of a plain loop, and shows noise to nobody else."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from smoothout import SAM, AdaSmoothOut, SmoothOut
from smoothout.common.rng import derive_seed

os.environ["HF_HUB_OFFLINE"] = "1"
REASON = "{} is not installed: pip install '.[integrations]'"
pytest.importorskip("accelerate", reason=REASON.format("accelerate"))
transformers = pytest.importorskip("transformers", reason=REASON.format("transformers"))

from smoothout.integrations.transformers import MethodCallback, SmoothOutCallback  # noqa: E402

transformers.logging.set_verbosity_error()
SEED, BATCH = 3, 8


def bert() -> Any:
    """A tiny random one without dropout."""
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 3}
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = transformers.BertConfig(**sizes, **off, intermediate_size=32, max_position_embeddings=16)
    return transformers.BertForSequenceClassification(config)


class Texts(Dataset[dict[str, Tensor]]):
    """24 random sentences of eight words; the first one tells the class."""

    def __init__(self) -> None:
        self.words = torch.randint(5, 50, (24, 8))

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.words[index], "labels": self.words[index, 0] % 3}


@pytest.fixture
def texts() -> Texts:
    return Texts()


class InOrder(transformers.Trainer):
    """Takes the examples in their order."""

    def _get_train_sampler(self, *unused: Any) -> Any:
        return SequentialSampler(self.train_dataset)


class Block(InOrder):
    """SmoothOut as a subclass would do it."""

    def training_step(self, *arguments: Any, **keywords: Any) -> Tensor:
        self.noise = getattr(self, "noise", None) or SmoothOut(self.model, 0.01, generator=torch.Generator())
        step = self.state.global_step
        self.position = (step, self.position[1] + 1 if getattr(self, "position", (-1,))[0] == step else 0)
        self.noise.generator.manual_seed(derive_seed(SEED, "noise", *self.position))
        with self.noise:
            return super().training_step(*arguments, **keywords)


def trainer(model: Any, texts: Texts, folder: Path, *callbacks: Any, kind: Any = InOrder, **settings: Any) -> Any:
    quiet = {"report_to": [], "disable_tqdm": True, "save_strategy": "no", "logging_strategy": "no", "use_cpu": True}
    settings = {"num_train_epochs": 2, "lr_scheduler_type": "constant", "learning_rate": 1e-3, **quiet, **settings}
    arguments = transformers.TrainingArguments(str(folder), per_device_train_batch_size=BATCH, **settings)
    return kind(model, arguments, train_dataset=texts, eval_dataset=texts, callbacks=list(callbacks))


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("adaptive", [False, True])
def test_it_trains_to_the_bits_of_a_plain_loop(adaptive: bool, texts: Texts, tmp_path: Path) -> None:
    model = bert()
    other = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(other.parameters(), 1e-3, weight_decay=0.0)
    noise = (AdaSmoothOut if adaptive else SmoothOut)(other, 0.01, generator=torch.Generator())
    for step, batch in enumerate([*DataLoader(texts, BATCH)] * 2):
        noise.generator.manual_seed(derive_seed(SEED, "noise", step, 0))
        with noise:
            other(**batch).loss.backward()
        nn.utils.clip_grad_norm_(other.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    callback = SmoothOutCallback(0.01, adaptive=adaptive, seed=SEED)
    trainer(model, texts, tmp_path, callback, optim="adamw_torch").train()
    assert same(model.parameters(), other.parameters())


CASES: dict[str, dict[str, Any]] = {
    "accumulated and clipped": {"gradient_accumulation_steps": 2, "max_grad_norm": 0.1},
    "bfloat16": {"bf16": True},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "reentrant checkpointing": {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": True},
    },
    "compiled": {"torch_compile": True, "torch_compile_backend": "eager"},
    "evaluation within the epoch": {"eval_strategy": "steps", "eval_steps": 2},
}


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_it_trains_to_the_bits_of_a_block_in_training_step(
    settings: dict[str, Any], texts: Texts, tmp_path: Path
) -> None:
    model = bert()
    other = copy.deepcopy(model)
    trainer(model, texts, tmp_path, SmoothOutCallback(0.01, seed=SEED), **settings).train()
    trainer(other, texts, tmp_path, kind=Block, **settings).train()
    assert same(model.parameters(), other.parameters())


class Witness(transformers.TrainerCallback):
    """Compares the weights at every event with the clean ones."""

    def __init__(self) -> None:
        self.clean: list[Tensor] = []
        self.seen: dict[str, bool] = {}

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("on_"):
            return super().__getattribute__(name)

        def event(args: Any, state: Any, control: Any, model: Any = None, **unused: Any) -> None:
            if name in ("on_train_begin", "on_optimizer_step"):
                self.clean = weights(model)
            elif self.clean:
                self.seen[name] = self.seen.get(name, True) and same(model.parameters(), self.clean)

        return event


@pytest.mark.parametrize("place", [0, 1])
def test_events_evaluation_and_checkpoints_see_clean_weights(place: int, texts: Texts, tmp_path: Path) -> None:
    witness, model, noisy = Witness(), bert(), []
    model.register_forward_hook(lambda *_: noisy.append((model.training, not same(model.parameters(), witness.clean))))
    callbacks: list[Any] = [SmoothOutCallback(0.01)]
    callbacks.insert(place, witness)
    settings = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    trainer(model, texts, tmp_path, *callbacks, gradient_accumulation_steps=2, **settings).train()
    assert set(noisy) == {(True, True), (False, False)}
    assert {"on_substep_end", "on_pre_optimizer_step", "on_prediction_step", "on_save"} < set(witness.seen)
    assert all(witness.seen.values()), witness.seen


class Modal(nn.Linear):
    """Calls ``changes`` when its mode does, as a layer of LoRA merges its factors into the weight."""

    changes: Callable[[], None]

    def train(self, mode: bool = True) -> Modal:
        if mode is not self.training:
            self.changes()
        return super().train(mode)


class ModalSGD(torch.optim.SGD):
    """Calls ``changes`` when its mode does, as an optimizer without a schedule moves to its average."""

    changes: Callable[[], None]
    training = True

    def train(self, mode: bool = True) -> None:
        if mode is not self.training:
            self.changes()
        self.training = mode

    def eval(self) -> None:
        self.train(False)


CALLBACKS = {
    "smoothout": lambda: SmoothOutCallback(0.01),
    "sam": lambda: MethodCallback(lambda model, optimizer: SAM(model)),
    "a single pass": lambda: MethodCallback(lambda model, optimizer: SmoothOut(model, 0.01)),
}


@pytest.mark.parametrize("callback", CALLBACKS.values(), ids=CALLBACKS)
def test_what_changes_weights_with_the_mode_of_training_does_so_outside_the_block(
    callback: Callable[[], Any], texts: Texts, tmp_path: Path
) -> None:
    model, clean = bert(), list[bool]()
    model.classifier = layer = Modal(16, 3)
    before, optimizer = weights(model), ModalSGD(model.parameters(), 0.0)
    layer.changes = optimizer.changes = lambda: clean.append(same(model.parameters(), before))
    training = trainer(model, texts, tmp_path, callback(), eval_strategy="steps", eval_steps=2)
    training.optimizer = optimizer
    training.train()
    assert len(clean) > 8
    assert all(clean)


class Broken(InOrder):
    """Fails at the third batch, in the forward pass or in the backward pass."""

    where = ""
    calls = 0

    def compute_loss(self, *arguments: Any, **keywords: Any) -> Any:
        loss = super().compute_loss(*arguments, **keywords)
        self.calls += 1
        if self.calls == 3 and self.where == "forward":
            raise RuntimeError("broken")
        if self.calls == 3 and self.where == "backward":
            loss.register_hook(self._fail)
        return loss

    @staticmethod
    def _fail(gradient: Tensor) -> None:
        raise RuntimeError("broken")


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_after_an_exception_weights_are_clean_and_the_callback_trains_again(
    where: str, texts: Texts, tmp_path: Path
) -> None:
    model, callback = bert(), SmoothOutCallback(0.01, seed=SEED)
    before, start = weights(model), copy.deepcopy(model)
    breaking = trainer(model, texts, tmp_path, callback, kind=Broken, learning_rate=0.0)
    breaking.where = where
    with pytest.raises(RuntimeError, match=r"^broken$"):
        breaking.train()
    assert same(model.parameters(), before)

    other = copy.deepcopy(start)
    trainer(start, texts, tmp_path, callback).train()
    trainer(other, texts, tmp_path, SmoothOutCallback(0.01, seed=SEED)).train()
    assert same(start.parameters(), other.parameters())
    assert "training_step" not in vars(breaking)


def test_a_callback_that_is_removed_after_an_exception_adds_no_noise(texts: Texts, tmp_path: Path) -> None:
    model, callback, clean = bert(), SmoothOutCallback(0.01), []
    breaking = trainer(model, texts, tmp_path, callback, kind=Broken, learning_rate=0.0)
    breaking.where = "forward"
    with pytest.raises(RuntimeError, match=r"^broken$"):
        breaking.train()
    breaking.remove_callback(callback)
    before = weights(model)
    model.register_forward_hook(lambda *_: clean.append(same(model.parameters(), before)))
    breaking.train()
    assert clean
    assert all(clean)


@pytest.mark.parametrize("seed", [SEED, None])
def test_a_resumed_training_ends_as_an_uninterrupted_one(seed: int | None, texts: Texts, tmp_path: Path) -> None:
    model = bert()
    other = copy.deepcopy(model)
    saving = {"save_strategy": "steps", "save_steps": 4}
    trainer(model, texts, tmp_path, SmoothOutCallback(0.01, seed=seed), **saving).train()
    resumed = trainer(other, texts, tmp_path, SmoothOutCallback(0.01, seed=seed), **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert same(model.parameters(), other.parameters())


def test_an_event_that_no_trainer_calls_is_refused_in_one_line() -> None:
    with pytest.raises(RuntimeError, match=r"^SmoothOutCallback: must be called by a transformers.Trainer"):
        SmoothOutCallback(0.01).on_train_begin(None, None, None, model=nn.Linear(2, 2))
