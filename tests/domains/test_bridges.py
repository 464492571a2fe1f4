"""Reflected Brownian bridges against quadrature of K_below(z | x0) K_rest(x | z)."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from constrained_diffusion import Ball, DomainError, Euclidean, Hypercube, Polytope, Product, ShapeError, Simplex
from constrained_diffusion.domains import Domain
from tests import references as ref

F64 = torch.float64
N = 20_000


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def line_density(z, x0, sigma):
    """Density of reflected Brownian motion on [0, 1] by images, numpy."""
    reach = math.ceil(9 * sigma / 2) + 1
    images = np.concatenate([[2 * k + x0, 2 * k - x0] for k in range(-reach, reach + 1)])
    return stats.norm.pdf(np.asarray(z)[..., None], images, sigma).sum(-1)


def line_cdf(x0, x, below, sigma):
    """Distribution function of the bridge on [0, 1]."""
    rest = math.sqrt(sigma**2 - below**2)
    width = min(below, rest, 1.0)
    grid = np.unique(
        np.clip(
            np.concatenate([np.linspace(0, 1, 4001), *(c + width * np.linspace(-9, 9, 4001) for c in (x0, x))]), 0, 1
        )
    )
    mass = integrate.cumulative_trapezoid(line_density(grid, x0, below) * line_density(grid, x, rest), grid, initial=0)
    return lambda z: np.interp(z, grid, mass / mass[-1])


def draw(domain, x0, x, below, sigma, n=N, seed=0):
    x0, x = (torch.tensor(p, dtype=F64).expand(n, *domain.event_shape) for p in (x0, x))
    return domain.sample_bridge(x0, x, below, sigma, generator=seeded(seed))


# ---------------------------------------------------------------------- boxes


PAIRS = [
    (0.5, 0.6, 0.05, 0.1),  # no wall in reach
    (0.0, 0.0, 0.1, 0.2),  # both at a wall
    (0.02, 0.05, 0.1, 0.2),
    (0.98, 0.03, 0.3, 0.5),  # from one wall to the other
    (0.0, 1.0, 0.6, 0.8),
    (0.3, 0.9, 0.01, 3.0),  # a small step from x0
    (0.3, 0.9, 2.99, 3.0),  # a small step from x
    (0.7, 0.1, 1.0, 5.0),
    (0.7, 0.1, 0.3, 40.0),
]


@pytest.mark.parametrize(("x0", "x", "below", "sigma"), PAIRS)
def test_interval(x0, x, below, sigma):
    z = draw(Hypercube(1), [x0], [x], below, sigma)[:, 0].numpy()
    assert ((z >= 0) & (z <= 1)).all()
    assert stats.kstest(z, line_cdf(x0, x, below, sigma)).pvalue > ref.ALPHA


def test_box():
    """Coordinates are independent, each in units of its own side; noises may differ from row to row."""
    domain = Hypercube(2, [-3.0, 0.0], [1.0, 8.0])
    x0, x = (torch.tensor(p, dtype=F64).expand(N, 2) for p in ([-2.8, 7.5], [0.9, 6.0]))
    below = torch.where(torch.arange(N) % 2 == 0, 0.6, 2.5).double()
    z = domain.sample_bridge(x0, x, below, 3.0, generator=seeded())
    assert domain.contains(z).all()
    for rows, noise in ((slice(0, None, 2), 0.6), (slice(1, None, 2), 2.5)):
        for axis, low, side in ((0, -3.0, 4.0), (1, 0.0, 8.0)):
            scaled = [float((p[0, axis] - low) / side) for p in (x0, x)]
            cdf = line_cdf(*scaled, noise / side, 3.0 / side)
            assert stats.kstest((z[rows, axis].numpy() - low) / side, cdf).pvalue > ref.ALPHA
    assert abs(stats.spearmanr(z[::2, 0], z[::2, 1]).statistic) < 4.5 / math.sqrt(N / 2)


@pytest.mark.parametrize(("below", "sigma"), [(0.5, 2.0), (1.9, 2.0), (1e-3, 0.1)])
def test_euclidean(below, sigma):
    """Normal, around the point on the line at the share of the Brownian time, with the bridge's variance."""
    x0, x = [1.0, -2.0], [0.5, 4.0]
    z = draw(Euclidean(2), x0, x, below, sigma).numpy()
    share = (below / sigma) ** 2
    for axis in range(2):
        mean = x0[axis] + share * (x[axis] - x0[axis])
        spread = below * math.sqrt(1 - share)
        assert stats.kstest(z[:, axis], stats.norm(mean, spread).cdf).pvalue > ref.ALPHA
    assert abs(np.corrcoef(z.T)[0, 1]) < 4.5 / math.sqrt(N)


