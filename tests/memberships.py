"""Sets known by a membership function alone, which several test files share, and points in and around them."""

import pytest
import torch

from constrained_diffusion import Ball, MetropolisDomain

Z = 4.5
ALPHA = 1e-5
F64 = torch.float64


def in_disc(x):
    return x.square().sum(-1) <= 1


def in_box(x):
    return (x >= 0).all(-1) & (x[:, 0] <= 2) & (x[:, 1] <= 1)


def in_ell(x):
    """[0, 2]^2 without its upper right quarter."""
    return (x.amin(-1) >= 0) & (x.amax(-1) <= 2) & (x.amin(-1) <= 1)


def in_tiny_disc(x):
    """Radius 0.02 around (0.5, 0.25)."""
    return (x[:, 0] - 0.5) ** 2 + (x[:, 1] - 0.25) ** 2 <= 0.02**2


def in_matrices(x):
    """Matrices 2 x 2 of Frobenius norm at most 1 and non-negative trace."""
    return (x.square().sum((-2, -1)) <= 1) & (x[:, 0, 0] + x[:, 1, 1] >= 0)


def nowhere(x):
    return torch.zeros(len(x), dtype=torch.bool)


def disc():
    return MetropolisDomain(2, in_disc, -1.25, 1.25)


def box():
    return MetropolisDomain(2, in_box, [-0.5, -0.5], [2.5, 2.0])


def tiny():
    return MetropolisDomain(2, in_tiny_disc, -1.0, 1.0, start=[0.505, 0.25])


MAKERS = {
    "disc": disc,
    "ell": lambda: MetropolisDomain(2, in_ell, -1.0, 3.0, spectral_gap=1.0),
    "ball5": lambda: MetropolisDomain(5, in_disc, -1.0, 1.0),
    "box": box,
    "tiny": tiny,
    "matrices": lambda: MetropolisDomain((2, 2), in_matrices, -1.0, 1.0),
}
DOMAINS = {name: make() for name, make in MAKERS.items()}
EVERY = pytest.mark.parametrize("name", MAKERS)
BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def accepts(domain, x):
    """Membership by the function itself."""
    low, high = (b.to(x) for b in domain.bounding_box)
    boxed = ((x >= low) & (x <= high)).flatten(1).all(-1)
    return boxed & domain.inside(x)


def candidates(domain, n, dtype=F64, spread=1.0):
    """Points in and around the box, not only inside."""
    low, high = (b.to(dtype) for b in domain.bounding_box)
    u = torch.rand((n, *domain.event_shape), generator=seeded(5), dtype=dtype)
    return (low + high) / 2 + (2 * u - 1) * spread * (high - low) / 2


def interior(name, n, dtype=F64):
    if name == "tiny":  # its own uniform law is a walk, tested with the other laws
        v = 0.02 * Ball(2).sample_uniform(n, generator=seeded(6), dtype=dtype) * 0.999
        return v + torch.tensor([0.5, 0.25], dtype=dtype)
    return DOMAINS[name].sample_uniform(n, generator=seeded(6), dtype=dtype)
