"""The textbooks' samplers, step by step: against the algorithms of their papers, written out, and diffusers.

Only ``z = alpha x`` connects the two: the papers' recursions are written out in z, the library works in x.
"""

import itertools
import math
import warnings
from types import SimpleNamespace

import pytest
import torch

from constrained_diffusion import (
    AnnealedLangevin,
    AnnealedReflected,
    DiscreteSchedule,
    EDMSchedule,
    Euclidean,
    EulerMaruyama,
    GeometricSchedule,
    Heun,
    KarrasGrid,
    Multistep,
    PredictorCorrector,
    ReflectedBridge,
    TextbookSDE,
    VariancePreservingSchedule,
    from_denoiser,
    from_noise,
    from_velocity,
)
from tests.textbook import HIGH, LOW, SIZE, normal, over_r, seeded

FROM = {"epsilon": from_noise, "sample": from_denoiser, "v_prediction": from_velocity}


def wave(z, level):
    """Something like a network, of z and a number."""
    weight = normal(z.shape[-1], z.shape[-1], seed=99)
    return torch.tanh(z @ weight + torch.sin(torch.as_tensor(level, dtype=z.dtype)))


@pytest.fixture
def given_noise(monkeypatch):
    """Make samplers take prepared noise, one tensor after the other."""

    def prepare(noises):
        queue = iter(noises)
        monkeypatch.setattr(Euclidean, "sample_noise", lambda self, x, *, generator=None: next(queue))
        return queue

    return prepare


# ------------------------------------------------------------------ the papers' algorithms, written out


