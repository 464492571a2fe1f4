"""What every sampler promises: counts, latents, seeds, shapes, frames, grids, and what it refuses."""

import functools
import math

import numpy as np
import pytest
import torch

from constrained_diffusion import (
    MLP,
    AnnealedLangevin,
    AnnealedReflected,
    ClassifierFreeGuidance,
    DomainError,
    Euclidean,
    EulerMaruyama,
    Heun,
    Hypercube,
    KarrasGrid,
    Multistep,
    Polytope,
    PredictorCorrector,
    ProbabilityFlow,
    RectifiedFlow,
    ReflectedBridge,
    ReflectedSDE,
    Sampler,
    Samples,
    ScoreModel,
    ShapeError,
    Simplex,
    SolverError,
    VariancePreservingSchedule,
    samplers,
)
from constrained_diffusion.domains.checks import values_are_checked
from tests.mixtures import Atoms


def zero(x, t):
    return torch.zeros_like(x)


def interval_law(sigma_min=0.02):
    """A law on [0, 1] with atoms at both ends and one inside."""
    sde = ReflectedSDE(Hypercube(1), sigma_min)
    points = torch.tensor([[0.0], [0.35], [1.0]], dtype=torch.float64)
    return Atoms(sde, points, torch.tensor([0.3, 0.45, 0.25], dtype=torch.float64))


# ------------------------------------------------------------------ what every sampler promises

FLOWING = {  # deterministic; name: sampler, evaluations a step
    "annealed": (functools.partial(AnnealedReflected, eta=0.0), 1),
    "heun": (Heun, 2),
    "midpoint": (functools.partial(Heun, midpoint=True), 2),
    "multistep": (Multistep, 1),
    "flow": (ProbabilityFlow, None),
}
DRAWING = {
    "euler": (EulerMaruyama, 1),
    "projected euler": (functools.partial(EulerMaruyama, boundary="project"), 1),
    "predictor-corrector": (functools.partial(PredictorCorrector, corrector_steps=2), 3),
    "half annealed": (functools.partial(AnnealedReflected, eta=0.5), 1),
    "ancestral": (functools.partial(AnnealedReflected, eta=1.0), 1),
    "churn": (functools.partial(Heun, churn=2.0), 2),
    "langevin": (functools.partial(AnnealedLangevin, langevin_steps=4), 4),
    "bridge": (ReflectedBridge, 1),
}
ALL = FLOWING | DRAWING
every = pytest.mark.parametrize("name", ALL)


class Pull:
    """A score of some data in the middle of the square, which counts and checks its calls."""

    def __init__(self, sde):
        self.sde, self.calls = sde, []

    def __call__(self, x, t):
        assert t.shape == x.shape[:-1]
        assert t.dtype == x.dtype
        assert self.sde.domain.contains(x).all()
        self.calls.append(x.clone())
        middle = 0.5 if isinstance(self.sde.domain, Hypercube) else 0.0
        return (middle - x) / (self.sde.sigma(t) ** 2 + 0.3).unsqueeze(-1)


def seeded(s=0):
    return torch.Generator().manual_seed(s)


def test_every_sampler_is_tried_here():
    names = {getattr(s, "func", s).__name__ for s, _ in ALL.values()}
    public = {n for n in samplers.__all__ if isinstance(getattr(samplers, n), type)}
    assert names == public - {"KarrasGrid", "Sampler", "Samples"}
    assert all(issubclass(getattr(samplers, n), Sampler) for n in names)


