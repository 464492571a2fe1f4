"""Region: what it takes and refuses, membership, distances, moves, and the uniform law."""

import json
import math

import numpy as np
import pytest
import torch

from constrained_diffusion import Ball, Domain, DomainError, Region, ShapeError, Simplex
from constrained_diffusion.domains import region_mesh
from constrained_diffusion.domains.region_segments import inside_rings
from constrained_diffusion.plotting.outlines import outline_of
from constrained_diffusion.testing import check_domain

L_SHAPE = [[0.0, 0.0], [1.0, 0.0], [1.0, 0.5], [0.5, 0.5], [0.5, 1.0], [0.0, 1.0]]
SQUARE = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]


def ngon(count, radius, centre=(0.0, 0.0)):
    t = 2 * np.pi * np.arange(count) / count
    return radius * np.stack([np.cos(t), np.sin(t)], 1) + centre


def coast(count=2400, seed=0):
    """A ragged outline of many corners around a lake."""
    t = 2 * np.pi * np.arange(count) / count
    phase = np.random.default_rng(seed).uniform(0, 6, 5)
    waves = sum(0.2 / k * np.cos(k * t + p) for k, p in zip((3, 11, 23, 97, 201), phase, strict=True))
    return [(1 + waves)[:, None] * ngon(count, 1.0), ngon(30, 0.3)]


def uniform_box(count, low, high, seed=0):
    u = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.tensor(low) + u * (torch.tensor(high) - torch.tensor(low))


def brute_distance(rings, x):
    a = torch.from_numpy(np.concatenate(rings))
    b = torch.from_numpy(np.concatenate([np.roll(r, -1, 0) for r in rings]))
    along, away = b - a, x.unsqueeze(1) - a
    share = ((away * along).sum(-1) / (along * along).sum(-1)).clamp(0, 1)
    return (away - share.unsqueeze(-1) * along).norm(dim=-1).amin(1)


# ---------------------------------------------------------------------- what it takes, and what it refuses


def test_size_of_an_annulus():
    region = Region([ngon(64, 1.0), ngon(64, 0.4)[::-1]])
    area = 32 * math.sin(2 * math.pi / 64) * (1 - 0.16)
    assert region.area == pytest.approx(area, rel=1e-12)
    assert region.log_volume == pytest.approx(math.log(area), rel=1e-12)
    assert region.diameter == pytest.approx(2.0, rel=1e-12)
    assert region.inradius == pytest.approx((math.cos(math.pi / 64) - 0.4) / 2, abs=2e-3)
    assert region.bounding_box[0].tolist() == pytest.approx([-1, -1], abs=1e-12)
    low, high = region.wall_curvature
    assert low == pytest.approx(-2.5, rel=0.2)
    assert high == pytest.approx(1.0, rel=0.5)


@pytest.mark.parametrize(
    ("rings", "error", "words"),
    [
        ([[0.0, 0.0], [1.0, 0.0]], ShapeError, "at least 3"),
        ([[0.0, 0.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0]], ShapeError, r"expected \[k, 2\]"),
        ([], ShapeError, "at least one ring"),
        ([[0.0, 0.0], [1.0, 0.0], [math.nan, 1.0]], DomainError, "finite; at corner 2"),
        ([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]], DomainError, "no area"),
        ([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]], DomainError, "no area.*or it crosses itself"),
        ([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 2.0]], DomainError, "cross or touch"),
        ([[0.0, 0.0], [2.0, 0.0], [1.0, 0.0], [1.0, 1.0]], DomainError, "cross or touch"),
        ([SQUARE, [[0.5, 0.5], [0.7, 0.5], [1.5, 0.7]]], DomainError, r"rings\[1\].*cross or touch"),
        ([SQUARE, [[0.5, 0.5], [1.0, 0.5], [0.7, 0.7]]], DomainError, "cross or touch"),
        ([SQUARE, ngon(8, 0.3, (3.0, 0.0))], DomainError, r"2 separate pieces.*Region.components\(rings\)"),
    ],
)
def test_refusals(rings, error, words):
    with pytest.raises(error, match=words):
        Region(rings)


def test_components():
    rings = [ngon(200, 2.0), ngon(100, 1.0), ngon(50, 0.5), ngon(200, 1.0, (5.0, 0.0))]
    found = Region.components(rings)
    assert [len(region.rings) for region, _ in found] == [2, 1, 1]  # the ring, the disc beside it, the island within
    assert [share for _, share in found] == pytest.approx([3 / 4.25, 1 / 4.25, 0.25 / 4.25], rel=5e-3)
    (only, share), *rest = Region.components(L_SHAPE, resolution=20)
    assert (only, share, rest) == (Region(L_SHAPE, resolution=20), 1.0, [])


