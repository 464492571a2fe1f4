"""Guidance towards classes, against exact conditional scores; classifiers are differentiated by torch."""

import itertools
import math

import pytest
import torch

from constrained_diffusion import (
    AnnealedReflected,
    Ball,
    ClassifierFreeGuidance,
    ClassifierGuidance,
    Euclidean,
    EulerMaruyama,
    Heun,
    Hypercube,
    Multistep,
    Polytope,
    PredictorCorrector,
    ProbabilityFlow,
    Product,
    RectifiedFlow,
    ReflectedSDE,
    ShapeError,
    Simplex,
    log_prob,
)
from constrained_diffusion.guidance import evaluations
from tests.guided import F64, normal, right_or_refused, seeded
from tests.mixtures import Atoms

# ---------------------------------------------------------------------- gradients in the metric

DOMAINS = [
    Hypercube((2, 3), -1.0, 2.0),
    Euclidean((3, 2)),
    Ball(3, 2.0),
    Simplex(2),
    Simplex(3),
    Simplex(3, "cumulative"),
    Simplex(6),
    Simplex(6, "euclidean"),
    Polytope([[1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], [1.0, 0.0, 0.0]),
    Polytope.birkhoff(3),
    Product(Hypercube(2), Simplex(4), Ball(2)),
]


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_gradient_is_the_derivative_in_every_direction(domain):
    """<gradient(v), w> = v . w for tangent w, and the gradient is tangent itself."""
    x = domain.sample_prior((4, 2), 1.0, generator=seeded(), dtype=F64)
    v, w = (torch.randn(x.shape, generator=seeded(s), dtype=F64) for s in (1, 2))
    w = domain.tangent(x, w)
    gradient = domain.gradient(x, v)
    assert gradient.shape == x.shape
    torch.testing.assert_close(domain.inner(x, gradient, w), (v * w).flatten(2).sum(-1))
    torch.testing.assert_close(domain.tangent(x, gradient), gradient)
    for e in domain.frame(x):
        torch.testing.assert_close(domain.inner(x, gradient, e), (v * e).flatten(2).sum(-1))


# ---------------------------------------------------------------------- classifier-free


class Recorder:
    """A score that depends on its conditions and notes how it was called."""

    def __init__(self, event_ndim=1):
        self.calls, self.event_ndim = [], event_ndim

    def __call__(self, x, t, **condition):
        batch = x.shape[: x.ndim - self.event_ndim]
        assert t.shape == batch
        total = torch.zeros(batch, dtype=x.dtype)
        for name in sorted(condition):
            c = condition[name]
            assert c.shape[: len(batch)] == batch
            weights = torch.arange(1, 1 + c[(0,) * len(batch)].numel(), dtype=x.dtype) * len(name)
            total = total + (c.to(x.dtype).reshape(*batch, -1) * weights).sum(-1).sin()
        self.calls.append(x.shape)
        return total.reshape(*batch, *(1,) * self.event_ndim) * torch.cos(x) - x * t.reshape(total.shape + (1,))


@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (0,)], ids=str)
@pytest.mark.parametrize("event", [(), (4,), (3, 4)], ids=str)
@pytest.mark.parametrize("weight", [0.0, 1.5, -1.0, -0.3])
def test_classifier_free_guidance_is_the_linear_combination(batch, event, weight):
    x, t = normal(*batch, 2), torch.rand(batch, generator=seeded(1), dtype=F64)
    c, null = normal(*batch, *event, seed=2), normal(*event, seed=3)
    if 0 in batch:
        score = lambda y, s, c: y * s.unsqueeze(-1)  # noqa: E731
        assert ClassifierFreeGuidance(score, weight, null={"c": null})(x, t, c=c).shape == x.shape
        return
    score = Recorder()
    expected = (1 + weight) * score(x, t, c=c) - weight * score(x, t, c=null.expand(c.shape))
    score.calls.clear()
    guided = ClassifierFreeGuidance(score, weight, null={"c": null})
    torch.testing.assert_close(guided(x, t, c=c), expected)
    assert score.calls == [(2, *x.shape)], "one call of twice the batch"
    if weight == 0:
        torch.testing.assert_close(guided(x, t, c=c), score(x, t, c=c))
    if weight == -1:
        torch.testing.assert_close(guided(x, t, c=c), score(x, t, c=null.expand(c.shape)))


