"""Touches of walls by one step: against quadrature, and against bridges and reflected paths simulated by numpy."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from constrained_diffusion import Domain
from constrained_diffusion.domains import touches

ALPHA = 1e-5  # of every Kolmogorov-Smirnov test
Z = 4.5
F32, F64 = torch.float32, torch.float64
EDGES = [(0.3, 0.5, 1.0), (1.2, 0.1, 0.7), (0.1, 1.5, 2.0), (0.4, 0.4, 0.15)]  # alpha, beta, h
edges = pytest.mark.parametrize(("alpha", "beta", "h"), EDGES, ids=str)


class Orthant(Domain):
    """x >= 0 in all but the last coordinate, whose walls are said to be bent by ``bend``."""

    def __init__(self, walls=1, bend=0.0):
        self.m, self.bend = walls, bend
        self.event_shape, self.dim = torch.Size([walls + 1]), walls + 1

    def project(self, x):
        return torch.cat([x[..., :-1].clamp(min=0), x[..., -1:]], -1)

    def walls(self, x):
        normals = torch.eye(self.m + 1, dtype=x.dtype)[:-1]
        return x[..., :-1], normals.expand(*x.shape[:-1], self.m, self.m + 1)

    def curvature(self, x):
        return torch.full_like(x[..., :-1], self.bend)

    @property
    def wall_curvature(self):
        return self.bend, self.bend


class Wedge(Orthant):
    """Two walls that meet at an angle, in the plane; the first is y = 0 and both contain the origin."""

    def __init__(self, angle=math.pi / 3):
        super().__init__(1)
        self.n = torch.tensor([[0.0, 1.0], [math.sin(angle), -math.cos(angle)]], dtype=F64)

    def walls(self, x):
        n = self.n.to(x)
        return x @ n.T, n.expand(*x.shape[:-1], 2, 2)

    def curvature(self, x):
        return torch.zeros_like(x)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def step(domain, a, b, h, total=None, count=None, seed=0, dtype=F64):
    """``backward_step`` from point a to point b, or from rows of them."""
    a, b = (torch.as_tensor(v, dtype=dtype) for v in (a, b))
    if count is not None:
        a, b = a.expand(count, -1), b.expand(count, -1)
    total = torch.zeros_like(a) if total is None else torch.as_tensor(total, dtype=dtype).expand(a.shape)
    (alpha, normals), (beta, _) = domain.walls(a), domain.walls(b)
    variance = torch.as_tensor(h, dtype=dtype).expand(len(a))
    return touches.backward_step(domain, a, b, variance, total, alpha, beta, normals, seeded(seed))


def touch_times(alpha, beta, h, count, seed=0):
    rows = [torch.full((count, 1), v, dtype=F64) for v in (alpha, beta, h)]
    first, last = touches._first_and_last_touch(*rows, seeded(seed))
    return first.flatten().numpy(), last.flatten().numpy()


def same_law(x, y):
    assert stats.ks_2samp(x, y).pvalue > ALPHA


def mean_is(values, true):
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean()) - true) < Z * error, (float(values.mean()), true, error)


# ---- oracles
def reflected_bridges(alpha, beta, h, rng, rows, pieces):
    """|W| [rows, pieces + 1] from alpha to beta, and which rows of W met zero, by pieces of W with exact crossings.

    W is a bridge to beta or to -beta, as likely as the free motion ends there. Between two grid points on the
    same side it meets zero with probability exp(-2 a b / dt).
    """
    t = np.linspace(0, h, pieces + 1)
    w = np.concatenate([np.zeros((rows, 1)), rng.standard_normal((rows, pieces)).cumsum(1) * math.sqrt(h / pieces)], 1)
    other = rng.random(rows) < special.expit(-2 * alpha * beta / h)
    end = np.where(other, -beta, beta)[:, None]
    w = alpha + w + (end - alpha - w[:, -1:]) * t / h
    a, b = w[:, :-1], w[:, 1:]
    crossed = (a * b <= 0) | (rng.random(a.shape) < np.exp(-2 * np.maximum(a * b, 0) * pieces / h))
    return np.abs(w), crossed


def reflected_ends(alpha, beta, h, rng, draws, width, mu=0.0):
    """Local times of reflected motion from alpha that ended within ``width`` of beta, zeros included.

    By Skorokhod's map X = alpha + B + L, L = max(0, -alpha - min B); the joint law of B and its minimum is exact.
    """
    end = math.sqrt(h) * rng.standard_normal(draws) - mu * h
    lowest = (end - np.sqrt(end**2 - 2 * h * np.log(rng.random(draws)))) / 2
    local = np.maximum(0, -alpha - lowest)
    return local[np.abs(alpha + end + local - beta) < width]


def first_touch_cdf(alpha, beta, h):
    """Of the first touch of a touching bridge, in shares of the step: density of hitting times that of the rest."""

    def density(logit):  # of s = expit(logit), in which both ends are smooth
        s, rest = special.expit(logit), special.expit(-logit)
        return s**-0.5 * rest**0.5 * math.exp(-(alpha**2) / (2 * h * s) - beta**2 / (2 * h * rest))

    grid = np.linspace(-14, 14, 1000)
    parts = [integrate.quad(density, p, q)[0] for p, q in itertools.pairwise(grid)]
    total = np.concatenate([[0], np.cumsum(parts)])
    return lambda s: np.interp(special.logit(s), grid, total / total[-1])


def last_touch_ranks(beta, h, first, last):
    """Of the last touch given the first, in its law: Levy's hitting law from the end, times the way back to the wall.

    With r the rest after the last touch as a share q of the time after the first, q = 1 - w^2 removes the singular
    end from the density (1 - q)^{-1/2} q^{-3/2} exp(-beta^2 / 2 T q).
    """
    T = h * (1 - first)
    w = np.sqrt((last - first) / (1 - first))
    nodes, weights = np.polynomial.legendre.leggauss(200)

    def mass(upper):
        x = upper[:, None] * (nodes + 1) / 2
        q = 1 - x**2
        return (weights * q**-1.5 * np.exp(-(beta**2) / (2 * T[:, None] * q))).sum(1) * upper / 2

    return mass(w) / mass(np.ones_like(w))


def half_line_score(x, x0, variance):
    """d/dx log of the kernel exp(-(x - x0)^2 / 2v) + exp(-(x + x0)^2 / 2v)."""
    return (x0 * np.tanh(x * x0 / variance) - x) / variance


# ---- whether, when, and for how long
@edges
def test_probability_of_a_touch(alpha, beta, h):
    n = 100_000
    out = step(Orthant(), [alpha, 0.0], [beta, 0.0], h, count=n)[:, 0]
    hit = (out + alpha).abs() < 1e-12
    assert (hit | ((out - beta + alpha).abs() < 1e-12)).all()
    free = stats.norm(scale=math.sqrt(h)).pdf
    true = 2 * free(alpha + beta) / (free(alpha - beta) + free(alpha + beta))
    assert abs(float(hit.double().mean()) - true) < Z * math.sqrt(true * (1 - true) / n)
    _, crossed = reflected_bridges(alpha, beta, h, np.random.default_rng(0), 5000, 64)
    share = crossed.any(1).mean()
    assert abs(share - true) < Z * math.sqrt(true * (1 - true) / 5000)


@pytest.mark.parametrize("bend", [-1.0, 1.0])
@edges
def test_probability_of_a_touch_of_a_curved_wall(alpha, beta, h, bend):
    """The drift to the wall, mu = bend / 2 in the plane, weighs touches by E exp(mu L): L + c has Rayleigh's law."""
    n, c, free = 100_000, alpha + beta, math.tanh(alpha * beta / h)
    out = step(Orthant(1, bend), [alpha, 0.0], [beta, 0.0], h, count=n)[:, 0]
    hit = ((out + alpha).abs() < 1e-12).double()
    weight = integrate.quad(lambda r: r / h * math.exp((c**2 - r**2) / (2 * h) + bend / 2 * (r - c)), c, c + 40)[0]
    assert abs(weight - 1) > 0.05
    true = (1 - free) * weight / (free + (1 - free) * weight)
    assert abs(float(hit.mean()) - true) < 5 * math.sqrt(true * (1 - true) / n)


