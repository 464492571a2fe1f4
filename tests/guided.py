"""Small things that the tests of guided scores share."""

import torch

from constrained_diffusion import log_prob

F64 = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=F64)


def zero(x, t):
    return 0 * x


def right_or_refused(expected, close, *arguments, **options):
    """The divergence by autograd: where the guided score has no graph, or half of one, no other number may come out."""
    try:
        found = log_prob(*arguments, divergence="exact", **options).value
    except ValueError as error:
        assert "carries no autograd graph" in str(error)  # noqa: PT017
    else:
        torch.testing.assert_close(found, expected, atol=close, rtol=0)
