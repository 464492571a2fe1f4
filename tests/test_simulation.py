"""Reflected Euler for an SDE of one's own: paths stay inside; frames, shapes, gradients and errors."""

import pytest
import torch

from constrained_diffusion import (
    Ball,
    Domain,
    DomainError,
    Euclidean,
    Hypercube,
    Paths,
    Product,
    ShapeError,
    Simplex,
    sample_sde,
)
from tests.simulations import F64, MODES, TRIANGLE, OnlyProject, constant, seeded

# ------------------------------------------------------------------------------------------------------------- inside

DOMAINS = [Hypercube(2), Ball(3), Simplex(3), Simplex(5, "euclidean"), TRIANGLE, OnlyProject()]
MADE = {}  # starting points, by domain and dtype


def points(domain, dtype):
    """100 uniform points and as many on the wall."""
    if (str(domain), dtype) not in MADE:
        inner = domain.sample_uniform(100, generator=seeded(), dtype=dtype)
        noise = domain.sample_noise(inner, generator=seeded(1))
        MADE[str(domain), dtype] = torch.cat([inner, domain.project(inner + 2 * noise)])
    return MADE[str(domain), dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("boundary", MODES)
@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_every_point_on_the_way_is_inside(domain, boundary, dtype):
    x0 = points(domain, dtype)
    for duration in (1e-3, 1.0, 1e3):
        paths = sample_sde(
            domain,
            x0,
            lambda x, t: 3 * (x - x.mean()),
            lambda x, t: 1 + x.square().flatten(1).sum(-1),
            duration=duration,
            steps=5,
            boundary=boundary,
            generator=seeded(),
            frames=6,
        )
        assert paths.x.dtype == paths.trajectory.dtype == dtype
        assert paths.trajectory.isfinite().all()
        assert domain.contains(paths.trajectory).all()


@pytest.mark.parametrize("boundary", ["symmetrised", "project"])
def test_these_modes_ask_for_the_projection_alone(boundary):
    class Forbidding(OnlyProject):
        def boundary(self, x):
            raise AssertionError

        def reflect(self, x, displacement):
            raise AssertionError

        def contains(self, x, atol=0.0):
            return OnlyProject().contains(x, atol)

    x0 = OnlyProject().sample_uniform(500, generator=seeded(), dtype=F64)
    x = sample_sde(Forbidding(), x0, boundary=boundary, steps=20, generator=seeded()).x
    assert OnlyProject().contains(x).all()
    Domain._registry.pop("Forbidding")


def test_far_from_walls_all_modes_are_euler():
    x0 = torch.full((50, 2), 0.5, dtype=F64)
    ends = [sample_sde(Hypercube(2), x0, duration=1e-3, steps=5, boundary=m, generator=seeded()).x for m in MODES]
    torch.testing.assert_close(ends[0], ends[1])
    torch.testing.assert_close(ends[0], ends[2])
    free = sample_sde(Euclidean(2), x0, duration=1e-3, steps=5, generator=seeded()).x
    torch.testing.assert_close(ends[0], free)


@pytest.mark.parametrize("boundary", ["project", "symmetrised"])
@pytest.mark.parametrize(
    "domain", [Simplex(4), Simplex(3, "cumulative"), Product(Hypercube(2), Simplex(4))], ids=["4", "3", "product"]
)
def test_a_metric_of_its_own_is_refused(domain, boundary):
    x0 = domain.sample_uniform(3, generator=seeded())
    with pytest.raises(ValueError, match='metric of its own: boundary must be "specular"'):
        sample_sde(domain, x0, boundary=boundary)
    assert domain.contains(sample_sde(domain, x0, steps=3, generator=seeded()).x).all()


@pytest.mark.parametrize("boundary", MODES)
def test_tangent_domains_stay_on_their_plane(boundary):
    """Of a drift and a diffusion that point out of the plane the tangent part is used."""
    domain = Simplex(3)
    x0 = domain.sample_uniform(200, generator=seeded(), dtype=F64)

    def run(drift, diffusion, steps=200):
        return sample_sde(
            domain, x0, drift, diffusion, steps=steps, boundary=boundary, generator=seeded(), frames=5
        ).trajectory

    plain = run(None, 0.3)
    torch.testing.assert_close(run(constant([7.0, 7.0, 7.0]), 0.3), plain)
    uneven = run(lambda x, t: x + torch.tensor([5.0, 0.0, 0.0]).to(x), lambda x, t: 1 + x)
    for frames in (plain, uneven):
        torch.testing.assert_close(frames.sum(-1), torch.ones(5, 200, dtype=F64), atol=1e-12, rtol=0)
        assert domain.contains(frames).all()
    a = torch.randn(200, 3, 3, generator=seeded(), dtype=F64)
    torch.testing.assert_close(run(None, a).sum(-1), torch.ones(5, 200, dtype=F64), atol=1e-12, rtol=0)


def test_product_of_domains():
    domain = Product(Hypercube(2), Ball(2))
    x0 = domain.sample_uniform(300, generator=seeded(), dtype=F64)
    for boundary in MODES:
        x = sample_sde(domain, x0, lambda x, t: 2 * x, steps=20, boundary=boundary, generator=seeded()).x
        assert domain.contains(x).all()


# ---------------------------------------------------------------------------------------------- frames, shapes, sources


@pytest.mark.parametrize("frames", [0, 1, 2, 4, 11, 21])
def test_frames(frames):
    x0 = torch.rand(3, 2, 2, generator=seeded())
    paths = sample_sde(Hypercube(2), x0, duration=2.0, steps=20, start=1.0, generator=seeded(1), frames=frames)
    assert isinstance(paths, Paths)
    assert paths.x.shape == x0.shape
    assert paths.trajectory.shape == (frames, 3, 2, 2)
    assert paths.times.shape == (frames,)
    assert paths.times.dtype == paths.trajectory.dtype == x0.dtype
    if frames:
        assert torch.equal(paths.trajectory[-1], paths.x)
        assert float(paths.times[-1]) == pytest.approx(3.0)
    if frames > 1:
        assert torch.equal(paths.trajectory[0], x0)
        assert float(paths.times[0]) == pytest.approx(1.0)
        gaps = paths.times.diff()
        assert (gaps > 0).all()
        assert float((gaps - 2.0 / (frames - 1)).abs().max()) <= 0.1 + 1e-6  # evenly, to one step
    full = sample_sde(Hypercube(2), x0, duration=2.0, steps=20, start=1.0, generator=seeded(1), frames=21)
    where = ((paths.times - 1.0) / 0.1).round().long()
    torch.testing.assert_close(full.times, torch.linspace(1.0, 3.0, 21))
    assert torch.equal(full.trajectory[where], paths.trajectory)  # what is kept does not change the path


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_every_number_of_frames(steps):
    x0 = torch.rand(4, 1, generator=seeded())
    for frames in range(steps + 2):
        paths = sample_sde(Hypercube(1), x0, steps=steps, frames=frames, generator=seeded())
        assert len(paths.trajectory) == len(paths.times) == frames
        assert (paths.times.diff() > 0).all()


@pytest.mark.parametrize("boundary", MODES)
@pytest.mark.parametrize("batch", [(), (3, 2), (0,), (1,)], ids=str)
@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_batch_shapes(domain, batch, boundary):
    x0 = domain.sample_uniform(batch, generator=seeded(), dtype=F64)
    size = domain.event_shape
    for a in (0.3, torch.full(batch, 0.3, dtype=F64), torch.full((*batch, *size, *size), 0.1, dtype=F64)):
        paths = sample_sde(domain, x0, lambda x, t: -x, a, steps=3, boundary=boundary, generator=seeded(), frames=2)
        assert paths.x.shape == (*batch, *size)
        assert paths.trajectory.shape == (2, *batch, *size)
        assert domain.contains(paths.x).all()


def test_generator_repeats_and_nothing_else_is_touched():
    x0 = torch.rand(10, 2, generator=seeded())
    kept, state = x0.clone(), torch.random.get_rng_state()
    first, second, other = (sample_sde(Hypercube(2), x0, generator=seeded(s), steps=5).x for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(x0, kept)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_end_points_are_not_the_starting_tensor():
    x0 = torch.rand(10, 2, generator=seeded())
    paths = sample_sde(Hypercube(2), x0, None, 0.0, steps=2, frames=2)
    paths.trajectory.zero_()
    paths.x.zero_()
    assert x0.any(-1).all()


def test_single_precision_follows_double():
    x0 = torch.rand(100, 2, generator=seeded(), dtype=F64)
    ends = []
    for dtype in (F64, torch.float32):
        x = sample_sde(Hypercube(2), x0.to(dtype), lambda x, t: t - x, 0.0, steps=50).x
        assert x.dtype == dtype
        ends.append(x.double())
    torch.testing.assert_close(*ends, atol=1e-5, rtol=0)


def test_progress(capfd):
    x0 = torch.rand(2, 2, generator=seeded())
    shown = sample_sde(Hypercube(2), x0, steps=3, generator=seeded(), progress=True).x
    assert "simulating" in capfd.readouterr().err
    quiet = sample_sde(Hypercube(2), x0, steps=3, generator=seeded()).x
    assert capfd.readouterr().err == ""
    assert torch.equal(shown, quiet)


# ----------------------------------------------------------------------------------------------------------- gradients


def test_gradients_flow_to_the_parameters():
    """Against a difference quotient along the same noise, over walls (almost no path changes its reflections)."""
    x0 = torch.rand(50, 2, generator=seeded(), dtype=F64)

    def end(theta, scale):
        return sample_sde(Hypercube(2), x0, lambda x, t: theta * (1 + x), scale, steps=20, generator=seeded()).x

    theta, scale = (torch.tensor(v, dtype=F64, requires_grad=True) for v in (0.7, 0.4))
    weights = torch.randn(50, 2, generator=seeded(3), dtype=F64)
    for found, shift in zip(
        torch.autograd.grad((weights * end(theta, scale)).sum(), (theta, scale)),
        ((1e-7, 0.0), (0.0, 1e-7)),
        strict=True,
    ):
        with torch.no_grad():
            up = (weights * end(theta + shift[0], scale + shift[1])).sum()
            down = (weights * end(theta - shift[0], scale - shift[1])).sum()
        assert abs(float(found)) > 0.1
        assert float(found) == pytest.approx(float((up - down) / 2e-7), rel=1e-4)


def test_gradients_flow_to_the_start():
    x0 = torch.full((1, 2), 0.5, dtype=F64, requires_grad=True)
    x = sample_sde(Hypercube(2), x0, lambda x, t: -x, 0.0, steps=10).x
    (found,) = torch.autograd.grad(x.sum(), x0)
    torch.testing.assert_close(found, torch.full((1, 2), 0.9**10, dtype=F64))


def test_no_grad_keeps_no_graph():
    theta = torch.tensor(0.7, requires_grad=True)
    with torch.no_grad():
        x = sample_sde(Hypercube(2), torch.rand(3, 2, generator=seeded()), lambda x, t: theta * x, steps=2).x
    assert not x.requires_grad


# -------------------------------------------------------------------------------------------------------------- errors


def inside(n=3):
    return torch.full((n, 2), 0.5)


@pytest.mark.parametrize("row", [[0.5, 1.5], [float("nan"), 0.5], [float("inf"), 0.5]])
@pytest.mark.parametrize("boundary", MODES)
def test_start_outside(row, boundary):
    x0 = torch.cat([inside(2), torch.tensor([row])])
    with pytest.raises(DomainError, match="x0: at row 2"):
        sample_sde(Hypercube(2), x0, boundary=boundary)


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (torch.zeros(2), ShapeError, r"drift returned shape \[2\]; expected that of x, \[3, 2\]"),
        (torch.zeros(3, 1), ShapeError, "drift returned shape"),
        (torch.zeros(1, 2), ShapeError, "drift returned shape"),
        (torch.zeros(4, 2), ShapeError, "drift returned shape"),
        (torch.zeros(3, 2, dtype=F64), TypeError, "drift .*float64.*must have the same dtype"),
        (torch.zeros(3, 2, dtype=torch.long), TypeError, "drift"),
        (0.0, TypeError, "drift must return a torch.Tensor, not float"),
        (None, TypeError, "drift must return a torch.Tensor, not NoneType"),
    ],
    ids=str,
)
def test_what_a_drift_may_return(returned, error, message):
    with pytest.raises(error, match=message):
        sample_sde(Hypercube(2), inside(), lambda x, t: returned)