@edges
def test_first_touch_by_quadrature(alpha, beta, h):
    first, last = touch_times(alpha, beta, h, 20_000)
    assert stats.kstest(first, first_touch_cdf(alpha, beta, h)).pvalue > ALPHA
    # the time reversed, a last touch is a first one
    assert stats.kstest(1 - last, first_touch_cdf(beta, alpha, h)).pvalue > ALPHA


@edges
def test_last_touch_given_the_first_by_quadrature(alpha, beta, h):
    first, last = touch_times(alpha, beta, h, 20_000, seed=1)
    assert (first > 0).all()
    assert (first <= last).all()
    assert (last < 1).all()
    ranks = last_touch_ranks(beta, h, first, last)
    assert stats.kstest(ranks, "uniform").pvalue > ALPHA
    early = first < np.median(first)
    for some in (early, ~early):
        assert stats.kstest(ranks[some], "uniform").pvalue > ALPHA


@edges
def test_touch_times_of_simulated_bridges(alpha, beta, h):
    pieces = 400
    found = [np.empty((0, 2))]
    rng = np.random.default_rng(1)
    while sum(map(len, found)) < 2000:
        _, crossed = reflected_bridges(alpha, beta, h, rng, 2000, pieces)
        crossed = crossed[crossed.any(1)]
        ends = np.stack([crossed.argmax(1), pieces - 1 - crossed[:, ::-1].argmax(1)], 1)
        found.append((ends + rng.random(ends.shape)) / pieces)
    first, last = np.concatenate(found).T
    drawn = touch_times(alpha, beta, h, 20_000, seed=2)
    few = 8 / pieces  # where the grid is too coarse
    for view in (
        lambda f, g: np.maximum(f, few),
        lambda f, g: np.minimum(g, 1 - few),
        lambda f, g: np.maximum(g - f, few),
    ):
        same_law(view(first, last), view(*drawn))


