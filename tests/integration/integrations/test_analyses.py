"""Analyses of models of transformers: batches as its collators make them, outputs as its models return them."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from smoothout import interpolate, noise_curve, sharpness
from smoothout.analysis.adaptive_sharpness import adaptive_sharpness
from smoothout.analysis.hessian import top_eigenvalues
from smoothout.analysis.landscape import landscape_line

os.environ["HF_HUB_OFFLINE"] = "1"
REASON = "transformers is not installed: pip install '.[integrations]'"
transformers = pytest.importorskip("transformers", reason=REASON)
transformers.logging.set_verbosity_error()

WORDS, CLASSES = 50, 3
SMALL = {"vocab_size": WORDS, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


def bert(head: str = "SequenceClassification", **more: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(**SMALL, intermediate_size=32, max_position_embeddings=16, **more)
    return getattr(transformers, f"BertFor{head}")(config)


@pytest.fixture
def texts() -> tuple[Tensor, Tensor]:
    """20 sentences of eight words, and a class of each."""
    words = torch.randint(5, WORDS, (20, 8))
    return words, words[:, 0] % CLASSES


@pytest.fixture
def loader(texts: tuple[Tensor, Tensor]) -> DataLoader[Any]:
    """Dictionaries, in batches of 8, 8 and 4."""
    rows = [{"input_ids": i, "attention_mask": torch.ones_like(i), "labels": y} for i, y in zip(*texts, strict=True)]
    return DataLoader(rows, 8)  # type: ignore[arg-type]


def test_every_analysis_takes_a_loader_of_dictionaries_with_and_without_a_loss(loader: Any, texts: Any) -> None:
    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = bert(num_labels=CLASSES)

        def forward(self, words: Tensor) -> Any:
            return self.bert(words, attention_mask=torch.ones_like(words)).logits

    model, pairs = bert(num_labels=CLASSES), list(zip(*(part.split(8) for part in texts), strict=True))
    expected = sharpness(Logits(), pairs, F.cross_entropy, iterations=1)
    assert sharpness(model, loader, iterations=1) == sharpness(model, loader, F.cross_entropy, iterations=1) == expected
    whole = [transformers.BatchEncoding({"input_ids": texts[0], "labels": texts[1]})]
    assert sharpness(model, whole, iterations=1).value == pytest.approx(expected.value, rel=1e-3)

    assert top_eigenvalues(model, loader, tolerance=0.1) == top_eigenvalues(
        Logits(), pairs, F.cross_entropy, tolerance=0.1
    )
    assert not adaptive_sharpness(model, loader, None, 0.01, iterations=1).failed
    for curve in (noise_curve, landscape_line):
        found, plain = (curve(*given, [0.0, 0.1])[1] for given in ((model, loader), (Logits(), pairs)))
        for value, wanted in zip(found[1:3], plain[1:3], strict=True):
            assert value == pytest.approx(wanted, rel=1e-6)
    [middle] = interpolate(model, bert(num_labels=CLASSES), loader, [0.5])
    assert middle.loss == pytest.approx(noise_curve(model, loader, [0.0])[0].loss, rel=1e-6)
    assert 0.0 <= middle.accuracy <= 1.0


def test_a_language_model_is_measured_by_its_own_loss_weighed_by_tokens(texts: Any) -> None:
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=WORDS, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    )
    words, labels = texts[0], texts[0].clone()
    labels[:9, 4:] = -100
    batches = [{"input_ids": i, "labels": y} for i, y in zip(words.split(9), labels.split(9), strict=True)]

    def tokens(_: Any, targets: Tensor) -> Tensor:
        return (targets[:, 1:] != -100).sum()

    with torch.no_grad():
        expected = model.eval()(input_ids=words, labels=labels).loss.item()
    assert sharpness(model, batches, weight=tokens, iterations=1).loss == pytest.approx(expected, rel=1e-6)
    [point] = noise_curve(model, batches, [0.0], weight=tokens)
    assert point.loss == pytest.approx(expected, rel=1e-6)
    assert sharpness(model, batches, iterations=1).loss != pytest.approx(expected, rel=1e-6)


def test_answers_regressions_and_images_are_measured_by_the_models_own_loss(texts: Any) -> None:
    words, classes = texts
    spans = [{"input_ids": words, "start_positions": classes, "end_positions": classes + 1}]
    numbers = [{"input_ids": words, "labels": classes.float()}]
    several = [{"input_ids": words, "labels": F.one_hot(classes, CLASSES).float()}]
    images = [{"pixel_values": torch.randn(6, 3, 8, 8), "labels": classes[:6]}]
    sizes = {"image_size": 8, "patch_size": 4, "num_labels": CLASSES, "intermediate_size": 32}
    vit = transformers.ViTConfig(**{k: v for k, v in SMALL.items() if k != "vocab_size"}, **sizes)
    for model, batches in (
        (bert("QuestionAnswering"), spans),
        (bert(num_labels=1), numbers),
        (bert(num_labels=CLASSES, problem_type="multi_label_classification"), several),
        (transformers.ViTForImageClassification(vit), images),
    ):
        with torch.no_grad():
            expected = model.eval()(**batches[0]).loss.item()
        assert sharpness(model, batches, iterations=1).loss == pytest.approx(expected, rel=1e-6)
        assert noise_curve(model, batches, [0.0])[0].loss == pytest.approx(expected, rel=1e-6)


def test_what_does_not_fit_is_refused_in_one_line(loader: Any) -> None:
    model = bert(num_labels=CLASSES)
    for batches, loss, line in (
        (
            [({"input_ids": b["input_ids"]}, b["labels"]) for b in loader],
            F.cross_entropy,
            "mapping in a pair .* labels",
        ),
        ([(b["input_ids"], b["labels"]) for b in loader], None, r"loss: is needed, .*SequenceClassifierOutput\)"),
    ):
        with pytest.raises(ValueError, match=line) as refused:
            sharpness(model, batches, loss)
        assert "\n" not in str(refused.value)
