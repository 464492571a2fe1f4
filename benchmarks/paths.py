"""How right and how noisy the denoising targets of simulated paths are, and what they cost.

The target u of `domains.paths.simulate` must have the kernel's score s as its expectation given both ends. Tests, for
many vector fields phi: E[(u - s) . phi] = 0 where the kernel is known (s itself, each axis, and each axis times each
coordinate), and E[u . phi + div phi] = 0 for fields without a component across the walls where it is not. z is a mean
over its standard error. "bias" is the root mean square over the fields of the mean, in per cent of the root mean
square of |phi| / sigma where the kernel is known, of E|div phi| where it is not; "noise" is what standard errors alone
would give: where the two are alike no bias was seen. "slope" is the regression of u on s, where s is not negligible.
Variances and E|u|^2 are a coordinate (of the tangent space), times sigma^2: a Gaussian without walls has 1. Starts:
`near` is close to a wall or a corner, where errors live; `inside` is some point. Lengths are in inradii. float64.

The last table shows the bias of one pooled field, towards the largest part of the ten-part simplex, against `steps`.

    python benchmarks/paths.py [--quick] [--paths 100000]
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from constrained_diffusion import Ball, Domain, Hypercube, Polytope, Simplex
from constrained_diffusion.domains import paths

CHUNK = 10_000
STEPS = [8, 16, 32, 64, 128]
REACH = 0.3  # of the fields in a polytope from its facets, in inradii
NEGLIGIBLE = 1e-3  # E|s|^2 sigma^2 a coordinate below which a slope says nothing
F64 = torch.float64

Tests = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (x, u) -> residuals and sizes, [rows, fields]


class Case(NamedTuple):
    domain: Domain
    name: str
    start: str
    x0: Sequence[float]
    sigmas: Sequence[float]  # in inradii


def random_polytope(d: int = 10, m: int = 30) -> Polytope:
    A = np.random.default_rng(0).standard_normal((m, d))
    return Polytope(A / np.linalg.norm(A, axis=1, keepdims=True), np.ones(m))


def cases() -> list[Case]:
    four, two = [0.15, 0.5, 1.5, 4.0], [0.5, 1.5]
    ten, body = Simplex(10, "euclidean"), random_polytope()
    wall = body.A[int((body.b - body.A @ body.centre).argmin())]
    vertex = a_vertex(body)
    return [
        Case(Hypercube(1), "interval", "near", [0.05], four),
        Case(Hypercube(1), "interval", "inside", [0.35], two),
        Case(Hypercube(2), "square", "near", [0.05, 0.1], four),
        Case(Hypercube(2), "square", "inside", [0.35, 0.6], two),
        Case(Ball(2), "disc", "near", [0.9, 0.0], four),
        Case(Ball(2), "disc", "inside", [0.4, 0.3], [0.5]),
        Case(Simplex(3), "triangle", "near", [0.9, 0.07, 0.03], four),
        Case(Simplex(3), "triangle", "inside", [0.45, 0.35, 0.2], two),
        Case(Ball(5), "ball, d = 5", "near", [0.9, 0.0, 0.0, 0.0, 0.0], four),
        Case(Ball(5), "ball, d = 5", "inside", [0.4, 0.3, 0.0, 0.0, 0.0], [0.5]),
        Case(ten, "simplex, 10 parts", "near", [0.85] + [0.15 / 9] * 9, four),
        Case(ten, "simplex, 10 parts", "inside", [0.19, 0.01] + [0.1] * 8, [0.5]),
        Case(body, "polytope, d = 10", "near", (body.centre + 0.9 * (vertex - body.centre)).tolist(), two),
        Case(body, "polytope, d = 10", "inside", (body.centre + 0.5 * wall).tolist(), [0.5]),
    ]


def a_vertex(body: Polytope) -> Tensor:
    """The one furthest along (-1, .., -1)."""
    found = optimize.linprog(np.ones(body.dim), body.A.numpy(), body.b.numpy(), bounds=(None, None))
    return torch.from_numpy(found.x)


# ---- tests
def against_the_score(domain: Domain, x0: Tensor, sigma: float) -> Tests:
    axes = domain.frame(x0)

    def tests(x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        s = domain.heat_kernel_score(x, x0, sigma)
        away, gap = (x - x0) @ axes.T, (u - s) @ axes.T
        crossed = (gap[:, :, None] * away[:, None]).flatten(1)
        sizes = [s.norm(dim=-1, keepdim=True), torch.ones_like(gap), away.repeat(1, domain.dim)]
        return torch.cat([((u - s) * s).sum(-1, keepdim=True), gap, crossed], -1), torch.cat(sizes, -1) / sigma

    return tests


def exchanges(domain: Domain, x0: Tensor, sigma: float) -> Tests:
    """On the simplex: phi = x_i x_j (e_i - e_j)."""
    i, j = torch.triu_indices(domain.n, domain.n, 1)

    def tests(x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        divergence = x[:, j] - x[:, i]
        return x[:, i] * x[:, j] * (u[:, i] - u[:, j]) + divergence, divergence.abs()

    return tests


def towards_the_largest(domain: Domain, x0: Tensor, sigma: float) -> Tests:
    """The sum of those fields that end in the first part."""

    def tests(x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        divergence = (x - x[:, :1]).sum(-1, keepdim=True)
        field = (x[:, :1] * x * (u[:, :1] - u)).sum(-1, keepdim=True)
        return field + divergence, divergence.abs()

    return tests


def along_the_facets(domain: Polytope, x0: Tensor, sigma: float) -> Tests:
    r"""R e_k and z_l R e_k, R = (1 + sum_i (reach / s_i) n_i n_i^T)^{-1}, s_i the distances, z_l coordinates."""
    n, reach = -domain.A, REACH * domain.inradius
    eye = torch.eye(domain.dim, dtype=F64)

    def tests(x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        s = (domain.b - x @ domain.A.T).clamp(min=1e-9)
        z = x - domain.centre
        R = torch.linalg.inv(eye + ((reach / s) @ (n[:, :, None] * n[:, None]).flatten(1)).reshape(-1, *eye.shape))
        pushed = n @ R
        div = ((reach / s**2 * (pushed * n).sum(-1)).unsqueeze(1) @ pushed).squeeze(1)
        fields = (u.unsqueeze(1) @ R).squeeze(1)
        divs = torch.cat([div, (z[:, :, None] * div[:, None] + R).flatten(1)], -1)
        return torch.cat([fields, (z[:, :, None] * fields[:, None]).flatten(1)], -1) + divs, divs.abs()

    return tests


def tests_for(domain: Domain, x0: Tensor, sigma: float) -> Tests:
    if domain.has_exact_kernel:
        return against_the_score(domain, x0, sigma)
    return (along_the_facets if isinstance(domain, Polytope) else exchanges)(domain, x0, sigma)


# ---- runs
class Moments:
    """Means, and standard deviations over rows, of what comes in chunks."""

    def __init__(self) -> None:
        self.count, self.first, self.second = 0, 0.0, 0.0

    def add(self, rows: Tensor) -> None:
        self.count += len(rows)
        self.first = self.first + rows.sum(0)
        self.second = self.second + rows.square().sum(0)

    @property
    def mean(self) -> Tensor:
        return self.first / self.count

    @property
    def variance(self) -> Tensor:
        return (self.second / self.count - self.mean**2).clamp(min=0)

    @property
    def error(self) -> Tensor:
        return (self.variance / self.count).sqrt()


class Run:
    def __init__(
        self,
        domain: Domain,
        x0: Sequence[float],
        sigma: float,
        count: int,
        steps: int = paths.STEPS,
        tests: Callable[[Domain, Tensor, float], Tests] = tests_for,
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        point = torch.tensor(x0, dtype=F64)
        test = tests(domain, point, sigma)
        self.domain, self.sigma, self.exact = domain, sigma, domain.has_exact_kernel
        self.residual, self.scale, self.target, self.score = Moments(), Moments(), Moments(), Moments()
        self.products = Moments()
        self.seconds = 0.0
        for at in range(0, count, CHUNK):
            rows = min(CHUNK, count - at)
            start = point.expand(rows, -1)
            begin = time.perf_counter()
            x, u = paths.simulate(
                domain, start, torch.full((rows,), sigma, dtype=F64), steps=steps, generator=generator
            )
            self.seconds += time.perf_counter() - begin
            residual, scale = test(x, u)
            self.residual.add(residual)
            self.scale.add(scale if not self.exact else scale.square())
            self.target.add(u)
            if self.exact:
                s = domain.heat_kernel_score(x, start, sigma)
                self.score.add(s)
                self.products.add(torch.stack([(u * s).sum(-1), (s * s).sum(-1), (u - s).mul(s).sum(-1)], -1))

    @property
    def z(self) -> Tensor:
        return self.residual.mean / self.residual.error.clamp(min=1e-300)

    def per_cent(self, of: Tensor) -> float:
        return 100 * rms(of / (self.scale.mean.sqrt() if self.exact else self.scale.mean))

    def per_coordinate(self, value: Tensor) -> float:
        return float(value.sum()) * self.sigma**2 / self.domain.dim

    def line(self, case: Case) -> str:
        bias, noise = self.per_cent(self.residual.mean), self.per_cent(self.residual.error)
        u, s = self.target, self.score
        slope, exact = f"{'-':>15s}", f"{'-':>8s}"
        if self.exact:
            us, ss, _ = self.products.mean.tolist()
            if ss * self.sigma**2 / self.domain.dim > NEGLIGIBLE:
                slope = f"{us / ss:7.4f} +-{float(self.products.error[2]) / ss:6.4f}"
            exact = f"{self.per_coordinate(s.variance):8.3f}"
        return (
            f"{case.name:18s} {case.start:7s} {self.sigma / case.domain.inradius:5.2f} {len(self.z):6d} "
            f"{float(self.z.abs().max()):7.2f} {rms(self.z):6.2f} {bias:7.2f} {noise:6.2f}  {slope} "
            f"{self.per_coordinate(u.variance):8.3f} {exact} {self.per_coordinate(u.second / u.count):8.3f} "
            f"{1e6 * self.seconds / u.count:10.1f}"
        )


def rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2,000 paths")
    parser.add_argument("--paths", type=int, default=100_000, help="paths a line")
    arguments = parser.parse_args()
    count = 2000 if arguments.quick else arguments.paths
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, {count:,} paths a line")
    print(
        "domain             start   sigma  tests  max|z|  rms z  bias %  noise            slope "
        "   var u    var s   E|u|^2  us a path"
    )
    for case in cases():
        for sigma in case.sigmas:
            print(Run(case.domain, case.x0, sigma * case.domain.inradius, count).line(case), flush=True)
    print("\nsimplex of 10 parts from [0.85, 0.15 / 9, ..], sigma = 0.15: bias of one pooled field against the steps")
    print("  steps   bias %  +-      bias times steps   us a path")
    for steps in STEPS:
        run = Run(
            Simplex(10, "euclidean"), [0.85] + [0.15 / 9] * 9, 0.15, count, steps=steps, tests=towards_the_largest
        )
        bias, spread = (100 * float(v / run.scale.mean) for v in (run.residual.mean, run.residual.error))
        cost = 1e6 * run.seconds / count
        print(f"{steps:7d} {bias:8.3f} {spread:7.3f} {bias * steps:14.1f} {cost:14.1f}", flush=True)


if __name__ == "__main__":
    main()