def local_times(alpha, beta, h, mu=0.0, count=20_000, dtype=F64):
    """Given a touch."""
    c, drift, h = (torch.full((count, 1), v, dtype=dtype) for v in (alpha + beta, mu * h, h))
    return touches._local_time(c, drift, h, seeded()).flatten().numpy()


@pytest.mark.parametrize("mu", [0.0, 0.2, 0.4])  # times the root of h: steps are short against 1 / mu
@pytest.mark.parametrize(("alpha", "beta", "h"), [(0.3, 0.5, 1.0), (1.2, 0.1, 0.7), (0.1, 1.0, 2.0)])
def test_local_time_of_reflected_motion(alpha, beta, h, mu):
    """Also of motion that drifts to the wall, as the distance from a curved one does."""
    mu = mu / math.sqrt(h)
    true = reflected_ends(alpha, beta, h, np.random.default_rng(0), 2_000_000, 0.01, mu)
    assert len(true) > 2000
    same_law(local_times(alpha, beta, h, mu), true[true > 0])
    c, drift, one = (torch.full((1, 1), v, dtype=F64) for v in (alpha + beta, mu * h, h))
    apart = math.tanh(alpha * beta / h)
    apart = apart / (apart + (1 - apart) * (1 + float(touches._tilt(c, drift, one))))
    mean_is(torch.from_numpy(true == 0).double(), apart)


def test_local_time_beside_a_wall_that_bends_outwards_is_shorter():
    flat, bent = (local_times(0.3, 0.5, 1.0, mu).mean() for mu in (0.0, -0.5))
    true = reflected_ends(0.3, 0.5, 1.0, np.random.default_rng(0), 2_000_000, 0.01, -0.5)
    assert bent < flat
    assert bent == pytest.approx(true[true > 0].mean(), rel=0.1)  # a mixture with a negative part is cut


def test_local_time_by_occupation():
    """The same, from the time that bridges spend close to the wall."""
    alpha, beta, h, pieces, near = 0.3, 0.5, 1.0, 4000, 0.05
    path, crossed = reflected_bridges(alpha, beta, h, np.random.default_rng(3), 3000, pieces)
    spent = (path < near).mean(1) * h / (2 * near)
    assert local_times(alpha, beta, h).mean() == pytest.approx(spent[crossed.any(1)].mean(), rel=0.06)


