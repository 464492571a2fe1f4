import math

import pytest
import torch
from scipy.special import logsumexp

from constrained_diffusion import (
    Ball,
    DomainError,
    Hypercube,
    ReflectedDiffusion,
    ShapeError,
    Simplex,
)
from constrained_diffusion.posterior import Posterior
from constrained_diffusion.two_sample import c2st

NOISE = 0.3
BOX = Hypercube(2, torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 10.0]))  # sides that differ: the model has own units
WIDTHS = torch.tensor([2.0, 10.0]) / 2
CHEAP = {"rtol": 1e-3, "atol": 1e-3}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def simulate(theta, generator, size=1.0):
    """Parameters seen through noise of 0.3 half sides, in units far from one."""
    return size * (theta / WIDTHS.to(theta) + NOISE * torch.randn(theta.shape, generator=generator).to(theta))


@pytest.fixture(scope="module")
def posterior():
    generator = seeded()
    theta = BOX.sample_uniform(4000, generator=generator)
    x = simulate(theta, generator, 50.0) - 20
    model = ReflectedDiffusion(
        BOX,
        width=32,
        depth=2,
        steps=300,
        batch_size=256,
        learning_rate=1e-2,
        condition_dropout=0.0,
        sigma_min=0.02,
    )
    return Posterior(model.fit(theta, condition=x, progress=False))


def observed(*theta):
    """An observation without noise."""
    return 50 * torch.tensor(theta) / WIDTHS - 20


def quick(domain, theta, x, **more):
    model = ReflectedDiffusion(domain, width=16, depth=1, steps=5, batch_size=32, **more)
    return model.fit(theta, condition=x, progress=False)


def exact(theta, x):
    """Log-density of the truncated normal posterior at a grid ``[n, 2]`` of equal cells of the box."""
    z = (theta / WIDTHS - (x + 20) / 50) / NOISE
    value = -z.square().sum(-1) / 2
    return value - logsumexp(value.numpy()) + math.log(len(theta)) - BOX.log_volume


def grid(cells):
    side = (torch.arange(cells) + 0.5) / cells
    low, high = BOX.bounding_box
    return (low + torch.cartesian_prod(side, side) * (high - low)).float()


# ---------------------------------------------------------------------- samples


def test_samples_of_a_posterior_at_a_corner_stay_inside_and_have_its_law(posterior):
    x = observed(1.1, 0.0)
    samples = posterior.sample((2000,), x, seed=0, steps=100)
    assert samples.shape == (2000, 2)
    assert BOX.contains(samples).all()
    cells = grid(200)
    weight = exact(cells, x).exp()
    for axis in (0, 1):
        mean = (weight * cells[:, axis]).sum() / weight.sum()
        spread = ((weight * (cells[:, axis] - mean) ** 2).sum() / weight.sum()).sqrt()
        assert abs(samples[:, axis].mean() - mean) < 0.35 * spread
        assert samples[:, axis].std() == pytest.approx(float(spread), rel=0.3)


def test_shapes_are_those_of_distributions(posterior):
    x = torch.stack([observed(-0.5, 5.0), observed(0.0, 1.0), observed(0.5, 9.0)])
    fast = {"steps": 10, "seed": 0}
    assert posterior.sample((), x[0], **fast).shape == (2,)
    assert posterior.sample(4, x[0], **fast).shape == (4, 2)
    assert posterior.sample((4, 5), x, **fast).shape == (4, 5, 3, 2)
    many = posterior.sample((300,), x, steps=40, seed=0)
    assert (many[..., 0].mean(0).diff() > 0.2).all()  # each observation has its own samples
    assert posterior.log_prob(many[:2, 0], x[0], **CHEAP).shape == (2,)
    assert posterior.log_prob(many[0, 0], x, **CHEAP).shape == (3,)
    pairs = posterior.log_prob(many[:2], x, **CHEAP)
    assert pairs.shape == (2, 3)
    torch.testing.assert_close(pairs[:, 1], posterior.log_prob(many[:2, 1], x[1], **CHEAP), atol=0.2, rtol=0)
    assert posterior.gradient(many[:2], x).shape == (2, 3, 2)


def test_seeds_repeat(posterior):
    x = observed(0.0, 5.0)
    draw = {"x": x, "steps": 5}
    assert torch.equal(posterior.sample((9,), seed=1, **draw), posterior.sample((9,), seed=1, **draw))
    assert not torch.equal(posterior.sample((9,), seed=1, **draw), posterior.sample((9,), seed=2, **draw))
    assert not torch.equal(posterior.sample((9,), **draw), posterior.sample((9,), **draw))


