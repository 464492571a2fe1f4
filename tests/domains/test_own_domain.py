"""What a subclass gets for free, from a projection alone or from a signed distance alone."""

import math

import pytest
import torch
from scipy import stats

from constrained_diffusion import (
    Domain,
    DomainError,
    Euclidean,
    Hypercube,
    Product,
    ReflectedDiffusion,
    ReflectedSDE,
    Region,
    ShapeError,
)
from constrained_diffusion.domains import ball
from constrained_diffusion.domains.checks import SolverError
from constrained_diffusion.domains.meshed import Meshed
from constrained_diffusion.scaling import DomainScaler


class ProjectedBox(Domain):
    """[0, 2] x [0, 1], known by its projection alone."""

    event_shape, dim = torch.Size([2]), 2

    def project(self, x):
        return torch.minimum(x.clamp(min=0), torch.tensor([2.0, 1.0]).to(x))


class ProjectedDisc(Domain):
    """The unit disc around (3, 0), known by its projection alone."""

    event_shape, dim = torch.Size([2]), 2

    def project(self, x):
        centre = torch.tensor([3.0, 0.0]).to(x)
        away = x - centre
        return centre + away / away.norm(dim=-1, keepdim=True).clamp(min=1.0)


class Annulus(Domain):
    """hole <= |x| <= radius, known by its signed distance."""

    event_shape, dim = torch.Size([2]), 2

    def __init__(self, hole=0.4, radius=1.0):
        self.hole, self.radius = hole, radius
        self.spectral_gap = 1 / radius**2

    def boundary(self, x):
        r = x.norm(dim=-1)
        outward = x / r.clamp(min=1e-30).unsqueeze(-1)
        near_hole = (r - self.hole < self.radius - r).unsqueeze(-1)
        return torch.minimum(self.radius - r, r - self.hole), torch.where(near_hole, outward, -outward)

    def curvature(self, x):
        near_hole = x.norm(dim=-1) < (self.hole + self.radius) / 2
        return torch.where(near_hole, -1 / self.hole, 1 / self.radius).unsqueeze(-1).to(x)


OWN = [ProjectedBox(), ProjectedDisc(), Annulus()]
TRUTH = {  # volume, inradius, bounding box
    "ProjectedBox": (2.0, 0.5, ([0.0, 0.0], [2.0, 1.0])),
    "ProjectedDisc": (math.pi, 1.0, ([2.0, -1.0], [4.0, 1.0])),
    "Annulus": (math.pi * 0.84, 0.3, ([-1.0, -1.0], [1.0, 1.0])),
}


