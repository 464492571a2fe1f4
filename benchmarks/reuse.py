"""What it costs a model that noised points are used more than once, and soon again.

Models of a mixture of heat kernels in the square are trained alike, but for how many batches each noised point serves
and how many rounds of batches lie between two uses of it. Their scores are compared with the exact one, that of the
training points' own law: mean of |error|^2 sigma^2, times 1e4, over points noised to that sigma; mean of the seeds.

    python benchmarks/reuse.py [--quick] [--seeds 3] [--steps 4000]
"""

import argparse

import torch
from torch import Tensor

from constrained_diffusion import Hypercube, ReflectedDiffusion, pool

SQUARE = Hypercube(2)
LEVELS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7)
CASES = ((1, 4), (3, 0), (3, 1), (3, 4), (3, 12))  # batches that a point serves, rounds between two of them


def exact(x: Tensor, sigma: float, data: Tensor) -> Tensor:
    """Score ``[n, 2]`` at ``x`` of the data noised to sigma."""
    pairs = x.double().unsqueeze(1).expand(-1, len(data), -1), data.double().expand(len(x), -1, -1)
    log_p = SQUARE.heat_kernel_log_prob(*pairs, sigma)
    return (torch.softmax(log_p, 1).unsqueeze(-1) * SQUARE.heat_kernel_score(*pairs, sigma)).sum(1)


def errors(model: ReflectedDiffusion, tests: list[tuple[Tensor, Tensor]]) -> list[float]:
    """Mean of |error|^2 sigma^2 at each level."""
    times = torch.linspace(0, 1, 2001)
    sigmas = model.sde_.sigma(times)
    found = []
    for sigma, (x, truth) in zip(LEVELS, tests, strict=True):
        t = times[(sigmas - sigma).abs().argmin()].expand(len(x))
        with torch.no_grad():
            found.append(float(((model.score_(x, t) - truth) * sigma).square().sum(-1).mean()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short training each: shows that it runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4000)
    options = parser.parse_args()
    seeds, steps, points = (1, 30, 20) if options.quick else (options.seeds, options.steps, 400)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(6, 2, generator=generator)
    data = SQUARE.sample_heat_kernel(centres[torch.randint(6, (4000,), generator=generator)], 0.08, generator=generator)
    tests = []
    for sigma in LEVELS:
        start = data[torch.randint(len(data), (points,), generator=generator)]
        x = SQUARE.sample_heat_kernel(start, sigma, generator=generator)
        tests.append((x, exact(x, sigma, data)))
    print("uses, rounds apart; error at sigma =", *LEVELS)
    for reuse, apart in CASES:
        pool._APART = apart
        rows = []
        for seed in range(seeds):
            model = ReflectedDiffusion(SQUARE, reuse=reuse, steps=steps, width=128, depth=2, batch_size=256, seed=seed)
            rows.append(errors(model.fit(data, progress=False), tests))
        mean = torch.tensor(rows).mean(0) * 1e4
        print(
            f"{reuse}, {pool._APART if reuse > 1 else '-'}:", *(f"{value:.1f}" for value in mean.tolist()), flush=True
        )


if __name__ == "__main__":
    main()
