"""What guidance does at the walls: a reflected model beside an unconstrained one with thresholding, trained alike.

Data: 8x8 handwritten digits with their labels, in the 64-cube. Both models have the same network, steps, batch and
seed; the unconstrained one lives on R^64 (the same noise at its least, at its most the size of the data), and its
samples are thresholded as is usual: at every step the denoised point is clipped to the cube, and so is the end. Both
are sampled by 500 reverse Euler steps and by 250 of Heun's, with classifier-free guidance. Reported: the share of
coordinates within 1/255 of a face (the data's own share is what it should be), sliced Wasserstein distance to held-back
digits over its floor, and the share of samples whose nearest held-back digit has the label asked for.

    python benchmarks/guidance.py [--steps 4000] [--samples 1000] [--out docs/images/guidance.png]
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from constrained_diffusion import (
    MLP,
    ClassifierFreeGuidance,
    DenoisingScoreMatching,
    Euclidean,
    EulerMaruyama,
    Heun,
    Hypercube,
    ReflectedSDE,
    ScoreModel,
    from_denoiser,
    predict,
)
from constrained_diffusion.metrics import floor, sliced_wasserstein
from constrained_diffusion.networks import null_condition
from constrained_diffusion.training import Recipe, train

WEIGHTS = (0.0, 1.5, 5.0, 15.0)
NEAR = 1 / 255
SIGMA_MIN = 0.005
CLASSES = 10


def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x = torch.as_tensor(images[order] / 16, dtype=torch.float32)
    return x, torch.as_tensor(labels[order])


def fit(domain, x: Tensor, labels: Tensor, steps: int, sigma_max: float | None):
    sde = ReflectedSDE(domain, SIGMA_MIN, sigma_max)
    torch.manual_seed(0)
    model = ScoreModel(MLP(domain, 256, 3, condition_dim=CLASSES, dropout=0.2), sde)
    generator = torch.Generator().manual_seed(0)
    condition = torch.nn.functional.one_hot(labels, CLASSES).float()
    recipe = Recipe(steps, 256, hide=0.1)
    train(model, DenoisingScoreMatching(sde, "fidelity"), x, recipe, generator=generator, condition=condition)
    return sde, model


def thresholded(sde: ReflectedSDE, score):
    def denoiser(x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        return predict(sde, score, x, t, "denoiser", **condition).clamp(0, 1)

    return from_denoiser(denoiser, sde)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("docs/images/guidance.png"))
    arguments = parser.parse_args()
    x, labels = digits()
    half = len(x) // 2
    x, labels, held, held_labels = x[:half], labels[:half], x[half:], labels[half:]
    cube = Hypercube(64)
    models = {
        "reflected": fit(cube, x, labels, arguments.steps, None),
        "thresholded": fit(Euclidean(64), x, labels, arguments.steps, 4.0),
    }
    wanted = torch.arange(arguments.samples) % CLASSES
    condition = {"condition": torch.nn.functional.one_hot(wanted, CLASSES).float()}
    rows = {}
    print(f"torch {torch.__version__}; share of the data's coordinates within 1/255 of a face: {share(held):.3f}")
    print("model        weight  sampler        near a face   SWD/floor  label right")
    for name, (sde, model) in models.items():
        for weight in WEIGHTS:
            score = ClassifierFreeGuidance(model, weight, null={"condition": null_condition(CLASSES)})
            if name == "thresholded":
                score = thresholded(sde, score)
            for kind, steps in ((EulerMaruyama, 500), (Heun, 250)):
                walk = kind(sde, score, steps=steps)
                generator = torch.Generator().manual_seed(1)
                y = walk.sample(arguments.samples, condition=condition, generator=generator).x
                y = y.clamp(0, 1) if name == "thresholded" else y
                assert cube.contains(y).all()
                rows[name, weight] = y
                distance = sliced_wasserstein(y, held) / floor(sliced_wasserstein, torch.cat([x, held]))
                right = (held_labels[torch.cdist(y, held).argmin(1)] == wanted).float().mean()
                print(
                    f"{name:12s} {weight:6.1f}  {kind.__name__:14s} {share(y):10.3f} {distance:10.2f} {right:12.3f}",
                    flush=True,
                )
    draw(rows, arguments.out)


def share(x: Tensor) -> float:
    return float((torch.minimum(x, 1 - x) <= NEAR).float().mean())


def draw(rows: dict[tuple[str, float], Tensor], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(WEIGHTS), figsize=(3.2 * len(WEIGHTS), 3.3), constrained_layout=True)
    for row, name in zip(axes, ("reflected", "thresholded"), strict=True):
        for axis, weight in zip(row, WEIGHTS, strict=True):
            apart = torch.nn.functional.pad(rows[name, weight][:40].reshape(4, 10, 8, 8), (1, 1, 1, 1), value=0.35)
            axis.imshow(apart.transpose(1, 2).reshape(40, 100), cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[], title=f"{name}, weight {weight:g}")
            axis.title.set_fontsize(9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
