"""SmoothOut on F1 and MNIST in one file: Algorithm 1 of the paper, with nothing but PyTorch and NumPy.

    python notebooks/smoothout_f1.py data/mnist.npz --batch 6000 --strength 0.0375 --epochs 200

This is `scripts/train.py experiment=f1_mnist batch=large method=smoothout` without everything around the algorithm:
no configs, records, checkpoints or other methods. On a CPU it ends with the same bits, and a test compares the two.
The protocol is `authors_code`. Data: NAME.npz with x_train, y_train, x_test, y_test (`make data` fetches it).
"""

import argparse
from hashlib import blake2b
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def generator(seed: int, purpose: str, *position: int) -> torch.Generator:
    """A fresh generator for one draw: it depends on the seed and the draw's name, not on the draws before it."""
    name = "/".join(map(str, (seed, purpose, *position)))
    number = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")
    return torch.Generator().manual_seed(number % 2**63)


def initialize(seed: int, widths: tuple[int, ...] = (784, 512, 512, 512, 512, 512), classes: int = 10) -> nn.Sequential:
    """F1 of Keskar et al.: five blocks of Linear, BatchNorm and ReLU, then Linear."""
    torch.manual_seed(generator(seed, "start").initial_seed())
    blocks = [(nn.Linear(n, m), nn.BatchNorm1d(m), nn.ReLU()) for n, m in pairwise(widths)]
    model = nn.Sequential(nn.Flatten(), *(layer for block in blocks for layer in block), nn.Linear(widths[-1], classes))
    # PyTorch of early 2018 drew BatchNorm's weight from U(0, 1).
    source = generator(seed, "batchnorm")
    for layer in model:
        if isinstance(layer, nn.BatchNorm1d):
            nn.init.uniform_(layer.weight, 0.0, 1.0, generator=source)
    return model


def uniform_noise(weights: list[nn.Parameter], a: float, source: torch.Generator) -> list[Tensor]:
    """Draw theta ~ U(-a, a) for all weights at once [Eq. 5], as 16-bit integers: faster than torch's own draw."""
    count = sum(weight.numel() for weight in weights)
    seed = int(torch.randint(2**63 - 1, (), generator=source))
    words = np.random.SFC64(seed).random_raw(1 + (count + 3) // 4)
    integers = torch.from_numpy(words[1:].view(np.int16))[:count].float()
    step = a * 2.0**-15
    offset = torch.tensor(step * float(words[0]) * 2.0**-64, dtype=torch.float32)
    pieces = torch.add(offset, integers, alpha=step).split([weight.numel() for weight in weights])
    return [piece.view_as(weight) for piece, weight in zip(pieces, weights, strict=True)]


def normalize(images: np.ndarray) -> Tensor:
    """uint8 images of shape (N, 28, 28) as float32 in [-1, 1], shape (N, 1, 28, 28)."""
    return torch.from_numpy(images)[:, None].float().mul_(1 / 127.5).sub_(1.0)


def train(data: dict[str, np.ndarray], model: nn.Sequential, *, batch: int, a: float, epochs: int, seed: int) -> None:
    """Train ``model`` in place, and print its test accuracy after every epoch."""
    inputs, labels = normalize(data["x_train"]), torch.from_numpy(data["y_train"]).long()
    # The authors' program perturbs all weights but those of BatchNorm.
    weights = [p for layer in model if isinstance(layer, nn.Linear) for p in layer.parameters()]
    updates = -(-len(inputs) // batch)
    for epoch in range(epochs):
        # The authors' program makes a new Adam in every epoch.
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
        model.train()
        order = torch.randperm(len(inputs), generator=generator(seed, "order", epoch))
        for step, rows in enumerate(order.split(batch)):
            optimizer.zero_grad()
            clean = [weight.data for weight in weights]
            # Line 3: perturb. Without noise, w stays as it is.
            if a:
                noise = uniform_noise(weights, a, generator(seed, "noise", epoch * updates + step, 0))
                for weight, w, theta in zip(weights, clean, noise, strict=True):
                    weight.data = theta + w
            # Line 4: backpropagate at w + theta.
            F.cross_entropy(model(inputs[rows]), labels[rows]).backward()
            # Line 5: de-noise. Taking w back loses no bit; subtracting theta would.
            for weight, w in zip(weights, clean, strict=True):
                weight.data = w
            # Line 6: update w with the gradient at w + theta.
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
        print(f"epoch {epoch + 1}: test accuracy {100 * accuracy(model, data):.2f}%", flush=True)


@torch.no_grad()
def accuracy(model: nn.Module, data: dict[str, np.ndarray]) -> float:
    """Share of the test images that the clean weights classify correctly."""
    model.eval()
    inputs, labels = normalize(data["x_test"]), torch.from_numpy(data["y_test"]).long()
    correct = [
        model(part).argmax(1) == target for part, target in zip(inputs.split(1000), labels.split(1000), strict=True)
    ]
    return torch.cat(correct).float().mean().item()


def main() -> None:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(description="SmoothOut on F1 and MNIST in one file.")
    parser.add_argument("data", help="path of mnist.npz")
    parser.add_argument("--batch", type=int, default=6000)
    parser.add_argument("--strength", type=float, default=0.0375, help="a of U(-a, a); 0 is the baseline")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with np.load(given.data) as arrays:
        data = dict(arrays)
    train(data, initialize(given.seed), batch=given.batch, a=given.strength, epochs=given.epochs, seed=given.seed)


if __name__ == "__main__":
    main()
