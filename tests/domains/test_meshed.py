"""What regions and solids share: where the kernel's series begins, and what networks are shown."""

import math

import pytest
import torch

from constrained_diffusion import Region, Solid
from constrained_diffusion.domains import paths

F64 = torch.float64
CORNERS = [[0.0, 0.0], [2.0, 0.0], [2.0, 1.0], [0.0, 1.0]]
CUBE = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=F64)] * 3)
SIDES = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
FACES = [[a, b, c] for s in SIDES for a, b, c in ((s[0], s[1], s[2]), (s[0], s[2], s[3]))]


@pytest.fixture(scope="module", params=["region", "solid"])
def domain(request):
    return Region(CORNERS, resolution=20) if request.param == "region" else Solid(CUBE, FACES, resolution=6)


def test_the_series_begins_at_its_least_sigma(domain, monkeypatch):
    asked = []

    def by_paths(domain, x0, sigma, **_):
        asked.append(sigma)
        return x0, torch.full_like(x0, 7.0)

    monkeypatch.setattr(paths, "simulate", by_paths)
    x0 = domain.sample_uniform(6, generator=torch.Generator().manual_seed(0), dtype=F64)
    sigma = domain.least_sigma * torch.tensor([0.9, 1.0, 1.1, 0.5, 2.0, 0.99], dtype=F64)
    x, target = domain.diffuse(x0, sigma, generator=torch.Generator().manual_seed(1))
    wide = sigma >= domain.least_sigma
    assert torch.cat(asked).tolist() == sigma[~wide].tolist()
    assert bool((target[~wide] == 7).all())
    torch.testing.assert_close(target[wide], domain.kernel_score(x[wide], x0[wide], sigma[wide]))


def test_networks_are_shown_walls_where_they_are_near(domain):
    """Coordinates from -1 to 1, one less sigma / (distance + sigma), that share times the normal, and waves."""
    d, middle = domain.dim, sum(domain.bounding_box) / 2
    foot = middle.clone()
    foot[1] = 0.1
    shown = domain.features(torch.stack([middle, foot]), torch.full((2,), 0.1, dtype=F64))
    assert shown.shape == (2, d + 1 + d + 8 * d)
    inside = torch.linalg.vector_norm(shown[0, d + 1 : 2 * d + 1])
    assert float(inside) == pytest.approx(0.1 / 0.6)
    assert shown[1, :d].tolist() == pytest.approx([0.0, -0.8, 0.0][:d], abs=1e-12)
    assert shown[1, d : 2 * d + 1].tolist() == pytest.approx([0.5, 0.0, 0.5, 0.0][: d + 1], abs=1e-12)
    assert shown[1, 2 * d + 1 : 3 * d + 1].tolist() == pytest.approx([1.0, math.cos(0.8 * math.pi), 1.0][:d])
