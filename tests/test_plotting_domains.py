"""Pictures of any domain: their outlines, samples in the picture that suits them, corner plots."""

import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba
from matplotlib.path import Path as Curve

from constrained_diffusion import (
    Ball,
    Domain,
    DomainError,
    Euclidean,
    Hypercube,
    MetropolisDomain,
    Polytope,
    Product,
    ShapeError,
    Simplex,
    plotting,
)
from constrained_diffusion.plotting.outlines import loops_of, outside_loops
from tests.own_domains import OwnAnnulus, OwnProjectedBox, OwnTriangle, in_l_shape


class TwoDiscs(Domain):
    """Radius one around (-2, 0) and (2, 0)."""

    event_shape, dim = torch.Size([2]), 2
    bounding_box = (torch.tensor([-3.0, -1.0]).double(), torch.tensor([3.0, 1.0]).double())

    def boundary(self, x):
        away = x - torch.stack([2 * torch.sign(x[..., 0]), torch.zeros_like(x[..., 0])], -1)
        r = away.norm(dim=-1)
        return 1 - r, -away / r.clamp(min=1e-30).unsqueeze(-1)


class Odd(Ball):
    drawing = "sculpture"


def uniform(domain, n, seed=0):
    return domain.sample_uniform(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dots(panel, colour):
    """Where the dots of one colour are in a panel."""
    found = [c for c in panel.collections if isinstance(c, PathCollection)]
    found = [c for c in found if np.allclose(c.get_facecolor()[:1, :3], to_rgba(colour)[:3])]
    return np.concatenate([np.zeros((0, 2)), *(np.asarray(c.get_offsets()) for c in found)])


def crosses(panel):
    """Where violations beyond the panel are marked."""
    found = [np.stack(line.get_data(), 1) for line in panel.get_lines() if line.get_marker() == "X"]
    return np.concatenate([np.zeros((0, 2)), *found])


def area(loop):
    x, y = loop.T
    return 0.5 * abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1)))


def nearest(points, place):
    return float(np.linalg.norm(points - place, axis=1).min())


@pytest.mark.parametrize(
    ("domain", "drawing"),
    [
        (Hypercube(2), "plane"),
        (Ball(2), "plane"),
        (Euclidean(2), "plane"),
        (OwnAnnulus(), "plane"),
        (Product(Hypercube(1), Hypercube(1)), "plane"),
        (Hypercube((1, 2)), "corner"),
        (Hypercube(3), "corner"),
        (Ball(4), "corner"),
        (Ball(3), "ball"),
        (Simplex(2), "parts"),
        (Simplex(3), "ternary"),
        (Simplex(3, "cumulative"), "ternary"),
        (OwnTriangle(), "ternary"),
        (Simplex(4), "parts"),
    ],
)
def test_domains_say_how_they_are_drawn(domain, drawing):
    assert domain.drawing == drawing


