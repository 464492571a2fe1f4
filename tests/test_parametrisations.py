"""Networks that predict noise, data or velocity, and scores: the same thing in other words."""

import pytest
import torch

from constrained_diffusion import (
    ClassifierFreeGuidance,
    CosineSchedule,
    DiscreteSchedule,
    EDMSchedule,
    Euclidean,
    EulerMaruyama,
    Hypercube,
    ReflectedSDE,
    SubVariancePreservingSchedule,
    VariancePreservingSchedule,
    from_denoiser,
    from_noise,
    from_velocity,
    predict,
)
from constrained_diffusion.parametrisations import Parametrisation

FROM = {"denoiser": from_denoiser, "noise": from_noise, "velocity": from_velocity}
SCHEDULES = {
    "VE": EDMSchedule(0.05, 10.0),
    "VP": VariancePreservingSchedule(0.1, 8.0, start=0.01),
    "sub-VP": SubVariancePreservingSchedule(0.1, 8.0, start=0.05),
    "cosine": CosineSchedule(start=0.02),
    "discrete": DiscreteSchedule(torch.linspace(0.99, 0.01, 50)),
}
kinds = pytest.mark.parametrize("kind", FROM)
schedules = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
MEAN = torch.tensor([0.7, -0.4], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.0, 0.3], [0.3, 0.25]], dtype=torch.float64)


def seeded(s=0):
    return torch.Generator().manual_seed(s)


def textbook(schedule, t, event=1):
    """Alpha and beta of z = alpha x0 + beta noise, with the dimensions of an event."""
    alpha, sigma = schedule.scale(t), schedule.sigma(t)
    return tuple(v.reshape(*t.shape, *[1] * event) for v in (alpha, alpha * sigma))


def wavy(x, t, **condition):
    """A score without any symmetry."""
    return torch.sin(3 * x) - 2 * torch.cos(x.flip(-1)) * t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


def network_of(sde, score, kind):
    """The network of z = alpha x that a score amounts to."""
    event = len(sde.domain.event_shape)

    def network(z, t, **condition):
        alpha, _ = textbook(sde.schedule, t, event)
        return predict(sde, score, z / alpha.to(z), t, kind, **condition)

    return network


