"""How the error of a mean falls with the step, for the three ways in which `sample_sde` stays inside.

Two processes whose means are known in closed form, E f(X_T) = exp(-rate T) f(x0) for an eigenfunction f of the
reflected process: Brownian motion with drift 1 in [0, 1], and an Ornstein-Uhlenbeck process in the unit disc. The
noise of the mean is reduced by a control variate that has mean zero whatever the scheme: the first two terms
of the martingale part, from the same noise. Prints the errors and the fitted slopes, and draws them.

    python benchmarks/weak_order.py [--seed 0] [--out docs/images/weak_order.png]
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import optimize, special
from torch import Tensor

from constrained_diffusion.domains import Ball, Domain, Hypercube
from constrained_diffusion.simulation import sample_sde

DURATION = 0.25
CHUNK = 25_000  # paths at a time: what a step reads and writes stays in the cache
ORDERS = {"specular": 1.0, "symmetrised": 1.0, "project": 0.5}
# The order 1/2 shows at finer steps than the order 1, and its larger error needs fewer paths.
PLAN = {"specular": ((4, 8, 16, 32, 64), 800_000), "symmetrised": ((4, 8, 16, 32, 64), 800_000)}
PLAN["project"] = ((16, 32, 64, 128, 256, 512), 100_000)


@dataclass(frozen=True)
class Problem:
    """A process with an eigenfunction: ``jets(x)`` gives f, its gradient, and its Hessian as (u, w) -> u.H.w."""

    name: str
    domain: Domain
    x0: Sequence[float]
    drift: Callable[[Tensor, Tensor], Tensor]
    rate: float
    jets: Callable[[Tensor], tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]]


def drifting_interval(b: float = 1.0) -> Problem:
    """f = exp(-b x) (cos pi x + b/pi sin pi x) solves f''/2 + b f' = -(b^2 + pi^2)/2 f, f'(0) = f'(1) = 0."""
    c = b**2 / math.pi + math.pi

    def jets(x):
        sine, cosine, decay = torch.sin(math.pi * x), torch.cos(math.pi * x), torch.exp(-b * x)
        second = c * decay * (b * sine - math.pi * cosine)
        return (
            (decay * (cosine + b / math.pi * sine)).squeeze(-1),
            -c * decay * sine,
            lambda z: (second * (z**2 - 1)).squeeze(-1),
        )

    rate = (b**2 + math.pi**2) / 2
    return Problem("Brownian motion with drift in [0, 1]", Hypercube(1), [0.2], lambda x, t: b + 0 * x, rate, jets)


def ornstein_uhlenbeck_disc(kappa: float = 1.0) -> Problem:
    """f = M(a, 1, kappa |x|^2) (Kummer) solves Laplacian f/2 - kappa x.grad f = 2 kappa a f; a < 0: flat at 1."""
    slope = lambda a: special.hyp1f1(a + 1, 2, kappa)  # noqa: E731
    a = optimize.brentq(slope, -6 / kappa, -2 / kappa, xtol=1e-14)
    s = (1 - np.cos(np.linspace(0, np.pi, 60))) / 2
    fit = np.polynomial.Chebyshev.fit(s, special.hyp1f1(a, 1, kappa * s), 20, domain=[0, 1])  # entire: exact to 1e-14
    series = fit.convert(kind=np.polynomial.Polynomial)
    coefficients = [torch.tensor(series.deriv(k).coef if k else series.coef) for k in range(3)]

    def jets(x):
        s = x.square().sum(-1)
        f, f1, f2 = (_horner(c, s) for c in coefficients)
        across = lambda z: 2 * f1 * (z.square().sum(-1) - 2) + 4 * f2 * ((x * z).sum(-1) ** 2 - s)  # noqa: E731
        return f, 2 * f1.unsqueeze(-1) * x, across

    return Problem("Ornstein-Uhlenbeck in a disc", Ball(2), [0.9, 0.0], lambda x, t: -kappa * x, -2 * kappa * a, jets)


def _horner(coefficients: Tensor, s: Tensor) -> Tensor:
    out = torch.zeros_like(s)
    for c in coefficients.flip(0):
        out = out * s + c
    return out