class TestOutlines:
    def test_a_square_has_its_corners(self):
        (loop,) = loops_of(plotting.outline_of(Hypercube(2, -1.0, 3.0)))
        for corner in [(-1, -1), (-1, 3), (3, -1), (3, 3)]:
            assert nearest(loop, corner) < 1e-12
        assert area(loop) == pytest.approx(16, abs=1e-12)

    @pytest.mark.parametrize(
        ("domain", "corners"),
        [
            (Polytope([[2.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], [4.0, 0.0, 0.0]), [(0, 0), (2, 0), (0, 4)]),
            (OwnProjectedBox(), [(0, 0), (2, 0), (2, 1), (0, 1)]),
            (
                MetropolisDomain(2, in_l_shape, -0.1, 1.1),
                [(0, 0), (1, 0), (1, 0.5), (0.5, 0.5), (0.5, 1), (0, 1)],
            ),
        ],
    )
    def test_corners_of_other_domains(self, domain, corners):
        (loop,) = loops_of(plotting.outline_of(domain, resolution=150))
        close = 1e-9 if domain.has_exact_walls else 1e-4
        assert max(nearest(loop, corner) for corner in corners) < close
        x, y = np.array(corners).T
        assert area(loop) == pytest.approx(0.5 * abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)), abs=close)

    def test_every_corner_lies_on_the_wall(self):
        for domain in (Ball(2, 3.0), OwnAnnulus(), TwoDiscs()):
            outline = plotting.outline_of(domain)
            corners = torch.from_numpy(outline[~np.isnan(outline[:, 0])])
            assert float(domain.boundary(corners)[0].abs().max()) < 1e-12

    def test_holes_and_parts(self):
        hole, rim = sorted(loops_of(plotting.outline_of(OwnAnnulus())), key=area)
        assert area(hole) == pytest.approx(np.pi * 0.16, rel=1e-4)
        assert area(rim) == pytest.approx(np.pi, rel=1e-4)
        left, right = sorted(loops_of(plotting.outline_of(TwoDiscs())), key=lambda loop: loop[:, 0].min())
        assert left[:, 0].max() == pytest.approx(-1, abs=1e-3)
        assert right[:, 0].min() == pytest.approx(1, abs=1e-3)

    @pytest.mark.parametrize("domain", [OwnAnnulus(), TwoDiscs(), MetropolisDomain(2, in_l_shape, 0, 1)], ids=repr)
    def test_the_outline_agrees_with_membership(self, domain):
        low, high = (b.double() for b in domain.bounding_box)
        u = torch.rand(4000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        x = low - 0.1 + u * (high - low + 0.2)
        x = x[domain.boundary(x)[0].abs() > 1e-4]  # chords of an arc are inside it
        outside = outside_loops(plotting.outline_of(domain), x.numpy())
        np.testing.assert_array_equal(outside, ~domain.contains(x).numpy())

    def test_points_on_any_wall_are_inside(self):
        outline = plotting.outline_of(OwnAnnulus())
        corners = outline[~np.isnan(outline[:, 0])]
        assert not outside_loops(outline, corners).any()
        assert outside_loops(outline, corners[:1] * 1.001).all() != outside_loops(outline, corners[:1] * 0.999).all()

    def test_film_strips_take_it(self):
        points = np.array([[0.7, 0.0], [0.1, 0.1], [1.1, 0.0]])
        (panel,) = plotting.film_strip([points], outline=plotting.outline_of(OwnAnnulus())).axes
        np.testing.assert_allclose(dots(panel, plotting.OUTSIDE), points[1:])
        np.testing.assert_allclose(dots(panel, plotting.DATA), points[:1])

    def test_errors(self):
        with pytest.raises(ShapeError, match=r"domain must lie in the plane .* shape \[3\] and dimension 2"):
            plotting.outline_of(Simplex(3))
        with pytest.raises(ShapeError, match="domain must lie in the plane"):
            plotting.outline_of(Simplex(2))
        with pytest.raises(DomainError, match="domain must be bounded"):
            plotting.outline_of(Euclidean(2))
        with pytest.raises(ValueError, match="resolution must be at least 2, not 1"):
            plotting.outline_of(Ball(2), 1)
        with pytest.raises(ShapeError, match="outline has 2 corners and no loop"):
            plotting.film_strip([np.zeros((1, 2))], outline=np.eye(2))


class TestPlotSamples:
    def test_plane(self):
        data, samples = uniform(Ball(2), 40), uniform(Ball(2), 30, 1)
        samples[:2] *= 1.2 / samples[:2].norm(dim=1, keepdim=True)
        figure = plotting.plot_samples(Ball(2), data, samples.numpy(), ["east", "north"], title="t")
        left, right = figure.axes
        np.testing.assert_allclose(dots(left, plotting.DATA), data)
        np.testing.assert_allclose(dots(right, plotting.SAMPLES), samples[2:])
        np.testing.assert_allclose(dots(right, plotting.OUTSIDE), samples[:2])
        assert {t.get_text() for t in left.texts} == {"east", "north"}
        assert len(left.patches) == 1
        assert [p.get_title() for p in figure.axes] == ["data", "samples"]

    def test_membership_decides_not_the_outline(self):
        # Between the arc and its chords, and at the corner of a cell, the drawn curve would err.
        around = np.linspace(0, 2 * np.pi, 5000)[:, None]
        wall = np.concatenate([np.cos(around), np.sin(around)], 1)
        (panel,) = plotting.plot_samples(Ball(2), None, torch.tensor(wall, dtype=torch.float32)).axes
        assert len(dots(panel, plotting.OUTSIDE)) == 0
        corners = np.array([[0.0, 0.0], [1.0, 1.0], [1e-9, 1.0]])
        (panel,) = plotting.plot_samples(Hypercube(2), None, corners).axes
        np.testing.assert_allclose(dots(panel, plotting.SAMPLES), corners)

    def test_far_violations_are_marked_on_the_edge(self):
        points = np.array([[0.5, 0.5], [1.1, 0.5], [40.0, 0.25]])
        (panel,) = plotting.plot_samples(Hypercube(2), None, points).axes
        assert len(dots(panel, plotting.OUTSIDE)) == 2
        ((x, y),) = crosses(panel)
        assert (x, y) == (panel.get_xlim()[1], 0.25)
        assert x < 1.5

    def test_unbounded_domains_have_no_outline(self):
        for panel in plotting.plot_samples(Euclidean(2), np.ones((3, 2)), np.ones((3, 2))).axes:
            assert not panel.patches

    def test_ternary(self):
        samples = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0.5], [1.2, -0.1, -0.1]])
        (panel,) = plotting.plot_samples(Simplex(3), None, samples, ["clay", "silt", "sand"]).axes
        triangle = np.array([[0, 0], [1, 0], [0.5, np.sqrt(0.75)]])
        np.testing.assert_allclose(dots(panel, plotting.SAMPLES), triangle, atol=1e-12)
        # What does not sum to one is a violation even though it is drawn inside the triangle.
        np.testing.assert_allclose(dots(panel, plotting.OUTSIDE)[0], triangle.mean(0))
        assert len(dots(panel, plotting.OUTSIDE)) == 2
        assert panel.get_xlim()[0] < dots(panel, plotting.OUTSIDE)[1, 0] < 0
        assert [t.get_text() for t in panel.texts] == ["clay", "silt", "sand"]

    def test_parts(self):
        data = np.random.default_rng(0).dirichlet(np.ones(5), 100)
        bad = np.concatenate([data[:50], [[0.6, 0.6, 0, 0, -0.2]]])
        figure = plotting.plot_samples(Simplex(5), data, bad, list("abcde"))
        assert [p.get_title() for p in figure.axes] == list("abcde")
        for panel, column in zip(figure.axes, bad.T, strict=True):
            np.testing.assert_allclose(dots(panel, plotting.OUTSIDE)[:, 0], column[-1:])
            assert panel.get_xlim()[0] <= column.min()
            assert panel.get_xlim()[1] >= column.max()
            assert panel.patches[1].get_data().values.sum() == pytest.approx(1)

    def test_many_parts(self):
        data = np.random.default_rng(0).dirichlet(np.linspace(3, 0.2, 30), 200)
        figure = plotting.plot_samples(Simplex(30), data, data, title="Soil")
        assert figure.get_suptitle() == "Soil: the 12 of 30 parts that vary most"
        shown = [int(p.get_title().removeprefix("part ")) - 1 for p in figure.axes]
        assert set(shown) == set(np.argsort(data.var(0))[-12:])

    def test_ball(self):
        points = np.array([[0, 0, 1.0], [0, 1.9, 0], [0, 0, -2.2], [50.0, 0, 0]])
        figure = plotting.plot_samples(Ball(3, 2.0), None, points, ["x", "y", "z"])
        ball, profile = figure.axes
        assert len(dots(ball, plotting.OUTSIDE)) == 2
        assert len(crosses(ball)) == 1
        assert [t.get_text() for t in ball.texts] == ["x", "y", "z"]
        np.testing.assert_allclose(profile.get_lines()[1].get_ydata()[[99, 101, 189, 191]], [0, 0.25, 0.25, 0.5])
        data_and_samples = plotting.plot_samples(Ball(3, 2.0), points[:2], points).axes
        assert data_and_samples[0].get_xlim() == data_and_samples[1].get_xlim()

    def test_corner_of_a_shaped_point(self):
        domain = Hypercube((2, 2), low=-1.0, high=2.0)
        data, samples = uniform(domain, 300), uniform(domain, 250, 1)
        samples[0, 1, 1] = 2.5
        figure = plotting.plot_samples(domain, data, samples)
        assert len(figure.axes) == 10
        assert [p.get_xlabel() for p in figure.axes[-4:]] == ["x[0, 0]", "x[0, 1]", "x[1, 0]", "x[1, 1]"]
        flat = samples[0].flatten()
        np.testing.assert_allclose(dots(figure.axes[1], plotting.OUTSIDE), [flat[[0, 1]]])
        np.testing.assert_allclose(dots(figure.axes[6], plotting.OUTSIDE), [flat[[0, 3]]])

    def test_corner_knows_more_walls_than_bounds(self):
        domain = Product(Ball(2), Hypercube(1))
        samples = np.array([[0.9, 0.9, 0.5], [0.1, 0.1, 0.5]])  # in the box around the disc, not in the disc
        panel = plotting.plot_samples(domain, None, samples).axes[1]
        np.testing.assert_allclose(dots(panel, plotting.OUTSIDE), samples[:1, :2])

    def test_corner_of_many_coordinates(self):
        data = uniform(Hypercube(20), 50) ** torch.linspace(1, 9, 20)
        figure = plotting.plot_samples(Hypercube(20), data, data, [f"c{i}" for i in range(20)])
        assert figure.get_suptitle() == "The 8 of 20 coordinates that vary most"
        shown = [p.get_xlabel() for p in figure.axes[-8:]]
        assert shown == [f"c{i}" for i in sorted(np.argsort(-data.var(0).numpy())[:8])]

    def test_every_drawing_takes_samples_alone(self):
        for domain in (Hypercube(2), Ball(3), Simplex(3), Simplex(4), Hypercube(3)):
            alone = plotting.plot_samples(domain, None, uniform(domain, 20))
            both = plotting.plot_samples(domain, uniform(domain, 20), uniform(domain, 20))
            assert len(alone.axes) == {"plane": 1, "ball": 2, "ternary": 1, "parts": 4, "corner": 6}[domain.drawing]
            assert len(both.axes) == {"plane": 2, "ball": 3, "ternary": 2, "parts": 4, "corner": 6}[domain.drawing]

    def test_errors(self):
        good = np.full((3, 2), 0.5)
        with pytest.raises(ShapeError, match=r"samples has shape \[3, 3\]; expected \[n, 2\]"):
            plotting.plot_samples(Hypercube(2), good, np.ones((3, 3)))
        with pytest.raises(ShapeError, match=r"data has shape \[0, 2\]; expected \[n, 2\] with n at least 1"):
            plotting.plot_samples(Hypercube(2), good[:0], good)
        with pytest.raises(DomainError, match="samples must be finite"):
            plotting.plot_samples(Hypercube(2), good, good * np.nan)
        with pytest.raises(ShapeError, match="names has 3 entries; expected 2, one a coordinate"):
            plotting.plot_samples(Hypercube(2), good, good, list("abc"))
        with pytest.raises(ValueError, match=r"domain.drawing must be one of 'plane', .* not 'sculpture'"):
            plotting.plot_samples(Odd(2), good, good)