@every
@pytest.mark.parametrize("domain", [Hypercube(2), Euclidean(2)], ids=["square", "plane"])
def test_calls_of_the_score_are_counted_and_the_last_one_removes_the_noise(name, domain):
    kind, each = ALL[name]
    sde = ReflectedSDE(domain, 0.2, 1.5)
    score = Pull(sde)
    options = {} if name == "flow" else {"steps": 6}
    noisy, clean = (kind(sde, score, denoise=d, **options) for d in (False, True))
    raw = noisy.sample(5, generator=seeded(), dtype=torch.float64)
    calls = len(score.calls)
    assert isinstance(raw, Samples)
    assert raw.nfe == calls
    assert calls == 6 * each if each else 6 < calls < 200
    score.calls.clear()
    for _ in range(2):  # nothing is kept from one run to the next
        done = clean.sample(5, generator=seeded(), dtype=torch.float64)
        assert done.nfe == calls + 1
    assert len(score.calls) == 2 * (calls + 1)
    torch.testing.assert_close(score.calls[-1], raw.x, rtol=0, atol=0)
    removed = 0.2**2 * score(raw.x, torch.zeros(5, dtype=torch.float64))
    assert float(removed.norm(dim=1).max()) > 0.005
    torch.testing.assert_close(done.x, domain.reflect(raw.x, removed), rtol=1e-12, atol=1e-12)


def test_guided_scores_count_twice():
    sde = ReflectedSDE(Hypercube(2))
    guided = ClassifierFreeGuidance(lambda x, t, c: -x + c, 1.0, null={"c": torch.zeros(2)})
    condition = {"c": torch.ones(3, 2)}
    assert Heun(sde, guided, steps=4).sample(3, condition=condition).nfe == 2 * (2 * 4 + 1)
    assert EulerMaruyama(sde, guided, steps=4, denoise=False).sample(3, condition=condition).nfe == 2 * 4