def test_what_runs_along_a_curved_wall_is_damped_by_the_local_time():
    kappa, along, alpha, beta, h = 0.7, 2.0, 0.3, 0.5, 1.0
    out = step(Orthant(1, kappa), [alpha, 0.0], [beta, 0.0], h, [0.0, along], 20_000)
    local = (-torch.log(out[:, 1] / along) / kappa).numpy()
    hit = ((out[:, 0] + alpha).abs() < 1e-12).numpy()
    assert (local[~hit] == 0).all()
    same_law(local[hit], local_times(alpha, beta, h, kappa / 2))  # one principal curvature in the plane


# ---- steps
@pytest.mark.parametrize("h", [0.05, 1.0, 20.0])
def test_one_step_on_the_half_line_is_the_score(h):
    n = 40_000
    for a, b in np.array([(0.3, 0.5), (0.1, 0.8), (1.5, 0.2), (0.2, 0.2)]) * math.sqrt(h):
        out = step(Orthant(), [a, 0.4], [b, 0.1], h, count=n)
        mean_is(out[:, 0] / h, half_line_score(a, b, h))
        torch.testing.assert_close(out[:, 1], torch.full((n,), -0.3, dtype=F64))


@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_many_steps_on_the_half_line_are_the_score(pieces):
    """E[(u - s) phi] = 0 for functions phi of the end point, whatever the steps."""
    n, x0 = 100_000, 0.3
    h = torch.linspace(0.5, 2.0, pieces, dtype=F64)
    h = h / h.sum() * 0.25
    generator = seeded(4)
    x = torch.tensor([x0, 0.0], dtype=F64).expand(n, 2)
    total = torch.zeros_like(x)
    for k in range(pieces):
        y = x + h[k].sqrt() * torch.randn(n, 2, generator=generator, dtype=F64)
        y[:, 0] = y[:, 0].abs()
        total = step(Orthant(), y, x, float(h[k]), total, seed=10 + k)
        x = y
    u = (total / 0.25).numpy()
    end = x[:, 0].numpy()
    gap = u[:, 0] - half_line_score(end, x0, 0.25)
    for phi in (np.ones(n), end, np.cos(5 * end), end < 0.1, half_line_score(end, x0, 0.25)):
        mean_is(gap * phi, 0.0)
    np.testing.assert_allclose(u[:, 1], -x[:, 1].numpy() / 0.25, atol=1e-12)


@pytest.mark.parametrize("h", [0.05, 0.3, 1.0])
def test_right_angles_are_exact(h):
    """Each coordinate of a corner is a half line of its own, whatever the others did."""
    n, a, b, total = 40_000, [0.3, 0.1, 0.2, 0.4], [0.2, 0.5, 0.1, -1.0], [0.7, -0.4, 0.9, 2.0]
    out = step(Orthant(3), a, b, h, total, n)
    hits = []
    for k in range(3):
        lost, kept = -a[k], b[k] - a[k] + total[k]
        hit = (out[:, k] - lost).abs() < 1e-12
        assert (hit | ((out[:, k] - kept).abs() < 1e-12)).all()
        true = 1 - math.tanh(a[k] * b[k] / h)
        mean_is(hit.double(), true)
        hits.append(hit.double() - true)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        mean_is(hits[i] * hits[j], 0.0)
    torch.testing.assert_close(out[:, 3], torch.full((n,), -1.4 + 2.0, dtype=F64))


def test_two_walls_at_right_angles_turned():
    domain = Wedge(math.pi / 2)
    a, b, total = torch.tensor([[0.3, 0.1], [0.2, 0.5], [0.7, -0.4]], dtype=F64)
    out = step(domain, a, b, 1.0, total, 5000)
    straight = out @ domain.n.T
    for k in range(2):
        lost, kept = -float(a @ domain.n[k]), float((b - a + total) @ domain.n[k])
        assert (((straight[:, k] - lost).abs() < 1e-12) | ((straight[:, k] - kept).abs() < 1e-12)).all()


