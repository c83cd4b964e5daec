"""Any method of the library in Lightning and Hugging Face's Trainer makes the weights of a plain loop."""

from __future__ import annotations

import copy
import gc
import math
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from smoothout import ARWP, ASAM, LPFSGD, MSAM, NSO, SAM, MixedRWP, SmoothOut
from smoothout.common.rng import derive_seed

os.environ["HF_HUB_OFFLINE"] = "1"
REASON = "{} is not installed: pip install 'smoothout[integrations]'"
lightning = pytest.importorskip("lightning", reason=REASON.format("lightning"))
pytest.importorskip("accelerate", reason=REASON.format("accelerate"))
transformers = pytest.importorskip("transformers", reason=REASON.format("transformers"))

from smoothout.integrations.lightning import MethodCallback as InLightning  # noqa: E402
from smoothout.integrations.transformers import MethodCallback as InTransformers  # noqa: E402

transformers.logging.set_verbosity_error()
SEED, BATCH, EPOCHS = 3, 8, 2
METHODS: dict[str, Callable[[nn.Module, Any], Any]] = {
    "sam": lambda model, optimizer: SAM(model, 0.1),
    "asam": lambda model, optimizer: ASAM(model, 0.3),
    "nso": lambda model, optimizer: NSO(model, 0.02),
    "lpf-sgd": lambda model, optimizer: LPFSGD(model, 0.02),
    "arwp": lambda model, optimizer: ARWP(model, 0.02, eta=5.0),
    "msam": lambda model, optimizer: MSAM(model, optimizer, 0.1),
}


class Examples(Dataset[dict[str, Tensor]]):
    def __init__(self) -> None:
        self.x, self.y = torch.randn(24, 5), torch.randint(0, 3, (24,))

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "labels": self.y[index]}


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.layers(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


class Module(lightning.LightningModule):  # type: ignore[misc]
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: Any, index: int) -> Tensor:
        return self.network(**batch)["loss"]  # type: ignore[no-any-return]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.01)


class InOrder(transformers.Trainer):  # type: ignore[misc]
    def _get_train_sampler(self, *unused: Any) -> Any:
        return SequentialSampler(self.train_dataset)


def plain_loop(
    network: nn.Module, examples: Examples, optimizer: Any, name: str, accumulate: int, *, clip: float = math.inf
) -> None:
    network.train()
    method = METHODS[name](network, optimizer)
    noise = method.noise if name == "nso" else method
    if hasattr(noise, "generator"):
        noise.generator = torch.Generator()
    for step, first in enumerate(range(0, EPOCHS * 3, accumulate)):
        batches = [*DataLoader(examples, BATCH)] * EPOCHS
        for micro, batch in enumerate(batches[first : first + accumulate]):
            if hasattr(noise, "generator"):
                noise.generator.manual_seed(derive_seed(SEED, "noise", step, micro))
            for block in method if name in ("sam", "asam", "nso") else [method]:
                with block:
                    (network(**batch)["loss"] / accumulate).backward()
        if name == "arwp":
            method.observe()
        torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for (name, tensor), wanted in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(tensor, wanted, rtol=1e-5, atol=1e-6, msg=name)


def quiet_trainer(name: str, folder: Path, **settings: Any) -> lightning.Trainer:
    """A trainer on the CPU with the callback of the method ``name``; it writes and prints nothing."""
    return lightning.Trainer(
        accelerator="cpu",
        callbacks=[InLightning(METHODS[name], seed=SEED)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **settings,
    )


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("name", METHODS)
def test_lightning_trains_as_a_plain_loop(name: str, accumulate: int, tmp_path: Path) -> None:
    examples, network = Examples(), Network()
    other = copy.deepcopy(network)
    plain_loop(other, examples, torch.optim.Adam(other.parameters(), 0.01), name, accumulate)
    quiet_trainer(name, tmp_path, max_epochs=EPOCHS, accumulate_grad_batches=accumulate).fit(
        Module(network), DataLoader(examples, BATCH)
    )
    assert_same(network, other)


@pytest.mark.parametrize(("name", "calls"), [("lpf-sgd", 1), ("sam", 2), ("asam", 2), ("nso", 3)])
def test_lightning_calls_the_training_step_once_for_each_pass_that_it_does_not_run_itself(
    name: str, calls: int, tmp_path: Path
) -> None:
    class Counted(Module):
        calls = 0

        def training_step(self, batch: Any, index: int) -> Tensor:
            self.calls += 1
            return super().training_step(batch, index)

    module = Counted(Network())
    quiet_trainer(name, tmp_path, max_steps=1).fit(module, DataLoader(Examples(), BATCH))
    assert module.calls == calls


def test_lightning_skips_a_pass_without_a_loss(tmp_path: Path) -> None:
    class Skipping(Module):
        calls = 0

        def training_step(self, batch: Any, index: int) -> Any:
            self.calls += 1
            return None if self.calls == 2 else super().training_step(batch, index)

    network = Network()
    before = copy.deepcopy(network.state_dict())
    quiet_trainer("sam", tmp_path, max_steps=1).fit(Skipping(network), DataLoader(Examples(), BATCH))
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())


