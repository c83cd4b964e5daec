"""Lightning's tuners and programs that replace the trainer's methods, beside the callback."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.noise_cases import examples
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

lightning = pytest.importorskip("lightning", reason="lightning is not installed: pip install '.[integrations]'")
from lightning.pytorch import callbacks  # noqa: E402

from smoothout.integrations.lightning import SmoothOutCallback  # noqa: E402

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore")


class Module(lightning.LightningModule):
    lr = 0.0

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(5, 3)

    def training_step(self, batch: Any, index: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.lr)


@pytest.fixture
def loader() -> Any:
    return DataLoader(TensorDataset(*examples(24)), 8)


def trainer(*given: Any, **settings: Any) -> Any:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return lightning.Trainer(**{"max_epochs": 1, **quiet, **settings}, accelerator="cpu", callbacks=list(given))


def test_a_trainers_own_replaced_method_is_put_back(loader: Any) -> None:
    own = trainer(SmoothOutCallback(0.05))
    patched = own.strategy.precision_plugin.backward
    own.strategy.precision_plugin.backward = patched
    own.fit(Module(), loader)
    assert vars(own.strategy.precision_plugin)["backward"] is patched


def test_a_tuner_in_mid_training_gets_no_noise(loader: Any, tmp_path: Path) -> None:
    class AfterAnEpoch(callbacks.LearningRateFinder):
        def on_fit_start(self, *unused: Any) -> None:
            """Not at the start."""

        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            if trainer.current_epoch == 1:
                module.clean, module.trials = [p.detach().clone() for p in module.parameters()], []
                self.lr_find(trainer, module)
                module.found, module.trials = module.trials, None

    class Looking(Module):
        clean, trials = None, None

        def training_step(self, batch: Any, index: int) -> Tensor:
            if self.trials is not None:
                self.trials.append(all(map(torch.equal, self.parameters(), self.clean)))
            return super().training_step(batch, index)

    module, finder = Looking(), AfterAnEpoch(min_lr=1e-30, max_lr=1e-29, num_training_steps=4)
    trainer(
        SmoothOutCallback(0.5),
        finder,
        max_epochs=3,
        default_root_dir=tmp_path,
        enable_checkpointing=True,
        log_every_n_steps=1,
    ).fit(module, loader)
    assert module.found
    assert all(module.found)
