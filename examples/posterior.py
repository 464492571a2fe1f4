"""Posteriors of two benchmark simulators inside the box of their prior: two moons, and SLCP with five parameters.

Train on parameters drawn from the prior and what they simulate; compare samples given an observation with the
benchmark's reference posterior. Beside it the same network without walls, whose samples outside the box are cut off.

    python examples/posterior.py [--quick] [--out FOLDER]
"""

import math
from dataclasses import dataclass

import torch
from report import Run, options
from scipy.stats import kstest
from simulators import SLCP, TwoMoons, reference
from torch import Generator, Tensor

from constrained_diffusion import Domain, Euclidean, Multistep, ReflectedDiffusion
from constrained_diffusion.metrics import sbc_ranks
from constrained_diffusion.plotting import calibration_curve, film_strip, outline_of, save_figure
from constrained_diffusion.posterior import Posterior
from constrained_diffusion.two_sample import c2st

DRAWS = 63  # posterior samples among which a true parameter is ranked


@dataclass(frozen=True)
class Plan:
    """How a simulator is studied: the budget, the benchmark's observations, the parameters that are drawn."""

    simulator: TwoMoons | SLCP
    simulations: int
    steps: int
    width: int
    observations: tuple[int, ...]
    drawn: tuple[int, int]


PLANS = (
    Plan(TwoMoons(), 10_000, 3000, 128, (1, 2, 3, 4, 5), (0, 1)),
    Plan(SLCP(), 100_000, 3000, 256, (1, 4, 7), (2, 4)),
)


def main() -> None:
    run = options(__doc__)
    if reference("two_moons", 1) is None:
        print(
            "The benchmark's files are not installed (python -m pip install --no-deps sbibm): observations are "
            "simulated here, and their posteriors drawn by the exact formula."
        )
    frames, titles = [], []
    for plan in PLANS:
        ours, free, generator = train(plan, run)
        frames += compare(plan, run, ours, free, generator)
        titles += [f"{plan.simulator.label}: {name}" for name in ("reference", "reflected", "unconstrained")]
        ranks = judge(plan, run, ours, generator)
        names = [f"theta {i + 1}" for i in range(plan.simulator.prior.dim)]
        figure = calibration_curve(ranks, DRAWS, names, title=f"Calibration, {plan.simulator.label}")
        save_figure(figure, run.out / f"posterior_{plan.simulator.name}_ranks.png")
    box = outline_of(TwoMoons.prior)
    outlines = [box * float(plan.simulator.prior.high) for plan in PLANS for _ in range(3)]
    figure = film_strip(frames, titles, outline=outlines, columns=3, kind="scatter", generated={1, 2, 4, 5})
    run.finish(save_figure(figure, run.out / "posterior.png"))


def train(plan: Plan, run: Run) -> tuple[Posterior, Posterior, Generator]:
    """The posterior with walls and the one without, of the same network and as many steps."""
    generator = torch.Generator().manual_seed(0)
    task, count = plan.simulator, 2000 if run.quick else plan.simulations
    theta = task.prior.sample_uniform(count, generator=generator)
    x = task.simulate(theta, generator)
    print(f"{task.label}: {count:,} simulations, {run.steps(plan.steps):,} steps")

    def fitted(domain: Domain) -> Posterior:
        width = 32 if run.quick else plan.width
        model = ReflectedDiffusion(
            domain, width=width, steps=run.steps(plan.steps), condition_dropout=0.0, seed=run.seed
        )
        return Posterior(model.fit(theta, condition=x))

    return fitted(task.prior), fitted(Euclidean(task.prior.dim)), generator


def draw(posterior: Posterior, n: int, x: Tensor, run: Run) -> Tensor:
    """Samples ``[n, *obs, d]`` given observations ``[*obs, k]``, by the random sampler, the better one at walls."""
    return posterior.sample((n,), x, seed=0, steps=run.sampler_steps(120))