def test_arrays_and_lists_are_observations_too(posterior):
    x = observed(0.2, 4.0)
    by_default = Posterior(posterior.model, x.numpy()).sample((3,), seed=0, steps=5)
    assert torch.equal(by_default, posterior.sample((3,), x.tolist(), seed=0, steps=5))
    assert posterior.log_prob([0.0, 5.0], x, **CHEAP).shape == ()
    assert "x=[2]" in repr(Posterior(posterior.model, x))


# ---------------------------------------------------------------------- densities


@pytest.mark.parametrize("theta", [(1.1, 0.0), (0.0, 5.0)], ids=["corner", "middle"])
def test_density_is_normalised_in_the_box_and_near_the_truth(posterior, theta):
    cells, x = grid(24), observed(*theta)
    value = posterior.log_prob(cells, x, **CHEAP)
    volume = math.exp(BOX.log_volume)
    assert float(value.exp().mean()) * volume == pytest.approx(1, abs=0.03)
    truth = exact(cells, x)
    divergence = float((truth.exp() * (truth - value)).mean()) * volume
    assert -0.03 < divergence < 0.4


def test_density_on_an_interval_is_normalised():
    generator = seeded()
    line = Hypercube(1, 2.0, 3.0)
    theta = line.sample_uniform(2000, generator=generator)
    x = theta + 0.2 * torch.randn(2000, 1, generator=generator)
    model = ReflectedDiffusion(
        line, width=16, depth=1, steps=150, batch_size=128, sigma_min=0.02, condition_dropout=0.0
    )
    posterior = Posterior(model.fit(theta.numpy(), condition=x[:, 0].numpy(), progress=False), [3.1])
    cells = 2 + (torch.arange(200).double() + 0.5).unsqueeze(1) / 200
    value = posterior.log_prob(cells, **CHEAP)
    assert value.dtype == torch.float64
    assert float(value.exp().mean()) == pytest.approx(1, abs=0.02)
    assert value[-1] > value[0] + 1
    assert posterior.log_prob([1.99], **CHEAP) == -math.inf


def test_density_is_zero_outside_and_only_there(posterior):
    x = observed(0.0, 5.0)
    theta = torch.tensor([[0.0, 5.0], [1.01, 5.0], [0.0, -0.01], [math.inf, 5.0], [1.0, 10.0], [-1.0, 0.0]])
    value = posterior.log_prob(theta, x, **CHEAP)
    assert (value == -math.inf).tolist() == [False, True, True, True, False, False]
    torch.testing.assert_close(value[:1], posterior.log_prob(theta[:1], x, **CHEAP), atol=0.2, rtol=0)
    rounded = theta[4:].double() + 1e-7 * torch.tensor([[1.0], [-1.0]])
    assert posterior.log_prob(rounded, x, **CHEAP).isfinite().all()
    assert posterior.log_prob(theta[1:4], x).tolist() == [-math.inf] * 3


# ---------------------------------------------------------------------- gradients and modes


def test_gradient_is_in_the_units_of_theta(posterior):
    """Against that of the blurred normal law, in the middle; the units of both coordinates differ fivefold."""
    x, blur = observed(0.0, 5.0), 0.08
    theta = torch.tensor([[-0.3, 5.0], [0.3, 5.0], [0.0, 3.5], [0.0, 6.5]])
    found = posterior.gradient(theta, x, sigma=blur)
    expected = ((x + 20) / 50 - theta / WIDTHS) / WIDTHS / (NOISE**2 + (2 * blur) ** 2)
    for axis, rows in ((0, slice(0, 2)), (1, slice(2, 4))):
        ratio = (found[rows, axis] * expected[rows, axis]).sum() / expected[rows, axis].square().sum()
        assert float(ratio) == pytest.approx(1, abs=0.3)
    assert torch.equal(posterior.gradient(theta, x), posterior.gradient(theta, x, sigma=0.04))


def test_mode_in_the_middle_and_at_a_corner(posterior):
    inside = posterior.map(observed(0.0, 5.0), starts=12, steps=60, seed=0)
    assert inside.shape == (2,)
    assert (inside / WIDTHS - torch.tensor([0.0, 1.0])).abs().max() < 0.3
    corner = posterior.map(observed(1.2, 11.0), starts=12, steps=60, seed=0)
    assert BOX.contains(corner)
    assert (corner / WIDTHS - torch.tensor([1.0, 2.0])).abs().max() < 0.15


# ---------------------------------------------------------------------- other domains


