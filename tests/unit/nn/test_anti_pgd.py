"""SmoothOut is Anti-PGD (Orvieto et al. 2022), seen at the clean weights instead of the noisy ones."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.noise_cases import examples, network, seeded, thetas
from torch.nn import functional as F

from smoothout import SmoothOut


@pytest.mark.parametrize("distribution", ["uniform", "gaussian"])
def test_the_noisy_weights_of_smoothout_take_the_steps_of_anti_pgd(distribution: str) -> None:
    """z_{n+1} = z_n - lr grad(z_n) + (theta_{n+1} - theta_n), for z_n = w_n + theta_n."""
    model, lr, a = network().double(), 0.2, 0.05
    other = copy.deepcopy(model)
    inputs, labels = examples(16)
    noise = SmoothOut(model, a, distribution, batchnorm=True, generator=seeded(5))
    optimizer = torch.optim.SGD(model.parameters(), lr)
    drawn = SmoothOut(other, a, distribution, batchnorm=True, generator=seeded(5))

    z, theta = list(other.parameters()), thetas(drawn)
    with torch.no_grad():
        torch._foreach_add_(z, theta)
    for _ in range(5):
        with noise:
            for parameter, noisy in zip(model.parameters(), z, strict=True):
                torch.testing.assert_close(parameter, noisy, rtol=1e-12, atol=1e-12)
            F.cross_entropy(model(inputs.double()), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

        gradient = torch.autograd.grad(F.cross_entropy(other(inputs.double()), labels), z)
        following = thetas(drawn)
        with torch.no_grad():
            for noisy, g, old, new in zip(z, gradient, theta, following, strict=True):
                noisy.sub_(lr * g).add_(new - old)
        theta = following