# ---------------------------------------------------------------------- by resampling


def quadrature(domain):
    """Evenly spread points of the disc or the triangle, by a sequence of low discrepancy: [8192, ..]."""
    u = stats.qmc.Sobol(2, seed=0).random(1 << 13)
    if isinstance(domain, Ball):
        angle = 2 * math.pi * u[:, 1:]
        return np.sqrt(u[:, :1]) * np.concatenate([np.cos(angle), np.sin(angle)], -1)
    return ref.from_partial_sums(np.sort(u, -1))


def by_quadrature(domain, x0, x, below, sigma):
    """Points, and their weights in the bridge's law by the domain's own kernel."""
    nodes = quadrature(domain)
    rest = math.sqrt(sigma**2 - below**2)
    z = torch.as_tensor(nodes)
    a, b = (torch.tensor(p, dtype=F64).expand_as(z) for p in (x0, x))
    log_p = domain.heat_kernel_log_prob(z, a, below) + domain.heat_kernel_log_prob(b, z, rest)
    mass = (log_p - log_p.max()).exp().numpy()
    return nodes, mass / mass.sum()


def errors(domain, x0, x, below, sigma):
    """Of 3,000 draws: the largest distance of a coordinate's distribution, and of its mean and spread in spreads."""
    nodes, mass = by_quadrature(domain, x0, x, below, sigma)
    z = draw(domain, x0, x, below, sigma, n=3000).numpy()
    assert domain.contains(torch.as_tensor(z)).all()
    apart, shift, stretch = [], [], []
    for axis in range(nodes.shape[1]):
        order = np.argsort(nodes[:, axis])
        cdf = np.cumsum(mass[order]) - mass[order] / 2
        found = stats.kstest(z[:, axis], lambda q, o=order, c=cdf, k=axis: np.interp(q, nodes[o, k], c))
        mean, second = (float(mass @ nodes[:, axis] ** k) for k in (1, 2))
        spread = math.sqrt(second - mean**2)
        apart.append(found.statistic)
        shift.append(abs(z[:, axis].mean() - mean) / spread)
        stretch.append(abs(z[:, axis].std() / spread - 1))
    return max(apart), max(shift), max(stretch)


RESAMPLED = [
    (Ball(2), [0.9, 0.0], [0.6, 0.5], 0.15, 0.5),  # the kernel from x0 is narrower
    (Ball(2), [0.9, 0.0], [0.6, 0.5], 0.48, 0.5),  # that to x is, as in the steps of a sampler
    (Simplex(3), [0.9, 0.05, 0.05], [0.5, 0.1, 0.4], 0.48, 0.5),
    (Simplex(3, "cumulative"), [0.9, 0.05, 0.05], [0.5, 0.1, 0.4], 0.1, 0.4),
]


@pytest.mark.parametrize(("domain", "x0", "x", "below", "sigma"), RESAMPLED, ids=str)
def test_resampling_where_one_kernel_is_narrow(domain, x0, x, below, sigma):
    """Off by what 3,000 draws, 8,192 nodes and 32 proposals leave: 0.03 is the KS distance of chance at 1 %."""
    apart, shift, stretch = errors(domain, x0, x, below, sigma)
    assert apart < 0.04
    assert shift < 0.09
    assert stretch < 0.06


def test_resampling_where_kernels_are_alike():
    """The worst case: off by some per cent of the spread."""
    apart, shift, stretch = errors(Simplex(3), [0.6, 0.3, 0.1], [0.3, 0.3, 0.4], 0.3 / math.sqrt(2), 0.3)
    assert apart < 0.06
    assert shift < 0.15
    assert stretch < 0.1


def test_resampling_agrees_with_the_exact_bridge():
    """Of the square, whose own method is exact."""
    domain, x0, x = Hypercube(2), [0.05, 0.4], [0.3, 0.95]
    a, b = (torch.tensor(p, dtype=F64).expand(4000, 2) for p in (x0, x))
    z = Domain.sample_bridge(domain, a, b, 0.1, 0.5, generator=seeded()).numpy()
    for axis in range(2):
        assert stats.kstest(z[:, axis], line_cdf(x0[axis], x[axis], 0.1, 0.5)).statistic < 0.035


# ---------------------------------------------------------------------- what all promise


ALL = [
    Hypercube((2, 3), -1.0, 2.0),
    Euclidean(2),
    Ball(2),
    Ball(3, 2.0),
    Simplex(2),
    Simplex(3),
    Simplex(4),
    Product(Hypercube(1), Ball(2)),
]
every = pytest.mark.parametrize("domain", ALL, ids=str)


