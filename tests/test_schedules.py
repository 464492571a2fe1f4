import pytest
import torch

from constrained_diffusion import CustomSchedule, GeometricSchedule

TIMES = torch.linspace(0, 1, 11, dtype=torch.float64)


def test_geometric_ends_and_ratio():
    schedule = GeometricSchedule(0.02, 3.0)
    sigma = schedule.sigma(TIMES)
    assert sigma[0] == pytest.approx(0.02)
    assert sigma[-1] == pytest.approx(3.0)
    torch.testing.assert_close(sigma[1:] / sigma[:-1], torch.full((10,), 150**0.1, dtype=torch.float64))


@pytest.mark.parametrize(
    "schedule",
    [GeometricSchedule(0.01, 1.2), CustomSchedule(lambda t: 0.01 + 1.2 * t**2), CustomSchedule(lambda t: torch.exp(t))],
)
def test_diffusion_is_the_root_of_the_slope_of_the_variance(schedule):
    t, e = TIMES[1:-1], 1e-6
    slope = (schedule.sigma(t + e) ** 2 - schedule.sigma(t - e) ** 2) / (2 * e)
    torch.testing.assert_close(schedule.diffusion(t) ** 2, slope, rtol=1e-7, atol=1e-9)


def test_diffusion_works_without_gradients_and_leaves_none():
    with torch.no_grad():
        g = CustomSchedule(lambda t: 0.1 + t).diffusion(TIMES)
    assert not g.requires_grad
    torch.testing.assert_close(g, (2 * (0.1 + TIMES)).sqrt())


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-1.0, 1.0), (1.0, 1.0), (2.0, 1.0), (0.1, float("inf"))])
def test_geometric_refuses_bad_ends(ends):
    with pytest.raises(ValueError, match="sigma_min"):
        GeometricSchedule(*ends)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda t: 1 - 0.5 * t, "increase"),
        (lambda t: t - 0.5, "positive"),
        (lambda t: t / 0, "finite"),
        (lambda t: torch.ones(3), "same shape"),
    ],
)
def test_custom_refuses_bad_functions(function, why):
    with pytest.raises(ValueError, match=why):
        CustomSchedule(function)
