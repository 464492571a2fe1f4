"""How samplers converge with their number of evaluations, with an exact score in place of a network.

The law: atoms at 0, 0.35 and 1 of [0, 1] with weights 0.3, 0.45 and 0.25, noised up to sigma_min. Left: sigma_min =
0.1, a smooth law; the error of the end points of the deterministic samplers against a tight solution, and fitted
orders. Right: sigma_min = 0.01; the Kolmogorov-Smirnov distance of what comes out from the exact law: of the
deterministic samplers for latents spread evenly, so that only their own error is seen; of the others for 20,000 draws,
whose own noise is about 0.006 (shaded).

    python benchmarks/convergence.py [--seed 0] [--out docs/images/convergence.png]
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from constrained_diffusion import (
    AnnealedReflected,
    EulerMaruyama,
    Heun,
    Hypercube,
    Multistep,
    PredictorCorrector,
    ProbabilityFlow,
    ReflectedBridge,
    ReflectedSDE,
    Sampler,
)

N = 20_000
ATOMS = torch.tensor([0.0, 0.35, 1.0], dtype=torch.float64).unsqueeze(-1)
WEIGHTS = torch.tensor([0.3, 0.45, 0.25], dtype=torch.float64)
Make = Callable[..., Sampler]

DETERMINISTIC: dict[str, tuple[Make, int]] = {
    "first order (DDIM)": (AnnealedReflected, 1),
    "Heun": (Heun, 2),
    "midpoint": (lambda *a, **k: Heun(*a, midpoint=True, **k), 2),
    "multistep": (Multistep, 1),
}
RANDOM: dict[str, tuple[Make, int]] = {
    "Euler-Maruyama": (lambda *a, **k: EulerMaruyama(*a, variance="large", **k), 1),
    "Euler-Maruyama, mean variance": (lambda *a, **k: EulerMaruyama(*a, variance="mean", **k), 1),
    "predictor-corrector": (PredictorCorrector, 2),
    "Euler-Maruyama, small variance": (EulerMaruyama, 1),
    "reflected bridge": (ReflectedBridge, 1),
    "Heun with churn": (lambda *a, steps, **k: Heun(*a, churn=steps / 3, steps=steps, **k), 2),
}


class Law:
    def __init__(self, sigma_min: float) -> None:
        self.sde = ReflectedSDE(Hypercube(1), sigma_min)
        grid = torch.linspace(0, 1, 40_001, dtype=torch.float64)
        density = self.log_terms(grid[:, None], torch.full_like(grid, sigma_min)).logsumexp(-1).exp()
        self.grid, self.cdf = grid[1:].numpy(), torch.cumulative_trapezoid(density, grid).numpy()

    def log_terms(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.sde.domain.heat_kernel_log_prob(x.unsqueeze(-2), ATOMS, sigma.unsqueeze(-1)) + WEIGHTS.log()

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        sigma = self.sde.sigma(t)
        share = torch.softmax(self.log_terms(x, sigma), -1).unsqueeze(-1)
        return (share * self.sde.domain.heat_kernel_score(x.unsqueeze(-2), ATOMS, sigma.unsqueeze(-1))).sum(-2)

    def distance(self, x: Tensor) -> float:
        return stats.kstest(x.flatten().numpy(), lambda q: np.interp(q, self.grid, self.cdf)).statistic


def even() -> Tensor:
    return ((torch.arange(N, dtype=torch.float64) + 0.5) / N).unsqueeze(-1)


def orders(law: Law) -> dict[str, tuple[list[int], list[float]]]:
    tight = ProbabilityFlow(law.sde, law.score, rtol=1e-9, atol=1e-10, denoise=False)
    truth = tight.sample(N, latent=even()).x
    lines = {}
    for name, (make, cost) in DETERMINISTIC.items():
        nfe, errors = [], []
        for steps in [n // cost for n in (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)]:
            out = make(law.sde, law.score, steps=steps, denoise=False).sample(N, latent=even())
            nfe.append(out.nfe)
            errors.append(float((out.x - truth).abs().mean()))
        slope = np.polyfit(np.log(nfe[-6:]), np.log(errors[-6:]), 1)[0]
        lines[f"{name}: order {-slope:.2f}"] = nfe, errors
        shown = "  ".join(f"{n}: {e:.1e}" for n, e in zip(nfe, errors, strict=True))
        print(f"{name:22s} order {-slope:.2f}   {shown}", flush=True)
    return lines


def distances(law: Law, seed: int) -> dict[str, tuple[list[int], list[float]]]:
    lines = {}
    for name, (make, cost) in (DETERMINISTIC | RANDOM).items():
        nfe, values = [], []
        begin = time.perf_counter()
        for evaluations in (8, 12, 16, 24, 48, 100, 200, *([400, 1000] if name == "Euler-Maruyama" else [])):
            walk = make(law.sde, law.score, steps=evaluations // cost, denoise=False)
            latent = even() if name in DETERMINISTIC else None
            generator = torch.Generator().manual_seed(seed)
            out = walk.sample(N, latent=latent, generator=generator, dtype=torch.float64)
            nfe.append(out.nfe)
            values.append(law.distance(out.x))
        lines[name] = nfe, values
        shown = "  ".join(f"{n}: {v:.4f}" for n, v in zip(nfe, values, strict=True))
        print(f"{name:22s} {shown}  ({time.perf_counter() - begin:.0f} s)", flush=True)
    nfe, values = [], []
    for tolerance in (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5):
        walk = ProbabilityFlow(law.sde, law.score, rtol=tolerance, atol=tolerance, denoise=False)
        out = walk.sample(N, latent=even())
        nfe.append(out.nfe)
        values.append(law.distance(out.x))
    lines["adaptive (dopri5)"] = nfe, values
    print(f"{'adaptive (dopri5)':22s} " + "  ".join(f"{n}: {v:.4f}" for n, v in zip(nfe, values, strict=True)))
    return lines


def draw(left: dict, right: dict, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(13, 4.6), constrained_layout=True)
    for name, (nfe, errors) in left.items():
        axes[0].loglog(nfe, errors, "o-", ms=4, label=name)
    axes[0].set(title="smooth law", ylabel="mean error of the end points", xlabel="evaluations of the score")
    for name, (nfe, values) in right.items():
        style = "s--" if name in RANDOM else "k^-" if name.startswith("adaptive") else "o-"
        axes[1].loglog(nfe, values, style, ms=4, label=name)
    axes[1].axhspan(0, 0.0061, color="0.9", zorder=0)
    axes[1].set(title="atoms at both ends", ylabel="Kolmogorov-Smirnov distance", xlabel="evaluations of the score")
    axes[0].legend(fontsize=8)
    axes[1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    for axis in axes:
        axis.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/images/convergence.png"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    draw(orders(Law(0.1)), distances(Law(0.01), arguments.seed), arguments.out)


if __name__ == "__main__":
    main()