def ends(domain, batch, dtype=F64):
    return (domain.sample_prior(batch, 1.0, generator=seeded(s), dtype=dtype) for s in (1, 2))


@every
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_ends_of_the_bridge(domain, dtype):
    """Just after its beginning it is at x0, just before its end at x."""
    x0, x = ends(domain, (50,), dtype)
    sigma = 0.3 if math.isinf(domain.inradius) else 0.5 * domain.inradius
    tiny = 1e-4 * sigma
    z = domain.sample_bridge(x0, x, tiny, sigma, generator=seeded())
    assert z.dtype == dtype
    assert float((z - x0).abs().max()) < 10 * tiny
    nearly = sigma * (1 - 1e-6) if dtype == F64 else sigma
    z = domain.sample_bridge(x0, x, nearly, sigma, generator=seeded())
    assert float((z - x).abs().max()) < 0.02 * sigma
    z = domain.sample_bridge(x0, x, sigma, sigma, generator=seeded())
    torch.testing.assert_close(z, x, atol=1e-6, rtol=1e-5)
    assert domain.contains(z, atol=1e-6).all()


@every
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("batch", [(), (4,), (2, 3), (0,)], ids=str)
def test_shapes_seeds_and_places(domain, dtype, batch):
    x0, x = ends(domain, batch, dtype)
    before = torch.get_rng_state()
    first, again, other = (domain.sample_bridge(x0, x, 0.1, 0.3, generator=seeded(s)) for s in (0, 0, 1))
    assert first.shape == (*batch, *domain.event_shape)
    assert first.dtype == dtype
    assert domain.contains(first).all()
    assert torch.equal(first, again)
    assert 0 in batch or not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state()), "a generator was given, the global one was used"
    below = torch.full(batch, 0.1, dtype=dtype)
    torch.testing.assert_close(domain.sample_bridge(x0, x, below, 3 * below, generator=seeded()), first)


@every
def test_rows_do_not_mix(domain):
    """Each row has its own ends and noises."""
    n = 400
    a, b = ends(domain, (2,))
    x0, x = (torch.cat([p[:1].expand(n, *domain.event_shape), p[1:].expand(n, *domain.event_shape)]) for p in (a, b))
    small = 0.02 * (1.0 if math.isinf(domain.inradius) else domain.inradius)
    below = torch.cat([torch.full((n,), small), torch.full((n,), 10 * small)]).double()
    sigma = torch.cat([torch.full((n,), 10 * small), torch.full((n,), 10.02 * small)]).double()
    z = domain.sample_bridge(x0, x, below, sigma, generator=seeded())
    assert float((z[:n] - a[0]).abs().max()) < 12 * small  # drawn near x0
    assert float((z[n:] - b[1]).abs().max()) < 12 * small  # drawn near x


def test_what_is_refused():
    for domain in (Hypercube(2), Euclidean(2), Ball(2)):
        x = torch.zeros(3, 2)
        with pytest.raises(DomainError, match="below must not exceed sigma; at row 0 it is 0.5"):
            domain.sample_bridge(x, x, 0.5, 0.3)
        with pytest.raises(DomainError, match="below must not exceed sigma; at row 1 it is 0.5"):
            domain.sample_bridge(x, x, torch.tensor([0.1, 0.5, 0.1]), 0.3)
        for below, sigma in ((0.0, 0.3), (-0.1, 0.3), (math.nan, 0.3), (0.1, math.inf)):
            with pytest.raises(DomainError, match="must be positive and finite"):
                domain.sample_bridge(x, x, below, sigma)
        with pytest.raises(ShapeError, match="x0 has shape"):
            domain.sample_bridge(x[:, :1], x, 0.1, 0.3)
        with pytest.raises(TypeError, match="same dtype"):
            domain.sample_bridge(x.double(), x, 0.1, 0.3)
    for name, pair in (("x0", (torch.full((2,), 3.0), torch.zeros(2))), ("x", (torch.zeros(2), torch.full((2,), 3.0)))):
        with pytest.raises(DomainError, match=f"^{name}: .* lies outside"):
            Hypercube(2).sample_bridge(*pair, 0.1, 0.3)


def test_where_there_is_no_kernel():
    for domain in (Simplex(5, "euclidean"), Polytope.birkhoff(3)):
        x = domain.sample_uniform(3, generator=seeded())
        with pytest.raises(NotImplementedError, match="has no closed heat kernel"):
            domain.sample_bridge(x, x, 0.1, 0.3)
