import math

import pytest
import torch

from constrained_diffusion import (
    Ball,
    CustomSchedule,
    DenoisingScoreMatching,
    DomainError,
    Hypercube,
    ReflectedSDE,
    Simplex,
)
from tests.mixtures import Atoms

N = 20_000


def zero(x, t):
    return torch.zeros_like(x)


def entropy(law, sigma, low=0.0, high=1.0):
    """Differential entropy of a one-dimensional noised law, by quadrature."""
    x = torch.linspace(low, high, 20_001, dtype=torch.float64)
    log_p = law.log_prob(x[:, None], torch.full_like(x, sigma))
    return -float(torch.trapezoid(log_p.exp() * log_p, x))


@pytest.mark.parametrize("domain", [Hypercube((2, 3)), Simplex(3), Ball(3)], ids=str)
@pytest.mark.parametrize("weighting", ["likelihood", "fidelity"])
def test_exact_score_of_one_atom_has_no_loss(domain, weighting):
    sde = ReflectedSDE(domain)
    atom = domain.sample_uniform(1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    law = Atoms(sde, atom)
    loss = DenoisingScoreMatching(sde, weighting)
    x0 = atom.expand(200, *domain.event_shape)
    value = loss(law.score, x0, generator=torch.Generator().manual_seed(0))
    assert value.shape == (200,)
    assert float(value.max()) < 1e-10
    assert float(loss(zero, x0, generator=torch.Generator().manual_seed(0)).mean()) > 0.1


@pytest.mark.parametrize("time_sampling", ["importance", "uniform"])
@pytest.mark.parametrize("schedule", [None, CustomSchedule(lambda t: 0.02 + 1.1 * t**2)])
def test_likelihood_loss_is_a_difference_of_entropies(time_sampling, schedule):
    """By de Bruijn's identity, 1/2 int g^2 E|score|^2 dt = H(time 1) - H(time 0): constants, weights and densities."""
    sde = ReflectedSDE(Hypercube(1), 0.02) if schedule is None else ReflectedSDE(Hypercube(1), schedule=schedule)
    law = Atoms(sde, torch.tensor([[0.0], [0.3], [0.9]], dtype=torch.float64), torch.tensor([0.2, 0.5, 0.3]).double())
    loss = DenoisingScoreMatching(sde, "likelihood", time_sampling)
    x0 = law.draw(N, torch.Generator().manual_seed(0))
    gain = loss(zero, x0, generator=torch.Generator().manual_seed(1))
    gain = gain - loss(law.score, x0, generator=torch.Generator().manual_seed(1))
    expected = entropy(law, sde.sigma_max) - entropy(law, sde.sigma_min)
    error = float(gain.std()) / math.sqrt(N)
    assert abs(float(gain.mean()) - expected) < 4.5 * error
    assert error < 0.06 * expected


def test_exact_score_minimises():
    sde = ReflectedSDE(Hypercube(1), 0.02)
    law = Atoms(sde, torch.tensor([[0.0], [0.3], [0.9]], dtype=torch.float64))
    x0 = law.draw(N, torch.Generator().manual_seed(0))
    for weighting in ("likelihood", "fidelity"):
        loss = DenoisingScoreMatching(sde, weighting)
        at = [
            float(loss(lambda x, t, c=c: c * law.score(x, t), x0, generator=torch.Generator().manual_seed(1)).mean())
            for c in (0.9, 1.0, 1.1)
        ]
        assert at[1] < min(at[0], at[2])


def test_fidelity_counts_each_noise_level_alike():
    sde = ReflectedSDE(Hypercube(3))
    loss = DenoisingScoreMatching(sde, "fidelity")
    x0 = sde.domain.sample_uniform(N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value = loss(zero, x0, generator=torch.Generator().manual_seed(1))
    assert float(value.mean()) == pytest.approx(1.0, rel=0.05)


def test_times_have_the_density_that_is_returned():
    loss = DenoisingScoreMatching(ReflectedSDE(Hypercube(1)), "likelihood")
    t, density = loss.sample_times(
        torch.Size([50_000]), torch.empty(0).double(), generator=torch.Generator().manual_seed(0)
    )
    assert float((1 / density).mean()) == pytest.approx(1.0, abs=0.01)  # int q / q dt
    assert float((t / density).mean()) == pytest.approx(0.5, abs=0.01)
    assert float(density.min()) >= 0.1
    edges, table = loss._importance()
    assert torch.equal(density, table[torch.searchsorted(edges, t, right=True) - 1])
    assert t.min() >= 0
    assert t.max() <= 1


def test_importance_sampling_lowers_the_variance():
    sde = ReflectedSDE(Hypercube(1), 0.01)
    x0 = sde.domain.sample_uniform(N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spread = [
        float(
            DenoisingScoreMatching(sde, "likelihood", how)(zero, x0, generator=torch.Generator().manual_seed(1)).std()
        )
        for how in ("importance", "uniform")
    ]
    assert spread[0] < 0.95 * spread[1]


def test_conditions_reach_the_score():
    sde = ReflectedSDE(Hypercube(2))
    seen = {}

    def score(x, t, label):
        seen["label"] = label
        return torch.zeros_like(x)

    DenoisingScoreMatching(sde)(score, torch.rand(4, 2), label=torch.arange(4))
    assert seen["label"].tolist() == [0, 1, 2, 3]


def test_bad_input():
    sde = ReflectedSDE(Hypercube(2))
    loss = DenoisingScoreMatching(sde)
    with pytest.raises(ValueError, match="x0 is empty"):
        loss(zero, torch.empty(0, 2))
    with pytest.raises(DomainError, match="x0: at row 1"):
        loss(zero, torch.tensor([[0.5, 0.5], [0.5, 1.5]]))
    with pytest.raises(DomainError, match="not finite"):
        loss(zero, torch.tensor([[0.5, math.nan]]))
    with pytest.raises(ValueError, match="weighting"):
        DenoisingScoreMatching(sde, "best")
    with pytest.raises(ValueError, match="time_sampling"):
        DenoisingScoreMatching(sde, time_sampling="all")