@pytest.mark.parametrize("domain", [Simplex(3), Ball(2)], ids=repr)
def test_other_supports(domain):
    theta = domain.sample_uniform(64, generator=seeded())
    posterior = Posterior(quick(domain, theta, theta[:, :2]), theta[0, :2])
    samples = posterior.sample((50,), seed=0, steps=5)
    assert domain.contains(samples).all()
    wide = samples[:4].double()  # exact sums no more
    assert posterior.log_prob(wide, **CHEAP).isfinite().all()
    assert (posterior.log_prob(wide + 3, **CHEAP) == -math.inf).all()
    assert posterior.gradient(samples[:4]).shape == samples[:4].shape
    assert domain.contains(posterior.map(starts=5, steps=5, seed=0))


# ---------------------------------------------------------------------- what is refused


def test_models_that_are_no_posterior_are_refused():
    theta = torch.rand(40, 2, generator=seeded())
    with pytest.raises(TypeError, match="model must be a ReflectedDiffusion, not int"):
        Posterior(3)
    with pytest.raises(RuntimeError, match="not fitted: call fit"):
        Posterior(ReflectedDiffusion(Hypercube(2)))
    with pytest.raises(ValueError, match="knows of no condition: fit it with the observations"):
        Posterior(quick(Hypercube(2), theta, None))


def test_observations_that_do_not_fit_are_refused(posterior):
    with pytest.raises(ShapeError, match=r"x has shape \[3\]; expected \[\*obs, 2\]"):
        posterior.sample((2,), torch.zeros(3))
    with pytest.raises(ShapeError, match=r"x has shape \[5, 1\]"):
        Posterior(posterior.model, torch.zeros(5, 1))
    with pytest.raises(ValueError, match="x must be given"):
        posterior.sample((2,))
    for bad in (math.nan, math.inf):
        with pytest.raises(DomainError, match="x must be finite"):
            posterior.sample((2,), torch.full((2,), bad))
    with pytest.raises(TypeError, match="x must hold real numbers"):
        posterior.sample((2,), torch.zeros(2, dtype=torch.bool))
    with pytest.raises(ShapeError, match="do not broadcast"):
        posterior.log_prob(torch.ones(4, 2), torch.zeros(3, 2))
    with pytest.raises(ShapeError, match=r"theta has shape \[4, 3\]"):
        posterior.log_prob(torch.ones(4, 3), torch.zeros(2))
    with pytest.raises(DomainError, match="theta has NaN"):
        posterior.log_prob(torch.full((2,), math.nan), torch.zeros(2))
    with pytest.raises(DomainError, match="outside the prior's support"):
        posterior.gradient(torch.full((2,), 11.0), torch.zeros(2))
    for sigma in (0.0, 9.0):
        with pytest.raises(ValueError, match="sigma must lie in"):
            posterior.gradient(torch.zeros(2), torch.zeros(2), sigma=sigma)
    with pytest.raises(ValueError, match="starts must be at least 2"):
        posterior.map(torch.zeros(2), starts=1)
    with pytest.raises(ShapeError, match="expected one observation"):
        posterior.map(torch.zeros(3, 2))


def test_flows_have_samples_and_densities_but_no_gradient():
    theta = torch.rand(64, 2, generator=seeded())
    posterior = Posterior(quick(Hypercube(2), theta, theta, process="flow"), theta[0])
    assert posterior.sample((3,), seed=0, steps=4).shape == (3, 2)
    for call in (lambda: posterior.gradient(theta[:3], sigma=0.1), posterior.map):
        with pytest.raises(ValueError, match='fit a model with process="diffusion"'):
            call()


# ---------------------------------------------------------------------- classifier two-sample test


class TestC2ST:
    def test_one_law_is_chance_and_two_laws_are_told_apart(self):
        x, y = torch.randn(2, 200, 1, generator=seeded())
        assert c2st(x, y, max_epochs=50) == pytest.approx(0.5, abs=0.13)  # five standard errors
        apart = c2st(x, y + 8, max_epochs=150)
        assert apart > 0.99
        assert c2st(x.numpy(), y.numpy() + 8, max_epochs=150) == apart

    def test_a_shift_costs_what_the_best_classifier_gives(self):
        """Two unit normals a distance of 2 apart: the best share of right answers is the normal's share below 1."""
        x, y = torch.randn(2, 600, 1, generator=seeded(1))
        best = 0.5 * math.erfc(-1 / math.sqrt(2))
        assert c2st(100 * x, 100 * (y + 2), max_epochs=50) == pytest.approx(best, abs=0.05)

    def test_what_is_refused(self):
        x = torch.randn(10, 2, generator=seeded())
        with pytest.raises(ShapeError, match="equal numbers"):
            c2st(x, x[:8])
        with pytest.raises(ShapeError, match="n at least 5"):
            c2st(x[:3], x[:3])
        with pytest.raises(DomainError, match="y must be finite"):
            c2st(x, x * math.nan)
        with pytest.raises(ValueError, match="folds must be at least 2"):
            c2st(x, x, folds=1)
