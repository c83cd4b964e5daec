"""Lightning's trainer with the callback makes the weights of a plain loop, and shows noise to nobody else."""

from __future__ import annotations

import copy
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from smoothout import AdaSmoothOut, SmoothOut
from smoothout.common.rng import derive_seed

lightning = pytest.importorskip("lightning", reason="lightning is not installed: pip install '.[integrations]'")
from lightning.pytorch import callbacks  # noqa: E402
from lightning.pytorch.plugins import MixedPrecision  # noqa: E402

from smoothout.integrations.lightning import SmoothOutCallback  # noqa: E402

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore")
SEED, EPOCHS = 3, 2


class Broken(torch.autograd.Function):
    """Passes on what it gets, and fails in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise RuntimeError("broken")


class Module(lightning.LightningModule):
    """A small network; ``broken`` names the pass that fails at the third batch."""

    def __init__(self, checkpointing: bool = False, broken: str = "") -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        self.checkpointing, self.broken = checkpointing, broken

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        x, y = batch
        outputs = checkpoint(self.net, x, use_reentrant=False) if self.checkpointing else self.net(x)
        if self.broken == "forward" and index == 2:
            raise RuntimeError("broken")
        loss = F.cross_entropy(outputs, y)
        return Broken.apply(loss) if self.broken == "backward" and index == 2 else loss

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        self.log("loss", F.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-2)


@pytest.fixture
def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(32, 5), torch.randint(0, 3, (32,))), 8)


def trainer(*given: Any, **settings: Any) -> Any:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return lightning.Trainer(**{"max_epochs": EPOCHS, **quiet, **settings}, accelerator="cpu", callbacks=list(given))


def plain_loop(
    module: Any, loader: Any, noise: SmoothOut, *, precision: torch.dtype | None = None, accumulate: int = 1
) -> list[Tensor]:
    """Train as anybody would without Lightning; returns the state."""
    optimizer, step = module.configure_optimizers(), 0
    scaler = torch.amp.GradScaler("cpu", enabled=precision is torch.float16)
    for _ in range(EPOCHS):
        for index, batch in enumerate(loader):
            if noise.generator is not None:
                noise.generator.manual_seed(derive_seed(SEED, "noise", step, index % accumulate))
            with noise:
                with torch.autocast("cpu", precision) if precision else nullcontext():
                    loss = module.training_step(batch, index) / accumulate
                scaler.scale(loss).backward()
            if (index + 1) % accumulate == 0 or index + 1 == len(loader):
                scaler.unscale_(optimizer)
                if accumulate > 1:
                    nn.utils.clip_grad_norm_(module.parameters(), 0.1)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                step += 1
    return list(module.state_dict().values())


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def state(module: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in module.state_dict().values()]


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {  # the module's, the trainer's, the loop's
    "plain": ({}, {}, {}),
    "accumulated and clipped": ({}, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1}, {"accumulate": 2}),
    "bfloat16": ({}, {"precision": "bf16-mixed"}, {"precision": torch.bfloat16}),
    "float16, gradients scaled": (
        {},
        {"plugins": [MixedPrecision("16-mixed", "cpu")]},  # Lightning turns precision="16-mixed" into bfloat16 on a CPU
        {"precision": torch.float16},
    ),
    "gradient checkpointing": ({"checkpointing": True}, {}, {}),
    "validation within the epoch": ({}, {"val_check_interval": 2}, {}),
}


@pytest.mark.parametrize(("of_module", "of_trainer", "of_loop"), CASES.values(), ids=CASES)
def test_it_trains_to_the_bits_of_a_plain_loop(of_module: Any, of_trainer: Any, of_loop: Any, loader: Any) -> None:
    module = Module(**of_module)
    other = copy.deepcopy(module)
    trainer(SmoothOutCallback(0.05, seed=SEED), **of_trainer).fit(module, loader, loader)
    assert same(
        state(module), plain_loop(other, loader, SmoothOut(other, 0.05, generator=torch.Generator()), **of_loop)
    )


@pytest.mark.parametrize("settings", [{"adaptive": True}, {"distribution": "gaussian", "batchnorm": True}])
def test_its_settings_are_those_of_the_contexts(settings: dict[str, Any], loader: Any) -> None:
    module = Module()
    other = copy.deepcopy(module)
    callback = SmoothOutCallback(0.3, **settings)
    callback.a = 0.1  # from the next batch on
    torch.manual_seed(0)
    trainer(callback).fit(module, loader)
    kind = AdaSmoothOut if settings.pop("adaptive", False) else SmoothOut
    torch.manual_seed(0)  # without a seed the noise is torch's own
    assert same(state(module), plain_loop(other, loader, kind(other, 0.1, **settings)))


class Witness(callbacks.Callback):
    """Compares the weights in every hook with the clean ones; the module's passes are its own business."""

    def __init__(self) -> None:
        self.clean: list[Tensor] = []
        self.seen: dict[str, bool] = {}

    def __getattribute__(self, name: str) -> Any:
        if name in ("on_train_batch_start", "on_before_optimizer_step") or not name.startswith(("on_", "setup")):
            return super().__getattribute__(name)

        def hook(trainer: Any, module: Any, *arguments: Any, **keywords: Any) -> None:
            weights = [p.detach().clone() for p in module.parameters()]
            if name in ("on_train_batch_end", "on_train_start"):
                self.clean = weights  # after an update
            elif self.clean:
                self.seen[name] = self.seen.get(name, True) and same(weights, self.clean)

        return hook

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        self.seen["on_before_optimizer_step"] = same([p.detach() for p in module.parameters()], self.clean)