@pytest.mark.parametrize("wrap", [lambda a: a, lambda a: lambda x, t: a], ids=["value", "function"])
@pytest.mark.parametrize(
    ("a", "error", "message"),
    [
        (torch.zeros(4), ShapeError, r"diffusion has shape \[4\]; expected a number or one of"),
        (torch.zeros(4, 4), ShapeError, "diffusion has shape"),
        (torch.zeros(3, 1), ShapeError, "diffusion has shape"),
        (torch.zeros(3, 2, 3), ShapeError, "diffusion has shape"),
        (torch.zeros(1, 2, 2), ShapeError, "diffusion has shape"),
        (torch.zeros(3, dtype=F64), TypeError, "diffusion"),
        ("much", TypeError, "diffusion must be a number, a torch.Tensor or a function"),
        (None, TypeError, "diffusion must be a number"),
    ],
    ids=str,
)
def test_what_a_diffusion_may_be(a, error, message, wrap):
    with pytest.raises(error, match=message):
        sample_sde(Hypercube(2), inside(), None, wrap(a))


def test_a_coefficient_for_all_points():
    """One for each coordinate, or a matrix, without the shape of the batch; in any kind of array."""
    x0, alone, matrix = torch.full((5, 2), 0.5), torch.tensor([0.7, 0.1]), torch.tensor([[0.7, 0.2], [0.0, 0.1]])

    def end(a, x0=x0):
        return sample_sde(Hypercube(x0.shape[-1]), x0, None, a, steps=3, generator=torch.Generator().manual_seed(0)).x

    for given, full in ((alone, alone.expand(5, 2)), (matrix, matrix.expand(5, 2, 2))):
        for kind in (given, given.numpy(), given.tolist()):
            assert torch.equal(end(kind), end(full))
    assert torch.equal(end(alone, x0[0]), end(alone.clone(), x0[0]))  # a single point
    with pytest.raises(ShapeError, match=r"may be one for each point or one for each coordinate: give a function"):
        end(alone, x0[:2])
    with pytest.raises(ShapeError, match=r"one for each coordinate or one for each pair of coordinates: give"):
        end(matrix, x0[:2])
    for value, full in ((alone, alone.diag()), (matrix, matrix)):
        few = end(lambda x, t, value=value: value.expand(2, *value.shape), x0[:2])
        torch.testing.assert_close(few, end(full.expand(2, 2, 2), x0[:2]))
    torch.testing.assert_close(end([0.3], x0[:1, :1]), end(0.3, x0[:1, :1]))
    with pytest.raises(ShapeError, match="diffusion has shape"):
        end(lambda x, t: alone)  # a function sees the batch


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_said_with_its_time(bad):
    def drift(x, t):
        return torch.full_like(x, bad if float(t) > 2.45 else 0.0)

    with pytest.raises(ValueError, match=r"drift is not finite at t = 2\.5"):
        sample_sde(Hypercube(2), inside(), drift, duration=1.0, steps=10, start=2.0)
    with pytest.raises(ValueError, match=r"diffusion is not finite at t = 2\.5"):
        sample_sde(Hypercube(2), inside(), None, drift, duration=1.0, steps=10, start=2.0)
    with pytest.raises(ValueError, match=r"diffusion .*finite.* t = 2\.5"):
        sample_sde(
            Hypercube(2),
            inside(),
            None,
            lambda x, t: bad if float(t) > 2.45 else 0.0,
            duration=1.0,
            steps=10,
            start=2.0,
        )
    with pytest.raises(ValueError, match="diffusion .*finite"):
        sample_sde(Hypercube(2), inside(), None, bad)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps must be at least 1, not 0"),
        ({"steps": -3}, ValueError, "steps must be at least 1"),
        ({"steps": 2.0}, TypeError, "steps must be an integer, not 2.0"),
        ({"steps": 5, "frames": 7}, ValueError, r"frames must be at most steps \+ 1 = 6, not 7"),
        ({"frames": -1}, ValueError, "frames must be at least 0"),
        ({"frames": 1.5}, TypeError, "frames must be an integer"),
        ({"duration": 0.0}, ValueError, "duration must be positive"),
        ({"duration": -1.0}, ValueError, "duration must be positive"),
        ({"duration": float("nan")}, ValueError, "duration must be finite"),
        ({"duration": float("inf")}, ValueError, "duration must be finite"),
        ({"duration": "long"}, TypeError, "duration must be a number, not str"),
        ({"start": float("inf")}, ValueError, "start must be finite"),
        ({"start": None}, TypeError, "start must be a number"),
        ({"boundary": "mirror"}, ValueError, "boundary must be .*not 'mirror'"),
        ({"boundary": None}, ValueError, "boundary must be"),
        ({"drift": 1.0}, TypeError, "drift must be None or a function of x and t, not float"),
        ({"drift": torch.zeros(3, 2)}, TypeError, "drift must be None or a function of x and t, not Tensor"),
        ({"x0": torch.zeros(3, 3)}, ShapeError, "x0 has shape"),
        ({"x0": torch.zeros(3, 2, dtype=torch.long)}, TypeError, "x0 must have a floating-point dtype"),
        ({"x0": [[0.5, 0.5]]}, TypeError, "x0 must be a torch.Tensor, not list"),
        ({"domain": "cube"}, TypeError, r"domain must be a Domain such as Hypercube\(2\), not str"),
    ],
    ids=str,
)
def test_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        sample_sde(**{"domain": Hypercube(2), "x0": inside(), **arguments})
