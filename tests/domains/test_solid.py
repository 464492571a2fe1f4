"""Solid: what it takes and refuses, membership, distances, moves, and the uniform law."""

import json
import math

import networkx
import numpy as np
import pytest
import torch
from scipy.spatial import ConvexHull, Delaunay

from constrained_diffusion import Ball, Domain, DomainError, Hypercube, Region, ShapeError, Solid
from constrained_diffusion.plotting import plot_samples
from constrained_diffusion.testing import check_domain
from tests.domains.test_region import L_SHAPE, ngon

DOUBLE = torch.float64


def hull(points):
    """Vertices and faces of a convex hull, counter-clockwise from outside."""
    points = np.asarray(points, dtype=float)
    faces = ConvexHull(points).simplices.copy()
    corners = points[faces]
    out = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    wrong = (out * (corners[:, 0] - points.mean(0))).sum(1) < 0
    faces[wrong] = faces[wrong][:, ::-1]
    return points, faces


def box(low=0.0, high=1.0):
    return hull(low + (high - low) * np.array(list(np.ndindex(2, 2, 2))))


def sphere(halvings, radius=1.0):
    """The icosahedron, its faces cut in four again and again: 20, 80, 320, 1280, 5120 triangles."""
    g = (1 + math.sqrt(5)) / 2
    points = np.array([[0, s, t * g] for s in (-1, 1) for t in (-1, 1)], dtype=float)
    points = np.concatenate([np.roll(points, shift, 1) for shift in range(3)]) / math.hypot(1, g)
    for _ in range(halvings):
        faces = ConvexHull(points).simplices
        sides = np.unique(np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), 1), axis=0)
        middle = points[sides].mean(1)
        points = np.concatenate([points, middle / np.linalg.norm(middle, axis=1, keepdims=True)])
    vertices, faces = hull(points)
    return radius * vertices, faces


def prism(ring, height=1.0):
    """The solid over a polygon that has no holes."""
    ring = np.array(ring)
    n = len(ring)
    floor = Delaunay(ring).simplices
    middle = torch.from_numpy(ring[floor].mean(1))
    floor = floor[Region(ring).contains(middle).numpy()]
    u, v = ring[floor[:, 1]] - ring[floor[:, 0]], ring[floor[:, 2]] - ring[floor[:, 0]]
    wrong = u[:, 0] * v[:, 1] < u[:, 1] * v[:, 0]
    floor[wrong] = floor[wrong][:, ::-1]
    i, j = np.arange(n), (np.arange(n) + 1) % n
    walls = np.concatenate([np.stack([i, j, j + n], 1), np.stack([i, j + n, i + n], 1)])
    vertices = np.concatenate([np.c_[ring, np.zeros(n)], np.c_[ring, np.full(n, height)]])
    return vertices, np.concatenate([floor[:, ::-1], floor + n, walls])


def together(*parts):
    starts = np.cumsum([0, *(len(v) for v, _ in parts)])
    faces = [f + s for (_, f), s in zip(parts, starts[:-1], strict=True)]
    return np.concatenate([v for v, _ in parts]), np.concatenate(faces)


def shell(halvings=3, radius=0.4):
    return together(sphere(halvings), sphere(halvings, radius))


def hollow_box():
    return together(box(), box(0.3, 0.7))


def star():
    """A ragged solid that is not convex: a sphere whose vertices go in and out."""
    vertices, faces = sphere(3)
    wave = np.cos(7 * vertices[:, 0] + 1) * np.cos(6 * vertices[:, 1]) * np.cos(5 * vertices[:, 2] + 2)
    return vertices * (1 + 0.35 * wave)[:, None], faces


def spike():
    """A thin tetrahedron, beside whose sharp edges the nearest triangle alone does not tell inside from outside."""
    return hull([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0.45, 0.4, 0.05]])


SOLIDS = {
    "spike": spike,
    "cube": box,
    "L": lambda: prism(L_SHAPE),
    "shell": lambda: shell(2),
    "star": star,
    "hollow": hollow_box,
}


@pytest.fixture(scope="module", params=SOLIDS)
def surface(request):
    return SOLIDS[request.param]()


