import math

import numpy as np
import pytest
import torch
from scipy import integrate

from constrained_diffusion import (
    CosineSchedule,
    CustomSchedule,
    DiscreteSchedule,
    EDMSchedule,
    GeometricSchedule,
    LinearSchedule,
    SubVariancePreservingSchedule,
    VariancePreservingSchedule,
)

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


# ------------------------------------------------------------------ the textbooks' processes

BETAS = [(0.1, 20.0, 1e-3), (0.0, 5.0, 1e-2), (3.0, 3.0, 0.1), (0.5, 12.0, 1e-5)]
TABLE = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)  # Ho et al. 2020

SCHEDULES = {
    "geometric": GeometricSchedule(0.01, 50.0),
    "linear": LinearSchedule(0.002, 1.7),
    "EDM": EDMSchedule(),
    "EDM, rho 1.5": EDMSchedule(0.1, 3.0, rho=1.5),
    "VP": VariancePreservingSchedule(),
    "VP from no rate": VariancePreservingSchedule(0.0, 8.0, start=0.01),
    "sub-VP": SubVariancePreservingSchedule(),
    "cosine": CosineSchedule(),
    "cosine without offset": CosineSchedule(0.0, start=0.01),
    "discrete": DiscreteSchedule(TABLE),
    "custom": CustomSchedule(lambda t: 0.1 + t + t**3),
}
every = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def integral(beta, tau):
    return np.array([integrate.quad(beta, 0, float(end), epsabs=1e-13, epsrel=1e-13)[0] for end in tau])


@pytest.mark.parametrize(("beta_min", "beta_max", "start"), BETAS)
def test_vp_and_sub_vp_are_those_of_song_et_al(beta_min, beta_max, start):
    """Song et al. 2021, equation 29: means exp(-B/2) x0, deviations sqrt(1 - exp(-B)) and 1 - exp(-B), B = int beta."""
    tau = start + (1 - start) * TIMES.numpy()
    B = integral(lambda s: beta_min + s * (beta_max - beta_min), tau)
    vp = VariancePreservingSchedule(beta_min, beta_max, start)
    sub = SubVariancePreservingSchedule(beta_min, beta_max, start)
    for schedule, deviation in ((vp, np.sqrt(-np.expm1(-B))), (sub, -np.expm1(-B))):
        alpha, sigma = schedule.scale(TIMES).numpy(), schedule.sigma(TIMES).numpy()
        np.testing.assert_allclose(alpha, np.exp(-B / 2), rtol=1e-9)
        np.testing.assert_allclose(alpha * sigma, deviation, rtol=1e-9)
        assert (schedule.sigma_min, schedule.sigma_max) == pytest.approx((sigma[0], sigma[-1]), rel=1e-12)
    # equation 33, term for term
    log_mean = -(tau**2) * (beta_max - beta_min) / 4 - tau * beta_min / 2
    np.testing.assert_allclose(vp.scale(TIMES).numpy(), np.exp(log_mean), rtol=1e-12)


def test_geometric_is_the_ve_process_of_song_et_al():
    """Equation 30: dx = sigma_min (sigma_max / sigma_min)^t sqrt(2 log(sigma_max / sigma_min)) dw."""
    schedule = GeometricSchedule(0.01, 50.0)
    g = 0.01 * 5000.0**TIMES * math.sqrt(2 * math.log(5000.0))
    torch.testing.assert_close(schedule.diffusion(TIMES), g, rtol=1e-12, atol=0)
    torch.testing.assert_close(schedule.scale(TIMES), torch.ones_like(TIMES))