def test_mask():
    mask = np.zeros((40, 60), dtype=bool)
    mask[5:15, 10:50] = True  # near the top
    mask[8:12, 20:30] = False
    region = Region.from_mask(mask)
    assert len(region.rings) == 2
    assert region.area == pytest.approx(10 * 40 - 4 * 10, abs=1.01)  # corners of pixels are cut off
    assert region.contains(torch.tensor([[15.0, 30.0], [25.0, 30.0], [15.0, 10.0]])).tolist() == [True, False, False]
    small = Region.from_mask(torch.from_numpy(mask), (0.0, 0.0), (6.0, 4.0))
    assert small.area == pytest.approx(region.area / 100, rel=1e-12)
    assert max(len(ring) for ring in small.rings) == 8  # straight parts have no corners
    with pytest.raises(DomainError, match="no pixel"):
        Region.from_mask(np.zeros((3, 3)))
    two = np.zeros((9, 9))
    two[1:3, 1:3] = two[6:8, 6:8] = 1
    with pytest.raises(DomainError, match="2 separate pieces"):
        Region.from_mask(two)
    assert len(Region.components(Region.rings_from_mask(two))) == 2


def test_signed_distance():
    def ring(x):
        r = x.norm(dim=-1)
        return torch.minimum(1 - r, r - 0.4)

    region = Region.from_signed_distance(ring, -1.2, 1.2)
    assert region.area == pytest.approx(math.pi * 0.84, rel=1e-3)
    x = uniform_box(500, [-1.0, -1.0], [1.0, 1.0])
    assert (region.boundary(x)[0] - ring(x)).abs().max() < 1e-3
    with pytest.raises(DomainError, match="reaches the edge"):
        Region.from_signed_distance(ring, -1.0, 1.0)
    with pytest.raises(DomainError, match="positive nowhere"):
        Region.from_signed_distance(lambda x: -1 - x.norm(dim=-1), -1.0, 1.0)


@pytest.mark.parametrize("region", [Region(L_SHAPE), Region([ngon(64, 1.0), ngon(64, 0.4)], resolution=30)])
def test_value(region):
    again = Domain.from_config(json.loads(json.dumps(region.config())))
    assert again == region
    assert hash(again) == hash(region)
    assert region != Region(region.rings, resolution=31)
    assert len(repr(region)) < 100
    assert outline_of(region, 100).shape[1] == 2
    assert int(region.outline.isnan().any(-1).sum()) == len(region.rings) - 1


# ---------------------------------------------------------------------- membership, distances, moves


@pytest.mark.parametrize("rings", [[np.array(L_SHAPE)], [ngon(64, 1.0), ngon(64, 0.4)], coast()])
def test_grid_agrees_with_all_edges(rings):
    region = Region(rings)
    x = torch.cat([uniform_box(2000, [-1.5, -1.5], [1.5, 1.5]), uniform_box(50, [-40.0, -40.0], [40.0, 40.0])])
    inside = np.logical_xor.reduce([inside_rings(x.numpy(), ring) for ring in rings])
    assert np.array_equal(region.contains(x).numpy(), inside)
    distance, normal = region.boundary(x)
    expected = brute_distance(rings, x)
    assert torch.allclose(distance.abs(), expected, atol=1e-12)
    assert np.array_equal((distance > 0).numpy(), inside)
    assert torch.allclose(normal.norm(dim=-1), torch.ones(len(x), dtype=torch.float64))
    foot = x - distance.unsqueeze(-1) * normal
    assert brute_distance(rings, foot).max() < 1e-11
    assert region.contains(region.project(x)).all()
    assert torch.allclose((region.project(x) - x).norm(dim=-1), distance.clamp(max=0).abs(), atol=1e-11)