def points_in(low, high, count, seed=0):
    u = torch.rand(count, 3, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    return low + (high - low) * u


def winding_number(vertices, faces, x):
    """Solid angles over 4 pi, of all triangles and each of points ``[n, 3]``."""
    a, b, c = (vertices[faces[:, i]] - x[:, None] for i in range(3))
    u, v, w = (np.linalg.norm(p, axis=-1) for p in (a, b, c))
    below = u * v * w + (a * b).sum(-1) * w + (b * c).sum(-1) * u + (c * a).sum(-1) * v
    return np.arctan2((a * np.cross(b, c)).sum(-1), below).sum(-1) / (2 * np.pi)


def brute_distance(vertices, faces, x):
    """From all triangles: by their planes where the foot is in them, else by their sides."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    n = np.cross(b - a, c - a)
    n /= np.linalg.norm(n, axis=1, keepdims=True)
    best = np.full((len(x), len(faces)), np.inf)
    over = np.ones_like(best, dtype=bool)
    for p, q in ((a, b), (b, c), (c, a)):
        share = (((x[:, None] - p) * (q - p)).sum(-1) / ((q - p) ** 2).sum(-1)).clip(0, 1)
        best = np.minimum(best, np.linalg.norm(x[:, None] - p - share[..., None] * (q - p), axis=-1))
        over &= ((x[:, None] - p) * np.cross(n, q - p)).sum(-1) >= 0
    height = np.abs(((x[:, None] - a) * n).sum(-1))
    return np.where(over, height, best).min(1)


# ---------------------------------------------------------------------- what it takes, and what it refuses


def test_size_of_a_shell():
    solid = Solid(*shell(4))
    assert solid.volume == pytest.approx(4 / 3 * math.pi * (1 - 0.064), rel=3e-3)
    assert solid.log_volume == math.log(solid.volume)
    assert solid.diameter == pytest.approx(2.0, rel=1e-9)
    assert solid.inradius == pytest.approx(0.3, rel=0.01)
    assert solid.bounding_box[0].tolist() == pytest.approx([-1, -1, -1], abs=0.01)
    low, high = solid.wall_curvature
    assert low == pytest.approx(-2.5, rel=0.05)
    assert high == pytest.approx(1.0, rel=0.1)
    assert Solid(*prism(L_SHAPE)).volume == pytest.approx(0.75, rel=1e-12)


def test_faces_of_any_shell_may_be_turned_round():
    """Holes are told by the even-odd rule, and triangles with corners of their own are put together."""
    (a, f), (b, g) = box(), box(0.3, 0.7)
    turned = Solid(*together((a, f[:, ::-1]), (b, g)))
    assert turned == Solid(*together((a, f), (b, g[:, ::-1])))
    assert turned.volume == pytest.approx(1 - 0.064, rel=1e-12)
    soup = a[f].reshape(-1, 3)
    assert Solid(soup, np.arange(len(soup)).reshape(-1, 3)).volume == pytest.approx(1.0, rel=1e-12)


CUBE = box()


@pytest.mark.parametrize(
    ("vertices", "faces", "error", "words"),
    [
        (CUBE[0][:, :2], CUBE[1], ShapeError, r"vertices has shape \[8, 2\]; expected \[n, 3\]"),
        (CUBE[0], CUBE[1][:0], ShapeError, "faces has shape"),
        (CUBE[0], CUBE[1] + 0.5, ShapeError, "whole numbers"),
        (np.where(CUBE[0] == 1, math.nan, CUBE[0]), CUBE[1], DomainError, "vertices must be finite; vertex 1"),
        (CUBE[0], CUBE[1] + 1, DomainError, "numbers of vertices, 0 to 7, not 8"),
        (CUBE[0], np.concatenate([CUBE[1], [[0, 1, 1]]]), DomainError, "face 12 has no area"),
        (CUBE[0], CUBE[1][1:], DomainError, "the surface is open: .* close the hole"),
        (CUBE[0], np.concatenate([CUBE[1][:1, ::-1], CUBE[1][1:]]), DomainError, "same way in two faces"),
        (CUBE[0], np.concatenate([CUBE[1], CUBE[1][:, ::-1]]), DomainError, "more than two faces"),
        (*together(box(), box(2.0, 3.0)), DomainError, r"2 separate pieces.*Solid.components\(vertices, faces\)"),
    ],
)
def test_refusals(vertices, faces, error, words):
    with pytest.raises(error, match=words):
        Solid(vertices, faces)


def test_components():
    parts = together(box(0.0, 4.0), box(1.0, 3.0), box(1.5, 2.5), box(5.0, 6.0))
    found = Solid.components(*parts)
    assert [solid.volume for solid, _ in found] == pytest.approx([56, 1, 1], rel=1e-9)
    assert [share for _, share in found] == pytest.approx([56 / 58, 1 / 58, 1 / 58], rel=1e-9)


def test_mask():
    mask = np.zeros((20, 16, 12), dtype=bool)
    mask[2:18, 3:13, 2:10] = True
    mask[8:12, 6:10, 4:7] = False
    solid = Solid.from_mask(mask)
    assert "cavities=1" in repr(solid)
    assert solid.volume == pytest.approx(16 * 10 * 8 - 4 * 4 * 3, rel=0.01)  # edges are cut off
    x = points_in(torch.zeros(3), torch.tensor([20.0, 16, 12]), 2000)
    rims = (x % 1 - 0.5).abs().amax(-1) > 0.16  # of voxels, beside which the surface may pass
    expected = torch.from_numpy(mask[tuple(x.long().T.numpy())])
    assert torch.equal(solid.contains(x)[~rims], expected[~rims])
    small = Solid.from_mask(torch.from_numpy(mask), low=1.0, high=[3.0, 2.6, 2.2])
    assert small.volume == pytest.approx(solid.volume / 1000, rel=1e-9)
    with pytest.raises(DomainError, match="no voxel"):
        Solid.from_mask(np.zeros((3, 3, 3)))
    mask[0, 0, 0] = True
    with pytest.raises(DomainError, match="2 separate pieces"):
        Solid.from_mask(mask)
    assert len(Solid.components(*Solid.surface_from_mask(mask))) == 2


def test_noise_has_a_closed_surface():
    """Marching tetrahedra close every surface, however ragged; voxels that touch at a corner are joined or parted."""
    mask = np.random.default_rng(0).random((7, 7, 7)) < 0.5
    pieces = Solid.components(*Solid.surface_from_mask(mask))
    assert math.fsum(share for _, share in pieces) == pytest.approx(1.0)


def test_signed_distance():
    def ring(x):
        r = x.norm(dim=-1)
        return torch.minimum(1 - r, r - 0.4)

    solid = Solid.from_signed_distance(ring, -1.2, 1.2)
    assert solid.volume == pytest.approx(4 / 3 * math.pi * (1 - 0.064), rel=0.01)
    x = points_in(-1.0, 1.0, 500)
    assert (solid.boundary(x)[0] - ring(x)).abs().max() < 5e-3
    with pytest.raises(DomainError, match="reaches the edge"):
        Solid.from_signed_distance(ring, -1.0, 1.0)
    with pytest.raises(DomainError, match="positive nowhere"):
        Solid.from_signed_distance(lambda x: -1 - x.norm(dim=-1), -1.0, 1.0)
    with pytest.raises(ShapeError, match="expected a tensor"):
        Solid.from_signed_distance(lambda x: x, -1.0, 1.0)


def test_value():
    solid = Solid(*hollow_box())
    again = Domain.from_config(json.loads(json.dumps(solid.config())))
    assert again == solid
    assert hash(again) == hash(solid)
    assert solid != Solid(solid.vertices, solid.faces, resolution=11)
    assert len(repr(solid)) < 100


# ---------------------------------------------------------------------- membership, distances, moves


def test_grid_and_tree_agree_with_all_triangles(surface):
    solid = Solid(*surface)
    vertices, faces = solid.vertices.numpy(), solid.faces.numpy()
    low, high = solid.bounding_box
    room = 0.3 * (high - low)
    x = torch.cat([points_in(low - room, high + room, 400), points_in(low - 50, high + 50, 20)])
    inside = winding_number(vertices, faces, x.numpy()) > 0.5
    assert np.array_equal(solid.contains(x).numpy(), inside)
    distance, normal = solid.boundary(x)
    expected = brute_distance(vertices, faces, x.numpy())
    assert np.allclose(distance.abs().numpy(), expected, atol=1e-12, rtol=1e-12)
    assert np.array_equal((distance > 0).numpy(), inside)
    assert torch.allclose(normal.norm(dim=-1), torch.ones(len(x), dtype=DOUBLE))
    foot = x - distance.unsqueeze(-1) * normal
    assert brute_distance(vertices, faces, foot.numpy()).max() < 1e-11
    nearest = solid.project(x)
    assert solid.contains(nearest).all()
    assert torch.allclose((nearest - x).norm(dim=-1), distance.clamp(max=0).abs(), atol=1e-11)


def test_points_in_the_planes_of_faces_and_at_vertices():
    """Rays along faces, edges and vertices tell inside from outside."""
    solid = Solid(*prism(L_SHAPE))
    axis = torch.linspace(-0.25, 1.25, 13, dtype=DOUBLE)
    x = torch.cartesian_prod(axis, axis, axis)
    inner = ((x[:, :2] < 1) & (x[:, :2] > 0)).all(-1) & (x[:, :2].amin(-1) < 0.5) & (x[:, 2] > 0) & (x[:, 2] < 1)
    outer = ((x > 1) | (x < 0)).any(-1) | (x[:, :2].amin(-1) > 0.5)
    on_it = ~(inner | outer)
    assert solid.contains(x)[inner | on_it].all()
    assert not solid.contains(x)[outer].any()
    distance, normal = solid.boundary(solid.vertices)
    assert distance.abs().max() < 1e-12
    assert normal.isfinite().all()


def test_distance_has_the_normal_as_gradient():
    solid = Solid(*prism(L_SHAPE))
    x = points_in(-0.2, 1.2, 500).requires_grad_()
    distance, normal = solid.boundary(x)
    (gradient,) = torch.autograd.grad(distance.sum(), x)
    assert torch.allclose(gradient, normal, atol=1e-12)


@pytest.mark.parametrize("scale", [0.01, 0.3, 5.0])
def test_moves_in_a_cube_are_folds(scale):
    cube, solid = Hypercube(3), Solid(*box())
    g = torch.Generator().manual_seed(0)
    x = cube.sample_uniform(1000, generator=g, dtype=DOUBLE)
    v = scale * torch.randn(1000, 3, generator=g, dtype=DOUBLE)
    assert torch.allclose(solid.reflect(x, v), cube.reflect(x, v), atol=1e-10)


def test_moves_over_a_polygon_are_those_of_the_region():
    """A prism's move is one in the plane and one along the height."""
    region, interval, solid = Region(L_SHAPE), Hypercube(1), Solid(*prism(L_SHAPE))
    g = torch.Generator().manual_seed(0)
    x = solid.sample_uniform(1000, generator=g, dtype=DOUBLE)
    v = 0.7 * torch.randn(1000, 3, generator=g, dtype=DOUBLE)
    expected = torch.cat([region.reflect(x[:, :2], v[:, :2]), interval.reflect(x[:, 2:], v[:, 2:])], -1)
    gap = (solid.reflect(x, v) - expected).norm(dim=-1)
    assert gap.quantile(0.99) < 1e-9  # a move that meets the inner edge itself may go either way


def test_moves_in_a_polyhedron_follow_the_ball():
    ball, solid = Ball(3), Solid(*sphere(5))
    g = torch.Generator().manual_seed(0)
    x = ball.sample_uniform(500, generator=g, dtype=DOUBLE) * 0.99
    v = 0.5 * torch.randn(500, 3, generator=g, dtype=DOUBLE)
    gap = (solid.reflect(x, v) - ball.reflect(x, v)).norm(dim=-1)
    assert gap.median() < 2e-3
    assert gap.quantile(0.9) < 6e-2  # grazing moves tell the two apart


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_every_move_ends_inside(surface, dtype):
    solid = Solid(*surface)
    g = torch.Generator().manual_seed(0)
    x = torch.cat([solid.sample_uniform(200, generator=g, dtype=dtype), solid.vertices.to(dtype)[:100]])
    for size in (1e-6, 0.01, 0.3, 10.0):
        for _ in range(3):
            x = solid.reflect(x, size * torch.randn(x.shape, generator=g, dtype=dtype))
            assert solid.contains(x).all()
            assert x.isfinite().all()
    again = [solid.sample_uniform((2, 5), generator=torch.Generator().manual_seed(3), dtype=dtype) for _ in range(2)]
    assert torch.equal(*again)


def test_uniform_points_and_moves_that_keep_their_law():
    solid = Solid(*star())
    g = torch.Generator().manual_seed(0)
    x = solid.sample_uniform((100, 80), generator=g)
    assert x.shape == (100, 80, 3)
    assert x.dtype == torch.float32
    assert solid.contains(x).all()
    low, high = solid.bounding_box
    boxed = points_in(low, high, 40_000)
    boxed = boxed[solid.contains(boxed)]
    assert len(boxed) / 40_000 * float((high - low).prod()) == pytest.approx(solid.volume, rel=0.02)
    flat = x.reshape(-1, 3).double()
    moved = solid.reflect(flat, 0.5 * torch.randn(flat.shape, generator=g, dtype=DOUBLE))
    for f in (lambda p: p[:, 0], lambda p: p[:, 0] * p[:, 1], lambda p: p[:, 2] ** 2, lambda p: p.norm(dim=-1)):
        b = f(boxed)
        for a in (f(flat), f(moved)):
            assert abs(float(a.mean() - b.mean())) < 4.5 * math.sqrt(float(a.var() / len(a) + b.var() / len(b)))


def test_curvature():
    ball = Solid(*sphere(4, 2.0))
    x = ball.sample_uniform(200, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    assert (ball.curvature(x) - 0.5).abs().max() < 0.05
    solid = Solid(*prism(L_SHAPE))
    window = 0.05 * solid.inradius
    x = torch.tensor([[0.5, 0.5, 0.5], [0.2, 0.1, 0.5], [0.01, 0.01, 0.5]], dtype=DOUBLE)
    assert solid.curvature(x).squeeze(-1).tolist() == pytest.approx([-1 / (2 * window), 0.0, 0.0], rel=1e-9)


def test_geodesic_distance():
    solid = Solid(*prism(L_SHAPE), resolution=8)
    x, y = torch.tensor([0.9, 0.4, 0.5]), torch.tensor([[0.1, 0.1, 0.2], [0.4, 0.9, 0.1], [0.9, 0.4, 0.5]])
    around = math.hypot(math.hypot(0.4, 0.1) + math.hypot(0.1, 0.4), 0.4)
    expected = [math.sqrt(0.64 + 0.09 + 0.09), around, 0.0]
    assert solid.geodesic_distance(x, y).tolist() == pytest.approx(expected, rel=3e-3, abs=1e-6)
    assert networkx.is_connected(solid.graph)
    assert "start" not in solid.graph
    ring = Solid(*shell(3), resolution=8)
    opposite = ring.geodesic_distance(torch.tensor([-0.8, 0.0, 0.0]), torch.tensor([0.8, 0.0, 0.0]))
    exact = 2 * math.sqrt(0.64 - 0.16) + 0.4 * (math.pi - 2 * math.acos(0.5))
    assert float(opposite) == pytest.approx(exact, rel=5e-3)


def test_pictures():
    solid = Solid(*box())
    x = solid.sample_uniform(50, generator=torch.Generator().manual_seed(0))
    assert plot_samples(solid, x, x + 0.5) is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    "surface",
    [
        pytest.param(box(), id="cube"),
        pytest.param(prism(L_SHAPE), id="L"),
        pytest.param(prism(ngon(5, 1.0)), id="prism"),
        pytest.param(sphere(4), id="ball"),
        pytest.param(hollow_box(), id="hollow"),
    ],
)
def test_check_domain_passes(surface):
    report = check_domain(Solid(*surface, resolution=10))
    assert report.passed
    assert len(report.skipped) == 4  # those of an exact kernel
