"""Our posteriors in the hands of the package sbi. Without it these tests are skipped."""

import math
import pickle

import pytest
import torch
from scipy.stats import kstest

from constrained_diffusion import Ball, Euclidean, Hypercube, ReflectedDiffusion, ShapeError, Simplex
from constrained_diffusion.posterior import Posterior

sbi = pytest.importorskip("sbi", reason='needs sbi: python -m pip install "reflected-diffusion[sbi]"')
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the packages that sbi imports
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # sbi asks for more samples than a test can afford
]

BOX = Hypercube(2, -1.0, 1.0)
FAST = {"steps": 20}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def simulate(theta, generator):
    return theta + 0.3 * torch.randn(theta.shape, generator=generator)


@pytest.fixture(scope="module")
def model():
    generator = seeded()
    theta = BOX.sample_uniform(4000, generator=generator)
    x = simulate(theta, generator)
    made = ReflectedDiffusion(
        BOX,
        width=32,
        depth=2,
        steps=300,
        batch_size=256,
        learning_rate=1e-2,
        condition_dropout=0.0,
        sigma_min=0.04,
    )
    return made.fit(theta, condition=x, progress=False)


@pytest.fixture
def posterior(model):
    from constrained_diffusion.sbi_posterior import SbiPosterior

    return SbiPosterior(model)


@pytest.fixture(scope="module")
def pairs():
    generator = seeded(5)
    theta = BOX.sample_uniform(100, generator=generator)
    return theta, simulate(theta, generator)


def test_it_is_a_neural_posterior(posterior, model):
    from sbi.inference.posteriors.base_posterior import NeuralPosterior

    from constrained_diffusion.sbi_posterior import SbiPosterior

    assert isinstance(posterior, NeuralPosterior)
    assert "reflected diffusion" in str(posterior)
    assert SbiPosterior(Posterior(model, [0.1, 0.2])).default_x.tolist() == [[pytest.approx(0.1), pytest.approx(0.2)]]


def test_shapes_are_those_of_sbis_own(posterior, pairs):
    theta, x = pairs
    assert posterior.sample((7,), x=x[:1], **FAST).shape == (7, 2)
    assert posterior.sample((7,), x=x[0], show_progress_bars=False, **FAST).shape == (7, 2)
    assert posterior.set_default_x(x[:1]) is posterior
    samples = posterior.sample((7,), **FAST)
    assert BOX.contains(samples).all()
    assert posterior.sample(torch.Size([2, 3]), **FAST).shape == (2, 3, 2)
    assert posterior.sample_batched((7,), x=x[:5], **FAST).shape == (7, 5, 2)
    assert posterior.log_prob(theta[:4]).shape == (4,)
    assert posterior.log_prob(theta[0]).shape == (1,)
    assert posterior.log_prob(torch.tensor([[1.2, 0.0]])).tolist() == [-math.inf]
    assert posterior.log_prob_batched(theta[:5], x=x[:5]).shape == (1, 5)
    grid = posterior.log_prob_batched(theta[:20].reshape(4, 5, 2), x=x[:5])
    assert grid.shape == (4, 5)
    torch.testing.assert_close(grid[2, 3], posterior.log_prob(theta[13], x=x[3:4])[0], atol=1e-2, rtol=0)
    assert torch.equal(posterior.potential(theta[:3], x=x[:1]), posterior.log_prob(theta[:3], x=x[:1]))


def test_randomness_is_torchs_own(posterior, pairs):
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(posterior.sample((5,), x=pairs[1][0], **FAST))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_several_observations_where_one_is_meant_are_refused(posterior, pairs):
    theta, x = pairs
    with pytest.raises(ShapeError, match="2 observations where one is meant: use sample_batched"):
        posterior.sample((3,), x=x[:2])
    with pytest.raises(ShapeError, match="use log_prob_batched"):
        posterior.log_prob(theta[:3], x=x[:2])
    with pytest.raises(ShapeError, match="expected"):
        posterior.sample((3,), x=torch.zeros(1, 5))
    with pytest.raises(ValueError, match="default"):
        posterior.sample((3,))


def test_calibration_by_sbi(posterior, pairs):
    from sbi.diagnostics import check_sbc, check_tarp, run_sbc, run_tarp

    theta, x = pairs
    torch.manual_seed(0)
    ranks, averaged = run_sbc(theta, x, posterior, num_posterior_samples=50, show_progress_bar=False)
    assert ranks.shape == (100, 2)
    assert BOX.contains(averaged).all()
    for column in ranks.T:
        assert kstest((column + 0.5) / 51, "uniform").pvalue > 1e-5
    found = check_sbc(ranks, theta, averaged, num_posterior_samples=50)
    assert (found["c2st_dap"] < 0.75).all()
    coverage, level = run_tarp(theta, x, posterior, num_posterior_samples=50, show_progress_bar=False)
    assert (coverage - level).abs().max() < 0.35
    assert math.isfinite(check_tarp(coverage, level)[0])


