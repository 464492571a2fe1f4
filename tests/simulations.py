"""What the tests of `sample_sde` share: modes, domains, generators and drifts."""

import torch

from constrained_diffusion import (
    Domain,
    Polytope,
)

MODES = ["specular", "symmetrised", "project"]
F64 = torch.float64


class OnlyProject(Domain):
    """The quarter disc x >= 0, y >= 0, |x| <= 1, known by its projection alone."""

    event_shape, dim = torch.Size([2]), 2

    def project(self, x):
        y = x.clamp(min=0)
        return y / y.norm(dim=-1, keepdim=True).clamp(min=1.0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def constant(value):
    """A drift that is the same vector everywhere."""
    return lambda x, t: torch.as_tensor(value, dtype=x.dtype).expand(x.shape)


TRIANGLE = Polytope([[-1.0, 0.0], [0.0, -1.0], [1.0, 2.0]], [0.0, 0.0, 2.0])
