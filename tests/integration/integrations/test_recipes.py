"""The programs of the folder's README run as they stand; its recipes train to the bits of a plain loop."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.paths import ROOT
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from smoothout import SmoothOut

TEXT = (ROOT / "src" / "smoothout" / "integrations" / "README.md").read_text(encoding="utf-8")
CODE = {
    section.partition("\n")[0]: re.findall(r"^```python\n(.*?)^```$", section, re.M | re.S)
    for section in TEXT.split("\n## ")
}
pytestmark = pytest.mark.filterwarnings("ignore")


def needs(package: str) -> Any:
    return pytest.importorskip(package, reason=f"{package} is not installed: pip install {package}")


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a recipe continues from; noise comes from a generator of its own, because some loaders draw too."""
    monkeypatch.chdir(tmp_path)
    x, y = torch.randn(24, 64), torch.randint(0, 10, (24,))
    model = nn.Sequential(nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 10))
    given = {"x": x, "y": y, "model": model, "loader": DataLoader(TensorDataset(x, y), 8), "torch": torch, "F": F}
    return given | {"optimizer": torch.optim.SGD(model.parameters(), 0.1), "seed": 0, "s": 0, "i": 0}


def execute(section: str, names: dict[str, Any], arguments: str = "max_epochs=2)") -> None:
    assert CODE[section], section
    for block in CODE[section]:
        seeded = block.replace("a=0.0375)", "a=0.0375, generator=torch.Generator().manual_seed(0))")
        seeded = seeded.replace("max_epochs=2)", arguments)
        exec(compile(seeded, section, "exec"), names)


def plain_loop(model: nn.Module, batches: list[Any], accumulate: int = 1, clip: float = 1e9) -> list[Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    noise = SmoothOut(model, 0.0375, generator=torch.Generator().manual_seed(0))
    for index, (x, y) in enumerate(batches):
        with noise:
            (F.cross_entropy(model(x), y) / accumulate).backward()
        if (index + 1) % accumulate == 0 or index + 1 == len(batches):
            nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
    return list(model.parameters())


RECIPES: dict[str, tuple[str, int, dict[str, Any]]] = {  # package, epochs, settings of the plain loop
    "Accelerate": ("accelerate", 1, {"accumulate": 2}),
    "timm": ("timm", 1, {"clip": 1.0}),
    "ignite": ("ignite", 2, {}),
}


@pytest.mark.parametrize("section", RECIPES)
def test_a_recipe_trains_to_the_bits_of_a_plain_loop(section: str, names: dict[str, Any]) -> None:
    package, epochs, settings = RECIPES[section]
    needs(package)
    other, batches = copy.deepcopy(names["model"]), [*names["loader"]] * epochs
    execute(section, names)
    assert all(map(torch.equal, names["model"].parameters(), plain_loop(other, batches, **settings)))


def test_a_net_of_skorch_trains_to_the_bits_of_a_plain_loop(names: dict[str, Any]) -> None:
    skorch = needs("skorch")
    names["model"] = lambda: copy.deepcopy(start)
    start = nn.Sequential(nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 10))
    execute("skorch", names, "max_epochs=2, lr=0.1, batch_size=8, train_split=None, verbose=0)")
    assert isinstance(names["classifier"], skorch.NeuralNet)
    expected = plain_loop(start, [*names["loader"]] * 2)
    assert all(map(torch.equal, names["classifier"].module_.parameters(), expected))


def test_the_program_for_lightning_trains_and_so_does_manual_optimization_with_two_optimizers(
    names: dict[str, Any],
) -> None:
    lightning = needs("lightning")
    execute("Lightning", names)
    assert names["trainer"].state.status == "finished"
    assert names["trainer"].global_step == 6
    pair, quiet = names["Pair"](), {"enable_progress_bar": False, "logger": False, "enable_checkpointing": False}
    before = [parameter.detach().clone() for parameter in pair.parameters()]
    lightning.Trainer(max_epochs=1, accelerator="cpu", **quiet).fit(pair, names["loader"])
    assert not any(map(torch.equal, pair.parameters(), before))


def test_the_program_for_the_hugging_face_trainer_trains(names: dict[str, Any]) -> None:
    needs("accelerate")
    transformers = needs("transformers")
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    names["model"] = model = transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=50, **size))
    names["dataset"] = [{"input_ids": torch.randint(0, 50, (8,)), "labels": torch.tensor(1)} for _ in range(8)]
    before = model.classifier.weight.detach().clone()
    execute("Hugging Face Trainer", names)
    assert not torch.equal(model.classifier.weight, before)


def test_the_seed_of_the_noise_is_used_as_the_page_says(names: dict[str, Any]) -> None:
    execute("# SmoothOut in other trainers", names)
    with names["noise"] as noise:
        assert noise.block is not None