@every
@pytest.mark.parametrize("batch", [(), (2, 3), (0,), (4,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_of_any_shape_and_precision(name, batch, dtype):
    sde = ReflectedSDE(Simplex(4))
    seen = []

    def score(x, t):
        assert t.shape == batch
        seen.append((x.dtype, t.dtype))
        return sde.domain.tangent(x, 0.25 - x)

    options = {} if name == "flow" else {"steps": 3}
    out = ALL[name][0](sde, score, **options).sample(batch, dtype=dtype, generator=seeded(), frames=3)
    assert out.x.shape == (*batch, 4)
    assert out.x.dtype == out.trajectory.dtype == out.times.dtype == dtype
    assert all(pair == (dtype, dtype) for pair in seen)
    assert sde.domain.contains(out.x).all()
    assert out.trajectory.shape[1:] == out.x.shape
    if dtype == torch.float32:
        assert ALL[name][0](sde, score, **options).sample(batch).x.dtype == torch.float32


@every
def test_a_latent_is_honoured_and_kept(name):
    sde = ReflectedSDE(Hypercube(2), 0.05)
    options = {} if name == "flow" else {"steps": 5}
    walk = ALL[name][0](sde, Pull(sde), **options)
    latent = torch.rand(2, 3, 2, generator=seeded(5), dtype=torch.float64)
    before = latent.clone()
    out = walk.sample((2, 3), latent=latent, generator=seeded(), frames=2)
    assert torch.equal(latent, before)
    assert torch.equal(out.trajectory[0], before)
    assert out.x.data_ptr() != latent.data_ptr()
    assert out.x.dtype == torch.float64
    moved = walk.sample((2, 3), latent=1 - latent, generator=seeded()).x
    assert not torch.equal(moved, out.x)
    assert walk.sample((2, 3), latent=latent.float(), generator=seeded()).x.dtype == torch.float32
    with pytest.raises(ValueError, match="latent has shape"):
        walk.sample((3, 2), latent=latent)
    with pytest.raises(DomainError, match="latent"):
        walk.sample((2, 3), latent=latent + 1)
    with pytest.raises(DomainError, match="latent"):
        walk.sample((2, 3), latent=latent * math.nan)


@pytest.mark.parametrize("name", FLOWING)
def test_flows_draw_nothing(name):
    sde = ReflectedSDE(Hypercube(2), 0.05)
    options = {} if name == "flow" else {"steps": 5}
    walk = FLOWING[name][0](sde, Pull(sde), **options)
    latent, generator = torch.rand(4, 2, dtype=torch.float64, generator=seeded(1)), seeded(2)
    state, everyones = generator.get_state(), torch.get_rng_state()
    x = walk.sample(4, latent=latent, generator=generator).x
    assert torch.equal(generator.get_state(), state)
    assert torch.equal(torch.get_rng_state(), everyones)
    assert torch.equal(walk.sample(4, latent=latent).x, x)


@every
def test_a_seed_decides_everything(name):
    sde = ReflectedSDE(Hypercube(2), 0.05)
    options = {} if name == "flow" else {"steps": 5}
    walk = ALL[name][0](sde, Pull(sde), **options)
    state = torch.get_rng_state()
    one, two, other = (walk.sample(4, generator=seeded(s)).x for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    if name in DRAWING:
        latent = torch.full((4, 2), 0.3)
        one, other = (walk.sample(4, latent=latent, generator=seeded(s)).x for s in (0, 1))
        assert not torch.equal(one, other)


@every
def test_frames_are_evenly_spaced_and_end_with_the_samples(name):
    sde = ReflectedSDE(Hypercube(2), 0.05)
    walk = ALL[name][0](sde, Pull(sde), steps=8)
    plain = walk.sample(3, generator=seeded())
    assert plain.trajectory.shape == (0, 3, 2)
    assert plain.times.shape == (0,)
    for frames, times in [
        (1, [0.0]),
        (2, [1.0, 0.0]),
        (5, [1, 0.75, 0.5, 0.25, 0]),
        (9, [k / 8 for k in range(8, -1, -1)]),
    ]:
        out = walk.sample(3, generator=seeded(), frames=frames)
        assert torch.equal(out.x, plain.x)
        assert out.nfe == plain.nfe
        assert out.trajectory.shape == (frames, 3, 2)
        torch.testing.assert_close(out.times, torch.tensor(times, dtype=torch.float32))
        assert torch.equal(out.trajectory[-1], out.x)
        assert len(out.trajectory.flatten(1).unique(dim=0)) == frames
    first = sde.sample_prior(3, generator=seeded())
    assert torch.equal(out.trajectory[0], first)


@every
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_conditions_of_any_shape_reach_the_score(name, batch):
    sde = ReflectedSDE(Hypercube(2), 0.05)
    condition = {
        "label": torch.ones(batch, dtype=torch.long),
        "vector": torch.rand(*batch, 5),
        "picture": torch.rand(*batch, 3, 2, 2),
    }
    calls = []

    def score(x, t, *, label, vector, picture):
        calls.append(label)
        assert label is condition["label"]
        assert vector is condition["vector"]
        assert picture is condition["picture"]
        return -x * label.unsqueeze(-1)

    options = {} if name == "flow" else {"steps": 2}
    out = ALL[name][0](sde, score, **options).sample(batch, condition=condition)
    assert out.nfe == len(calls) > 0


@pytest.mark.parametrize("name", FLOWING)
@pytest.mark.parametrize("process", ["SDE", "flow"])
def test_flows_to_a_single_point_are_exact_at_any_number_of_steps(name, process):
    """The flow to a point a, dx/dsigma = (x - a) / sigma, is a straight line, of which no method errs."""
    a = torch.tensor([0.4, -1.2, 2.0], dtype=torch.float64)
    if process == "SDE":
        process = ReflectedSDE(Euclidean(3), 0.05, 4.0)
        model = lambda x, t: (a - x) / process.sigma(t).unsqueeze(-1) ** 2  # noqa: E731
    else:
        process = RectifiedFlow(Euclidean(3), 4.0, 0.05)
        model = lambda x, t: 4.0 * (x - a) / process.sigma(t).unsqueeze(-1)  # noqa: E731
    latent = process.sample_prior(5, generator=seeded(), dtype=torch.float64)
    options = {"rtol": 1e-8, "atol": 1e-8} if name == "flow" else {"steps": 3}
    for denoise, left in ((False, 0.05 / 4.0), (True, 0.0)):
        out = FLOWING[name][0](process, model, denoise=denoise, **options).sample(5, latent=latent)
        torch.testing.assert_close(out.x, a + left * (latent - a), atol=1e-5 if name == "flow" else 1e-12, rtol=0)


def test_straight_flows_stay_in_the_box():
    flow = RectifiedFlow(Hypercube(2))
    a = torch.tensor([0.9, 0.0], dtype=torch.float64)
    velocity = lambda x, t: flow.sigma_max * (x - a) / flow.sigma(t).unsqueeze(-1)  # noqa: E731
    for name, (kind, _) in FLOWING.items():
        out = kind(flow, velocity, **({} if name == "flow" else {"steps": 7})).sample(
            50, generator=seeded(), dtype=torch.float64, frames=3
        )
        assert flow.domain.contains(out.trajectory).all()
        torch.testing.assert_close(out.x, a.expand(50, 2), atol=1e-3 if name == "flow" else 1e-12, rtol=0)


@every
def test_units_do_not_matter(name):
    """In a box ten times as large, with noise ten times as large, samples are the same ones, ten times as far apart."""
    small, large = ReflectedSDE(Hypercube(2), 0.05, 1.0), ReflectedSDE(Hypercube(2, 0.0, 10.0), 0.5, 10.0)
    pull = Pull(small)
    latent = torch.rand(20, 2, generator=seeded(4), dtype=torch.float64)
    options = {"steps": 3} if name == "flow" else {"steps": 8}
    one = ALL[name][0](small, pull, **options).sample(20, latent=latent, generator=seeded())
    walk = ALL[name][0](large, lambda y, t: pull(y / 10, t) / 10, **options)
    other = walk.sample(20, latent=10 * latent, generator=seeded())
    assert other.nfe == one.nfe
    torch.testing.assert_close(other.x / 10, one.x, rtol=0, atol=1e-7)


# ------------------------------------------------------------------ grids


def test_karras_grid_is_karras_formula():
    sde, n = ReflectedSDE(Euclidean(1), 0.002, 80.0), 18  # of the source's table 1
    sigma = KarrasGrid()(sde, n - 1)
    expected = [(80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(n)]
    assert sigma.dtype == torch.float64
    np.testing.assert_allclose(sigma.numpy(), expected, rtol=1e-12)
    linear = KarrasGrid(rho=1.0)(sde, 4)
    np.testing.assert_allclose(linear.numpy(), np.linspace(80, 0.002, 5), rtol=1e-12)
    cut = KarrasGrid(rho=3.0, sigma_max=10.0)(sde, 5)
    roots = np.linspace(10 ** (1 / 3), 0.002 ** (1 / 3), 6)
    np.testing.assert_allclose(cut.numpy(), roots**3, rtol=1e-12)
    np.testing.assert_allclose(KarrasGrid(sigma_max=1e3)(sde, n - 1).numpy(), expected, rtol=1e-12)  # no more than 80
    for rho in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="rho"):
            KarrasGrid(rho)
    for most in (0.002, 0.001, -1.0, math.nan):
        with pytest.raises(ValueError, match="sigma_max"):
            KarrasGrid(sigma_max=most)(sde, 4)


def test_a_grid_decides_where_the_score_is_asked():
    sde = ReflectedSDE(Hypercube(1), schedule=VariancePreservingSchedule())
    asked = []

    def score(x, t):
        asked.append(float(sde.sigma(t)[0]))
        return torch.zeros_like(x)

    own = [50.0, 3.0, 0.7, 0.02]
    walk = EulerMaruyama(sde, score, steps=3, grid=lambda process, steps: torch.tensor(own), denoise=True)
    out = walk.sample(2, dtype=torch.float64, frames=4)
    np.testing.assert_allclose(asked, own, rtol=1e-6)
    np.testing.assert_allclose(sde.sigma(out.times).numpy(), own, rtol=1e-6)
    asked.clear()
    EulerMaruyama(sde, score, steps=4, grid=KarrasGrid(sigma_max=2.0)).sample(2, dtype=torch.float64)
    np.testing.assert_allclose(asked, KarrasGrid(sigma_max=2.0)(sde, 4).numpy(), rtol=1e-6)
    asked.clear()
    Multistep(sde, score, steps=4).sample(2, dtype=torch.float64)
    even = sde.sigma(torch.tensor([1, 0.75, 0.5, 0.25, 0], dtype=torch.float64))
    np.testing.assert_allclose(asked, even.numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    "values",
    [
        [0.1, 0.5, 0.7, 1.0],
        [1.0, 0.5, 0.1],
        [1.0, 0.5, 0.2, 0.1, 0.05],
        [1.0, 0.5, 0.5, 0.1],
        [1.0, 0.5, 0.1, 0.0],
        [1.0, 0.5, 0.1, -0.1],
        [1.0, math.nan, 0.2, 0.1],
    ],
)
def test_bad_grids_are_refused(values):
    sde = ReflectedSDE(Hypercube(1))
    for kind in (EulerMaruyama, Multistep, Heun, ProbabilityFlow):
        walk = kind(sde, zero, steps=3, grid=lambda process, steps: torch.tensor(values))
        with pytest.raises(ValueError, match="grid must return 4 positive, decreasing"):
            walk.sample(2)


@pytest.mark.parametrize("values", [[1e3, 0.5, 0.2, 0.1], [1.0, 0.5, 0.1, 1e-3]])
def test_grids_beyond_the_process_are_refused(values):
    """Where the schedule says nothing, two steps would be at the same time."""
    sde = ReflectedSDE(Hypercube(1), 0.01, 2.0)
    for kind in (EulerMaruyama, Multistep, Heun, ProbabilityFlow):
        walk = kind(sde, zero, steps=3, grid=lambda process, steps: torch.tensor(values))
        with pytest.raises(ValueError, match="beyond the process's sigma, from 2 to 0.01"):
            walk.sample(2)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("kind", [EulerMaruyama, PredictorCorrector, ReflectedBridge, AnnealedLangevin])
def test_samplers_of_sdes_refuse_flows(kind):
    with pytest.raises(TypeError, match=f"{kind.__name__} needs a ReflectedSDE, not a RectifiedFlow"):
        kind(RectifiedFlow(Hypercube(2)), zero)


def test_flows_take_no_noise():
    flow = RectifiedFlow(Hypercube(2))
    for eta in (1e-3, 1.0):
        with pytest.raises(TypeError, match="eta adds the noise of a ReflectedSDE; RectifiedFlow has none"):
            AnnealedReflected(flow, zero, eta=eta)
    with pytest.raises(TypeError, match="churn adds the noise of a ReflectedSDE; RectifiedFlow has none"):
        Heun(flow, zero, churn=1.0)
    AnnealedReflected(flow, zero, eta=0.0)
    Heun(flow, zero, churn=0.0)


@every
def test_bad_arguments_of_every_sampler(name):
    sde, kind = ReflectedSDE(Hypercube(2)), ALL[name][0]
    for steps in (0, -1, 2.5, "3", None, True):
        with pytest.raises(ValueError, match="steps must be a positive integer"):
            kind(sde, zero, steps=steps)
    assert type(kind(sde, zero, steps=np.int64(7)).steps) is int
    with pytest.raises(TypeError, match="needs a"):
        kind(Hypercube(2), zero)
    walk = kind(sde, zero, **({} if name == "flow" else {"steps": 2}))
    for frames in (-1, 2.5, True):
        with pytest.raises(ValueError, match="frames must be an integer, not negative"):
            walk.sample(2, frames=frames)
    with pytest.raises(ValueError, match="shape"):
        walk.sample((2, -1))
    with pytest.raises(TypeError, match="shape"):
        walk.sample(2.5)
    for bad in (math.nan, math.inf):
        spoiled = kind(sde, lambda x, t: x * bad, **({} if name == "flow" else {"steps": 2}))  # noqa: B023
        with pytest.raises(SolverError, match="score is not finite at t ="):
            spoiled.sample(4)


def test_bad_arguments_of_some():
    sde = ReflectedSDE(Hypercube(2))
    for eta in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="eta"):
            AnnealedReflected(sde, zero, eta=eta)
    for churn in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="churn"):
            Heun(sde, zero, churn=churn)
    for count in (0, -1, 1.5):
        with pytest.raises(ValueError, match="langevin_steps"):
            AnnealedLangevin(sde, zero, langevin_steps=count)
    for snr in (0.0, -1.0, math.nan):
        for kind in (AnnealedLangevin, PredictorCorrector):
            with pytest.raises(ValueError, match="snr"):
                kind(sde, zero, snr=snr)
    triangle = Polytope(torch.tensor([[-1.0, 0.0], [0.0, -1.0], [1.0, 1.0]]), torch.tensor([0.0, 0.0, 1.0]))
    with pytest.raises(ValueError, match="has no exact kernel, so no bridge"):
        ReflectedBridge(ReflectedSDE(triangle), zero)


# ------------------------------------------------------------------ solver, progress, interruption


def test_the_solver_gives_up_and_says_what_to_change():
    sde = ReflectedSDE(Hypercube(2))
    calls = []

    def score(x, t):
        calls.append(t)
        return 0.5 - x

    with pytest.raises(SolverError, match="more than 20 evaluations: raise rtol and atol"):
        ProbabilityFlow(sde, score, max_evaluations=20).sample(4)
    assert len(calls) == 20
    enough = ProbabilityFlow(sde, score).sample(4, generator=seeded(), dtype=torch.float64).nfe
    in_pieces = ProbabilityFlow(sde, score, steps=3, max_evaluations=enough)  # for each of the pieces
    assert in_pieces.sample(4, generator=seeded(), dtype=torch.float64).nfe > enough
    generator = seeded()

    def rough(x, t):
        return 1e3 * torch.randn(x.shape, generator=generator, dtype=x.dtype)

    with pytest.raises(SolverError, match="more than 500 evaluations"):
        ProbabilityFlow(sde, rough, max_evaluations=500).sample(4)

    def rougher(x, t):
        return 1e20 * torch.randn(x.shape, generator=generator, dtype=x.dtype)

    with pytest.raises(SolverError, match="step size of the flow fell to nothing"):
        ProbabilityFlow(sde, rougher).sample(4)


def test_the_flow_errs_as_much_as_its_tolerances_allow():
    law = interval_law(0.1)
    latent = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)[:, None]

    def run(tolerance, **options):
        flow = ProbabilityFlow(law.sde, law.score, rtol=tolerance, atol=tolerance, denoise=False, **options)
        return flow.sample(19, latent=latent)

    ends = {k: run(10.0**-k) for k in (3, 5, 7, 9)}
    errors = {k: float((ends[k].x - ends[9].x).abs().max()) for k in (3, 5, 7)}
    assert errors[3] < 0.02  # 0.009
    assert errors[5] < 0.002  # 0.0008
    assert errors[7] < 5e-6  # 1.6e-6
    assert ends[3].nfe < ends[5].nfe < ends[7].nfe < ends[9].nfe
    other = run(1e-6, method="bosh3")
    torch.testing.assert_close(other.x, ends[9].x, atol=1e-3, rtol=0)
    assert other.nfe != run(1e-6).nfe
    loose_atol = ProbabilityFlow(law.sde, law.score, rtol=1e-7, atol=1e-2, denoise=False).sample(19, latent=latent)
    loose_rtol = ProbabilityFlow(law.sde, law.score, rtol=1e-2, atol=1e-7, denoise=False).sample(19, latent=latent)
    assert max(loose_atol.nfe, loose_rtol.nfe) < ends[7].nfe


def test_the_flow_asks_inside_even_if_it_is_driven_out():
    """A score that points through a wall: trial stages leave, the score is asked at the nearest point, samples stay."""
    sde, asked = ReflectedSDE(Hypercube(2), 0.05), []

    def outward(x, t):
        asked.append(bool(sde.domain.contains(x).all()))
        return torch.tensor([-3.0, 3.0], dtype=x.dtype).expand_as(x)

    out = ProbabilityFlow(sde, outward, denoise=False).sample(50, generator=seeded(), dtype=torch.float64)
    assert all(asked)
    assert sde.domain.contains(out.x).all()
    assert ((out.x == 0) | (out.x == 1)).any()


def test_the_flow_stops_for_frames():
    sde = ReflectedSDE(Hypercube(2), 0.05)
    walk = ProbabilityFlow(sde, Pull(sde), rtol=1e-6, atol=1e-6)
    out = walk.sample(4, generator=seeded(), dtype=torch.float64, frames=5)
    assert out.trajectory.shape == (5, 4, 2)
    torch.testing.assert_close(out.times, torch.linspace(1, 0, 5, dtype=torch.float64))
    torch.testing.assert_close(out.x, walk.sample(4, generator=seeded(), dtype=torch.float64).x, rtol=0, atol=1e-4)
    short = EulerMaruyama(sde, zero, steps=3).sample(4, frames=9)  # others have as many as there are steps
    assert short.trajectory.shape == (4, 4, 2)
    assert short.times.shape == (4,)


@every
def test_progress_is_shown_and_changes_nothing(name, capsys):
    sde = ReflectedSDE(Hypercube(2), 0.05)
    walk = ALL[name][0](sde, Pull(sde), steps=3)
    quiet = walk.sample(2, generator=seeded())
    assert capsys.readouterr().err == ""
    shown = walk.sample(2, generator=seeded(), progress=True)
    assert "sampling" in capsys.readouterr().err
    assert torch.equal(quiet.x, shown.x)


@every
def test_interruption_passes_through_and_leaves_nothing_behind(name):
    sde = ReflectedSDE(Hypercube(2), 0.05)
    pull, stop = Pull(sde), [True]

    def score(x, t):
        if stop[0] and len(pull.calls) == 3:
            raise KeyboardInterrupt
        return pull(x, t)

    walk = ALL[name][0](sde, score, steps=4)
    with pytest.raises(KeyboardInterrupt):
        walk.sample(3, generator=seeded())
    assert values_are_checked()
    stop[0] = False
    fresh = ALL[name][0](sde, Pull(sde), steps=4).sample(3, generator=seeded())
    again = walk.sample(3, generator=seeded())
    assert torch.equal(again.x, fresh.x)
    assert again.nfe == fresh.nfe


@every
def test_no_gradient_is_kept(name):
    sde = ReflectedSDE(Hypercube(2), 0.05)
    weight = torch.ones((), requires_grad=True)
    out = ALL[name][0](sde, lambda x, t: weight * (0.5 - x), steps=2).sample(2, frames=2)
    assert not out.x.requires_grad
    assert not out.trajectory.requires_grad


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda sde: EulerMaruyama(sde, zero, steps=True), "steps"),
        (lambda sde: PredictorCorrector(sde, zero, snr=math.inf), "snr"),
        (lambda sde: PredictorCorrector(sde, zero, corrector_steps=1.5), "corrector_steps"),
        (lambda sde: Heun(sde, zero, churn_noise=-1.0), "churn_noise"),
        (lambda sde: EulerMaruyama(sde, zero, steps=2).sample(3, frames=-2), "frames"),
        (lambda sde: ProbabilityFlow(sde, zero, rtol=-1.0).sample(3), "rtol"),
        (lambda sde: ProbabilityFlow(sde, zero, max_evaluations=0).sample(3), "max_evaluations"),
    ],
)
def test_bad_numbers_are_named(make, name):
    with pytest.raises(ValueError, match=name):
        make(ReflectedSDE(Hypercube(2)))


def test_conditions_come_by_name():
    sde = ReflectedSDE(Hypercube(2))
    with pytest.raises(TypeError, match="condition must be tensors by name"):
        EulerMaruyama(sde, lambda x, t: 0 * x, steps=2).sample(3, condition=torch.zeros(3))
    score = ScoreModel(MLP(sde.domain, 8, 1, condition_dim=2), sde)
    for wrong in (torch.zeros(2, 2), torch.zeros(())):
        with pytest.raises(ShapeError, match=r"condition has shape .*; expected \[3, \.\.\.\]"):
            EulerMaruyama(sde, score, steps=2).sample(3, condition={"condition": wrong})
