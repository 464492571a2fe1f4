"""What tests of the textbooks' models share."""

import torch

from constrained_diffusion import (
    Euclidean,
    ReflectedSDE,
)

LOW, HIGH = 0.1, 20.0  # beta_min and beta_max of Song et al. 2021
TIMES = torch.linspace(0.003, 0.997, 12, dtype=torch.float64)
SIZE = 6


def seeded(s=0):
    return torch.Generator().manual_seed(s)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def over_r(schedule, size=SIZE):
    return ReflectedSDE(Euclidean(size), schedule=schedule)
