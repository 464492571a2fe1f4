"""Training, samplers, kernels and likelihoods on the device at hand: a GPU, and where there is none the CPU."""

from __future__ import annotations

import pytest
import torch

from constrained_diffusion import (
    AnnealedLangevin,
    AnnealedReflected,
    Ball,
    Euclidean,
    EulerMaruyama,
    Heun,
    Hypercube,
    Multistep,
    Polytope,
    PredictorCorrector,
    ProbabilityFlow,
    Product,
    ReflectedBridge,
    ReflectedDiffusion,
    Region,
    Simplex,
    Solid,
    Sphere,
    Torus,
    elbo,
    log_prob,
)

L_SHAPE = [[0.0, 0.0], [2.0, 0.0], [2.0, 1.0], [1.0, 1.0], [1.0, 2.0], [0.0, 2.0]]
CUBE = [[x, y, z] for x in (0.0, 1.0) for y in (0.0, 1.0) for z in (0.0, 1.0)]
TWELVE = [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1]]
TWELVE += [[2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]
DOMAINS = {
    "box": lambda: Hypercube(2, low=-3, high=[1, 7]),
    "image": lambda: Hypercube((3, 4, 4)),
    "simplex": lambda: Simplex(4),
    "ball": lambda: Ball(3, radius=2.5),
    "polytope": lambda: Polytope.from_vertices([[0.0, 0.0], [2.0, 0.0], [1.0, 1.5]]),
    "region": lambda: Region(L_SHAPE, resolution=20),
    "solid": lambda: Solid(CUBE, TWELVE, resolution=6),
    "product": lambda: Product(Hypercube(1), Ball(2)),
    "sphere": lambda: Sphere(2),
    "torus": lambda: Torus(2),
}
SAMPLERS = {
    "euler": EulerMaruyama,
    "corrector": PredictorCorrector,
    "langevin": AnnealedLangevin,
    "annealed": AnnealedReflected,
    "heun": Heun,
    "multistep": Multistep,
    "flow": lambda process, score, steps: ProbabilityFlow(process, score, rtol=1e-2, atol=1e-2),
}

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def points(domain, n=200):
    return domain.sample_uniform((n,), generator=torch.Generator().manual_seed(0), dtype=torch.float32)


@pytest.fixture(scope="module", params=DOMAINS)
def fitted(request):
    """A model trained for a few steps on the device at hand."""
    domain = DOMAINS[request.param]()
    model = ReflectedDiffusion(domain, width=32, depth=2, steps=20, batch_size=64, device=DEVICE)
    return model.fit(points(domain), progress=False)


def test_model_there_and_back(fitted, tmp_path):
    """Samples lie inside, and where the data were; the saved model gives the same log-densities on the CPU."""
    domain = fitted.domain
    samples = fitted.sample(50, steps=10, seed=0)
    assert samples.device.type == "cpu"
    assert domain.contains(samples).all()
    assert torch.equal(samples, fitted.sample(50, steps=10, seed=0))
    x = points(domain, 8)
    there = fitted.log_prob(x)
    fitted.save(tmp_path / "model")
    here = ReflectedDiffusion.load(tmp_path / "model").log_prob(x)
    torch.testing.assert_close(there, here, rtol=0, atol=2e-2)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers(fitted, name):
    walk = SAMPLERS[name](fitted.sde_, fitted.score_, steps=6)
    samples = walk.sample(32, generator=torch.Generator(DEVICE).manual_seed(0), device=DEVICE)
    assert samples.x.device.type == DEVICE
    assert fitted.sde_.domain.contains(samples.x).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_kernel(fitted, dtype):
    """Noising is done there, and its targets are those that the CPU computes."""
    domain = fitted.sde_.domain
    x0 = domain.sample_uniform((16,), generator=torch.Generator(DEVICE).manual_seed(0), dtype=dtype, device=DEVICE)
    assert (x0.device.type, x0.dtype) == (DEVICE, dtype)
    x, target = domain.diffuse(x0, 0.3, generator=torch.Generator(DEVICE).manual_seed(1))
    assert (x.device, target.device, x.dtype, target.dtype) == (x0.device, x0.device, dtype, dtype)
    assert domain.contains(x).all()
    if domain.has_exact_kernel:
        there, here = (domain.heat_kernel_score(x.to(d), x0.to(d), 0.3).cpu() for d in (DEVICE, "cpu"))
        tolerance = 1e-3 if dtype == torch.float32 else 1e-8
        torch.testing.assert_close(there, here, rtol=tolerance, atol=tolerance)


def test_likelihoods(fitted):
    x = points(fitted.sde_.domain, 4).to(DEVICE)
    generator = torch.Generator(DEVICE).manual_seed(0)
    for value in (
        elbo(fitted.sde_, fitted.score_, x, draws=4, generator=generator).value,
        log_prob(fitted.sde_, fitted.score_, x, probes=2, generator=generator, rtol=1e-2, atol=1e-2).value,
    ):
        assert value.device.type == DEVICE
        assert value.isfinite().all()


@pytest.mark.parametrize("name", ["box", "simplex", "ball"])
def test_bridge_and_flow(name):
    domain = DOMAINS[name]()
    options = {"width": 32, "depth": 2, "steps": 10, "batch_size": 32, "device": DEVICE}
    model = ReflectedDiffusion(domain, **options).fit(points(domain), progress=False)
    generator = torch.Generator(DEVICE).manual_seed(0)
    samples = ReflectedBridge(model.sde_, model.score_, steps=5).sample(16, generator=generator, device=DEVICE)
    assert model.sde_.domain.contains(samples.x).all()
    flow = ReflectedDiffusion(domain, process="flow", **options).fit(points(domain), progress=False)
    assert domain.contains(flow.sample(16)).all()


@pytest.mark.parametrize("loss", ["implicit", "sliced"])
def test_losses_without_targets(loss):
    domain = Hypercube(2)
    options = {"width": 32, "depth": 2, "steps": 10, "batch_size": 32, "device": DEVICE}
    model = ReflectedDiffusion(domain, loss=loss, **options).fit(points(domain), progress=False)
    assert domain.contains(model.sample(16, steps=5)).all()


def test_unbounded():
    options = {"width": 32, "depth": 2, "steps": 10, "batch_size": 32, "device": DEVICE}
    model = ReflectedDiffusion(Euclidean(2), **options).fit(torch.randn(100, 2, device=DEVICE), progress=False)
    assert model.sample(16, steps=5).device.type == DEVICE
