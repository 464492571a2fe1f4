"""The networks for images: what they read, and that they read all of it."""

import itertools
import math

import pytest
import torch

from constrained_diffusion import Ball, ClassifierFreeGuidance, Hypercube, ReflectedSDE, ScoreModel
from constrained_diffusion.domains import ShapeError
from constrained_diffusion.networks import ImageTransformer, UNet

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers", "ignore::FutureWarning:diffusers")

CUBE = Hypercube((3, 8, 8))
SMALL = {
    UNet: {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,), "dropout": 0.0},
    ImageTransformer: {"width": 16, "depth": 2, "heads": 2, "patch": 2},
}
KINDS = pytest.mark.parametrize("kind", list(SMALL), ids=lambda kind: kind.__name__)
CONDITIONS = pytest.mark.parametrize(
    "conditions", [{}, {"classes": 3}, {"image_channels": 2}, {"classes": 3, "image_channels": 2}], ids=str
)


def build(kind, domain=CUBE, *, perturbed=True, **options):
    """A small network in evaluation mode, whose last layer answers something, if perturbed."""
    torch.manual_seed(0)
    network = kind(domain, **{**SMALL[kind], **options})
    if perturbed:
        with torch.no_grad():
            for p in network.parameters():
                p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    return network.eval()


def inputs(network, n=4, seed=2, dtype=torch.float32):
    """Points, noise levels and whatever conditions the network asks for."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, *network.shape, generator=generator, dtype=torch.float64)
    log_sigma = -4 * torch.rand(n, generator=generator, dtype=torch.float64)
    given = {}
    if network.classes:
        given["label"] = torch.arange(n) % network.classes
    if network.image_channels:
        size = (n, network.image_channels, 4, 4)
        given["image"] = torch.rand(size, generator=generator, dtype=torch.float64).to(dtype)
    return x.to(dtype), log_sigma.to(dtype), given


@KINDS
@CONDITIONS
def test_starts_at_zero_and_has_the_shape_of_the_points(kind, conditions):
    network = build(kind, perturbed=False, **conditions)
    x, log_sigma, given = inputs(network)
    out = network(x, log_sigma, **given)
    assert out.shape == x.shape
    assert out.dtype == x.dtype
    assert not out.any()
    out = build(kind, **conditions)(x, log_sigma, **given)
    assert out.shape == x.shape
    assert out.std() > 0.01


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 16), (5, 4, 4)], ids=str)
def test_unet_of_other_shapes(shape):
    network = build(UNet, Hypercube(shape))
    x, log_sigma, _ = inputs(network)
    assert network(x, log_sigma).shape == x.shape


@KINDS
@CONDITIONS
def test_gradients_reach_every_weight(kind, conditions):
    network = build(kind, **conditions).train()
    x, log_sigma, given = inputs(network)
    if "label" in given:
        given["label"][0] = network.classes  # so that each row of the table is used
    if "image" in given:
        given["image"][0] = math.nan
    network(x, log_sigma, **given).square().sum().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    assert all(p.grad.isfinite().all() for p in network.parameters())


@KINDS
def test_labels_matter_and_so_does_none(kind):
    network = build(kind, classes=3)
    x, log_sigma, _ = inputs(network)
    x, log_sigma = x[:1].expand(4, -1, -1, -1), log_sigma[:1].expand(4)
    out = network(x, log_sigma, label=torch.arange(4))
    for i, j in itertools.combinations(range(4), 2):
        assert (out[i] - out[j]).abs().max() > 1e-3
    none = network(x, log_sigma, label=torch.tensor([-1, 3, -1, 0], dtype=torch.int8))
    assert torch.allclose(none[:3], out[3:].expand(3, -1, -1, -1), atol=1e-6)
    for wrong in (-2, 4):
        with pytest.raises(ValueError, match=r"label must lie in 0 \.\. 2, or be -1 for none"):
            network(x, log_sigma, label=torch.tensor([0, 1, 2, wrong]))
    assert network(x[:0], log_sigma[:0], label=torch.empty(0, dtype=torch.long)).shape == (0, *x.shape[1:])
    network.train()  # labels are hidden by whoever draws the batches, never by the network
    out = network(x, log_sigma, label=torch.ones(4, dtype=torch.long))
    assert torch.allclose(out, out[:1].expand(4, -1, -1, -1), atol=1e-6)


@KINDS
@pytest.mark.parametrize("size", [(2, 2), (4, 4), (8, 8), (16, 4)], ids=str)
def test_images_to_condition_on(kind, size):
    network = build(kind, image_channels=2)
    x, log_sigma, _ = inputs(network, 5)
    x, log_sigma = x[:1].expand(5, -1, -1, -1), log_sigma[:1].expand(5)
    image = torch.rand(5, 2, *size, generator=torch.Generator().manual_seed(0))
    image[2] = network.shift  # what is known of it, if it were missing, is that
    image[3] = math.nan
    image[4, 1, 0, 0] = math.nan
    out = network(x, log_sigma, image=image)
    assert out.isfinite().all()
    for i, j in itertools.combinations(range(4), 2):
        assert (out[i] - out[j]).abs().max() > 1e-3
    torch.testing.assert_close(out[4], out[3])  # a missing number is a missing image


@KINDS
def test_an_image_lies_where_its_pixels_are(kind):
    """Each pixel of a smaller image stands for a block of pixels."""
    network = build(kind, image_channels=1)
    x, log_sigma, _ = inputs(network, 1)
    small = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    large = small.repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(network(x, log_sigma, image=small), network(x, log_sigma, image=large))
    assert not torch.allclose(network(x, log_sigma, image=small), network(x, log_sigma, image=small.flip(-1)))


@KINDS
@CONDITIONS
def test_answers_do_not_depend_on_the_rest_of_the_batch(kind, conditions):
    network = build(kind, **conditions).double()
    x, log_sigma, given = inputs(network, 6, dtype=torch.float64)
    if "image" in given:
        given["image"][1] = math.nan
    together = network(x, log_sigma, **given)
    for rows in ([1], [3, 1], [5, 4, 0]):
        some = network(x[rows], log_sigma[rows], **{k: v[rows] for k, v in given.items()})
        torch.testing.assert_close(some, together[rows], rtol=1e-6, atol=1e-8)


@KINDS
def test_answers_change_smoothly_with_the_noise_level(kind):
    network = build(kind).double()
    x, _, _ = inputs(network, 1, dtype=torch.float64)
    x = x.expand(401, -1, -1, -1)
    log_sigma = torch.linspace(-5, 1, 401, dtype=torch.float64)
    with torch.no_grad():
        fine = torch.cat([network(x[:1], log_sigma[:1] + d) for d in (0.0, 1e-4, 2e-4)])
        out = network(x, log_sigma)
    assert (out[0] - out[-1]).abs().max() > 1e-3
    assert len({float(v) for v in out[:, 0, 0, 0]}) == 401  # no two levels are alike
    first, second = fine[1] - fine[0], fine[2] - fine[1]
    assert 0 < first.abs().max() < 0.02
    assert (first - second).abs().max() < 0.1 * first.abs().max()  # a line, from near by


@KINDS
@CONDITIONS
def test_float64(kind, conditions):
    single, double = build(kind, **conditions), build(kind, **conditions).double()
    x, log_sigma, given = inputs(double, dtype=torch.float64)
    out = double(x, log_sigma, **given)
    assert out.dtype == torch.float64
    single_given = {k: v.float() if v.is_floating_point() else v for k, v in given.items()}
    torch.testing.assert_close(single(x.float(), log_sigma.float(), **single_given).double(), out, rtol=1e-3, atol=1e-4)


@KINDS
def test_inputs_are_measured_by_the_domain(kind):
    wide = Hypercube((3, 8, 8), low=-10.0, high=30.0)
    unit, scaled = build(kind, image_channels=3).double(), build(kind, wide, image_channels=3).double()
    assert float(unit.shift) == pytest.approx(0.5, abs=0.01)
    assert float(unit.scale) == pytest.approx(1 / math.sqrt(12), rel=0.01)
    x, log_sigma, given = inputs(unit, dtype=torch.float64)
    stretched = {k: 40 * v - 10 for k, v in given.items()}
    seen = []
    for network in (unit, scaled):
        network.body = lambda x, level, label: seen.append(x) or x[:, :3]
    unit(x, log_sigma, **given)
    scaled(40 * x - 10, log_sigma + math.log(40.0), **stretched)
    torch.testing.assert_close(*seen, rtol=1e-4, atol=1e-4)
    assert seen[0].shape[1] == 3 * 3 + 3 + 1
    assert seen[0].abs().max() < 4


@KINDS
@CONDITIONS
def test_the_configuration_rebuilds_it(kind, conditions):
    network = build(kind, **conditions)
    again = kind(CUBE, **network.config()).eval()
    assert again.config() == network.config()
    again.load_state_dict(network.state_dict())
    x, log_sigma, given = inputs(network)
    assert torch.equal(again(x, log_sigma, **given), network(x, log_sigma, **given))


@KINDS
def test_the_configuration_says_every_argument(kind):
    settings = {
        UNet: {"channels": 16, "multipliers": [1, 3], "blocks": 2, "attention": [8], "dropout": 0.3},
        ImageTransformer: {"width": 24, "depth": 1, "heads": 3, "patch": 4, "dropout": 0.3},
    }[kind] | {"classes": 5, "image_channels": 1}
    assert kind(CUBE, **settings).config() == settings


@KINDS
def test_dropout_is_for_training(kind):
    network = build(kind, dropout=0.5)
    x, log_sigma, _ = inputs(network)
    assert torch.equal(network(x, log_sigma), network(x, log_sigma))
    network.train()
    assert not torch.equal(network(x, log_sigma), network(x, log_sigma))


# ---------------------------------------------------------------------- as scores


@KINDS
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
def test_scores_of_any_batch(kind, batch):
    network = build(kind, classes=3, image_channels=2)
    score = ScoreModel(network, ReflectedSDE(CUBE))
    n = math.prod(batch)
    x, _, given = inputs(network, n)
    t = torch.linspace(0.3, 0.9, n)
    flat = score(x, t, **given)
    shaped = {k: v.reshape((*batch, *v.shape[1:])) for k, v in given.items()}
    out = score(x.reshape(*batch, 3, 8, 8), t.reshape(batch), **shaped)
    assert out.shape == (*batch, 3, 8, 8)
    torch.testing.assert_close(out.reshape(flat.shape), flat)
    assert flat.abs().max() > 0


@KINDS
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
def test_guidance_towards_a_label(kind, batch):
    network = build(kind, classes=3)
    score = ScoreModel(network, ReflectedSDE(CUBE))
    n = math.prod(batch)
    x, t = inputs(network, n)[0].reshape(*batch, 3, 8, 8), torch.tensor(0.7).expand(batch)
    label = (torch.arange(n) % 3).reshape(batch)
    none = torch.full(batch, 3)
    guided = ClassifierFreeGuidance(score, 1.5, null={"label": torch.tensor(3)})(x, t, label=label)
    expected = 2.5 * score(x, t, label=label) - 1.5 * score(x, t, label=none)
    torch.testing.assert_close(guided, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(guided, score(x, t, label=label), atol=1e-3)


# ---------------------------------------------------------------------- wrong uses


@KINDS
@pytest.mark.parametrize(
    ("built", "name", "given", "message"),
    [
        ({}, "label", torch.zeros(4, dtype=torch.long), "label was given"),
        ({}, "image", torch.zeros(4, 2, 4, 4), "image was given"),
        ({"classes": 3}, "label", None, "label is missing"),
        ({"image_channels": 2}, "image", None, "image is missing"),
        ({"image_channels": 2}, "image", torch.zeros(4, 3, 4, 4), "image has shape"),
        ({"image_channels": 2}, "image", torch.zeros(2, 4, 4), "image has shape"),
        ({"image_channels": 2}, "image", torch.zeros(3, 2, 4, 4), "image has shape"),
        ({"classes": 3}, "label", torch.zeros(3, dtype=torch.long), "label has shape"),
        ({"classes": 3}, "label", torch.zeros(1, dtype=torch.long), "label has shape"),
        ({"classes": 3}, "label", torch.zeros(4, 1, dtype=torch.long), "label has shape"),
        ({"classes": 3}, "label", torch.zeros(4), "label"),
    ],
    ids=lambda value: f"{value.dtype}{list(value.shape)}" if isinstance(value, torch.Tensor) else str(value),
)
def test_wrong_conditions_are_refused(kind, built, name, given, message):
    network = build(kind, **built)
    x, log_sigma, _ = inputs(network)
    with pytest.raises((ShapeError, TypeError), match=message):
        network(x, log_sigma, **{name: given})


@pytest.mark.parametrize(
    ("kind", "domain", "options", "message"),
    [
        *[(kind, Hypercube(12), {}, r"\[C, H, W\]") for kind in SMALL],
        *[(kind, Ball(3), {}, r"\[C, H, W\]") for kind in SMALL],
        *[(kind, CUBE, {"classes": -1}, "classes") for kind in SMALL],
        *[(kind, CUBE, {"image_channels": -1}, "image_channels") for kind in SMALL],
        (UNet, Hypercube((3, 6, 8)), {"multipliers": (1, 2, 2)}, "halved 2 times"),
        (UNet, Hypercube((3, 8, 6)), {"multipliers": (1, 2, 2)}, "halved 2 times"),
        (UNet, CUBE, {"multipliers": ()}, "multipliers"),
        (ImageTransformer, Hypercube((3, 8, 16)), {}, "square"),
        (ImageTransformer, CUBE, {"patch": 3}, "patches of 3"),
        (ImageTransformer, CUBE, {"width": 16, "heads": 3}, "width 16 .* heads 3"),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value),
)
def test_what_cannot_be_built_is_refused(kind, domain, options, message):
    with pytest.raises(ValueError, match=message):
        build(kind, domain, **options)


def test_the_cube_shows_each_pixels_distances_to_its_faces():
    x, sigma = torch.rand(5, *CUBE.event_shape, generator=torch.Generator().manual_seed(0)), torch.full((5,), 0.1)
    planes = CUBE.planes(x, sigma)
    torch.testing.assert_close(planes, torch.stack([2 * x - 1, x / (x + 0.1), (1 - x) / (1.1 - x)], 1))
    assert torch.equal(CUBE.features(x, sigma), planes.flatten(1))  # too many for eigenfunctions
    ball = Ball(4, radius=2.0)
    inside = ball.sample_prior(5, 1.0)
    planes = ball.planes(inside, sigma)
    torch.testing.assert_close(planes[:, 0], inside / 2)
    gap = 2 - inside.norm(dim=1)
    torch.testing.assert_close(planes[:, 1], (gap / (gap + 0.1))[:, None].expand(5, 4))
