"""Implicit and sliced score matching against denoising, and what the wall has to do with it."""

import math

import pytest
import torch
from torch import nn

from constrained_diffusion import (
    MLP,
    Ball,
    DenoisingScoreMatching,
    Euclidean,
    Hypercube,
    ReflectedDiffusion,
    ReflectedSDE,
    ScoreModel,
    ShapeError,
    Simplex,
)
from constrained_diffusion.divergence import value_and_trace
from constrained_diffusion.losses import LOSSES, ImplicitScoreMatching, SlicedScoreMatching
from constrained_diffusion.metrics import sliced_wasserstein
from tests.mixtures import Atoms
from tests.test_losses import entropy
from tests.test_model import corners

N = 20_000
DOMAINS = [
    Hypercube(1),
    Hypercube((2, 3), -1.0, [0.5, 1.0, 2.0]),
    Ball(2),
    Ball(3, 2.0),
    Simplex(2),
    Simplex(3),
    Simplex(4, "cumulative"),
    Simplex(3, "cumulative"),
    Euclidean(2),
]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def random_score(sde, seed):
    """A score model whose network is smooth, random and of order one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MLP(sde.domain, width=16, depth=1)
        nn.init.normal_(network.leave.weight, std=0.5)
        nn.init.normal_(network.leave.bias, std=0.5)
    return ScoreModel(network, sde).double()


def law_in(domain, sigma_min=0.15):
    sde = ReflectedSDE(domain, sigma_min * min(1.0, domain.inradius * 3), 0.8 * min(1.0, domain.inradius * 3))
    atoms = domain.sample_prior(3, 0.5, generator=seeded(1), dtype=torch.float64)
    return sde, Atoms(sde, atoms, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))


def excess(loss, sde, scores, x0):
    """Loss of the first score less that of the second, for each sample, less the same in denoising."""
    total = 0.0
    for sign, score in zip((1, -1), scores, strict=True):
        for sign2, how in ((1, loss), (-1, DenoisingScoreMatching(sde))):
            with torch.no_grad():
                total = total + sign * sign2 * how(score, x0, generator=seeded(2))
    return total


def mean_loss(loss, score, x0):
    with torch.no_grad():
        return float(loss(score, x0, generator=seeded(1)).mean())


def z_score(values):
    return float(values.mean()) / (float(values.std()) / math.sqrt(len(values)))


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
@pytest.mark.parametrize("kind", [ImplicitScoreMatching, SlicedScoreMatching])
def test_differs_from_denoising_by_a_constant(domain, kind):
    """The same noised points serve both losses, so that only the divergence theorem is between them."""
    sde, law = law_in(domain)
    x0 = law.draw(N, seeded(0))
    first, second = random_score(sde, 3), random_score(sde, 4)
    gap = excess(kind(sde), sde, (first, second), x0)
    assert abs(z_score(gap)) < 4.5
    with torch.no_grad():
        size = DenoisingScoreMatching(sde)(first, x0, generator=seeded(2)).mean()
    assert float(gap.std()) / math.sqrt(N) < 0.05 * float(size)  # the test can see an error of that share


@pytest.mark.parametrize("domain", [Simplex(4, "euclidean"), Simplex(10)], ids=str)
def test_differs_from_denoising_by_a_constant_on_average(domain):
    """Where targets are those of paths or permutations; the noised points are the same again."""
    sde, _ = law_in(domain)
    x0 = domain.sample_uniform(4000, generator=seeded(0), dtype=torch.float64) ** 3
    x0 = x0 / x0.sum(-1, keepdim=True)
    gap = excess(ImplicitScoreMatching(sde), sde, (random_score(sde, 3), random_score(sde, 4)), x0)
    assert abs(z_score(gap)) < 4.5


@pytest.mark.parametrize("domain", [Hypercube(2), Simplex(3), Simplex(2)], ids=str)
def test_exact_score_minimises(domain):
    sde, law = law_in(domain)
    x0 = law.draw(N, seeded(0))
    for kind in (ImplicitScoreMatching, SlicedScoreMatching):
        at = [mean_loss(kind(sde), lambda x, t, c=c: c * law.score(x, t), x0) for c in (0.7, 1.0, 1.3)]
        assert at[1] < min(at[0], at[2])


@pytest.mark.parametrize("time_sampling", ["importance", "uniform"])
def test_least_loss_is_a_difference_of_entropies(time_sampling):
    """At the exact score, the loss is -1/2 int g^2 E|score|^2 dt = H(time 0) - H(time 1)."""
    sde = ReflectedSDE(Hypercube(1), 0.05)
    law = Atoms(sde, torch.tensor([[0.0], [0.3], [0.9]], dtype=torch.float64), torch.tensor([0.2, 0.5, 0.3]).double())
    x0 = law.draw(2 * N, seeded(0))
    expected = entropy(law, sde.sigma_min) - entropy(law, sde.sigma_max)
    for kind in (ImplicitScoreMatching, SlicedScoreMatching):
        value = kind(sde, time_sampling=time_sampling)(law.score, x0, generator=seeded(1)).detach()
        error = float(value.std()) / math.sqrt(2 * N)
        assert abs(float(value.mean()) - expected) < 4.5 * error
        assert error < 0.06 * abs(expected)


# ---------------------------------------------------------------------- the wall


def test_a_normal_component_on_the_wall_breaks_the_identity():
    """By the flux through the wall, which is known for a constant field: density at 1 less density at 0."""
    sde, law = law_in(Hypercube(1))
    x0 = law.draw(N, seeded(0))
    gap = excess(ImplicitScoreMatching(sde), sde, (lambda x, t: 1 + 0 * x, lambda x, t: 0 * x), x0)
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)
    density = [law.log_prob(torch.full((2001, 1), end).double(), sde.sigma(t)).exp() for end in (1.0, 0.0)]
    flux = float(torch.trapezoid(sde.diffusion(t) ** 2 * (density[0] - density[1]), t))
    assert abs(flux) > 0.2
    assert float(gap.mean()) == pytest.approx(flux, abs=4.5 * float(gap.std()) / math.sqrt(N))
    assert abs(z_score(gap)) > 10
    free = random_score(sde, 3)
    free.sde = ReflectedSDE(Euclidean(1), 0.1, 1.0)  # the same network, not damped
    gap = excess(ImplicitScoreMatching(sde), sde, (free, lambda x, t: 0 * x), x0)
    assert abs(z_score(gap)) > 10


def test_free_on_the_wall_is_unbounded_below():
    """A thin layer that points away from the wall lowers the loss without limit, though no score looks like it."""
    sde, law = law_in(Hypercube(1))
    x0 = law.draw(20 * N, seeded(0))  # few points lie in the thinnest layer
    loss = ImplicitScoreMatching(sde)
    values = [
        mean_loss(loss, lambda x, t, w=width: -(w**-0.5) * torch.exp((x - 1) / w), x0) for width in (0.1, 0.03, 0.01)
    ]
    assert values[0] > values[1] + 0.5 > values[2] + 1.5


def test_damping_all_of_the_score_loses_the_tangential_one():
    """Fits linear in their coefficients, by least squares: one finds the score along the wall, the other cannot."""
    domain, sigma = Hypercube(2), 0.15
    sde = ReflectedSDE(domain, sigma, 1.0)
    law = Atoms(sde, torch.tensor([[0.0, 0.2], [0.1, 0.4]], dtype=torch.float64))
    x = domain.noise(law.draw(N, seeded(0)), sigma, generator=seeded(1))
    truth = law.score(x, torch.zeros(N, dtype=torch.float64))

    def plain(y):  # the tangential score at the wall, and corrections: all vanish where they must on y = 0, 1
        exact = law.score(y, torch.zeros(len(y), dtype=y.dtype))[:, 1]
        waves = [torch.sin(k * math.pi * y[:, 1]) * torch.cos(j * math.pi * y[:, 0]) for k in (1, 2) for j in (0, 1)]
        return torch.stack([exact, *waves])

    def along(y):  # damped across the walls only
        return [torch.stack([torch.zeros_like(f), f], -1) for f in plain(y)]

    def damped(y):  # damped altogether
        depth = torch.minimum(y, 1 - y).amin(-1)
        return [torch.tanh(depth / sigma).unsqueeze(-1) * f for f in along(y)]

    errors = []
    for basis in (along, damped):
        pairs = [value_and_trace(domain, lambda y, k=k, basis=basis: basis(y)[k], x, domain.frame(x)) for k in range(5)]
        fields, terms = (torch.stack(v).detach() for v in zip(*pairs, strict=True))
        divergences = terms.sum(1)
        gram = torch.einsum("kni,lni->kl", fields, fields) / N
        weights = -torch.linalg.solve(gram, divergences.mean(-1))
        fit = torch.einsum("k,kni->ni", weights, fields)
        errors.append(float(((fit - truth)[:, 1] ** 2).mean() / (truth[:, 1] ** 2).mean()))
        near = x[:, 0] < 0.2 * sigma
        errors.append(float(((fit - truth)[near, 1] ** 2).mean() / (truth[near, 1] ** 2).mean()))
    assert errors[0] < 0.01
    assert errors[1] < 0.02
    assert errors[2] > 0.15
    assert errors[3] > 0.5


# ---------------------------------------------------------------------- derivatives and training


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_trace_is_that_of_finite_differences(domain):
    """sum_k <e_k, J e_k>, with J e_k by central differences and an orthonormal frame."""
    sde, _ = law_in(domain)
    score, t = random_score(sde, 3), torch.full((20,), 0.5, dtype=torch.float64)
    x = domain.sample_prior(200, 0.3, generator=seeded(0), dtype=torch.float64)
    x = x[domain.boundary(x)[0] > 1e-3 * min(1.0, domain.inradius)][:20]
    frame, step = domain.frame(x), 1e-5
    s, terms = value_and_trace(domain, lambda y: score(y, t), x, frame)
    torch.testing.assert_close(s, score(x, t))
    expected = [domain.inner(x, e, score(x + step * e, t) - score(x - step * e, t)) / (2 * step) for e in frame]
    torch.testing.assert_close(terms, torch.stack(expected), rtol=1e-5, atol=1e-5)


def test_sliced_is_unbiased_and_projections_lower_its_variance():
    domain = Simplex(4, "cumulative")
    sde, law = law_in(domain)
    x0, score = law.draw(1, seeded(0)).expand(N, 4), random_score(sde, 3)
    t = torch.full((N,), 0.5, dtype=torch.float64)
    spread = []
    for projections in (1, 4):
        loss = SlicedScoreMatching(sde, projections=projections)
        with torch.no_grad():
            gap = loss.at(score, x0, t, generator=seeded(1)) - ImplicitScoreMatching(sde).at(
                score, x0, t, generator=seeded(1)
            )
        assert abs(z_score(gap)) < 4.5
        spread.append(float(gap.std()))
    assert spread[0] / spread[1] == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("domain", DOMAINS, ids=str)
@pytest.mark.parametrize("kind", [ImplicitScoreMatching, SlicedScoreMatching])
def test_gradients_are_finite_and_the_loss_repeats(domain, dtype, kind):
    sde, _ = law_in(domain)
    score = random_score(sde, 3).to(dtype)
    x0 = domain.sample_prior(64, 0.5, generator=seeded(0), dtype=dtype)
    value = kind(sde)(score, x0, generator=seeded(1))
    assert value.shape == (64,)
    assert value.dtype == dtype
    value.mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in score.network.parameters())
    assert score.network.leave.weight.grad.abs().max() > 0
    torch.testing.assert_close(value, kind(sde)(score, x0, generator=seeded(1)))
    with torch.no_grad():
        quiet = kind(sde)(score, x0, generator=seeded(1))
    assert not quiet.requires_grad
    torch.testing.assert_close(quiet, value.detach())


def test_parameters_follow_the_gradient():
    """The derivative in one parameter, by finite differences of the loss."""
    sde, law = law_in(Hypercube(2))
    score, x0 = random_score(sde, 3), law.draw(200, seeded(0))
    loss = ImplicitScoreMatching(sde)
    loss(score, x0, generator=seeded(1)).mean().backward()
    weight, step = score.network.leave.weight, 1e-5
    slope = float(weight.grad[0, 0])
    ends = []
    for move in (step, -2 * step):
        with torch.no_grad():
            weight[0, 0] += move
            ends.append(mean_loss(loss, score, x0))
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)


def test_dropout_and_conditions():
    """One forward pass: what dropout leaves out is the same in the value and in the divergence."""
    sde = ReflectedSDE(Hypercube(1), 0.1, 1.0)
    x0 = torch.full((50, 1), 0.5, dtype=torch.float64)

    def score(x, t, label):
        assert label.shape == (50,)
        kept = (torch.rand(1) < 0.5).to(x.dtype)
        return kept * torch.ones_like(x) * label.unsqueeze(-1) * x

    torch.manual_seed(0)
    loss = ImplicitScoreMatching(sde)
    t = torch.zeros(50, dtype=torch.float64)
    label = torch.arange(50, dtype=torch.float64)
    x = sde.domain.noise(x0, sde.sigma(t), generator=seeded(1))
    for _ in range(8):
        value = loss.at(score, x0, t, generator=seeded(1), label=label)
        full = (label * x.squeeze(-1)) ** 2 / 2 + label
        assert torch.equal(value, torch.zeros_like(value)) or torch.allclose(value, full)


@pytest.mark.parametrize("kind", [ImplicitScoreMatching, SlicedScoreMatching])
def test_no_noise_level_drowns_the_others(kind):
    """Where the data are forgotten E|u|^2 is tiny; weights made of it alone would blow the divergence up there."""
    sde = ReflectedSDE(Hypercube(2), 0.03)
    t = torch.linspace(0, 1, 50, dtype=torch.float64)
    spread = kind(sde, "fidelity").weight(t) * sde.target_rms(sde.sigma(t))  # of the divergence of order-one outputs
    assert spread.max() < 1
    assert DenoisingScoreMatching(sde, "fidelity").weight(t)[-1] > 100 * kind(sde, "fidelity").weight(t)[-1]


@pytest.mark.parametrize("kind", ["implicit", "sliced"])
def test_estimator_learns(kind):
    domain, generator = Hypercube(2), seeded(0)
    x, held_back = corners(domain, 4000, generator).chunk(2)
    sizes = {"width": 64, "depth": 2, "steps": 400, "batch_size": 256, "sigma_min": 0.03}
    model = ReflectedDiffusion(domain, loss=kind, **sizes).fit(x, progress=False)
    samples = model.sample(2000, steps=100)
    assert domain.contains(samples).all()
    uniform = domain.sample_uniform(2000, generator=generator, dtype=torch.float64)
    assert float(sliced_wasserstein(samples, held_back)) < 0.25 * float(sliced_wasserstein(uniform, held_back))


def test_the_loss_is_saved_with_the_model(tmp_path):
    x = torch.rand(64, 2, generator=seeded(0))
    quick = {"width": 16, "depth": 1, "steps": 3, "batch_size": 16}
    for name in LOSSES:
        ReflectedDiffusion(Hypercube(2), loss=name, **quick).fit(x, progress=False).save(tmp_path / name)
        assert ReflectedDiffusion.load(tmp_path / name).loss == name
    config = tmp_path / "implicit" / "config.json"
    text = config.read_text()
    before = text.replace('"loss": "implicit",', "").replace('"check"', '"unchecked"')
    config.write_text(before)  # as saved before there was a choice, or a checksum
    assert config.read_text() != text
    assert ReflectedDiffusion.load(tmp_path / "implicit").loss == "denoising"


def test_bad_input():
    sde = ReflectedSDE(Hypercube(2))
    x0 = torch.rand(4, 2, generator=seeded(0))
    loss = ImplicitScoreMatching(sde)
    for silent in (lambda x, t: torch.zeros_like(x), lambda x, t: x.detach() + torch.ones(2, requires_grad=True)):
        with pytest.raises(ValueError, match="no autograd graph"):
            loss(silent, x0)
    with pytest.raises(ShapeError, match="score returned shape"):
        loss(lambda x, t: x[..., :1], x0)
    with pytest.raises(ValueError, match="projections must be positive"):
        SlicedScoreMatching(sde, projections=0)
    with pytest.raises(TypeError, match="projections must be an integer"):
        SlicedScoreMatching(sde, projections=1.5)
    with pytest.raises(ValueError, match="weighting"):
        SlicedScoreMatching(sde, "best")
    with pytest.raises(ValueError, match="loss must be one of"):
        ReflectedDiffusion(Hypercube(2), loss="exact")