def compare(plan: Plan, run: Run, ours: Posterior, free: Posterior, generator: Generator) -> list[Tensor]:
    """Print how far samples can be told from the reference; return three clouds where the walls matter most."""
    task, n = plan.simulator, 100 if run.quick else 2000
    print("  observation   C2ST: reflected   unconstrained, cut   outside: reflected   unconstrained")
    rows, clouds = [], []
    for number in plan.observations[: 1 if run.quick else None]:
        x, exact = observation(task, number, n, generator)
        inside, loose = draw(ours, n, x, run), draw(free, 2 * n, x, run)
        kept = loose[task.prior.contains(loose)][:n]
        away = [float((~task.prior.contains(cloud)).double().mean()) for cloud in (inside, loose)]
        rows.append([c2st(exact, inside), c2st(exact[: len(kept)], kept), *away])
        clouds.append([cloud[:n, plan.drawn] for cloud in (exact, inside, loose)])
        print(line(str(number), rows[-1]))
    print(line("mean", torch.tensor(rows).mean(0).tolist()))
    return clouds[max(range(len(rows)), key=lambda i: rows[i][3])]


def line(label: str, row: list[float]) -> str:
    return f"  {label:11s}  {row[0]:16.3f}   {row[1]:18.3f}   {100 * row[2]:16.1f} %   {100 * row[3]:11.1f} %"


def observation(task: TwoMoons | SLCP, number: int, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """The benchmark's observation of that number and ``n`` points of its posterior; else one of our own."""
    found = reference(task.name, number)
    if found is not None:
        return found[0], found[1][:n]
    own = torch.Generator().manual_seed(number)
    x = task.simulate(task.prior.sample_uniform(1, generator=own), own)[0]
    return x, task.exact(x, n, generator)


def judge(plan: Plan, run: Run, ours: Posterior, generator: Generator) -> Tensor:
    """Print how probable the true parameters are, and whether density and spread are right; return their ranks."""
    task, n = plan.simulator, 20 if run.quick else 300
    theta = task.prior.sample_uniform(n, generator=generator)
    x = task.simulate(theta, generator)
    tolerance = {"rtol": 1e-3, "atol": 1e-3}
    density = ours.log_prob(theta, x, **tolerance)
    print(f"  log-density of {n} true parameters: mean {density.mean():.2f} +- {density.std() / n**0.5:.2f} nats")
    if isinstance(task, TwoMoons):
        exact = task.exact_log_prob(theta, x, generator)
        print(f"    of the exact posterior: {exact.mean():.2f}; less by {(exact - density).mean():.2f}")
        total, error = mass(ours, x[0], 50 if run.quick else 2000, run, generator)
        print(f"  integral of a posterior's density over the box: {total:.3f} +- {error:.3f}")
    draws = ours.sample((DRAWS,), x, seed=0, sampler=Multistep, steps=run.sampler_steps(40))
    ranks = sbc_ranks(theta, draws)
    chance = [kstest((column + 0.5) / (DRAWS + 1), "uniform").pvalue for column in ranks.double().T]
    print(f"  calibration: p-values of uniform ranks {', '.join(f'{p:.2f}' for p in chance)}")
    return ranks


def mass(posterior: Posterior, x: Tensor, n: int, run: Run, generator: Generator) -> tuple[float, float]:
    """The integral of a density in the plane over its domain, and its standard error.

    Of 2n points half are uniform and half lie around the posterior's own samples; the density is divided by theirs.
    """
    domain, width = posterior.domain, 0.02
    centres = draw(posterior, n, x, run)
    around = centres + width * torch.randn(centres.shape, generator=generator)
    points = torch.cat([domain.sample_uniform(n, generator=generator), around])
    log_kernel = -0.5 * (torch.cdist(points, centres) / width) ** 2 - math.log(2 * math.pi * width**2)
    theirs = 0.5 * domain.contains(points) * math.exp(-domain.log_volume) + 0.5 * log_kernel.exp().mean(1)
    ratio = posterior.log_prob(points, x, rtol=1e-3, atol=1e-3).exp() / theirs
    return float(ratio.mean()), float(ratio.std()) / len(ratio) ** 0.5


if __name__ == "__main__":
    main()
