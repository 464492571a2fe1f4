"""Domains: where data live, how to stay inside, and how Brownian motion spreads there.

The ground floor of the library. It knows tensors and geometry, nothing of networks, schedules or training.
"""

if __name__ == "domains":  # a second copy of every class would fail isinstance checks and registries
    raise ImportError("import constrained_diffusion.domains; the folder `domains` is not a package by itself")

from .ball import Ball
from .base import Domain
from .checks import DomainError, ShapeError, SolverError, trusted
from .euclidean import Euclidean
from .hypercube import Hypercube
from .manifold import Manifold
from .membership import MetropolisDomain
from .polytope import Polytope
from .product import Product
from .region import Region
from .simplex import Simplex
from .solid import Solid
from .sphere import Sphere
from .sphere_polytope import SphericalPolytope
from .torus import Torus

__all__ = [
    "Ball",
    "Domain",
    "DomainError",
    "Euclidean",
    "Hypercube",
    "Manifold",
    "MetropolisDomain",
    "Polytope",
    "Product",
    "Region",
    "ShapeError",
    "Simplex",
    "Solid",
    "SolverError",
    "Sphere",
    "SphericalPolytope",
    "Torus",
    "trusted",
]