@pytest.mark.parametrize("name", METHODS)
def test_lightning_resumes_to_an_uninterrupted_training(name: str, tmp_path: Path) -> None:
    whole = Network()
    first, resumed = copy.deepcopy(whole), copy.deepcopy(whole)
    loader, path = DataLoader(Examples(), BATCH), tmp_path / "first.ckpt"
    quiet_trainer(name, tmp_path, max_epochs=2).fit(Module(whole), loader)
    trainer = quiet_trainer(name, tmp_path, max_epochs=1)
    trainer.fit(Module(first), loader)
    trainer.save_checkpoint(path)
    quiet_trainer(name, tmp_path, max_epochs=2).fit(Module(resumed), loader, ckpt_path=path)
    assert_same(resumed, whole)


def hugging_face_trainer(name: str, network: nn.Module, examples: Examples, folder: Path, **settings: Any) -> Any:
    """A Trainer on the CPU with the callback of the method ``name``; it prints nothing."""
    arguments = transformers.TrainingArguments(
        str(folder),
        per_device_train_batch_size=BATCH,
        num_train_epochs=EPOCHS,
        lr_scheduler_type="constant",
        learning_rate=0.01,
        max_grad_norm=0.05,
        optim="adamw_torch",
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        use_cpu=True,
        **settings,
    )
    return InOrder(network, arguments, train_dataset=examples, callbacks=[InTransformers(METHODS[name], seed=SEED)])


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("name", METHODS)
def test_transformers_train_as_a_plain_loop(name: str, accumulate: int, tmp_path: Path) -> None:
    examples, network = Examples(), Network()
    other = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(other.parameters(), 0.01, weight_decay=0.0)
    plain_loop(other, examples, optimizer, name, accumulate, clip=0.05)
    accumulating = {"gradient_accumulation_steps": accumulate, "save_strategy": "no"}
    hugging_face_trainer(name, network, examples, tmp_path, **accumulating).train()
    assert_same(network, other)


@pytest.mark.parametrize("name", METHODS)
def test_transformers_resume_to_an_uninterrupted_training(name: str, tmp_path: Path) -> None:
    examples, whole = Examples(), Network()
    resumed = copy.deepcopy(whole)
    saving = {"save_strategy": "steps", "save_steps": 4}
    hugging_face_trainer(name, whole, examples, tmp_path, **saving).train()
    hugging_face_trainer(name, resumed, examples, tmp_path, **saving).train(str(tmp_path / "checkpoint-4"))
    assert_same(resumed, whole)


def test_transformers_warn_if_a_checkpoint_lacks_the_state_of_arwp(tmp_path: Path) -> None:
    examples, saving = Examples(), {"save_strategy": "steps", "save_steps": 4}
    hugging_face_trainer("lpf-sgd", Network(), examples, tmp_path, **saving).train()
    resumed = hugging_face_trainer("arwp", Network(), examples, tmp_path, **saving)
    with pytest.warns(UserWarning, match=r"checkpoint-4.arwp\.pt does not exist, so the F of ARWP starts at 0"):
        resumed.train(str(tmp_path / "checkpoint-4"))


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda model, optimizer: MixedRWP(model, 0.1), ValueError, "MixedRWP needs two batches per update"),
        (lambda model, optimizer: SmoothOut(model, 0.1, denoise=False), ValueError, "a callback needs denoise=True"),
        (lambda model, optimizer: None, TypeError, "must return a context or blocks of the library, not NoneType"),
    ],
)
def test_what_a_callback_cannot_run_is_refused(make: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        InLightning(make)._start(Network())


@pytest.mark.parametrize("kind", [InLightning, InTransformers])
def test_a_callback_lets_go_of_the_model_when_training_ends(kind: Any) -> None:
    callback, model = kind(METHODS["sam"]), Network()
    released = weakref.ref(model)
    callback._start(model)
    callback._stop()
    del model
    gc.collect()
    assert released() is None


def test_of_several_callbacks_on_one_trainer_none_leaves_its_wrapper(tmp_path: Path) -> None:
    trainer = hugging_face_trainer("lpf-sgd", Network(), Examples(), tmp_path)
    trainer.add_callback(InTransformers(METHODS["sam"], seed=1))
    for _ in range(2):
        trainer.train()
        assert "training_step" not in vars(trainer)


def test_a_wrapper_of_another_program_stays_and_the_callbacks_own_does_nothing_more() -> None:
    class Owner:
        def step(self) -> str:
            return "step"

    owner, callback = Owner(), InTransformers(METHODS["sam"])
    callback._wrap(owner, "step", lambda method: f"noisy {method()}")
    ours = owner.step
    owner.step = lambda: f"timed {ours()}"  # type: ignore[method-assign]
    assert owner.step() == "timed noisy step"
    callback._stop()
    assert owner.step() == "timed step"


def test_transformers_warn_if_there_is_no_checkpoint_for_the_state_of_arwp(tmp_path: Path) -> None:
    """As in a hyperparameter search, whose checkpoints are in folders of their trials."""
    trainer = hugging_face_trainer("arwp", Network(), Examples(), tmp_path)
    [callback] = [each for each in trainer.callback_handler.callbacks if isinstance(each, InTransformers)]
    callback._start(Network())
    with pytest.warns(UserWarning, match="does not exist, so the F of ARWP is not saved"):
        callback.on_save(trainer.args, trainer.state, trainer.control)
    assert not list(tmp_path.glob("checkpoint-*"))
