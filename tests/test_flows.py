"""Rectified flows: straight lines whose velocity is known, training, rectification, distillation."""

import copy
import functools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from constrained_diffusion import (
    AnnealedReflected,
    Ball,
    DenoisingScoreMatching,
    DiffusionFlow,
    DomainError,
    Euclidean,
    EulerMaruyama,
    Heun,
    Hypercube,
    ImplicitScoreMatching,
    KarrasGrid,
    Multistep,
    Polytope,
    ProbabilityFlow,
    Product,
    ProgressiveDistillation,
    RectifiedFlow,
    ReflectedDiffusion,
    ReflectedSDE,
    Reflow,
    Simplex,
    Sphere,
    Torus,
)
from constrained_diffusion.metrics import floor, sliced_wasserstein, violation
from constrained_diffusion.training import Recipe, train
from tests import references as ref
from tests.mixtures import Atoms
from tests.own_domains import OwnAnnulus
from tests.test_model import corners

F64 = torch.float64
DOMAINS = [
    Hypercube((2, 3), -1.0, 2.0),
    Simplex(3),
    Simplex(4),
    Simplex(5, "euclidean"),
    Ball(3, 2.0),
    Polytope([[1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], [1.0, 0.0, 0.0]),
    Product(Hypercube(2), Simplex(4), Ball(2)),
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def share_of(flow, t):
    return flow.expand(flow.sigma(t) / flow.sigma_max)


# ---------------------------------------------------------------------- the way


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_points_on_the_way(domain):
    """x - r u is where the way began, x + (1 - r) u a draw of the prior, whatever the time; all lie inside."""
    flow = RectifiedFlow(domain)
    x0 = domain.sample_uniform((20, 5), generator=seeded(), dtype=F64)
    t = torch.rand(20, 5, generator=seeded(1), dtype=F64)
    x, u = flow.perturb(x0, t, generator=seeded(2))
    assert x.shape == u.shape == x0.shape
    assert domain.contains(x, atol=1e-12).all()
    r = flow.expand(0.001 + t * 0.999)
    torch.testing.assert_close(x - r * u, x0)
    x1 = x + (1 - r) * u
    torch.testing.assert_close(x1, domain.sample_uniform((20, 5), generator=seeded(2), dtype=F64))
    assert flow.sigma_max == pytest.approx(domain.inradius)
    assert flow.sigma_min == pytest.approx(1e-3 * domain.inradius)
    torch.testing.assert_close(x - flow.expand(flow.sigma(t)) * flow.slope(u, t), x0)
    torch.testing.assert_close(flow.output(flow.slope(u, t), t), u)
    torch.testing.assert_close(flow.slope(u, t), u / domain.inradius)
    again, _ = flow.perturb(x0, t, generator=seeded(2))
    assert torch.equal(x, again)


def test_the_end_of_the_way_is_the_prior():
    flow = RectifiedFlow(Hypercube(1))
    x, _ = flow.perturb(torch.full((5000, 1), 0.9, dtype=F64), 1.0, generator=seeded())
    assert stats.kstest(x[:, 0].numpy(), "uniform").pvalue > ref.ALPHA
    middle, _ = flow.perturb(torch.full((5000, 1), 0.9, dtype=F64), flow.time(torch.tensor(0.25)), generator=seeded())
    assert stats.kstest(middle[:, 0].numpy(), "uniform", args=(0.45, 0.5)).pvalue > ref.ALPHA
    plane = RectifiedFlow(Euclidean(2), sigma_max=3.0)
    x, u = plane.perturb(torch.ones(5000, 2, dtype=F64), 1.0, generator=seeded())
    assert stats.kstest(x.flatten().numpy() / 3, "norm").pvalue > ref.ALPHA
    torch.testing.assert_close(x - u, torch.ones(5000, 2, dtype=F64))


def test_where_there_are_no_straight_lines():
    with pytest.raises(DomainError, match="is not convex: straight lines leave it. Use a DiffusionFlow"):
        RectifiedFlow(OwnAnnulus())
    with pytest.raises(ValueError, match="sigma_max must be given: Euclidean"):
        RectifiedFlow(Euclidean(2))
    with pytest.raises(ValueError, match="sigma_min"):
        RectifiedFlow(Hypercube(2), sigma_max=0.1, sigma_min=0.2)
    flow = RectifiedFlow(Hypercube(2))
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
        flow.perturb(torch.rand(3, 2), 1.5)
    for make in (EulerMaruyama, lambda p, s: AnnealedReflected(p, s, eta=0.5), lambda p, s: Heun(p, s, churn=1.0)):
        with pytest.raises(TypeError, match="ReflectedSDE"):
            make(flow, lambda x, t: x)
    with pytest.raises(TypeError, match="needs a ReflectedSDE, not a RectifiedFlow"):
        ImplicitScoreMatching(flow)(lambda x, t: x, torch.rand(3, 2))


# ---------------------------------------------------------------------- along the paths of noise


@pytest.mark.parametrize(("name", "tolerance"), [("heun", 5e-3), ("multistep", 5e-3), ("flow", 1e-3)])
def test_the_exact_velocity_of_noise_carries_latents_to_the_data(name, tolerance):
    """The law of two atoms and what noise spreads of them: the flow of minus sigma times their score."""
    flow = DiffusionFlow(Hypercube(1), sigma_min=0.05)
    sde = ReflectedSDE(Hypercube(1), 0.05, flow.sigma_max)
    law = Atoms(sde, torch.tensor([[0.1], [0.9]], dtype=F64), torch.tensor([0.3, 0.7], dtype=F64))

    def velocity(x, t):
        return -flow.expand(flow.sigma(t)) * law.score(x, sde.time(flow.sigma(t)))

    latent = (torch.arange(400, dtype=F64)[:, None] + 0.5) / 400
    make = {
        **DETERMINISTIC,
        "heun": functools.partial(Heun, steps=40),
        "multistep": functools.partial(Multistep, steps=80),
    }
    x = make[name](flow, velocity, denoise=False).sample(400, latent=latent).x
    expected = ProbabilityFlow(sde, law.score, denoise=False).sample(400, latent=latent).x
    torch.testing.assert_close(x, expected, rtol=0, atol=tolerance)
    assert float((x < 0.5).double().mean()) == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("domain", [Hypercube(2), OwnAnnulus(), Ball(2)], ids=str)
def test_mean_velocity_of_noise_is_minus_sigma_times_the_score(domain):
    """The same points as the SDE's, with the same seed, and targets that are its, times minus sigma."""
    flow, sde = DiffusionFlow(domain, 1.0, 0.02), ReflectedSDE(domain, 0.02, 1.0)
    x0, t = domain.sample_uniform(200, generator=seeded(), dtype=F64), torch.linspace(0, 1, 200, dtype=F64)
    x, u = flow.perturb(x0, t, generator=seeded(1))
    y, target = sde.perturb(x0, t, generator=seeded(1))
    assert torch.equal(x, y)
    torch.testing.assert_close(u, -sde.sigma(t)[:, None] * target)
    assert float(flow.target_rms(torch.tensor(0.02))) == pytest.approx(1.0, abs=0.1)  # of order one where data are seen
    torch.testing.assert_close(flow.output(flow.slope(u, t), t), u)


def test_a_flow_where_no_lines_are_straight():
    domain = OwnAnnulus()
    x = corners(domain, 2000, seeded())
    model = ReflectedDiffusion(domain, process="flow", width=64, depth=2, steps=2000, batch_size=256)
    samples = model.fit(x[:1000], progress=False).sample(500, steps=20)
    assert isinstance(model.sde_, DiffusionFlow)
    assert violation(domain, samples) == 0
    uniform = domain.sample_uniform(500, generator=seeded(), dtype=F64)
    assert sliced_wasserstein(samples, x[1000:]) < 0.5 * sliced_wasserstein(uniform, x[1000:])


# ---------------------------------------------------------------------- one atom: the velocity is known


def towards(flow, atom):
    """The mean velocity of straight lines from one atom: they do not cross, so it is that of the line through x."""

    def velocity(x, t):
        return (x - atom) / share_of(flow, t)

    return velocity


DETERMINISTIC = {
    "annealed": functools.partial(AnnealedReflected, steps=3),
    "one step": functools.partial(AnnealedReflected, steps=1),
    "heun": functools.partial(Heun, steps=4),
    "midpoint": functools.partial(Heun, steps=4, midpoint=True),
    "karras": functools.partial(Heun, steps=5, grid=KarrasGrid()),
    "multistep": functools.partial(Multistep, steps=6),
    "flow": ProbabilityFlow,
}


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("domain", [Hypercube(2), Simplex(4), Ball(3, 2.0), Euclidean(2)], ids=str)
def test_deterministic_samplers_end_at_the_atom(domain, name):
    """On straight lines no step is too long."""
    flow = RectifiedFlow(domain, sigma_max=2.0) if isinstance(domain, Euclidean) else RectifiedFlow(domain)
    atom = domain.sample_prior(1, 1.0, generator=seeded(), dtype=F64)
    close = {"atol": 3e-3 if name == "flow" else 1e-9, "rtol": 0}
    latent = flow.sample_prior(30, generator=seeded(1), dtype=F64)
    out = DETERMINISTIC[name](flow, towards(flow, atom)).sample(30, latent=latent)
    torch.testing.assert_close(out.x, atom.expand(30, *domain.event_shape), **close)
    raw = DETERMINISTIC[name](flow, towards(flow, atom), denoise=False).sample(30, latent=latent)
    torch.testing.assert_close(raw.x, atom + 1e-3 * (latent - atom), **close)
    assert out.nfe == raw.nfe + 1


def test_the_exact_velocity_of_one_atom_has_no_loss():
    domain = Simplex(3)
    flow, atom = RectifiedFlow(domain), domain.sample_uniform(1, generator=seeded(), dtype=F64)
    x0 = atom.expand(500, 3)
    for weighting in ("likelihood", "fidelity"):
        loss = DenoisingScoreMatching(flow, weighting)
        assert float(loss(towards(flow, atom), x0, generator=seeded(1)).max()) < 1e-20
        assert float(loss(lambda x, t: 0 * x, x0, generator=seeded(1)).mean()) > 0.01
    flat = DenoisingScoreMatching(flow, "likelihood", "uniform")
    value = flat(lambda x, t: 0 * x, x0, generator=seeded(1))
    ends = domain.sample_uniform(200_000, generator=seeded(2), dtype=F64)
    expected = float(((ends - atom) ** 2).sum(-1).mean()) / 2  # half the mean squared velocity, at every time
    assert float(value.mean()) == pytest.approx(expected, abs=4.5 * float(value.std()) / 500**0.5)


def test_the_mean_velocity_minimises():
    """Between uniform data and the prior, both on the interval: the velocity is that of the conditional means."""
    flow = RectifiedFlow(Hypercube(1))

    def velocity(x, t, factor=1.0, push=0.0):
        r = share_of(flow, t)
        low, high = ((x - r) / (1 - r)).clamp(min=0), (x / (1 - r)).clamp(max=1)
        return factor * (x - (low + high) / 2) / r + push

    x0 = torch.rand(20_000, 1, generator=seeded(), dtype=F64)
    loss = DenoisingScoreMatching(flow, "likelihood")
    best = loss(velocity, x0, generator=seeded(1))
    for other in ({"factor": 1.3}, {"factor": 0.7}, {"factor": -1.0}, {"push": 0.2}, {"push": -0.2}):
        worse = loss(functools.partial(velocity, **other), x0, generator=seeded(1)) - best
        assert float(worse.mean()) > 4.5 * float(worse.std()) / len(x0) ** 0.5


# ---------------------------------------------------------------------- training


NEAR = 4.0  # floors of the distance: 1.8 to 3.7 were measured after 300 steps


def trained(domain, x, steps=300):
    model = ReflectedDiffusion(domain, process="flow", width=64, depth=2, steps=steps, batch_size=192)
    return model.fit(x, progress=False)


@pytest.fixture(scope="module")
def square():
    """Blobs in the square, and a flow trained on half of them."""
    x = corners(Hypercube(2), 4000, seeded()).float()
    return trained(Hypercube(2), x[:2000]), x


def distance(model, x, **options):
    return sliced_wasserstein(model.sample(2000, seed=1, **options), x[2000:])


def test_a_flow_learns_the_square(square):
    model, x = square
    samples = model.sample(2000, seed=1, steps=15)
    assert violation(model.domain, samples) == 0
    assert sliced_wasserstein(samples, x[2000:]) < NEAR * floor(sliced_wasserstein, x, size=2000)


def test_a_flow_learns_the_simplex():
    domain = Simplex(3)
    x = corners(domain, 4000, seeded())
    model = trained(domain, x[:2000].numpy())
    samples = model.sample(2000, steps=15)
    assert isinstance(samples, np.ndarray)
    assert samples.dtype == np.float64
    assert violation(domain, samples) == 0
    assert sliced_wasserstein(samples, x[2000:].numpy()) < NEAR * floor(sliced_wasserstein, x, size=2000)


@pytest.mark.slow
@pytest.mark.parametrize("domain", [Hypercube(2), Simplex(3), Simplex(4), Ball(3)], ids=str)
def test_a_flow_comes_to_the_floor(domain):
    x = corners(domain, 8000, seeded())
    samples = trained(domain, x[:4000], steps=3000).sample(4000)
    assert violation(domain, samples) == 0
    assert sliced_wasserstein(samples, x[4000:]) < 2 * floor(sliced_wasserstein, x, size=4000)


def test_files(square, tmp_path):
    model, _ = square
    model.save(tmp_path)
    again = ReflectedDiffusion.load(tmp_path)
    assert again.process == "flow"
    assert isinstance(again.sde_, RectifiedFlow)
    assert (again.sde_.sigma_min, again.sde_.sigma_max) == (model.sde_.sigma_min, model.sde_.sigma_max)
    for options in ({}, {"steps": 3}, {"steps": 4, "sampler": AnnealedReflected}):
        assert torch.equal(again.sample(20, seed=3, **options), model.sample(20, seed=3, **options))
    x = torch.rand(2, 2, generator=seeded())
    assert torch.equal(again.encode(x, rtol=1e-2, atol=1e-2), model.encode(x, rtol=1e-2, atol=1e-2))


# ---------------------------------------------------------------------- rectification


def test_targets_of_reflow_are_latents_less_what_they_decode_to():
    flow = RectifiedFlow(Simplex(4))
    given = []

    def carry(z):
        given.append(z)
        return z.flip(-1)

    loss = Reflow(flow, carry)
    x0 = torch.full((400, 4), 0.25, dtype=F64)
    t = torch.rand(400, generator=seeded(), dtype=F64)
    x, u = loss.noise(x0, t, generator=seeded(1))
    (z,) = given
    assert z.shape == x0.shape
    for part in z.T:
        assert stats.kstest(1 - (1 - part.numpy()) ** 3, "uniform").pvalue > ref.ALPHA
    torch.testing.assert_close(u, z - z.flip(-1))
    r = (0.001 + 0.999 * t).unsqueeze(-1)
    torch.testing.assert_close(x, r * z + (1 - r) * z.flip(-1))
    assert not u.requires_grad
    assert float(loss.local(lambda y, s: u, x, t, u).max()) == 0
    torch.testing.assert_close(loss.local(lambda y, s: 0 * y, x, t, u), flow.domain.inner(x, u, u) / 2)
    with pytest.raises(ValueError, match="needs a target"):
        loss.local(lambda y, s: y, x, t, None)


def test_reflow_keeps_straight_lines():
    """To one atom lines are straight already: the exact velocity has no loss."""
    domain = Ball(2)
    flow, atom = RectifiedFlow(domain), domain.sample_uniform(1, generator=seeded(), dtype=F64)
    walk = Heun(flow, towards(flow, atom), steps=3)
    loss = Reflow(flow, lambda z: walk.sample(len(z), latent=z).x)
    x0 = torch.zeros(50, 2, dtype=F64)
    assert float(loss(towards(flow, atom), x0, generator=seeded(1)).max()) < 1e-12
    assert float(loss(lambda x, t: 0 * x, x0, generator=seeded(1)).mean()) > 0.05


def learn(model, loss, x, steps=120):
    """A copy of a model's score, trained on with a loss."""
    student = copy.deepcopy(model)
    recipe = Recipe(steps=steps, batch_size=192, learning_rate=1e-3)
    train(student.score_, loss, x, recipe, generator=seeded(5), progress=False)
    return student


def test_one_step_is_better_after_reflow(square):
    model, x = square
    walk = Heun(model.sde_, model.score_, steps=3)
    loss = Reflow(model.sde_, lambda z: walk.sample(len(z), latent=z).x)
    straighter = learn(model, loss, x[:2000])
    one = {"steps": 1, "sampler": AnnealedReflected}
    assert distance(straighter, x, **one) < 0.75 * distance(model, x, **one)
    assert violation(model.domain, straighter.sample(500, **one)) == 0


@pytest.mark.parametrize("domain", [Torus(2), Product(Torus(1), Hypercube(1))], ids=str)
def test_lines_go_the_short_way_round(domain):
    """And are those of the law turned by an angle."""
    flow, turn = RectifiedFlow(domain), torch.tensor([2.5, 0.0], dtype=F64)
    x0, x1 = (domain.sample_uniform(200, generator=seeded(s), dtype=F64) for s in (0, 1))
    t = torch.linspace(0, 1, 200, dtype=F64)
    x, velocity = flow.between(x0, x1, t)
    assert domain.contains(x, atol=1e-12).all()
    assert float(velocity[:, 0].abs().max()) <= math.pi
    torch.testing.assert_close(domain.expmap(x0, velocity)[:, 1], x1[:, 1])
    turned, same = flow.between(domain.project(x0 + turn), domain.project(x1 + turn), t)
    torch.testing.assert_close(same, velocity)
    gap = domain.difference(x + turn, turned)
    torch.testing.assert_close(gap, torch.zeros_like(gap), atol=1e-12, rtol=0)


# ---------------------------------------------------------------------- distillation


def teachers():
    square, simplex = ReflectedSDE(Hypercube(2), 0.02), ReflectedSDE(Simplex(4), 0.03)
    disc, flow = ReflectedSDE(Ball(2), 0.05), RectifiedFlow(Simplex(3))
    two = Simplex(3).sample_uniform(2, generator=seeded(2), dtype=F64)

    def velocity(x, t):
        """Not of straight lines: it turns from one atom to the other on the way."""
        share = share_of(flow, t)
        return (x - share * two[0] - (1 - share) * two[1]) / share

    out = {}
    angles, sphere = ReflectedSDE(Torus(2), 0.05), ReflectedSDE(Sphere(2), 0.05)
    cases = {"square": square, "simplex": simplex, "disc": disc, "angles": angles, "sphere": sphere}
    for name, sde in cases.items():
        atoms = sde.domain.sample_uniform(3, generator=seeded(1), dtype=F64)
        if name == "angles":
            atoms = sde.domain.project(atoms / 9 + torch.pi)  # where angles go round
        out[name] = (sde, Atoms(sde, atoms).score, atoms)
    out["flow"] = (flow, velocity, two)
    return out


TEACHERS = teachers()


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("name", TEACHERS)
def test_one_step_of_the_student_ends_where_two_of_the_teacher_do(name, steps):
    process, teacher, data = TEACHERS[name]
    n = 60
    loss = ProgressiveDistillation(process, teacher, steps)
    x0 = data[torch.arange(n) % len(data)]
    walk = AnnealedReflected(process, teacher)
    nothing = {"generator": None, "condition": {}}
    for now in (1.0, 0.8, 0.51, 1 / steps, 0.6 / steps, 0.2 / steps, 1e-3):
        x, target = loss.noise(x0, torch.full((n,), now, dtype=F64), generator=seeded(3))
        at, half, end = (torch.tensor(max(now - p / steps, 0.0), dtype=F64) for p in (0.0, 0.5, 1.0))
        y = walk.step(walk.step(x, at, half, **nothing), half, end, **nothing)
        student = AnnealedReflected(process, lambda a, t, target=target: target)
        gap = process.domain.difference(student.step(x, at, end, **nothing), y)
        torch.testing.assert_close(gap, torch.zeros_like(gap), atol=1e-9, rtol=0)
        assert float((y - x).abs().max()) > 0
    expected, _ = process.perturb(x0, 0.3, generator=seeded(3))
    torch.testing.assert_close(loss.noise(x0, torch.full((n,), 0.3, dtype=F64), generator=seeded(3))[0], expected)


@pytest.mark.parametrize("name", TEACHERS)
def test_where_nothing_is_left_to_go_the_teacher_itself_is_the_target(name):
    process, teacher, data = TEACHERS[name]
    loss = ProgressiveDistillation(process, teacher, 4)
    x0 = data[torch.arange(40) % len(data)]
    for now in (0.0, 1e-6):
        t = torch.full((40,), now, dtype=F64)
        x, target = loss.noise(x0, t, generator=seeded(3))
        own = teacher(x, t)
        assert target.isfinite().all()
        torch.testing.assert_close(target, own, atol=1e-3 * float(own.abs().max()), rtol=1e-3)


def test_distillation_teaches_both_at_once():
    """Times within a batch are any: the same targets as one by one."""
    process, teacher, data = TEACHERS["square"]
    loss = ProgressiveDistillation(process, teacher, 3)
    t = torch.tensor([0.9, 0.4, 0.1, 0.0], dtype=F64)
    x, target = loss.noise(data[[0, 1, 2, 0]], t, generator=seeded(4))
    for i in range(4):
        again = ProgressiveDistillation(FixedNoise(process, x[i : i + 1]), teacher, 3)
        torch.testing.assert_close(again.noise(x[i : i + 1], t[i : i + 1])[1], target[i : i + 1])
    value = loss(teacher, data, generator=seeded(5))
    assert value.shape == (len(data),)
    for steps in (0, -1, 2.0):
        with pytest.raises(ValueError, match="steps must be a positive integer"):
            ProgressiveDistillation(process, teacher, steps)


class FixedNoise(ReflectedSDE):
    """An SDE whose noised points are given."""

    def __init__(self, sde, x):
        super().__init__(sde.domain, schedule=sde.schedule)
        self.x = x

    def noise(self, x0, t, *, generator=None):
        return self.x, None


@pytest.mark.parametrize("steps", [1, 2])
def test_a_distilled_flow_is_better_at_few_steps(square, steps):
    model, x = square
    student = learn(model, ProgressiveDistillation(model.sde_, copy.deepcopy(model.score_), steps), x[:2000])
    few = {"steps": steps, "sampler": AnnealedReflected}
    apart = distance(student, x, **few), distance(model, x, **few)
    assert apart[0] < 0.75 * apart[1]
    z = model.sde_.sample_prior(300, generator=seeded(7))
    ends = [
        AnnealedReflected(m.sde_, m.score_, steps=k, denoise=False).sample(300, latent=z).x
        for m, k in ((model, 2 * steps), (student, steps), (model, steps))
    ]
    away = [float((e - ends[0]).norm(dim=-1).mean()) for e in ends[1:]]
    assert away[0] < 0.5 * away[1], "it follows its teacher, sample by sample"