def test_distance_has_the_normal_as_gradient():
    region = Region(L_SHAPE)
    x = region.sample_uniform(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    distance, normal = region.boundary(x)
    (gradient,) = torch.autograd.grad(distance.sum(), x)
    assert torch.allclose(gradient, normal, atol=1e-12)


def test_moves_in_a_triangle_are_those_of_the_polytope():
    """Folding: the specular move in an equilateral triangle, in closed form."""
    simplex = Simplex(3)
    frame = simplex.frame(torch.tensor([1.0, 0, 0], dtype=torch.float64))
    corners = torch.eye(3, dtype=torch.float64) @ frame.T
    region = Region(corners)
    g = torch.Generator().manual_seed(0)
    x = simplex.sample_uniform(2000, generator=g, dtype=torch.float64)
    v = simplex.sample_noise(x, generator=g) * torch.tensor([0.1, 1.0, 5.0, 0.01] * 500).unsqueeze(-1)
    found = region.reflect(x @ frame.T, v @ frame.T)
    assert torch.allclose(found, simplex.reflect(x, v) @ frame.T, atol=1e-9)


def test_moves_in_a_polygon_follow_the_disc():
    disc, region = Ball(2), Region(ngon(1500, 1.0), resolution=10)
    g = torch.Generator().manual_seed(0)
    x = disc.sample_uniform(1000, generator=g, dtype=torch.float64) * 0.999
    v = 0.5 * torch.randn(1000, 2, generator=g, dtype=torch.float64)
    gap = (region.reflect(x, v) - disc.reflect(x, v)).norm(dim=-1)
    assert gap.median() < 2e-3
    assert gap.quantile(0.9) < 2e-2  # grazing moves tell the two apart


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "rings",
    [
        coast(600),
        pytest.param([SQUARE, [[0.1, 0.5], [0.9, 0.499], [0.9, 0.501]]], marks=pytest.mark.slow),  # a hole like a hair
        pytest.param(  # a slit
            [[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.501, 1.0], [0.5, 0.01], [0.499, 1.0], [0.0, 1.0]]],
            marks=pytest.mark.slow,
        ),
        [[[0.0, 0.0], [1.0, 0.0], [0.0, 0.02]]],  # a spike of one degree
    ],
)
def test_nasty_outlines_hold_their_points(rings, dtype):
    region = Region(rings, resolution=20)
    g = torch.Generator().manual_seed(0)
    x = region.sample_uniform(200, generator=g, dtype=dtype)
    x = torch.cat([x, torch.tensor(np.concatenate(rings), dtype=dtype)])
    for size in (1e-6, 0.01, 0.3, 30.0):
        y = region.reflect(x, size * torch.randn(x.shape, generator=g, dtype=dtype))
        assert region.contains(y).all()
        assert y.isfinite().all()
    x, u = region.diffuse(x[-50:], 0.02, generator=g)
    assert region.contains(x).all()
    assert u.isfinite().all()
    triangles = region.mesh.points[region.mesh.triangles]
    assert region_mesh.area(list(triangles)) == pytest.approx(region.area, rel=1e-6)


def test_uniform_points():
    region = Region(coast(300))
    g = torch.Generator().manual_seed(0)
    x = region.sample_uniform((200, 100), generator=g)
    assert x.shape == (200, 100, 2)
    assert x.dtype == torch.float32
    assert region.contains(x).all()
    boxed = uniform_box(60_000, [-1.5, -1.5], [1.5, 1.5])
    boxed = boxed[region.contains(boxed)]
    flat = x.reshape(-1, 2).double()
    for f in (
        lambda p: p[:, 0],
        lambda p: p[:, 0] * p[:, 1],
        lambda p: p.norm(dim=-1),
        lambda p: region.boundary(p)[0],
    ):
        a, b = f(flat), f(boxed)
        assert abs(float(a.mean() - b.mean())) < 4.5 * math.sqrt(float(a.var() / len(a) + b.var() / len(b)))


def test_geodesic_distance():
    region = Region(L_SHAPE, resolution=20)
    x, y = torch.tensor([0.9, 0.4]), torch.tensor([[0.1, 0.1], [0.4, 0.9], [0.9, 0.4]])
    around = math.hypot(0.4, 0.1) + math.hypot(0.1, 0.4)
    assert region.geodesic_distance(x, y).tolist() == pytest.approx([math.hypot(0.8, 0.3), around, 0.0], abs=1e-5)
    ring = Region([ngon(256, 1.0), ngon(256, 0.5)], resolution=30)
    opposite = ring.geodesic_distance(torch.tensor([-0.8, 0.0]), torch.tensor([0.8, 0.0]))
    exact = 2 * math.sqrt(0.64 - 0.25) + 0.5 * (math.pi - 2 * math.acos(0.5 / 0.8))
    assert float(opposite) == pytest.approx(exact, rel=0.01)
    import networkx

    assert networkx.is_connected(region.graph)
    assert "start" not in ring.graph


def test_outline_of_many_corners_is_simplified_for_the_mesh_only():
    rings = coast(5000)
    region = Region(rings, resolution=20)
    assert sum(map(len, region.rings)) == 5030
    assert not region.mesh.exact
    assert len(region.mesh.triangles) < 5000
    areas = np.abs(np.linalg.det(np.diff(region.mesh.points[region.mesh.triangles], axis=1))) / 2
    assert areas.sum() == pytest.approx(region.area, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    "region",
    [
        pytest.param(Region(L_SHAPE), id="L"),
        pytest.param(Region([ngon(64, 1.0), ngon(64, 0.4)], resolution=40), id="annulus"),
    ],
)
def test_check_domain_passes(region):
    report = check_domain(region)
    assert report.passed
    assert len(report.skipped) == 4  # those of an exact kernel