def test_ancestral_sampling_has_the_posterior_of_ho_et_al(given_noise):
    """Ho et al. 2020, equations 6 and 7: mean and variance of q(z' | z, x0)."""
    bar = torch.cumprod(1 - torch.linspace(1e-3, 0.2, 30, dtype=torch.float64), 0)
    sde = over_r(DiscreteSchedule(bar))
    z, noise = normal(4, SIZE, seed=1), normal(4, SIZE, seed=2)
    for i in (29, 14, 1):
        now, before = bar[i], bar[i - 1]
        x0 = (z - (1 - now).sqrt() * wave(z, i)) / now.sqrt()
        beta = 1 - now / before
        mean = before.sqrt() * beta / (1 - now) * x0 + (now / before).sqrt() * (1 - before) / (1 - now) * z
        expected = mean + ((1 - before) / (1 - now) * beta).sqrt() * noise
        score = from_noise(lambda seen, t, i=i: wave(seen, i), sde)
        t, t_next = torch.tensor([i / 29, (i - 1) / 29], dtype=torch.float64)
        for walk in (AnnealedReflected(sde, score, eta=1.0), ReflectedBridge(sde, score)):
            given_noise([noise])
            x = walk.step(z / now.sqrt(), t, t_next, generator=None, condition={})
            torch.testing.assert_close(before.sqrt() * x, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_is_equation_12_of_song_meng_and_ermon(eta, given_noise):
    bar = torch.cumprod(1 - torch.linspace(1e-3, 0.2, 30, dtype=torch.float64), 0)
    sde = over_r(DiscreteSchedule(bar))
    z, noise = normal(4, SIZE, seed=1), normal(4, SIZE, seed=2)
    now, before = bar[25], bar[11]
    epsilon = wave(z, 0)
    spread = eta * ((1 - before) / (1 - now)).sqrt() * (1 - now / before).sqrt()  # equation 16
    x0 = (z - (1 - now).sqrt() * epsilon) / now.sqrt()
    expected = before.sqrt() * x0 + (1 - before - spread**2).sqrt() * epsilon + spread * noise
    given_noise([noise])
    walk = AnnealedReflected(sde, from_noise(lambda seen, t: wave(seen, 0), sde), eta=eta)
    t, t_next = torch.tensor([25 / 29, 11 / 29], dtype=torch.float64)
    x = walk.step(z / now.sqrt(), t, t_next, generator=None, condition={})
    torch.testing.assert_close(before.sqrt() * x, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("churn", "low", "high", "spread"), [(0.0, 0.0, math.inf, 1.0), (3.0, 0.05, 5.0, 1.007), (60.0, 0.0, math.inf, 1.0)]
)
def test_heun_is_algorithm_2_of_karras_et_al(churn, low, high, spread, given_noise):
    sde, n = over_r(EDMSchedule(0.01, 10.0)), 8
    noises = [normal(3, SIZE, seed=k) for k in range(n)]
    D = lambda x, sigma: wave(x, math.log(sigma))  # noqa: E731
    levels = [(10 ** (1 / 7) + i / n * (0.01 ** (1 / 7) - 10 ** (1 / 7))) ** 7 for i in range(n + 1)] + [0.0]
    gamma = min(churn / n, math.sqrt(2) - 1)
    latent = 10 * normal(3, SIZE, seed=50)
    x, queue, used = latent, iter(noises), 0
    for i in range(n + 1):
        level = levels[i]
        # the last step, to no noise, is the library's denoising step; at the top there is no room for more noise
        if i < n and churn and low <= level <= high:
            raised = min(level * (1 + gamma), 10.0)
            x = x + math.sqrt(max(raised**2 - level**2, 0.0)) * spread * next(queue)
            level, used = raised, used + 1
        d = (x - D(x, level)) / level
        trial = x + (levels[i + 1] - level) * d
        if levels[i + 1]:
            d_next = (trial - D(trial, levels[i + 1])) / levels[i + 1]
            trial = x + (levels[i + 1] - level) * (d + d_next) / 2
        x = trial
    assert used == (0 if not churn else sum(low <= v <= high for v in levels[:n]))
    given_noise(noises)

    def network(seen, t):
        return wave(seen, math.log(float(sde.sigma(t)[0])))

    walk = Heun(
        sde,
        from_denoiser(network, sde),
        steps=n,
        churn=churn,
        churn_range=(low, high),
        churn_noise=spread,
        grid=KarrasGrid(),
    )
    torch.testing.assert_close(walk.sample(3, latent=latent).x, x, rtol=1e-7, atol=1e-7)


def test_midpoint_is_dpm_solver_2():
    """Lu et al. 2022, arXiv 2206.00927, algorithm 1 with r_1 = 1/2, lambda = log(alpha / beta)."""
    start, n = 0.01, 6
    schedule = VariancePreservingSchedule(LOW, HIGH, start)
    sde = over_r(schedule)

    def level(t):
        tau = start + (1 - start) * t
        B = LOW * tau + tau**2 / 2 * (HIGH - LOW)
        return torch.exp(-B / 2), (1 - torch.exp(-B)).sqrt()

    def time_at(log_ratio):  # of log(alpha / beta), in closed form (appendix B.1 of the paper)
        B = torch.log1p(torch.exp(-2 * log_ratio))
        tau = (torch.sqrt(torch.tensor(LOW**2).double() + 2 * (HIGH - LOW) * B) - LOW) / (HIGH - LOW)
        return (tau - start) / (1 - start)

    times = torch.linspace(1, 0, n + 1, dtype=torch.float64)
    z = normal(4, SIZE, seed=3)
    latent = z / level(times[0])[0]
    for s, t in itertools.pairwise(times):
        (alpha_s, beta_s), (alpha_t, beta_t) = level(s), level(t)
        lambda_s, lambda_t = (alpha_s / beta_s).log(), (alpha_t / beta_t).log()
        h = lambda_t - lambda_s
        middle = time_at(lambda_s + h / 2)
        alpha_m, beta_m = level(middle)
        u = alpha_m / alpha_s * z - beta_m * torch.expm1(h / 2) * wave(z, s)
        z = alpha_t / alpha_s * z - beta_t * torch.expm1(h) * wave(u, middle)
    score = from_noise(lambda seen, t: wave(seen, float(t[0])), sde)
    out = Heun(sde, score, midpoint=True, steps=n, denoise=False).sample(4, latent=latent)
    torch.testing.assert_close(out.x * level(times[-1])[0], z, rtol=1e-7, atol=1e-7)


def test_langevin_is_algorithm_1_of_song_and_ermon(given_noise):
    """alpha_i = eps sigma_i^2 / sigma_L^2, x <- x + alpha_i / 2 s + sqrt(alpha_i) z; eps = (2 snr sigma_L)^2 here."""
    sde, levels, repeats, snr = over_r(GeometricSchedule(0.05, 5.0)), 5, 3, 0.2
    noises = [normal(4, SIZE, seed=k) for k in range(levels * repeats)]
    sigmas = [5.0 * (0.05 / 5.0) ** (i / levels) for i in range(1, levels + 1)]
    latent, queue = 5 * normal(4, SIZE, seed=70), iter(noises)
    x = latent
    for sigma in sigmas:
        step = (2 * snr * sigmas[-1]) ** 2 * sigma**2 / sigmas[-1] ** 2
        for _ in range(repeats):
            x = x + step / 2 * (wave(x, sigma) - x) / sigma**2 + math.sqrt(step) * next(queue)
    given_noise(noises)
    score = from_denoiser(lambda seen, t: wave(seen, float(sde.sigma(t)[0])), sde)
    walk = AnnealedLangevin(sde, score, steps=levels, langevin_steps=repeats, snr=snr, denoise=False)
    torch.testing.assert_close(walk.sample(4, latent=latent).x, x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("corrections", [0, 2])
def test_reverse_diffusion_is_algorithm_2_of_song_et_al(corrections, given_noise):
    """Predictor: variance sigma_{i+1}^2 - sigma_i^2; corrector: eps = 2 (r |z| / |s|)^2, |s| being |z| / sigma."""
    sde, n, snr = over_r(GeometricSchedule(0.05, 5.0)), 6, 0.2
    noises = [normal(4, SIZE, seed=k) for k in range(n * (1 + corrections))]
    sigmas = [5.0 * (0.05 / 5.0) ** (i / n) for i in range(n + 1)]
    score = from_denoiser(lambda seen, t: wave(seen, float(sde.sigma(t)[0])), sde)
    s = lambda x, sigma: (wave(x, sigma) - x) / sigma**2  # noqa: E731
    latent, queue = 5 * normal(4, SIZE, seed=70), iter(noises)
    x = latent
    for high, low in itertools.pairwise(sigmas):
        gap = high**2 - low**2
        x = x + gap * s(x, high) + math.sqrt(gap) * next(queue)
        for _ in range(corrections):
            e = 2 * (snr * low) ** 2
            x = x + e * s(x, low) + math.sqrt(2 * e) * next(queue)
    walks = [
        PredictorCorrector(sde, score, steps=n, corrector_steps=corrections, snr=snr, denoise=False, variance="large")
    ]
    if not corrections:
        walks.append(EulerMaruyama(sde, score, steps=n, denoise=False, variance="large"))
    for walk in walks:
        given_noise(noises)
        torch.testing.assert_close(walk.sample(4, latent=latent).x, x, rtol=1e-8, atol=1e-8)


# ------------------------------------------------------------------ diffusers


@pytest.fixture
def schedulers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("diffusers", exc_type=ImportError)
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
        from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

        try:
            from diffusers.schedulers.deprecated.scheduling_sde_vp import ScoreSdeVpScheduler
        except ImportError:  # it is deprecated
            ScoreSdeVpScheduler = None
    return SimpleNamespace(
        DDIM=DDIMScheduler, DDPM=DDPMScheduler, DPM=DPMSolverMultistepScheduler, ScoreSdeVp=ScoreSdeVpScheduler
    )


def doubled(scheduler):
    """The scheduler with its table in double precision, and our process of the same table."""
    bar = torch.cumprod(1 - scheduler.betas.double(), 0)
    scheduler.alphas_cumprod = bar
    return bar, over_r(DiscreteSchedule(bar))


def network_of(bar):
    """The network for the library, which counts levels by time, and for diffusers, which numbers them."""

    def network(z, t):
        place = t * (len(bar) - 1)
        torch.testing.assert_close(place, place.round(), rtol=0, atol=1e-6)
        return wave(z, float(place[0].round()))

    return network


@pytest.mark.parametrize("prediction", FROM)
@pytest.mark.parametrize("betas", ["linear", "squaredcos_cap_v2"])
def test_ddpm_of_diffusers_step_by_step(prediction, betas, schedulers, given_noise, monkeypatch):
    scheduler = schedulers.DDPM(
        num_train_timesteps=60,
        beta_end=0.2,
        beta_schedule=betas,
        prediction_type=prediction,
        clip_sample=False,
        variance_type="fixed_small",
    )
    bar, sde = doubled(scheduler)
    scheduler.set_timesteps(60)
    noises = [normal(4, SIZE, seed=k) for k in range(59)]
    queue = iter(noises)
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: next(queue))
    z = normal(4, SIZE, seed=100)
    latent, path = z / bar[-1].sqrt(), [z]
    for k in scheduler.timesteps.tolist():
        z = scheduler.step(wave(z, float(k)), k, z).prev_sample
        path.append(z)
    given_noise(noises)
    walk = AnnealedReflected(sde, FROM[prediction](network_of(bar), sde), eta=1.0, steps=59)
    out = walk.sample(4, latent=latent, frames=60)
    assert out.nfe == 60
    for k in range(59):  # the frame before the denoising step is not kept
        scaled = bar[59 - k].sqrt() * out.trajectory[k]
        torch.testing.assert_close(scaled, path[k], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(out.x, path[-1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("prediction", FROM)
def test_ddim_of_diffusers_on_some_of_the_levels(eta, prediction, schedulers, given_noise):
    scheduler = schedulers.DDIM(prediction_type=prediction, clip_sample=False)
    bar, sde = doubled(scheduler)
    scheduler.set_timesteps(20)
    order = scheduler.timesteps.tolist()
    assert (len(order), order[-1]) == (20, 0)
    noises = [normal(4, SIZE, seed=k) for k in range(20)]
    z = normal(4, SIZE, seed=100)
    latent, path = z / bar[order[0]].sqrt(), [z]
    for k, noise in zip(order, noises, strict=True):
        z = scheduler.step(wave(z, float(k)), k, z, eta=eta, variance_noise=noise).prev_sample
        path.append(z)
    given_noise(noises)
    levels = ((1 - bar) / bar).sqrt()[order]
    walk = AnnealedReflected(
        sde, FROM[prediction](network_of(bar), sde), eta=eta, steps=19, grid=lambda process, steps: levels
    )
    out = walk.sample(4, latent=latent, frames=20)
    assert out.nfe == 20
    for i in range(19):
        torch.testing.assert_close(bar[order[i]].sqrt() * out.trajectory[i], path[i], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(out.x, path[-1], rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers, with numpy 2
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("prediction", FROM)
def test_dpm_solver_of_diffusers(final, prediction, schedulers):
    """DPM-Solver++ (2M); diffusers takes its steps in single precision."""
    scheduler = schedulers.DPM(
        prediction_type=prediction,
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        lower_order_final=False,
        final_sigmas_type=final,
    )
    scheduler.set_timesteps(16)
    bar, sde = doubled(scheduler)
    order = scheduler.timesteps.tolist()
    levels = ((1 - bar) / bar).sqrt()
    last = levels.new_zeros(1) if final == "zero" else levels[:1]
    scheduler.sigmas = torch.cat([levels[order], last])  # in double precision
    z = normal(4, SIZE, seed=100)
    latent = z / bar[order[0]].sqrt()
    for k in order:
        z = scheduler.step(wave(z, float(k)), k, z).prev_sample
    grid = levels[order] if final == "zero" else torch.cat([levels[order], levels[:1]])
    walk = Multistep(
        sde,
        FROM[prediction](network_of(bar), sde),
        steps=len(grid) - 1,
        denoise=final == "zero",  # to no noise at all, a step of first order
        grid=lambda process, steps: grid,
    )
    out = walk.sample(4, latent=latent)
    assert out.nfe == 16
    torch.testing.assert_close(out.x * (1.0 if final == "zero" else bar[0].sqrt()), z, rtol=1e-5, atol=1e-5)


def test_score_sde_vp_of_diffusers(schedulers):
    """Its Euler step of the reverse SDE, in its own time from `start` = sampling_eps to 1."""
    if schedulers.ScoreSdeVp is None:
        pytest.skip("this diffusers has no ScoreSdeVpScheduler")
    start, n = 1e-3, 50
    scheduler = schedulers.ScoreSdeVp(beta_min=LOW, beta_max=HIGH, sampling_eps=start)
    scheduler.set_timesteps(n)
    sde = over_r(VariancePreservingSchedule(LOW, HIGH, start))
    book = TextbookSDE(sde)
    z = normal(n, SIZE, seed=4)
    tau = scheduler.timesteps.double()
    answer = wave(z, 0.0)
    z_next, z_mean = scheduler.step_pred(answer, z, tau, generator=seeded(8))
    t = (tau - start) / (1 - start)
    score = from_noise(lambda seen, t: wave(seen, 0.0), sde)
    h = 1 / n / (1 - start)  # the step in our time
    mean = z - h * book.reverse_drift(score, z, t)
    torch.testing.assert_close(z_mean, mean, rtol=1e-6, atol=1e-7)
    noise = torch.randn(n, SIZE, generator=seeded(8), dtype=torch.float64)
    moved = mean + (book.diffusion(t) * math.sqrt(h))[:, None] * noise
    torch.testing.assert_close(z_next, moved, rtol=1e-6, atol=1e-7)