def test_two_conditions_labels_and_negative_ones():
    x, t = normal(2, 3, 2), torch.rand(2, 3, generator=seeded(1), dtype=F64)
    score = Recorder()
    label, picture = torch.arange(6).reshape(2, 3), normal(2, 3, 4, 4, seed=2)
    null = {"label": torch.tensor(-1), "picture": torch.zeros(4, 4, dtype=F64)}
    guided = ClassifierFreeGuidance(score, 2.0, null=null)
    given = {"label": label, "picture": picture}
    nothing = {"label": torch.full((2, 3), -1), "picture": torch.zeros(2, 3, 4, 4, dtype=F64)}
    torch.testing.assert_close(guided(x, t, **given), 3 * score(x, t, **given) - 2 * score(x, t, **nothing))
    other = {"label": label.flip(0), "picture": -picture}  # to move away from, one for each point
    guided = ClassifierFreeGuidance(score, 0.5, null=other)
    torch.testing.assert_close(guided(x, t, **given), 1.5 * score(x, t, **given) - 0.5 * score(x, t, **other))


def test_conditions_that_do_not_fit():
    x, t, c = normal(5, 2), torch.rand(5, dtype=F64), normal(5, 3)
    guided = ClassifierFreeGuidance(Recorder(), 1.0, null={"c": torch.zeros(3)})
    for condition in ({}, {"d": c}, {"c": c, "d": c}):
        with pytest.raises(ValueError, match="name the same tensors"):
            guided(x, t, **condition)
    with pytest.raises(ShapeError, match=r"null\['c'\] has shape \[3\]; the condition has \[5, 4\]"):
        guided(x, t, c=normal(5, 4))
    with pytest.raises(ShapeError, match=r"null\['c'\] has shape \[2, 5, 3\]"):
        ClassifierFreeGuidance(Recorder(), 1.0, null={"c": normal(2, 5, 3)})(x, t, c=c)
    for weight in (math.nan, math.inf):
        with pytest.raises(ValueError, match="weight must be finite"):
            ClassifierFreeGuidance(Recorder(), weight, null={"c": torch.zeros(3)})