@pytest.mark.parametrize("place", [0, 1])
def test_hooks_of_others_and_validation_see_clean_weights_and_the_passes_noise(place: int, loader: Any) -> None:
    witness, noisy = Witness(), []

    class Watched(Module):
        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            noisy.append(not same([p.detach() for p in self.parameters()], witness.clean))
            return super().training_step(batch, index)

        def backward(self, loss: Tensor) -> None:
            noisy.append(not same([p.detach() for p in self.parameters()], witness.clean))
            super().backward(loss)

    both: list[Any] = [SmoothOutCallback(0.05)]
    both.insert(place, witness)
    trainer(*both, val_check_interval=2).fit(Watched(), loader, loader)
    assert len(noisy) == 2 * EPOCHS * len(loader)
    assert all(noisy)
    assert {"on_before_zero_grad", "on_before_backward", "on_after_backward"} < set(witness.seen)
    assert "on_validation_batch_start" in witness.seen
    assert all(witness.seen.values()), witness.seen


@pytest.mark.parametrize("broken", ["forward", "backward"])
def test_after_an_exception_weights_are_clean_and_the_callback_trains_again(broken: str, loader: Any) -> None:
    module, callback = Module(broken=broken), SmoothOutCallback(0.05, seed=SEED)
    before = [p.clone() for p in module.parameters()]
    optimizer = torch.optim.SGD(module.parameters(), 0.0)  # updates change nothing
    module.configure_optimizers = lambda: optimizer
    fitting = trainer(callback)
    with pytest.raises(RuntimeError, match=r"^broken$"):
        fitting.fit(module, loader)
    assert same(list(module.parameters()), before)
    assert "training_step" not in vars(fitting.strategy)

    again, other = Module(), Module()
    other.load_state_dict(again.state_dict())
    trainer(callback).fit(again, loader)
    trainer(SmoothOutCallback(0.05, seed=SEED)).fit(other, loader)
    assert same(state(again), state(other))


def test_a_resumed_training_ends_as_an_uninterrupted_one_and_checkpoints_are_clean(loader: Any, tmp_path: Path) -> None:
    class Saving(callbacks.Callback):
        def on_before_backward(self, trainer: Any, module: Any, loss: Tensor) -> None:
            trainer.save_checkpoint(tmp_path / "within.ckpt")
            self.clean = state(module)

    module = Module()
    other, saving = copy.deepcopy(module), Saving()
    trainer(SmoothOutCallback(0.05, seed=SEED), saving, max_epochs=1, max_steps=1).fit(copy.deepcopy(module), loader)
    within = torch.load(tmp_path / "within.ckpt", weights_only=False)["state_dict"]
    assert same([within[f"net.0.{name}"] for name in ("weight", "bias")], list(module.net[0].parameters()))

    keeping = callbacks.ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_epochs=1)
    trainer(SmoothOutCallback(0.05, seed=SEED), keeping, enable_checkpointing=True).fit(module, loader)
    path = tmp_path / f"step={len(loader)}.ckpt"
    trainer(SmoothOutCallback(0.05, seed=SEED)).fit(other, loader, ckpt_path=path)
    assert same(state(module), state(other))


