"""The adaptive weighting: where on the way from noise to data a model is trained."""

import math

import pytest
import torch

from constrained_diffusion import (
    DenoisingScoreMatching,
    Hypercube,
    ImplicitScoreMatching,
    ReflectedDiffusion,
    ReflectedSDE,
    ScoreModel,
)
from constrained_diffusion.losses.levels import NoiseLevels
from constrained_diffusion.networks import MLP
from constrained_diffusion.plan import Plan
from constrained_diffusion.sources import TensorSource
from constrained_diffusion.trainer import Trainer
from constrained_diffusion.training import Recipe, train
from tests.mixtures import Atoms

N = 40_000


def three_atoms(least=0.02):
    sde = ReflectedSDE(Hypercube(1), least)
    atoms = torch.tensor([[0.0], [0.3], [0.9]], dtype=torch.float64)
    return sde, Atoms(sde, atoms, torch.tensor([0.2, 0.5, 0.3]).double())


def entropy(law, sigma):
    """Differential entropy of the noised law on the unit interval, by quadrature."""
    x = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    log_p = law.log_prob(x[:, None], torch.full_like(x, sigma))
    return -float(torch.trapezoid(log_p.exp() * log_p, x))


def taught(loss, law, batches=40):
    """The loss, after it has seen a law's own score."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(batches):
        noised = loss.prepare(law.draw(N // 20, generator), generator=generator)
        loss.learn(noised, loss.evaluate(law.score, noised))
    return loss


def test_is_fidelity_until_something_is_learnt():
    sde, law = three_atoms()
    x0 = law.draw(1000, torch.Generator().manual_seed(0))
    adaptive, fidelity = (
        DenoisingScoreMatching(sde, w).prepare(x0, generator=torch.Generator().manual_seed(1))
        for w in ("adaptive", "fidelity")
    )
    assert torch.equal(adaptive.t, fidelity.t)
    assert torch.allclose(adaptive.weight, fidelity.weight, rtol=1e-12)


@pytest.mark.parametrize("kind", [DenoisingScoreMatching, ImplicitScoreMatching])
def test_learns_the_rate_at_which_noise_destroys_information(kind):
    """By de Bruijn's identity, from the entropies of the noised law at the ends of four parts of the time."""
    sde, law = three_atoms(0.1 if kind is ImplicitScoreMatching else 0.02)
    found = taught(kind(sde, "adaptive"), law, 40)._levels.information.reshape(4, -1).mean(1)
    at = [entropy(law, float(s)) for s in sde.sigma(torch.linspace(0, 1, 5, dtype=torch.float64))]
    expected = torch.tensor(at).diff().to(found) * 4
    assert float((found - expected).abs().max()) < 0.06 * float(expected.max())


def test_times_and_weights_follow_the_information():
    """The density is 0.3 and a share in proportion to the square root, and weights follow it."""
    sde, law = three_atoms()
    loss = taught(DenoisingScoreMatching(sde, "adaptive"), law)
    table, root = loss._levels.table, loss._levels.information.clamp(min=0).sqrt()
    assert float(table.mean()) == pytest.approx(1, abs=0.01)
    assert float(table.min()) >= 0.3
    smooth = torch.nn.functional.avg_pool1d(root[None, None], 3, 1)[0, 0]
    slope = (table[1:-1] - 0.3) / smooth
    assert torch.allclose(slope, slope.mean().expand(62), rtol=1e-6)
    t, density = loss.sample_times(torch.Size([N]), table, generator=torch.Generator().manual_seed(2))
    seen = torch.bincount((t * 64).long(), minlength=64) * 64 / N
    assert float((seen - (0.9 * table + 0.1)).abs().max()) < 0.1
    even = DenoisingScoreMatching(sde, "fidelity").weight(t)
    assert torch.allclose(loss.weight(t), even * table[(t * 64).long()])
    assert float((density / (0.9 * table[(t * 64).long()] + 0.1) - 1).abs().max()) < 0.02
    assert float(table.max()) > 1.3


def test_exact_score_minimises():
    sde, law = three_atoms()
    loss = taught(DenoisingScoreMatching(sde, "adaptive"), law)
    x0 = law.draw(N, torch.Generator().manual_seed(3))
    at = [
        float(loss(lambda x, t, c=c: c * law.score(x, t), x0, generator=torch.Generator().manual_seed(1)).mean())
        for c in (0.9, 1.0, 1.1)
    ]
    assert at[1] < min(at[0], at[2])


def test_old_sights_are_forgotten():
    levels = NoiseLevels()
    t = torch.full((20_000,), 0.5)
    levels.learn(t, torch.full((20_000,), 8.0))
    assert float(levels.information[32]) == pytest.approx(8)
    for _ in range(4):
        levels.learn(t, torch.full((20_000,), 2.0))
        levels.information  # noqa: B018, each batch is read by itself
    assert float(levels.information[32]) == pytest.approx(2, abs=0.01)
    assert float(levels.information[31]) == 0


def test_few_batches_are_kept_unread():
    levels = NoiseLevels()
    for _ in range(1000):
        levels.learn(torch.rand(8), torch.ones(8))
    assert len(levels._unread) < 100


def test_nothing_explained_is_even():
    """A score that is worse than none says nothing of where to train, and one that is not finite neither."""
    levels = NoiseLevels()
    levels.learn(torch.rand(100), -torch.ones(100))
    assert torch.equal(levels.table, torch.ones(64, dtype=torch.float64))
    levels.learn(torch.rand(100), torch.full((100,), math.nan))
    assert torch.equal(levels.table, torch.ones(64, dtype=torch.float64))


def test_training_finds_where_modes_merge():
    """Two lumps of width 0.05 a distance of 0.4 apart: nine tenths of the information go between 0.02 and 0.3."""
    sde = ReflectedSDE(Hypercube(1), 0.001)
    atoms = torch.tensor([[0.3], [0.7]], dtype=torch.float64)
    law = Atoms(sde, atoms)
    x = law.draw(2000, torch.Generator().manual_seed(0))
    x = sde.domain.sample_heat_kernel(x, 0.05, generator=torch.Generator().manual_seed(1)).float()
    ends = [entropy(law, math.hypot(s, 0.05)) for s in (0.001, 0.02, 0.3, sde.sigma_max)]
    assert ends[2] - ends[1] > 0.9 * (ends[3] - ends[0])
    loss = DenoisingScoreMatching(sde, "adaptive")
    model = ScoreModel(MLP(sde.domain, 32, 1), sde)
    train(model, loss, x, Recipe(steps=300), generator=torch.Generator().manual_seed(0), progress=False)
    sigma, table = sde.sigma((torch.arange(64) + 0.5) / 64), loss._levels.table
    between = (sigma > 0.02) & (sigma < 0.3)
    assert float(table[between].mean()) > 1.5 * float(table[~between].mean())


def test_which_models_use_it():
    assert ReflectedDiffusion(Hypercube(2))._default_weighting == "adaptive"
    assert ReflectedDiffusion(Hypercube(2), process="flow")._default_weighting == "fidelity"
    assert ReflectedDiffusion(Hypercube(2), loss="sliced")._default_weighting == "fidelity"


def test_checkpoints_do_not_hold_it():
    sde = ReflectedSDE(Hypercube(2))
    model = ScoreModel(MLP(sde.domain, 8, 1), sde)
    with pytest.raises(ValueError, match="adaptive weighting is not in the checkpoints"):
        Trainer(model, DenoisingScoreMatching(sde, "adaptive"), TensorSource(torch.rand(8, 2)), Plan(steps=1))
