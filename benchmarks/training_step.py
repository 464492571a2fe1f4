"""What a training step costs where noise is simulated, against a domain of as many numbers with a closed form.

The default network of the estimator (width 256, depth 3) and width 128, batches of 512 points, float32. Noise is drawn
by the pool that training uses, so a point simulated once serves several batches; in turn in one process, medians.

    python benchmarks/training_step.py [--rounds 3]
"""

import argparse
import statistics
import time

import torch

from constrained_diffusion import (
    MLP,
    DenoisingScoreMatching,
    Domain,
    Hypercube,
    Polytope,
    ReflectedSDE,
    ScoreModel,
    Simplex,
)
from constrained_diffusion.domains import trusted
from constrained_diffusion.model import _REUSE
from constrained_diffusion.pool import NoisePool

BATCH, SIGMA_MIN = 512, 0.003
PAIRS: list[tuple[Domain, Domain]] = [
    (Simplex(10, "euclidean"), Simplex(10)),
    (Polytope.birkhoff(3), Hypercube((3, 3))),
    (Polytope.birkhoff(4), Hypercube((4, 4))),
]


class Trainer:
    """Steps of training on uniform data."""

    def __init__(self, domain: Domain, width: int, steps: int) -> None:
        generator = torch.Generator().manual_seed(0)
        sde = ReflectedSDE(domain, SIGMA_MIN)
        self.loss = DenoisingScoreMatching(sde, "fidelity")
        self.model = ScoreModel(MLP(domain, width), sde)
        self.optimiser = torch.optim.Adam(self.model.parameters(), fused=True)
        reuse = _REUSE if domain.simulates_paths else 1
        x = domain.sample_uniform(4000, generator=generator)
        self.pool = NoisePool(self.loss, x, None, batch_size=BATCH, batches=steps, reuse=reuse, generator=generator)

    def run(self, steps: int) -> float:
        """Seconds a step."""
        start = time.perf_counter()
        with trusted():
            for _ in range(steps):
                noised, _ = self.pool.draw()
                value = self.loss.evaluate(self.model, noised).mean()
                self.optimiser.zero_grad(set_to_none=True)
                value.backward()
                self.optimiser.step()
        return (time.perf_counter() - start) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    steps = 64 * _REUSE  # a whole pool
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batches of {BATCH}, points used {_REUSE} x")
    for width in (256, 128):
        for pair in PAIRS:
            trainers = [Trainer(domain, width, steps * rounds) for domain in pair]
            times: list[list[float]] = [[], []]
            for _ in range(rounds):
                for trainer, found in zip(trainers, times, strict=True):
                    found.append(trainer.run(steps))
            paths, closed = (1000 * statistics.median(found) for found in times)
            names = f"{pair[0]!r:44s} {paths:6.1f} ms   {pair[1]!r:44s} {closed:6.1f} ms"
            print(f"width {width}  {names}   {paths / closed:.2f}")


if __name__ == "__main__":
    main()