@kinds
@schedules
@pytest.mark.parametrize("shape", [2, (3, 2, 2)])
@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (0,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_predictions_and_scores_are_inverse_to_each_other(kind, schedule, shape, batch, dtype):
    sde = ReflectedSDE(Euclidean(shape), schedule=schedule)
    t = torch.rand(batch, generator=seeded(), dtype=dtype)
    x = torch.randn(*batch, *sde.domain.event_shape, generator=seeded(1), dtype=dtype)
    again = FROM[kind](network_of(sde, wavy, kind), sde)
    s = again(x, t)
    assert s.shape == x.shape
    assert s.dtype == dtype
    scale = sde.expand(sde.sigma(t)) ** 2  # a denoiser says x + sigma^2 s: what it says of s is known to eps / sigma^2
    tolerance = 1e-11 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(scale * s, scale * wavy(x, t), rtol=tolerance, atol=tolerance)
    # and the other way round: any network comes back from its score
    alpha = textbook(schedule, t, len(sde.domain.event_shape))[0].to(x)
    said = predict(sde, FROM[kind](wavy, sde), x, t, kind)
    torch.testing.assert_close(said, wavy(alpha * x, t), rtol=tolerance, atol=20 * tolerance)


@schedules
def test_each_prediction_is_what_its_name_says(schedule):
    """From one pair (x0, noise): z = alpha x0 + beta noise, v = alpha noise - beta x0, score of x = z / alpha."""
    sde = ReflectedSDE(Euclidean(3), schedule=schedule)
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    alpha, beta = textbook(schedule, t)
    x0, noise = torch.randn(2, 11, 3, generator=seeded(), dtype=torch.float64)
    z, velocity = alpha * x0 + beta * noise, alpha * noise - beta * x0
    expected = -noise / (beta / alpha)  # grad log N(x; x0, sigma^2), x - x0 = sigma noise
    for make, answer in ((from_noise, noise), (from_denoiser, x0), (from_velocity, velocity)):

        def network(seen, time, answer=answer):
            torch.testing.assert_close(seen, z)
            torch.testing.assert_close(time, t)
            return answer

        torch.testing.assert_close(make(network, sde)(z / alpha, t), expected, rtol=1e-8, atol=1e-9)
    exact = lambda x, time: expected  # noqa: E731
    for kind, answer in (("noise", noise), ("denoiser", x0), ("velocity", velocity), ("score", expected)):
        torch.testing.assert_close(predict(sde, exact, z / alpha, t, kind), answer, rtol=1e-8, atol=1e-9)


@kinds
@schedules
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_best_for_gaussian_data_gives_the_exact_score(kind, schedule, dtype):
    """Data N(m, S): z is N(alpha m, alpha^2 S + beta^2), so that E[x0 | z] and E[noise | z] are linear in z."""
    sde = ReflectedSDE(Euclidean(2), schedule=schedule)
    eye = torch.eye(2, dtype=torch.float64)

    def network(z, t):
        z, alpha, beta = z.double(), *textbook(schedule, t.double())
        whole = alpha.unsqueeze(-1) ** 2 * COVARIANCE + beta.unsqueeze(-1) ** 2 * eye
        rest = torch.linalg.solve(whole, z - alpha * MEAN)
        x0, noise = MEAN + alpha * rest @ COVARIANCE, beta * rest
        return {"denoiser": x0, "noise": noise, "velocity": alpha * noise - beta * x0}[kind].to(dtype)

    t = torch.rand(4, 50, generator=seeded(2), dtype=dtype)
    sigma = schedule.sigma(t.double())
    x = (3 * torch.randn(4, 50, 2, generator=seeded(3), dtype=torch.float64)).to(dtype)
    whole = COVARIANCE + sigma[..., None, None] ** 2 * eye
    exact = -torch.linalg.solve(whole, x.double() - MEAN)
    got = FROM[kind](network, sde)(x, t)
    assert got.dtype == dtype
    scale = sigma.unsqueeze(-1) ** 2
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(scale * got.double(), scale * exact, rtol=tolerance, atol=tolerance)


@kinds
def test_conditions_and_counts_pass_through(kind):
    sde = ReflectedSDE(Euclidean(2), schedule=VariancePreservingSchedule())
    seen = {}

    def network(z, t, **condition):
        seen.update(condition)
        return z * condition["c"]

    score = FROM[kind](network, sde)
    c, label = torch.rand(4, 2), torch.arange(4)
    x, t = torch.rand(4, 2), torch.full((4,), 0.5)
    assert torch.equal(score(x, t, c=c, label=label), score(x, t, c=c, label=label))
    assert seen["c"] is c
    assert seen["label"] is label
    assert not torch.equal(score(x, t, c=c), score(x, t, c=2 * c))
    with pytest.raises(KeyError):
        score(x, t)
    assert EulerMaruyama(sde, score, steps=3).sample(4, condition={"c": c}).nfe == 4
    guided = ClassifierFreeGuidance(network, 1.0, null={"c": torch.zeros(2)})
    assert EulerMaruyama(sde, FROM[kind](guided, sde), steps=3).sample(4, condition={"c": c}).nfe == 8
    said = predict(sde, lambda x, t, c: c * x, x, t, kind, c=c)
    assert not torch.equal(said, predict(sde, lambda x, t, c: c * x, x, t, kind, c=2 * c))


def test_predict_hands_over_the_score_itself_and_refuses_other_names():
    sde, x, t = ReflectedSDE(Hypercube(2)), torch.rand(3, 2), torch.rand(3)
    assert torch.equal(predict(sde, wavy, x, t, "score"), wavy(x, t))
    for bad in ("data", "epsilon", "Noise", None):
        with pytest.raises(ValueError, match="what must be"):
            predict(sde, wavy, x, t, bad)
    assert set(Parametrisation.__args__) == {*FROM, "score"}


@kinds
def test_with_walls_they_remain_definitions(kind):
    """In the box as on R^d, and samplers stay inside whatever a network says."""
    sde = ReflectedSDE(Hypercube(2), 0.05)
    x, t = torch.rand(50, 2, generator=seeded(), dtype=torch.float64), torch.rand(50, generator=seeded(1)).double()
    again = FROM[kind](network_of(sde, wavy, kind), sde)
    torch.testing.assert_close(again(x, t), wavy(x, t), rtol=1e-9, atol=1e-9)
    out = EulerMaruyama(sde, FROM[kind](wavy, sde), steps=20).sample(20, generator=seeded())
    assert sde.domain.contains(out.x).all()


@kinds
def test_gradients_flow_to_the_network(kind):
    sde = ReflectedSDE(Euclidean(2), schedule=CosineSchedule())
    weight = torch.tensor(1.5, requires_grad=True)
    x = torch.rand(3, 2, requires_grad=True)
    s = FROM[kind](lambda z, t: weight * z**2, sde)(x, torch.full((3,), 0.4))
    gradients = torch.autograd.grad(s.square().sum(), [weight, x])
    assert all(bool(g.isfinite().all()) and float(g.abs().max()) > 0 for g in gradients)