def weak_error(problem: Problem, boundary: str, steps: int, paths: int, seed: int) -> tuple[float, float]:
    """E f(X_T) by simulation minus the exact value, and its standard error."""
    x0 = torch.tensor(problem.x0, dtype=torch.float64)
    root = math.sqrt(DURATION / steps)
    values = []
    for chunk in range(-(-paths // CHUNK)):
        control = torch.zeros(CHUNK, dtype=torch.float64)
        # A twin of the generator gives the noise that sample_sde draws at the same step.
        generator, twin = (torch.Generator().manual_seed(seed + 1_000_003 * chunk) for _ in range(2))

        def drift(x, t, twin=twin, control=control):
            z = problem.domain.sample_noise(x, generator=twin)
            _, gradient, second = problem.jets(x)
            step = root * (gradient * z).sum(-1) + root**2 / 2 * second(z)
            control += math.exp(problem.rate * (float(t) - DURATION)) * step
            return problem.drift(x, t)

        start = x0.expand(CHUNK, -1)
        end = sample_sde(
            problem.domain, start, drift, duration=DURATION, steps=steps, boundary=boundary, generator=generator
        )
        values.append(problem.jets(end.x)[0] - control)
    value = torch.cat(values)
    exact = math.exp(-problem.rate * DURATION) * float(problem.jets(x0)[0])
    return float(value.mean()) - exact, float(value.std()) / math.sqrt(len(value))


def fitted_slope(steps: Sequence[int], errors: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Slope of log |error| against log step, points weighted by their precision, and the slope's standard error."""
    size, noise = (np.array([e[i] for e in errors]) for i in range(2))
    relative = np.hypot(noise / np.abs(size), 0.03)  # no point counts for all: a power law is only the leading term
    h, y, w = -np.log(steps), np.log(np.abs(size)), relative**-2
    centred = h - (w * h).sum() / w.sum()
    spread = (w * centred**2).sum()
    return float((w * centred * y).sum() / spread), float(spread**-0.5)


def draw(results: dict, path: Path) -> None:
    from matplotlib.figure import Figure

    from constrained_diffusion.plotting import save_figure

    look = {
        "specular": ("#24609c", "o", "specular (reflect)"),
        "symmetrised": ("#2a8c55", "s", "symmetrised"),
        "project": ("#c2253f", "^", "project"),
    }
    figure = Figure(figsize=(9.0, 5.0), layout="constrained")
    for axes, (name, rows) in zip(figure.subplots(1, 2, sharey=True), results.items(), strict=True):
        for scheme, (steps, errors, slope) in rows.items():
            colour, marker, label = look[scheme]
            h = DURATION / np.array(steps)
            size, noise = (np.array([e[i] for e in errors]) for i in range(2))
            size = np.abs(size)
            label = f"{label}: slope {slope[0]:.2f}"
            axes.errorbar(h, size, 2 * noise, fmt=marker, color=colour, capsize=2.5, markersize=6, label=label)
            anchor = size[-1] * (h / h[-1]) ** ORDERS[scheme]
            axes.plot(h, anchor, "-" if ORDERS[scheme] == 1 else "--", color=colour, alpha=0.5, linewidth=1.2, zorder=0)
        axes.set(xscale="log", yscale="log", title=name, xlabel="step h")
        axes.grid(which="major", color="#e4e7ec", linewidth=0.8)
        axes.plot([], [], "-", color="#6b7280", label="order 1")
        axes.plot([], [], "--", color="#6b7280", label="order 1/2")
        axes.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)
    figure.axes[0].set_ylabel("|error of E f(X_T)|")
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/images/weak_order.png"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.perf_counter()
    print(f"torch {torch.__version__}, 1 thread, seed {arguments.seed}, T = {DURATION}")
    results: dict = {}
    for problem in (drifting_interval(), ornstein_uhlenbeck_disc()):
        print(problem.name)
        for scheme, (steps, paths) in PLAN.items():
            errors = [weak_error(problem, scheme, n, paths, arguments.seed) for n in steps]
            slope = fitted_slope(steps, errors)
            results.setdefault(problem.name, {})[scheme] = steps, errors, slope
            print(f"  {scheme:12s} slope {slope[0]:.2f} +- {slope[1]:.2f}")
            for n, (error, noise) in zip(steps, errors, strict=True):
                print(f"    h = T/{n:<4d} error {error:+.5f} +- {noise:.5f}", flush=True)
    draw(results, arguments.out)
    print(f"{arguments.out}, {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