def test_calibration_without_batches(posterior, pairs):
    from sbi.diagnostics import run_sbc

    theta, x = (part[:3] for part in pairs)
    ranks, _ = run_sbc(
        theta,
        x,
        posterior,
        reduce_fns=posterior.log_prob,
        num_posterior_samples=4,
        use_batched_sampling=False,
        show_progress_bar=False,
    )
    assert ranks.shape == (3, 1)


def test_mode(posterior):
    with pytest.raises(ValueError, match="default"):
        posterior.map()
    posterior.set_default_x(torch.tensor([1.3, 0.0]))
    torch.manual_seed(0)
    found = posterior.map(num_iter=60, num_to_optimize=30)
    assert found.shape == (1, 2)
    assert (found - torch.tensor([[1.0, 0.0]])).abs().max() < 0.3
    assert posterior.map() is found
    posterior.set_default_x(torch.tensor([-1.3, 0.0]))
    assert posterior.map(num_iter=60, num_to_optimize=30)[0, 0] < -0.7
    with pytest.raises(ValueError, match="set_default_x"):
        posterior.map(x=torch.zeros(1, 2))


def test_gradients_and_sensitivity(posterior):
    pytest.importorskip("six", reason="sbi 0.27 imports six in its analyses and does not ask for it")
    from sbi.analysis import ActiveSubspace, conditional_corrcoeff

    posterior.set_default_x(torch.tensor([0.3, -0.2]))
    theta = torch.tensor([[0.0, 0.0], [0.5, -0.5]], requires_grad=True)
    posterior.potential(theta, track_gradients=True).sum().backward()
    torch.testing.assert_close(theta.grad, posterior.posterior.gradient(theta, [0.3, -0.2]))
    assert not posterior.log_prob(theta).requires_grad
    torch.manual_seed(0)
    values, vectors = ActiveSubspace(posterior).find_directions(
        posterior_log_prob_as_property=True, num_monte_carlo_samples=40
    )
    assert values.shape == (2,)
    assert vectors.shape == (2, 2)
    limits = torch.tensor([[-1.0, 1.0], [-1.0, 1.0]])
    matrix = conditional_corrcoeff(posterior, limits, posterior.sample((1,), **FAST), resolution=8)
    assert matrix.shape == (2, 2)


def test_pictures_and_predictions(posterior, pairs):
    pytest.importorskip("six", reason="sbi 0.27 imports six in its analyses and does not ask for it")
    from matplotlib import pyplot
    from sbi.analysis import pairplot

    samples = posterior.sample((50,), x=pairs[1][0], **FAST)
    figure, _ = pairplot(samples, limits=[[-1, 1], [-1, 1]])
    pyplot.close(figure)
    assert simulate(samples, seeded()).shape == (50, 2)


def test_it_is_pickled(posterior, pairs):
    posterior.set_default_x(pairs[1][0])
    again = pickle.loads(pickle.dumps(posterior))
    for one in (posterior, again):
        torch.manual_seed(0)
        one.drawn = one.sample((3,), **FAST)
    assert torch.equal(posterior.drawn, again.drawn)


def test_priors_that_sbi_lacks():
    from sbi.utils.user_input_checks import process_prior

    from constrained_diffusion.sbi_posterior import SbiPosterior, UniformPrior

    for domain in (Simplex(3), Ball(2), Hypercube(2, -1.0, 3.0)):
        prior, count, _ = process_prior(UniformPrior(domain))
        assert count == domain.event_shape.numel()
        torch.manual_seed(0)
        theta = prior.sample((40,))
        assert domain.contains(theta).all()
        assert torch.equal(prior.support.check(theta), torch.ones(40, dtype=torch.bool))
        low, high = domain.bounding_box
        assert ((prior.mean > low) & (prior.mean < high) & (prior.stddev < high - low)).all()
        torch.testing.assert_close(prior.log_prob(theta), torch.full((40,), -domain.log_volume))
        assert (prior.log_prob(theta + 9) == -math.inf).all()
        model = ReflectedDiffusion(domain, width=8, depth=1, steps=3, batch_size=8)
        made = SbiPosterior(model.fit(theta, condition=theta[:, :1], progress=False), prior)
        assert made.prior is prior
        assert domain.contains(made.sample((5,), x=theta[:1, :1], steps=3)).all()
    with pytest.raises(ValueError, match="bounded"):
        UniformPrior(Euclidean(2))
