"""Compositions with true zeros: what British households spend their money on, learnt on the six-part simplex.

Train on half of the households, compare samples with the other half.

    python examples/simplex_budgets.py [--quick] [--out FOLDER]
"""

import torch
from report import halves, options, report

from constrained_diffusion import ReflectedDiffusion, Simplex
from constrained_diffusion.plotting import parts_histograms, save_figure
from real_data import budget_shares


def main() -> None:
    run = options(__doc__)
    shares, names = budget_shares()
    train, held_back = halves(torch.from_numpy(shares))
    model = ReflectedDiffusion(Simplex(6), width=128, seed=run.seed, steps=run.steps(4000)).fit(train)
    samples = model.sample(5 * len(held_back), steps=run.sampler_steps())
    note = report("household budgets", model.domain, samples, train, held_back)
    for name, part, sample in zip(names, held_back.T, samples.T, strict=True):
        none, drawn = (100 * float((x < 0.005).double().mean()) for x in (part, sample))
        print(f"  {name:10s} mean {part.mean():.4f}, sampled {sample.mean():.4f};", end="  ")
        print(f"below 0.005: {none:4.1f} % of households, {drawn:4.1f} % of samples")
    figure = parts_histograms(held_back, samples, names, title=f"Budget shares of households: {note}")
    run.finish(save_figure(figure, run.out / "simplex_budgets.png"))


if __name__ == "__main__":
    main()