def test_walls_that_were_not_touched_leave_the_sum_alone():
    generator = seeded(1)
    a, b, total = torch.rand(3, 2000, 4, generator=generator, dtype=F64)
    out = step(Orthant(3, 5.0), a + 50, b + 50, 0.5, total)
    assert torch.equal(out, (b + 50) - (a + 50) + total)
    # in one batch with rows that were
    mixed = torch.where(torch.arange(2000).unsqueeze(-1) % 2 == 0, a + 50, 1e-3 * a)
    other = torch.where(torch.arange(2000).unsqueeze(-1) % 2 == 0, b + 50, 1e-3 * b)
    out = step(Orthant(3), mixed, other, 0.5, total)
    assert torch.equal(out[::2], (other - mixed + total)[::2])
    torch.testing.assert_close(out[1::2, :3], -mixed[1::2, :3])


def test_rows_are_independent_of_their_neighbours():
    """Rows that touched one, two and three walls are found in their own laws, mixed or not."""
    n, a, b = 20_000, [0.3, 0.1, 0.2, 0.4], [0.2, 0.5, 0.1, -1.0]
    alone = step(Orthant(3, 0.3), a, b, 0.2, [0.0, 0.0, 0.0, 1.0], n, seed=1)
    far = torch.tensor([9.0, 9.0, 9.0, 0.0], dtype=F64).expand(n, 4)
    both = [torch.stack([far, torch.tensor(v, dtype=F64).expand(n, 4)], 1).reshape(-1, 4) for v in (a, b)]
    mixed = step(Orthant(3, 0.3), *both, 0.2, [0.0, 0.0, 0.0, 1.0], seed=2)[1::2]
    for k in range(4):
        same_law(alone[:, k].numpy(), mixed[:, k].numpy())


def test_the_order_of_walls_does_not_matter():
    class Swapped(Wedge):
        def walls(self, x):
            distances, normals = super().walls(x)
            return distances.flip(-1), normals.flip(-2)

    a, b = [0.5, 0.2], [0.3, 0.25]
    total = [0.4, 0.9]
    one, two = (step(kind(), a, b, 0.1, total, 20_000, seed=k) for k, kind in enumerate((Wedge, Swapped)))
    for v in torch.eye(2, dtype=F64):
        same_law((one @ v).numpy(), (two @ v).numpy())
    Domain._registry.pop("Swapped")


def test_after_both_walls_what_came_before_is_gone_across_the_last_of_them():
    """In a wedge, the image of ``total`` has rank one or zero once both walls were touched."""
    domain, n = Wedge(), 4000
    a, b = [0.5, 0.2], [0.3, 0.25]
    outs = [step(domain, a, b, 5.0, total, n, seed=3) for total in ([0.0, 0.0], [1.0, 0.0], [0.0, 1.0])]
    maps = torch.stack([outs[1] - outs[0], outs[2] - outs[0]], -1)  # P, since the draws are the same
    determinant = torch.linalg.det(maps)
    share = torch.linalg.matrix_norm(maps, 2)
    assert (share <= 1 + 1e-12).all()
    touched = share < 1 - 1e-9
    one = (determinant.abs() < 1e-12) & ~touched
    assert int(one.sum()) > 0
    assert int(touched.sum()) > n / 2
    # alternating projections on lines 60 degrees apart: norms are powers of a half, the last factor a projection
    powers = torch.log2(share[touched])
    torch.testing.assert_close(powers, powers.round(), atol=1e-9, rtol=0)
    assert (powers >= -3 - 1e-9).all()


# ---- extremes
@pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
@pytest.mark.parametrize("walls", [1, 2, 3])
def test_extreme_steps_are_finite(walls, dtype):
    tiny, most = torch.finfo(dtype).tiny, 1e6
    values = [0.0, tiny, 1e-12, 1e-6, 1e-3, 1.0, 1e3, most]
    a, b, h = torch.meshgrid(*[torch.tensor(values, dtype=dtype)] * 3, indexing="ij")
    kept = h.flatten() > 0
    a, b, h = (v.flatten()[kept].repeat(50) for v in (a, b, h))
    ones = torch.ones(len(a), walls + 1, dtype=dtype)
    start, end = a.unsqueeze(-1) * ones, b.unsqueeze(-1) * ones
    for bend in (0.0, 1.0, -1e-4):
        out = step(Orthant(walls, bend), start, end, h, ones, dtype=dtype)
        assert out.dtype == dtype
        assert out.isfinite().all()


@pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
def test_extreme_times_are_shares_in_order(dtype):
    values = [1e-9, 1e-6, 1e-3, 1.0, 1e3, 1e6]
    alpha, beta, h = (
        v.flatten().repeat(50).unsqueeze(-1)
        for v in torch.meshgrid(*[torch.tensor(values, dtype=dtype)] * 3, indexing="ij")
    )
    first, last = touches._first_and_last_touch(alpha, beta, h, seeded())
    for times in (first, last):
        assert times.isfinite().all()
        assert (times >= 0).all()
        assert (times <= 1).all()
    assert (first <= last + 4 * torch.finfo(dtype).eps).all()


def test_points_on_the_wall():
    n = 2000
    on = step(Orthant(), [0.0, 0.0], [0.7, 0.0], 0.3, [5.0, 1.0], n)
    torch.testing.assert_close(on, torch.tensor([0.0, 1.0], dtype=F64).expand(n, 2))
    onto = step(Orthant(), [0.7, 0.0], [0.0, 0.0], 0.3, [5.0, 1.0], n)
    torch.testing.assert_close(onto, torch.tensor([-0.7, 1.0], dtype=F64).expand(n, 2))
    corner = step(Orthant(2), [0.0, 0.0, 0.0], [0.0, 0.0, 1.0], 0.3, [5.0, 5.0, 1.0], n)
    torch.testing.assert_close(corner, torch.tensor([0.0, 0.0, 2.0], dtype=F64).expand(n, 3))


def test_seeds_repeat_and_the_global_state_is_left_alone():
    before = torch.get_rng_state()
    first, again, other = (step(Wedge(), [0.5, 0.2], [0.3, 0.25], 0.1, count=500, seed=s) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_no_rows():
    assert step(Orthant(), torch.zeros(0, 2), torch.zeros(0, 2), 0.1).shape == (0, 2)


def test_walls_that_fill_up_a_row_of_touches_do_nothing(monkeypatch):
    """Three touches that are laid in a row for four: as in a row for three, though the walls are not orthogonal."""
    n, d = 50, 3
    generator = seeded(3)
    directions = torch.nn.functional.normalize(torch.randn(4, d, generator=generator, dtype=F64), dim=-1)
    step, carried = torch.randn(2, n, d, generator=generator, dtype=F64)
    alpha, beta = torch.rand(2, n, 4, generator=generator, dtype=F64)
    times = torch.rand(2, n, 4, generator=generator, dtype=F64).sort(0).values
    monkeypatch.setattr(touches, "_first_and_last_touch", lambda a, *_: tuple(times[..., : a.shape[-1]]))
    wall = torch.tensor([0, 1, 2, 2]).expand(n, 4)
    lose = touches._Losses(Orthant(2), torch.zeros(n, d, dtype=F64), directions)
    number, one = torch.full((n, 1), 3), torch.ones(n, 1, dtype=F64)

    def found(k):
        rows = (v[:, :k] for v in (alpha, beta))
        return touches._after_events(lose, wall[:, :k], number, *rows, one, step, carried, None)

    torch.testing.assert_close(found(4), found(3))


def test_each_touched_wall_damps_once(monkeypatch):
    """Three of five curved walls are touched: what runs along them all is damped by three local times, not four."""
    monkeypatch.setattr(touches, "_local_time", lambda c, *_: torch.full_like(c, 0.25))
    point = [1e-9, 1e-9, 1e-9, 50.0, 50.0, 0.0]
    out = step(Orthant(5, bend=0.4), point, point, 0.3, [0.0, 0.0, 0.0, 0.0, 0.0, 2.0], 100)
    torch.testing.assert_close(out[:, -1], torch.full((100,), 2 * math.exp(-3 * 0.4 * 0.25), dtype=F64))