@pytest.mark.parametrize(("offset", "start"), [(0.008, 1e-3), (0.0, 0.01), (0.2, 0.1)])
def test_cosine_is_that_of_nichol_and_dhariwal(offset, start):
    """Equation 17: alpha-bar(t) = f(t) / f(0), f(t) = cos((t + s) / (1 + s) pi / 2)^2."""
    tau = start + (1 - 2 * start) * TIMES

    def f(t):
        return torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2

    bar = f(tau) / f(torch.zeros((), dtype=torch.float64))
    schedule = CosineSchedule(offset, start)
    torch.testing.assert_close(schedule.scale(TIMES) ** 2, bar, rtol=1e-9, atol=0)
    torch.testing.assert_close(schedule.sigma(TIMES), ((1 - bar) / bar).sqrt(), rtol=1e-9, atol=0)
    ends = schedule.sigma(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    assert [schedule.sigma_min, schedule.sigma_max] == pytest.approx(ends, rel=1e-12)


def test_cosine_loses_no_digits_at_little_noise():
    """1 - alpha-bar is a difference of near equals; in float32 sigma still has six digits."""
    schedule = CosineSchedule(start=1e-3)
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(schedule.sigma(t.float()).double(), schedule.sigma(t), rtol=2e-4, atol=0)
    torch.testing.assert_close(schedule.sigma(t[:50].float()).double(), schedule.sigma(t[:50]), rtol=3e-6, atol=0)


@pytest.mark.parametrize(("low", "high", "rho"), [(0.002, 80.0, 7.0), (0.1, 3.0, 1.0), (0.01, 1.0, 3.5)])
def test_edm_is_equation_5_of_karras_et_al(low, high, rho):
    n = 40
    i = np.arange(n)
    expected = (high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho  # from high to low
    schedule = EDMSchedule(low, high, rho)
    t = torch.as_tensor(1 - i / (n - 1))
    np.testing.assert_allclose(schedule.sigma(t).numpy(), expected, rtol=1e-12)
    assert (schedule.sigma_min, schedule.sigma_max) == (low, high)
    torch.testing.assert_close(schedule.scale(t), torch.ones_like(t))


def test_linear_is_linear():
    schedule = LinearSchedule(0.5, 2.5)
    torch.testing.assert_close(schedule.sigma(TIMES), 0.5 + 2 * TIMES)
    torch.testing.assert_close(schedule.diffusion(TIMES) ** 2, 2 * (0.5 + 2 * TIMES) * 2)
    torch.testing.assert_close(schedule.scale(TIMES), torch.ones_like(TIMES))


def test_discrete_goes_through_its_table():
    schedule = DiscreteSchedule(TABLE)
    assert len(schedule) == 1000
    t = torch.arange(1000, dtype=torch.float64) / 999
    torch.testing.assert_close(schedule.scale(t) ** 2, TABLE, rtol=1e-10, atol=0)
    torch.testing.assert_close(schedule.sigma(t), ((1 - TABLE) / TABLE).sqrt(), rtol=1e-10, atol=0)
    between = schedule.sigma(t[:-1] + 0.25 / 999)
    expected = ((1 - TABLE) / TABLE).sqrt()
    torch.testing.assert_close(between, expected[:-1] ** 0.75 * expected[1:] ** 0.25, rtol=1e-10, atol=0)
    assert schedule.sigma_min == pytest.approx(float(expected[0]), rel=1e-12)
    assert schedule.sigma_max == pytest.approx(float(expected[-1]), rel=1e-12)
    rough = DiscreteSchedule(TABLE.float())
    torch.testing.assert_close(rough.sigma(t), expected, rtol=1e-3, atol=0)
    two = DiscreteSchedule([0.9, 0.1])
    torch.testing.assert_close(two.sigma(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([1 / 3, 1.0, 3.0]))


@pytest.mark.parametrize("name", ["VP", "VP from no rate", "cosine", "cosine without offset", "discrete"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_variance_is_preserved(name, dtype):
    """Data of variance one keep it: alpha^2 + beta^2 = alpha^2 (1 + sigma^2) = 1."""
    t = torch.linspace(0, 1, 101, dtype=dtype)
    alpha, sigma = SCHEDULES[name].scale(t), SCHEDULES[name].sigma(t)
    rtol = 1e-12 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(alpha**2 * (1 + sigma**2), torch.ones_like(t), rtol=rtol, atol=0)


def test_sub_vp_has_less_noise_than_vp_and_the_same_signal():
    vp, sub = SCHEDULES["VP"], SCHEDULES["sub-VP"]
    torch.testing.assert_close(sub.scale(TIMES), vp.scale(TIMES))
    deviation = vp.scale(TIMES) * vp.sigma(TIMES)
    torch.testing.assert_close(sub.scale(TIMES) * sub.sigma(TIMES), deviation**2)
    assert (sub.sigma(TIMES) < vp.sigma(TIMES)).all()


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_time_inverts_sigma(schedule, dtype):
    t = torch.linspace(0, 1, 301, dtype=dtype).reshape(7, 43)
    sigma = schedule.sigma(t)
    back = schedule.time(sigma)
    assert back.shape == sigma.shape == t.shape
    assert back.dtype == sigma.dtype == dtype
    assert (sigma.flatten().diff() > 0).all()
    # sigma is known to a rounding error; what that means in time is its inverse slope
    eps = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(schedule.sigma(back), sigma, rtol=eps, atol=0)
    torch.testing.assert_close(back, t, rtol=0, atol=1e-9 if dtype == torch.float64 else 2e-3)
    beyond = torch.tensor([schedule.sigma_min / 2, schedule.sigma_min * 0.999, schedule.sigma_max * 1.01, 1e9]).to(t)
    assert schedule.time(beyond).tolist() == [0.0, 0.0, 1.0, 1.0]


@every
def test_diffusion_is_a_difference_quotient(schedule):
    e = 1e-6
    t = (torch.arange(50, 950, 53, dtype=torch.float64) + 0.5) / 999  # between the knots of the table
    slope = (schedule.sigma(t + e) ** 2 - schedule.sigma(t - e) ** 2) / (2 * e)
    torch.testing.assert_close(schedule.diffusion(t) ** 2, slope, rtol=1e-6, atol=1e-9)
    for ends in (torch.zeros(2, 3), torch.ones(4, dtype=torch.float64), torch.tensor(0.5)):
        g = schedule.diffusion(ends)
        assert g.shape == ends.shape
        assert g.dtype == ends.dtype
        assert (g.isfinite() & (g > 0)).all()
        assert not g.requires_grad
    torch.testing.assert_close(schedule.diffusion(t.float()).double(), schedule.diffusion(t), rtol=1e-3, atol=0)


@every
def test_ends_are_the_ends(schedule):
    ends = schedule.sigma(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert ends.tolist() == pytest.approx([schedule.sigma_min, schedule.sigma_max], rel=1e-12)


def test_no_noise_is_at_time_zero_even_where_noise_comes_slowly():
    for schedule in (VariancePreservingSchedule(0.0), SubVariancePreservingSchedule(0.0)):
        assert schedule.time(torch.zeros(2)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", [VariancePreservingSchedule, SubVariancePreservingSchedule])
def test_vp_refuses_bad_arguments(kind):
    for bad in ((-0.1, 20.0), (5.0, 1.0), (0.0, 0.0), (0.1, math.inf), (math.nan, 1.0), (0.1, math.nan)):
        with pytest.raises(ValueError, match="need 0 <= beta_min <= beta_max"):
            kind(*bad)
    for start in (0.0, -1e-3, 0.5, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"start must lie in \(0, 0.5\)"):
            kind(start=start)


def test_others_refuse_bad_arguments():
    for offset in (-0.1, math.nan):
        with pytest.raises(ValueError, match="offset"):
            CosineSchedule(offset)
    for start in (0.0, 0.5, math.nan):
        with pytest.raises(ValueError, match="start"):
            CosineSchedule(start=start)
    for rho in (0.0, -7.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="rho"):
            EDMSchedule(rho=rho)
    for kind in (LinearSchedule, EDMSchedule):
        for ends in ((0.0, 1.0), (-1.0, 1.0), (1.0, 1.0), (2.0, 1.0), (0.1, math.inf), (math.nan, 1.0)):
            with pytest.raises(ValueError, match="sigma_min"):
                kind(*ends)
    for table in ([0.5], [], [0.5, 0.9], [0.9, 0.9], [1.0, 0.5], [0.5, 0.0], [0.9, math.nan], [[0.9, 0.5]], 0.5):
        with pytest.raises(ValueError, match="alphas_cumprod must be a vector"):
            DiscreteSchedule(torch.tensor(table))


@pytest.mark.parametrize(
    ("schedule", "shown"),
    [
        (GeometricSchedule(0.01, 50.0), "GeometricSchedule(0.01, 50)"),
        (LinearSchedule(0.002, 1.7), "LinearSchedule(0.002, 1.7)"),
        (EDMSchedule(), "EDMSchedule(0.002, 80, rho=7)"),
        (VariancePreservingSchedule(), "VariancePreservingSchedule(0.1, 20, start=0.001)"),
        (SubVariancePreservingSchedule(0.2, 9.0, 0.01), "SubVariancePreservingSchedule(0.2, 9, start=0.01)"),
        (CosineSchedule(), "CosineSchedule(0.008, start=0.001)"),
        (DiscreteSchedule(torch.tensor([0.9, 0.1])), "DiscreteSchedule(2 levels, 0.333333 to 3)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_schedules_say_what_they_are(schedule, shown):
    assert repr(schedule) == shown