class TestCorner:
    def test_panels(self):
        data, samples = (np.random.default_rng(seed).random((500, 4)) for seed in (0, 1))
        figure = plotting.corner(data, torch.tensor(samples), list("abcd"), low=0, high=[1, 1, 1, np.inf], title="t")
        assert len(figure.axes) == 10
        assert figure.get_suptitle() == "t"
        assert [t.get_text() for t in figure.legends[0].get_texts()] == ["data", "samples"]
        assert [p.get_xlabel() for p in figure.axes[-4:]] == list("abcd")
        assert [figure.axes[i].get_ylabel() for i in (1, 3, 6)] == list("bcd")
        for i, j in enumerate((0, 2, 5, 9)):
            filled, line = figure.axes[j].patches
            for patch, x in ((filled, data), (line, samples)):
                shares, edges, _ = patch.get_data()
                np.testing.assert_allclose(shares, np.histogram(x[:, i], edges)[0] / 500)
                assert shares.sum() == pytest.approx(1)
            assert filled.get_fill()
            assert not line.get_fill()

    def test_bounds_are_drawn_where_there_are_any(self):
        data = np.random.default_rng(0).random((300, 2))
        panel = plotting.corner(data, data, low=[0, -np.inf], high=1.0).axes[1]
        lines = [np.stack(line.get_data(), 1).tolist() for line in panel.get_lines()]
        assert sorted(lines) == sorted([[[0, 0], [0, 1]], [[1, 0], [1, 1]], [[0, 1], [1, 1]]])
        assert not plotting.corner(data, data).axes[1].get_lines()

    def test_contours_hold_their_share(self):
        samples = np.random.default_rng(0).normal(size=(20_000, 2)) @ [[1.0, 0.6], [0.0, 0.8]]
        panel = plotting.corner(samples, samples).axes[1]
        filled, lines = (c for c in panel.collections if not isinstance(c, PathCollection))
        paths = lines.get_paths()
        shares = [
            np.logical_xor.reduce([Curve(p).contains_points(samples) for p in path.to_polygons()]).mean()
            for path in paths
        ]
        np.testing.assert_allclose(shares, [0.95, 0.8, 0.5, 0.2], atol=0.03)
        np.testing.assert_allclose(filled.levels[:-1], lines.levels)

    def test_densities_reach_the_bounds(self):
        # Smoothing that leaks over a wall would draw an even density as one that falls towards it.
        samples = np.random.default_rng(0).random((20_000, 2))
        panel = plotting.corner(None, samples, low=0, high=1).axes[1]
        (filled,) = (c for c in panel.collections if not isinstance(c, PathCollection))
        outermost = np.concatenate([p.vertices for p in filled.get_paths()])
        np.testing.assert_allclose([outermost.min(0), outermost.max(0)], [[0, 0], [1, 1]], atol=1e-12)

    def test_few_points_are_dots(self):
        data, samples = np.random.default_rng(0).random((2, 50, 2))
        panel = plotting.corner(data, samples).axes[1]
        np.testing.assert_allclose(dots(panel, plotting.DATA), data)
        np.testing.assert_allclose(dots(panel, plotting.SAMPLES), samples)

    def test_violations(self):
        samples = np.random.default_rng(0).random((300, 2))
        samples[:2] = [[1.1, 0.5], [0.3, -7.0]]
        samples[2] = [1 + 1e-9, 0.5]  # a rounding error is none
        first, pair, _ = plotting.corner(None, samples, low=0, high=1).axes
        np.testing.assert_allclose(dots(pair, plotting.OUTSIDE), samples[:2])
        np.testing.assert_allclose(dots(first, plotting.OUTSIDE)[:, 0], samples[:2, 0])
        ((x, y),) = crosses(pair)
        assert (x, y) == (0.3, pair.get_ylim()[0])
        assert pair.get_xlim()[1] > 1.1

    @pytest.mark.parametrize("n", [1, 50, 300])
    def test_atoms_and_constants(self, n, tmp_path):
        atom = np.array([[0.5, 0.0, 1.0]] * n)
        plotting.save_figure(plotting.corner(atom, atom, low=0, high=1), tmp_path / "a.png", dpi=30)
        plotting.save_figure(plotting.corner(None, atom), tmp_path / "a.png", dpi=30)

    def test_one_column(self):
        (panel,) = plotting.corner(np.zeros((4, 1)), np.ones((9, 1)), ["mass"]).axes
        assert panel.get_xlabel() == "mass"
        assert panel.get_legend() is not None

    def test_errors(self):
        good = np.random.default_rng(0).random((5, 2))
        with pytest.raises(ShapeError, match=r"samples has shape \[5, 13\]; .* from 1 to 12: choose columns"):
            plotting.corner(None, np.ones((5, 13)))
        with pytest.raises(ShapeError, match=r"data has shape \[5, 3\]; expected \[n, 2\]"):
            plotting.corner(np.ones((5, 3)), good)
        with pytest.raises(ShapeError, match="names has 1 entries; expected 2, one a column"):
            plotting.corner(good, good, ["a"])
        with pytest.raises(ShapeError, match=r"low has shape \[3\]; expected a number or \[2\]"):
            plotting.corner(good, good, low=[0, 0, 0])
        with pytest.raises(DomainError, match="low must be below high; in column 1 low=1, high=0"):
            plotting.corner(good, good, low=[0, 1], high=[1, 0])
        with pytest.raises(DomainError, match="samples must be finite"):
            plotting.corner(good, np.full((5, 2), np.inf))
