"""Ranks, calibration curves, and losses with a validation history."""

import numpy as np
import pytest
import torch
from scipy import stats

from constrained_diffusion import DomainError, ShapeError, plotting
from constrained_diffusion.metrics import sbc_ranks
from constrained_diffusion.plotting.calibration import _band, _places


def posteriors(width=1.0, shift=0.0, n=600, draws=99, seed=0):
    """Normal parameters and data of unit variance: the posterior is N(data / 2, 1/2); wrong in width, or shifted."""
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=(n, 1))
    data = theta + rng.normal(size=(n, 1))
    return theta, data / 2 + shift + width * np.sqrt(0.5) * rng.normal(size=(draws, n, 1))


def curve(figure, j=0):
    """Places and heights of the curve of parameter j, and the band's lower and upper edge there."""
    (panel,) = figure.axes
    x, y = panel.get_lines()[1 + j].get_data()
    corners = panel.collections[0].get_paths()[0].vertices
    low = np.array([corners[np.isclose(corners[:, 0], z), 1].min() for z in x])
    high = np.array([corners[np.isclose(corners[:, 0], z), 1].max() for z in x])
    return x, y, low, high


def leaves(figure, j=0):
    _, y, low, high = curve(figure, j)
    return bool(((y < low - 1e-9) | (y > high + 1e-9)).any())


class TestRanks:
    def test_counts_samples_below(self):
        theta = np.array([[0.5, -1.0], [3.0, 0.0]])
        samples = np.stack([np.full((2, 2), value) for value in (-0.5, 0.25, 1.0, 2.0)])
        ranks = sbc_ranks(theta, samples)
        assert ranks.dtype == np.int64
        np.testing.assert_array_equal(ranks, [[2, 0], [4, 1]])

    def test_tensors_and_shapes(self):
        theta = torch.zeros(3, 2, 2)
        ranks = sbc_ranks(theta, torch.arange(-4.5, 5.5).reshape(10, 1, 1, 1).expand(10, 3, 2, 2))
        assert isinstance(ranks, torch.Tensor)
        assert ranks.dtype == torch.int64
        assert (ranks == 5).all()
        assert (sbc_ranks(theta, np.full((10, 3, 2, 2), -1.0)) == 10).all()
        assert sbc_ranks(torch.zeros(4), torch.ones(6, 4)).shape == (4,)

    def test_right_posteriors_have_uniform_ranks(self):
        ranks = sbc_ranks(*posteriors(n=4000, draws=9))
        assert stats.chisquare(np.bincount(ranks[:, 0], minlength=10)).pvalue > 1e-4
        narrow = sbc_ranks(*posteriors(width=0.8, n=4000, draws=9))
        assert stats.chisquare(np.bincount(narrow[:, 0], minlength=10)).pvalue < 1e-10

    def test_ties_keep_the_law(self):
        # Parameters and samples on a wall with probability one half: ranks of ties must be uniform as well.
        rng = np.random.default_rng(0)
        theta, samples = (np.maximum(rng.normal(size=shape), 0) for shape in ((5000, 1), (9, 5000, 1)))
        ranks = sbc_ranks(theta, samples)
        assert stats.chisquare(np.bincount(ranks[:, 0], minlength=10)).pvalue > 1e-4
        np.testing.assert_array_equal(ranks, sbc_ranks(theta, samples))
        other = sbc_ranks(theta, samples, generator=torch.Generator().manual_seed(1))
        assert (ranks != other).any()

    def test_errors(self):
        theta = np.zeros((3, 2))
        with pytest.raises(ShapeError, match=r"samples has shape \[3, 2\]; expected \[L, 3, 2\]"):
            sbc_ranks(theta, theta)
        with pytest.raises(ShapeError, match=r"samples has shape \[0, 3, 2\]; .* with L at least 1"):
            sbc_ranks(theta, np.zeros((0, 3, 2)))
        with pytest.raises(ShapeError, match=r"theta has shape \[0, 2\]"):
            sbc_ranks(theta[:0], np.zeros((4, 0, 2)))
        with pytest.raises(DomainError, match="samples must be finite; row 1 is not"):
            sbc_ranks(theta, np.stack([np.zeros((3, 2)), np.full((3, 2), np.nan)]))