@pytest.mark.parametrize("domain", OWN, ids=str)
def test_sizes(domain):
    volume, inradius, (low, high) = TRUTH[type(domain).__name__]
    assert domain.log_volume == pytest.approx(math.log(volume), abs=0.02)
    assert domain.inradius == pytest.approx(inradius, rel=0.05)
    for found, true in zip(domain.bounding_box, (low, high), strict=True):
        torch.testing.assert_close(found, torch.tensor(true, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("domain", OWN, ids=str)
def test_moves_stay_inside(domain, dtype):
    generator = torch.Generator().manual_seed(0)
    x = domain.sample_uniform(2000, generator=generator, dtype=dtype)
    assert domain.contains(x).all()
    for size in (1e-6, 0.1, 1.0, 100.0):
        y = domain.reflect(x, size * torch.randn(x.shape, generator=generator, dtype=dtype))
        assert domain.contains(y).all()
        assert y.isfinite().all()
    far = domain.project(x + 5 * torch.randn(x.shape, generator=generator, dtype=dtype))
    assert domain.contains(far).all()
    torch.testing.assert_close(domain.project(far), far)


def test_boundary_from_projections_alone():
    generator = torch.Generator().manual_seed(0)
    for own, known in ((ProjectedBox(), Hypercube(2, 0.0, [2.0, 1.0])), (ProjectedDisc(), None)):
        x = own.sample_uniform(500, generator=generator, dtype=torch.float64)
        for points in (x, x + 3 * torch.randn(x.shape, generator=generator, dtype=torch.float64)):
            distance, normal = own.boundary(points)
            if known is not None:
                expected = known.boundary(points)[0]
            else:
                expected = 1 - (points - torch.tensor([3.0, 0.0])).norm(dim=-1)
            torch.testing.assert_close(distance, expected, atol=2e-3, rtol=1e-2)
            torch.testing.assert_close(normal.norm(dim=-1), torch.ones(500, dtype=torch.float64))


class SignedBox(Domain):
    """The unit square, known by its signed distance."""

    event_shape, dim = torch.Size([2]), 2

    def boundary(self, x):
        return Hypercube(2).boundary(x)


def test_default_reflection_bounces_as_often_as_needed():
    """Between flat walls the mirrored and halved steps are the specular path (one corner at most on the way)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(500, 2, generator=generator, dtype=torch.float64)
    move = torch.tensor([[2.6, 0.0], [0.0, -3.7], [0.9, 0.8]], dtype=torch.float64)
    for v in move:
        expected = Hypercube(2).reflect(x, v.expand(500, 2))
        torch.testing.assert_close(SignedBox().reflect(x, v.expand(500, 2)), expected)


@pytest.mark.parametrize("domain", OWN, ids=str)
def test_reflection_keeps_the_uniform_law(domain):
    generator = torch.Generator().manual_seed(0)
    x = domain.sample_uniform(20_000, generator=generator, dtype=torch.float64)
    y = x
    for _ in range(20):
        y = domain.reflect(y, 0.05 * torch.randn(x.shape, generator=generator, dtype=torch.float64))
    fresh = domain.sample_uniform(20_000, generator=generator, dtype=torch.float64)
    for f in (lambda z: z[:, 0], lambda z: z[:, 1], lambda z: domain.boundary(z)[0]):
        assert stats.ks_2samp(f(y).numpy(), f(fresh).numpy()).pvalue > 1e-5


@pytest.mark.parametrize("sigma", [0.1, 0.3])
def test_path_targets_are_unbiased_in_an_annulus(sigma):
    """E[target . phi] = -E[div phi] for fields phi along the walls."""
    domain, generator = Annulus(), torch.Generator().manual_seed(0)
    x0 = torch.tensor([0.5, 0.0], dtype=torch.float64).expand(20_000, 2)
    x, u = domain.diffuse(x0, sigma, generator=generator)
    r, angle = x.norm(dim=-1), torch.atan2(x[:, 1], x[:, 0])
    around, out = torch.stack([-x[:, 1], x[:, 0]], -1), x / r.unsqueeze(-1)
    h = (r - 0.4) * (1 - r)
    fields = {
        "around": (around * angle.sin().unsqueeze(-1), angle.cos()),
        "radial": (out * h.unsqueeze(-1), h / r + (1 - r) - (r - 0.4)),
    }
    for name, (phi, divergence) in fields.items():
        z = (u * phi).sum(-1) + divergence
        assert abs(float(z.mean())) < 4.5 * float(z.std()) / len(z) ** 0.5, name
        assert abs(float(z.mean())) < 0.03, name


def test_curved_walls_matter_to_path_targets():
    """In the disc, path targets with the curvature agree with the exact kernel, and without it they do not."""
    domain, generator = ball.Ball(2), torch.Generator().manual_seed(0)
    x0 = torch.tensor([0.9, 0.0], dtype=torch.float64).expand(20_000, 2)
    from constrained_diffusion.domains import paths

    class Flat(ball.Ball):
        def curvature(self, x):
            return torch.zeros_like(x[..., :1])

    def slope(which):
        x, u = paths.simulate(which, x0, torch.full((len(x0),), 0.5).double(), steps=128, generator=generator)
        exact = domain.heat_kernel_score(x, x0, 0.5)
        field = torch.stack([-x[:, 1], x[:, 0]], -1)  # along the wall
        a, b = (u * field).sum(-1), (exact * field).sum(-1)
        return float((a * b).mean() / (b * b).mean())

    assert slope(domain) == pytest.approx(1.0, abs=0.05)
    assert slope(Flat(2)) > 1.15
    Domain._registry.pop("Flat")


def test_features_reach_a_network():
    x = Annulus().sample_uniform(7, generator=torch.Generator().manual_seed(0))
    f = Annulus().features(x, torch.full((7,), 0.1))
    assert f.shape == (7, 3)
    assert f.abs().max() <= 1.0


def test_values():
    assert Annulus(0.3) == Annulus(0.3) != Annulus(0.4)
    assert repr(Annulus(0.3)) == "Annulus(hole=0.3, radius=1.0)"
    assert Domain.from_config(Annulus(0.3).config()) == Annulus(0.3)
    assert {Annulus(0.3): 1}[Annulus(0.3)] == 1


def test_what_is_missing_is_said():
    with pytest.raises(TypeError, match="ships with the library"):
        type("Simplex", (Annulus,), {"__module__": __name__})
    with pytest.raises(TypeError, match="must define project"):

        class Nothing(Domain):
            event_shape, dim = torch.Size([1]), 1

    domain = Annulus()
    x = torch.tensor([[0.5, 0.0]])
    for call in (
        lambda: domain.heat_kernel_log_prob(x, x, 0.1),
        lambda: domain.heat_kernel_score(x, x, 0.1),
        lambda: domain.sample_heat_kernel(x, 0.1),
    ):
        with pytest.raises(NotImplementedError, match="diffuse"):
            call()
    with pytest.raises(DomainError, match="x0: at row 0"):
        domain.diffuse(torch.zeros(1, 2), 0.1)
    with pytest.raises(ShapeError, match="x0 has shape"):
        domain.diffuse(torch.zeros(1, 3), 0.1)
    with pytest.raises(ValueError, match="unknown|known"):
        Domain.from_config({"domain": "KleinBottle"})
    with pytest.raises(ValueError, match="is no Annulus"):
        Annulus.from_config(Hypercube(2).config())


def test_registered_are_the_classes_that_can_be_made():
    assert {Annulus, Hypercube, Region} <= set(Domain.registered())
    assert not {Domain, Meshed} & set(Domain.registered())
    assert set(Hypercube.registered()) < set(Domain.registered())
    assert all(issubclass(kind, Meshed) for kind in Meshed.registered())


def test_unbounded_and_thin_sets_are_reported():
    class HalfPlane(Domain):
        event_shape, dim = torch.Size([2]), 2

        def project(self, x):
            return torch.stack([x[..., 0].clamp(min=0), x[..., 1]], -1)

    class Needle(Domain):
        event_shape, dim = torch.Size([2]), 2

        def project(self, x):
            return torch.stack([x[..., 0].clamp(0, 1), x[..., 0].clamp(0, 1)], -1)

    with pytest.raises(SolverError, match="unbounded"):
        _ = HalfPlane().bounding_box
    with pytest.raises(SolverError, match="sample_uniform"):
        Needle().sample_uniform(3, dtype=torch.float64)
    Domain._registry.pop("HalfPlane")
    Domain._registry.pop("Needle")


def test_euclidean_has_no_uniform_law():
    with pytest.raises(ValueError, match="no uniform law"):
        Euclidean(2).sample_uniform(3)


class Forgetful(ProjectedDisc):
    """A class whose author forgot what a point looks like."""

    @property
    def dim(self):
        raise AttributeError("dim")


def test_what_a_class_forgot_is_named_before_it_is_needed():
    for use in (ReflectedDiffusion, ReflectedSDE, DomainScaler, Product):
        with pytest.raises(TypeError, match="Forgetful has no dim, its intrinsic dimension: set it in __init__"):
            use(Forgetful())
        with pytest.raises(TypeError, match=r"not a class: make one, Annulus\(\.\.\.\)"):
            use(Annulus)
        with pytest.raises(TypeError, match=r"must be a Domain such as Hypercube\(2\), not str"):
            use("cube")


class TupleShape(ProjectedDisc):
    """Its shapes are tuples, in the class and of the object."""

    event_shape, dim = (2,), 2

    def __init__(self, own=False):
        self.own = own
        if own:
            self.event_shape = (2,)


def test_event_shape_may_be_a_tuple():
    for domain in (TupleShape(), TupleShape(own=True)):
        assert isinstance(domain.event_shape, torch.Size)
        assert domain.contains(domain.sample_uniform(3)).all()
