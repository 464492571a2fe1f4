"""Handwritten digits of 8 x 8 pixels: images are points of a cube, here of 64 dimensions.

Train on half of the images, compare samples with the other half.

    python examples/digits.py [--quick] [--out FOLDER]
"""

import torch
from report import halves, options, report

from constrained_diffusion import Hypercube, ReflectedDiffusion
from constrained_diffusion.plotting import compare_images, save_figure
from real_data import digits


def main() -> None:
    run = options(__doc__)
    train, held_back = halves(torch.from_numpy(digits()))
    few = {
        "dropout": 0.2,
        "weighting": "fidelity",
        "batch_size": 128,
        "learning_rate": 1e-3,
    }  # 898 images in 64 dimensions
    model = ReflectedDiffusion(Hypercube((8, 8)), width=384, seed=run.seed, steps=run.steps(4000), **few).fit(train)
    samples = model.sample(3 * len(held_back), steps=run.sampler_steps())
    note = report("digits", model.domain, samples, train, held_back)
    at_rest = [100 * ((x < 1 / 255) | (x > 254 / 255)).double().mean() for x in (held_back, samples)]
    print(f"  pixels that are black or white: {at_rest[0]:.1f} % in the data, {at_rest[1]:.1f} % in samples")
    figure = compare_images(held_back[:64], samples[:64], columns=8, title=f"Digits: {note}")
    run.finish(save_figure(figure, run.out / "digits.png"))


if __name__ == "__main__":
    main()