class TestCalibrationCurve:
    def test_curve(self):
        x, y, _, _ = curve(plotting.calibration_curve(np.array([0, 0, 1, 3]), 3, difference=False))
        np.testing.assert_allclose(x, [0, 0.25, 0.5, 0.75, 1])
        np.testing.assert_allclose(y, [0, 0.5, 0.75, 0.75, 1])
        x, y, _, _ = curve(plotting.calibration_curve(torch.tensor([0, 0, 1, 3]), 3))
        np.testing.assert_allclose(y, [0, 0.25, 0.25, 0, 0], atol=1e-12)

    def test_levels(self):
        x, y, _, _ = curve(plotting.calibration_curve(np.array([0.1, 0.305, 0.62, 0.9]), difference=False))
        np.testing.assert_allclose(y[np.searchsorted(x, [0.05, 0.2, 0.55, 0.7, 0.95])], [0, 0.25, 0.5, 0.75, 1])

    def test_pointwise_band_is_binomial(self):
        ranks = np.random.default_rng(0).integers(0, 20, size=(150, 1))
        x, _, low, high = curve(plotting.calibration_curve(ranks, 19, level=0.9, band="pointwise", difference=False))
        np.testing.assert_allclose(x[1:-1], np.arange(1, 20) / 20)
        np.testing.assert_allclose(low[1:-1], stats.binom.ppf(0.05, 150, x[1:-1]) / 150)
        np.testing.assert_allclose(high[1:-1], stats.binom.ppf(0.95, 150, x[1:-1]) / 150)
        assert (low[0], high[0], low[-1], high[-1]) == (0, 0, 1, 1)

    @pytest.mark.parametrize(("n", "draws"), [(80, 9), (300, 999), (200, None)])
    def test_simultaneous_band_holds_its_share_of_curves(self, n, draws):
        rng, z = np.random.default_rng(1), _places(draws)
        low, high = _band(n, z, 0.9, simultaneous=True)
        u = rng.random((3000, n))
        if draws is not None:
            u = (np.floor(u * (draws + 1)) + 1) / (draws + 1)
        share = np.stack([(u <= place + 1e-12).mean(1) for place in z], 1)
        inside = ((share >= low - 1e-9) & (share <= high + 1e-9)).all(1).mean()
        assert 0.88 < inside < 0.96  # at least 0.9 up to two errors of simulation; more where few points are possible
        within = _band(n, z, 0.9, simultaneous=False)
        assert (low <= within[0]).all()
        assert (high >= within[1]).all()

    def test_what_is_wrong_shows(self):
        kinds = {"right": {}, "narrow": {"width": 0.6}, "wide": {"width": 1.6}, "shifted": {"shift": 0.3}}
        ranks = np.concatenate([sbc_ranks(*posteriors(**wrong)) for wrong in kinds.values()], 1)
        figure = plotting.calibration_curve(ranks, 99, list(kinds), title="t")
        assert [leaves(figure, j) for j in range(4)] == [False, True, True, True]
        assert [t.get_text() for t in figure.legends[0].get_texts()] == ["95 % band, simultaneous", *kinds]
        assert figure.get_suptitle() == "t"
        left, right = 20, 80
        narrow, wide, shifted = (curve(figure, j)[1] for j in (1, 2, 3))
        assert narrow[left] > 0 > narrow[right]
        assert wide[left] < 0 < wide[right]
        assert (shifted[5:-5] > 0).all()  # samples too large: low ranks

    def test_curves_differ_in_look(self):
        figure = plotting.calibration_curve(np.random.default_rng(0).integers(0, 10, size=(20, 14)), 9)
        looks = {(line.get_color(), str(line.get_linestyle())) for line in figure.axes[0].get_lines()[1:]}
        assert len(looks) == 14
        assert plotting.OUTSIDE not in {colour for colour, _ in looks}

    def test_errors(self):
        with pytest.raises(ShapeError, match=r"ranks has shape \[0, 2\]; expected \[n, k\] or \[n\]"):
            plotting.calibration_curve(np.zeros((0, 2)), 9)
        with pytest.raises(DomainError, match=r"ranks must lie in \[0, 9\]; they range over \[0, 10\]"):
            plotting.calibration_curve(np.array([0, 10]), 9)
        with pytest.raises(DomainError, match="give draws, the number of posterior samples, if these are ranks"):
            plotting.calibration_curve(np.array([0, 10]))
        with pytest.raises(DomainError, match="ranks must be whole numbers"):
            plotting.calibration_curve(np.array([0.5]), 9)
        with pytest.raises(DomainError, match="ranks must be finite"):
            plotting.calibration_curve(np.array([np.nan]), 9)
        with pytest.raises(ShapeError, match="names has 1 entries; expected 2, one a parameter"):
            plotting.calibration_curve(np.zeros((3, 2)), 9, ["a"])
        with pytest.raises(ValueError, match="level must lie between 0 and 1, not 95"):
            plotting.calibration_curve(np.zeros(3), 9, level=95)
        with pytest.raises(ValueError, match='band must be "simultaneous" or "pointwise"'):
            plotting.calibration_curve(np.zeros(3), 9, band="both")
        with pytest.raises(ValueError, match="draws must be at least 1, not 0"):
            plotting.calibration_curve(np.zeros(3), 0)


HISTORY = [(step, 1 + 9 * np.exp(-step / 30), 100.0) for step in range(0, 1000, 10)]


class TestLossCurve:
    def test_training_alone(self):
        (panel,) = plotting.loss_curve(HISTORY).axes
        assert len(panel.get_lines()) == 2
        assert panel.get_legend() is None

    def test_validation(self):
        held_back = [(100, 3.0), (500, 1.5), (900, 6.0)]
        (panel,) = plotting.loss_curve(HISTORY, held_back, title="t").axes
        line = panel.get_lines()[2]
        np.testing.assert_allclose(np.stack(line.get_data(), 1), held_back)
        assert line.get_color() == plotting.SAMPLES
        assert panel.get_ylim()[1] > 6
        assert [t.get_text() for t in panel.get_legend().get_texts()] == ["training, running median", "held back"]

    def test_an_early_peak_does_not_set_the_scale(self):
        (panel,) = plotting.loss_curve(HISTORY, [(0, 500.0), (900, 1.2)]).axes
        assert panel.get_ylim()[1] < 20

    def test_errors(self):
        with pytest.raises(ShapeError, match="validation must hold entries"):
            plotting.loss_curve(HISTORY, [])
        with pytest.raises(ShapeError, match="history must hold entries"):
            plotting.loss_curve([(1,)])
