"""Stars within 25 parsecs of the Sun: real points of a ball, which ends where the survey does.

Train on half of the stars, compare samples with the other half.

    python examples/ball_stars.py [--quick] [--out FOLDER]
"""

import torch
from report import halves, options, report

from constrained_diffusion import Ball, ReflectedDiffusion
from constrained_diffusion.plotting import ball_3d, save_figure
from real_data import stars_in_ball

PARSECS = 25


def main() -> None:
    run = options(__doc__)
    train, held_back = halves(torch.from_numpy(stars_in_ball(PARSECS)))
    model = ReflectedDiffusion(Ball(3), width=128, seed=run.seed, steps=run.steps(1000)).fit(train)
    samples = model.sample(5 * len(held_back), steps=run.sampler_steps())
    note = report("stars within 25 pc", model.domain, samples, train, held_back)
    for share in (0.25, 0.5, 0.75, 0.95):
        inside = [100 * (x.norm(dim=1) < share).double().mean() for x in (held_back, samples)]
        print(f"  within {share * PARSECS:5.2f} pc: {inside[0]:5.1f} % of stars, {inside[1]:5.1f} % of samples")
    figure = ball_3d(held_back, samples[: len(held_back)], title=f"Stars within {PARSECS} parsecs: {note}")
    run.finish(save_figure(figure, run.out / "ball_stars.png"))


if __name__ == "__main__":
    main()