SAMPLERS = {
    "euler": (lambda p, s: EulerMaruyama(p, s, steps=6), 7),
    "predictor-corrector": (lambda p, s: PredictorCorrector(p, s, steps=6), 13),
    "heun": (lambda p, s: Heun(p, s, steps=6), 13),
    "annealed": (lambda p, s: AnnealedReflected(p, s, steps=6, denoise=False), 6),
    "multistep": (lambda p, s: Multistep(p, s, steps=6), 7),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_evaluations_are_doubled(name):
    """And quadrupled where guidance is guided."""
    make, least = SAMPLERS[name]
    sde = ReflectedSDE(Hypercube(2))
    rows = []

    def score(x, t, c):
        rows.append(x.shape[:-1].numel())
        return x * 0 + 0 * c

    once = ClassifierFreeGuidance(score, 2.0, null={"c": torch.zeros(1)})
    twice = ClassifierFreeGuidance(once, 1.0, null={"c": torch.ones(1)})
    for guided, factor in ((score, 1), (once, 2), (twice, 4)):
        rows.clear()
        found = make(sde, guided).sample(5, condition={"c": torch.zeros(5, 1)}, generator=seeded())
        assert evaluations(guided) == factor
        assert found.nfe == least * factor
        assert sum(rows) == 5 * found.nfe
    pulled = ClassifierGuidance(sde, lambda x, t: 0 * x, lambda x, t: x.sum(-1))
    assert make(sde, pulled).sample(5, generator=seeded()).nfe == least


def test_classifier_free_guidance_of_a_flow():
    """Velocities combine as scores do: between two atoms, the guided flow ends beyond the wanted one."""
    flow = RectifiedFlow(Hypercube(1))

    def velocity(x, t, atom):
        return (x - atom) / (flow.sigma(t) / flow.sigma_max).unsqueeze(-1)

    guided = ClassifierFreeGuidance(velocity, 0.5, null={"atom": torch.tensor([0.4], dtype=F64)})
    out = Heun(flow, guided, steps=5).sample(20, condition={"atom": torch.full((20, 1), 0.5, dtype=F64)}, dtype=F64)
    torch.testing.assert_close(out.x, torch.full((20, 1), 0.55, dtype=F64), atol=1e-3, rtol=0)
    assert out.nfe == 22


# ---------------------------------------------------------------------- classifiers


def line(x, x0, sigma, low=0.0, high=1.0):
    """Log-density of reflected Brownian motion on [low, high], by images, in a form that autograd can differentiate."""
    k = 2 * (high - low) * torch.arange(-4, 5, dtype=F64)
    images = torch.cat([x0.unsqueeze(-1) + k, 2 * low - x0.unsqueeze(-1) + k], -1)
    terms = -(((x.unsqueeze(-1) - images) / sigma.unsqueeze(-1)) ** 2) / 2
    return torch.logsumexp(terms, -1) - torch.log(sigma * math.sqrt(2 * math.pi))


def box_kernel(x, x0, sigma):
    return line(x, x0, sigma.unsqueeze(-1)).sum(-1)


def plane_kernel(x, x0, sigma):
    return torch.distributions.Normal(x0, sigma.unsqueeze(-1)).log_prob(x).sum(-1)


def sums_kernel(x, x0, sigma):
    """Of partial sums that are noised one by one and sorted: over all ways to pair them."""
    c, c0 = x.cumsum(-1)[..., :-1], x0.cumsum(-1)[..., :-1]
    ways = itertools.permutations(range(c.shape[-1]))
    return torch.logsumexp(torch.stack([line(c, c0[..., list(p)], sigma.unsqueeze(-1)).sum(-1) for p in ways]), 0)


KERNELS = [
    (Euclidean(2), plane_kernel),
    (Hypercube(2), box_kernel),
    (Simplex(3, "cumulative"), sums_kernel),
    (Simplex(4), sums_kernel),
]


def two_classes(domain, least=0.02):
    """Two atoms of the first class, three of the second; the law of all, and of each."""
    most = 5.0 if isinstance(domain, Euclidean) else None
    sde = ReflectedSDE(domain, least, most)
    atoms = domain.sample_prior(5, 0.5, generator=seeded(6), dtype=F64)
    weights = torch.tensor([0.3, 0.1, 0.25, 0.15, 0.2], dtype=F64)
    classes = [Atoms(sde, atoms[r], weights[r] / weights[r].sum()) for r in (slice(0, 2), slice(2, 5))]
    return sde, Atoms(sde, atoms, weights), classes


def classifier_of(sde, law, kernel):
    def log_probability(x, t, label):
        """Of the class, at noised points: from the kernels."""
        sigma = sde.sigma(t).unsqueeze(-1).expand(*x.shape[:-1], 5)
        terms = kernel(x.unsqueeze(-2), law.points.expand(*x.shape[:-1], *law.points.shape), sigma) + law.weights.log()
        first = torch.arange(5) < 2
        wanted = torch.where(label.unsqueeze(-1) == 0, first, ~first)
        return torch.logsumexp(terms.masked_fill(~wanted, -math.inf), -1) - torch.logsumexp(terms, -1)

    return log_probability


@pytest.mark.parametrize(("domain", "kernel"), KERNELS)
def test_an_exact_classifier_gives_the_conditional_score(domain, kernel):
    """Away from the walls, by eight times the noise, where nothing is damped."""
    least = 0.02 if domain.inradius > 0.3 else 0.01
    sde, law, classes = two_classes(domain, least)
    classifier = classifier_of(sde, law, kernel)
    x = domain.sample_prior(2000, 0.5, generator=seeded(1), dtype=F64)
    widest = 0.9 * domain.inradius / 8 if math.isfinite(domain.inradius) else 0.4
    t = sde.time(least + (widest - least) * torch.rand(2000, generator=seeded(2), dtype=F64))
    keep = domain.boundary(x)[0] > 8 * sde.sigma(t)
    x, t = x[keep][:100], t[keep][:100]
    assert len(x) > 20
    sigma = sde.sigma(t).unsqueeze(-1)
    for which, wanted in enumerate(classes):
        label = torch.full((len(x),), which)
        guided = ClassifierGuidance(sde, law.score, classifier)
        expected = wanted.score(x, t)
        torch.testing.assert_close(sigma * guided(x, t, label=label), sigma * expected, atol=1e-3, rtol=1e-4)
        gap = expected - law.score(x, t)
        assert float((sigma * gap).abs().max()) > 0.1
        double = ClassifierGuidance(sde, law.score, classifier, weight=2.0)
        torch.testing.assert_close(sigma * double(x, t, label=label), sigma * (expected + gap), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("domain", [Hypercube(2), Simplex(3), Simplex(4), Ball(2), Polytope.birkhoff(3)], ids=str)
def test_no_pull_across_the_walls(domain):
    """However strong; along them it is the whole gradient."""
    sde = ReflectedSDE(domain)
    x = domain.sample_uniform(200, generator=seeded(), dtype=F64)
    distance, normal = domain.boundary(x)
    x = domain.project(x - distance.reshape(-1, *(1,) * len(domain.event_shape)) * normal)
    v = torch.randn(domain.event_shape, generator=seeded(1), dtype=F64)
    guided = ClassifierGuidance(sde, lambda y, t: 0 * y, lambda y, t: (y * v).flatten(1).sum(-1), weight=100.0)
    pull = guided(x, torch.zeros(200, dtype=F64))
    size = domain.inner(x, pull, pull).sqrt()
    assert float((domain.inner(x, pull, normal).abs() / size).median()) < 1e-6
    assert float((domain.inner(x, pull, normal).abs()).max()) < 1e-5 * float(size.max())
    free = 100 * domain.gradient(x, v.expand_as(x))
    along = free - domain.inner(x, free, normal).reshape(-1, *(1,) * len(domain.event_shape)) * normal
    if isinstance(domain, Ball):
        torch.testing.assert_close(pull, along, atol=1e-5, rtol=1e-5)
    assert float(size.median()) > 0.1 * float(domain.inner(x, free, free).sqrt().median())


def test_classifiers_that_do_not_fit():
    sde = ReflectedSDE(Hypercube(2))
    x, t = torch.rand(5, 2), torch.rand(5)
    with pytest.raises(ShapeError, match=r"classifier returned shape \[5, 3\]; expected \[5\]"):
        ClassifierGuidance(sde, lambda y, s: 0 * y, lambda y, s: torch.cat([y, y], 1)[:, :3])(x, t)
    with pytest.raises(TypeError, match="ClassifierGuidance needs a ReflectedSDE, not a RectifiedFlow"):
        ClassifierGuidance(RectifiedFlow(Hypercube(2)), lambda y, s: 0 * y, lambda y, s: y.sum(-1))
    with pytest.raises(ValueError, match="weight must be finite"):
        ClassifierGuidance(sde, lambda y, s: 0 * y, lambda y, s: y.sum(-1), weight=math.nan)
    with torch.no_grad():  # as samplers call it, of any batch shape
        for batch in ((), (2, 3)):
            y = torch.rand(*batch, 2)
            out = ClassifierGuidance(sde, lambda y, s: 0 * y, lambda y, s: y.sum(-1))(y, torch.zeros(batch))
            assert out.shape == y.shape
            assert not out.requires_grad


# ---------------------------------------------------------------------- guided samples


INSIDE = [Hypercube(2), Simplex(3), Simplex(4), Ball(2)]


@pytest.mark.parametrize("weight", [0.0, 1.5, 5.0, 15.0])
@pytest.mark.parametrize("domain", INSIDE, ids=str)
def test_guided_samples_stay_inside(domain, weight):
    """At any weight, by stochastic and deterministic samplers, towards a point beside the wall."""
    sde = ReflectedSDE(domain, 0.05 * domain.inradius)
    corner = domain.sample_uniform(200, generator=seeded(3), dtype=F64)
    corner = corner[domain.boundary(corner)[0].argmin()]

    def model(x, t, towards):
        v = domain.tangent(x, towards.unsqueeze(-1) * (corner - x)) / sde.sigma(t).unsqueeze(-1) ** 2
        return domain.damp_normal(x, v, sde.sigma(t))

    def log_p(x, t):
        return -((x - corner) ** 2).sum(-1) / (2 * sde.sigma(t) ** 2)

    n = 40
    towards = {"towards": torch.ones(n, dtype=F64)}
    free = ClassifierFreeGuidance(model, weight, null={"towards": torch.zeros((), dtype=F64)})
    pulled = ClassifierGuidance(sde, lambda x, t: 0 * x, log_p, weight=weight)
    for guided, condition in ((free, towards), (pulled, {})):
        walks = [
            EulerMaruyama(sde, guided, steps=20),
            Heun(sde, guided, steps=20),
            ProbabilityFlow(sde, guided, rtol=1e-2, atol=1e-2),
        ]
        for walk in walks:
            x = walk.sample(n, condition=condition, generator=seeded(), dtype=F64).x
            assert x.isfinite().all()
            assert domain.contains(x).all()


# ---------------------------------------------------------------------- likelihood


def test_likelihood_under_a_classifier():
    """With the exact classifier and weight 1 the guided flow's density is that of the class."""
    sde, law, classes = two_classes(Euclidean(2), 0.3)
    guided = ClassifierGuidance(sde, law.score, classifier_of(sde, law, plane_kernel))
    x = classes[0].draw(6, seeded()) + 0.3 * normal(6, 2)
    options = {"rtol": 1e-4, "atol": 1e-4}
    expected = log_prob(sde, classes[0].score, x, **options).value
    options["condition"] = {"label": torch.zeros(6)}
    found = log_prob(sde, guided, x, divergence="differences", **options).value
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=0)
    right_or_refused(expected, 2e-2, sde, guided, x, **options)
