"""Sets far from the origin, or of sizes out of all proportion, are modelled in units that single precision resolves."""

import numpy as np
import pytest
import torch

from constrained_diffusion import Euclidean, Hypercube, Polytope, Product, ReflectedDiffusion, Region, Solid
from constrained_diffusion.domains.base import Domain
from constrained_diffusion.units import Units

SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
TETRAHEDRON = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def there(at: float, size: float = 1.0) -> dict[str, Domain]:
    eye = np.eye(3)
    sums = np.ones((1, 3))
    return {
        "box": Hypercube(2, at, at + size),
        "product": Product(Hypercube(1, at, at + size), Hypercube(1)),
        "polytope": Polytope(np.r_[eye, -eye], np.r_[np.full(3, at + size), np.full(3, -at)]),
        "flat polytope": Polytope(-eye, np.full(3, -at), sums, [3 * at + size]),
        "region": Region(at + size * SQUARE, 10),
        "solid": Solid(at + size * TETRAHEDRON, FACES),
    }


@pytest.mark.parametrize("name", there(0.0))
def test_far_sets_are_moved_to_the_origin(name):
    near, far = there(0.0)[name], there(1e7)[name]
    x = near.sample_uniform(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert near.normalised(x)[1] is None
    shift = torch.full(near.event_shape, 1e7, dtype=torch.float64)
    if name == "product":
        shift[1] = 0
    normal, change = far.normalised(x + shift)
    assert change is not None
    z = change.inverse(x + shift)
    assert normal.contains(z, atol=1e-8).all()
    assert z.abs().max() <= 1
    torch.testing.assert_close(change(z), x + shift)
    assert change.log_det == pytest.approx(0.0, abs=1e-12)
    torch.testing.assert_close(normal.boundary(normal.project(z))[0], near.boundary(x)[0], atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("name", ["box", "polytope"])
def test_samples_far_from_zero_are_not_a_few_numbers(name):
    far = there(1e7)[name]
    x = far.sample_uniform(300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = ReflectedDiffusion(far, width=8, depth=1, steps=3, batch_size=32).fit(x, progress=False)
    samples = model.sample(300, steps=5)
    assert len(np.unique(samples[:, 0].numpy())) > 290
    assert far.contains(samples).all()
    assert model.log_prob(x[:50]).std() > 0


@pytest.mark.parametrize("size", [1e-15, 1e15])
def test_boxes_of_any_size_are_the_unit_cube(size):
    box = Hypercube(2, 0.0, size)
    normal, change = box.normalised(box.sample_uniform(5))
    assert normal == Hypercube(2)
    assert change is not None
    assert change.log_det == pytest.approx(2 * np.log(size))


@pytest.mark.parametrize("domain", [Hypercube(2, [0.0, -5.0], [1.0, 20.0]), Hypercube(2), Euclidean(2)], ids=str)
def test_observations_change_their_units_with_the_points(domain):
    x = torch.rand(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x if domain == Hypercube(2) else x * torch.tensor([1.0, 20.0])
    units = Units.of(domain, x)
    A = torch.tensor([[1.0, 2.0], [0.0, -1.0], [3.0, 0.0]])
    y = x @ A.double().T
    own, seen = units.observation(A, y)
    z = x if units.change is None else units.change.inverse(x)
    torch.testing.assert_close(z @ own.T, seen)
    assert (units.change is None) == (domain == Hypercube(2))