class Weights(callbacks.Callback):
    """Keeps the weights after every update."""

    def __init__(self) -> None:
        self.kept: list[list[Tensor]] = []

    def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
        self.kept.append([p.detach().clone() for p in module.parameters()])


def test_a_moving_average_is_that_of_the_clean_weights(loader: Any) -> None:
    if not hasattr(callbacks, "EMAWeightAveraging"):
        pytest.skip("this lightning has no EMAWeightAveraging")
    weights, module = Weights(), Module()
    trainer(weights, SmoothOutCallback(0.05), callbacks.EMAWeightAveraging(decay=0.5)).fit(module, loader)
    average = weights.kept[0]
    for kept in weights.kept[1:]:
        average = [0.5 * old + 0.5 * new for old, new in zip(average, kept, strict=True)]
    for parameter, expected in zip(module.parameters(), average, strict=True):
        torch.testing.assert_close(parameter.detach(), expected)


def test_running_statistics_of_averaged_weights_are_measured_without_noise(loader: Any) -> None:
    noisy: dict[int, set[bool]] = {}

    class Watched(Module):
        def on_train_batch_start(self, batch: list[Tensor], index: int) -> None:
            self.clean = [p.detach().clone() for p in self.parameters()]

        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            weights = [p.detach() for p in self.parameters()]
            noisy.setdefault(self.current_epoch, set()).add(not same(weights, self.clean))
            return super().training_step(batch, index)

    averaging = callbacks.StochasticWeightAveraging(1e-3, swa_epoch_start=1)
    trainer(SmoothOutCallback(0.05), averaging).fit(Watched(), loader)
    assert noisy == {0: {True}, 1: {True}, 2: {False}}  # the epoch of the statistics is added at the end


def test_what_a_hook_writes_to_the_weights_between_the_passes_is_kept(loader: Any) -> None:
    class Clipping(callbacks.Callback):
        def on_before_zero_grad(self, trainer: Any, module: Any, optimizer: Any) -> None:
            with torch.no_grad():
                module.net[3].bias.clamp_(-0.01, 0.01)

    module = Module()
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), 0.0)
    before = module.net[3].bias.detach().clone()
    trainer(Clipping(), SmoothOutCallback(0.05)).fit(module, loader)
    assert torch.equal(module.net[3].bias, before.clamp(-0.01, 0.01))


class Skipping(Module):
    def training_step(self, batch: list[Tensor], index: int) -> Any:
        return None if index == 1 else super().training_step(batch, index)


class SeveralPasses(Module):
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(self.parameters(), 0.1, max_iter=3)


@pytest.mark.parametrize("make", [Skipping, SeveralPasses])
def test_a_batch_without_an_update_and_an_update_of_several_passes_leave_no_noise(make: type, loader: Any) -> None:
    module, weights = make(), Weights()
    trainer(SmoothOutCallback(0.01), weights).fit(module, loader)
    assert same(list(module.parameters()), weights.kept[-1])


def test_manual_optimization_is_refused_in_one_line_before_anything_is_done(loader: Any) -> None:
    module = Module()
    module.automatic_optimization = False
    with pytest.raises(ValueError, match=r"^SmoothOutCallback: Module has automatic_optimization=False .*SmoothOut"):
        trainer(SmoothOutCallback(0.05)).fit(module, loader)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("part", [lambda module: module, lambda module: module.net], ids=["module", "network"])
def test_a_block_in_training_step_alone_names_the_callback(part: Any, precision: Any, loader: Any) -> None:
    class Naive(Module):
        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            with SmoothOut(part(self), 0.05):
                return super().training_step(batch, index)

    with pytest.raises(RuntimeError, match=r"^the backward pass belongs inside the block.*integrations.lightning"):
        trainer(precision=precision).fit(Naive(), loader)


REFUSED = [
    ({"a": -1.0}, r"^a: .*>= 0, not -1.0"),
    ({"a": 0.1, "seed": 0.5}, r"^seed: must be a whole number, not 0.5"),
    ({"a": 0.1, "distribution": "cauchy"}, r"^distribution: 'cauchy' is not one of uniform, gaussian"),
]


@pytest.mark.parametrize(("arguments", "line"), REFUSED)
def test_what_cannot_be_is_refused_before_a_trainer_is_made(arguments: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        SmoothOutCallback(**arguments)
