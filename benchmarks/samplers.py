r"""What a sampler costs beside the network it calls.

For each sampler: processor seconds of a short run at batch 1,000, and of as many bare calls `network(x, log_sigma)`,
log_sigma one number, expanded, as samplers have it. Both alternate for some rounds; shown are the ratio of the least
times, which other work on the machine moves least, and the median of the rounds' ratios with its quartiles. The
network: the library's own of width 256 and depth 3, or a plain perceptron of three hidden layers of 256, which is
cheaper than most and so the harder case.

    MALLOC_TRIM_THRESHOLD_=2000000000 MALLOC_MMAP_THRESHOLD_=2000000000 \
        python benchmarks/samplers.py [--plain] [--rounds 15] [--steps 12]

The two variables keep glibc from handing memory back between calls: where it does, which depends on what ran before,
both the bare calls and the samplers take a fifth longer, and ratios are up to 0.15 larger in one domain or another.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import torch

from constrained_diffusion import (
    MLP,
    AnnealedReflected,
    Ball,
    EulerMaruyama,
    Heun,
    Hypercube,
    Multistep,
    PredictorCorrector,
    ProbabilityFlow,
    ReflectedSDE,
    Sampler,
    ScoreModel,
    Simplex,
)

BATCH = 1000
DOMAINS = {"square": Hypercube(2), "64-cube": Hypercube(64), "triangle": Simplex(3), "ball": Ball(3)}


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def repeated(call: Callable[..., torch.Tensor], times: int, *arguments: torch.Tensor) -> Callable[[], None]:
    def run() -> None:
        for _ in range(times):
            call(*arguments)

    return run


class Plain(torch.nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        sizes = [size + 1, 256, 256, 256]
        layers = [torch.nn.Sequential(torch.nn.Linear(a, b), torch.nn.SiLU()) for a, b in itertools.pairwise(sizes)]
        self.layers = torch.nn.Sequential(*layers, torch.nn.Linear(256, size))

    def forward(self, x: torch.Tensor, log_sigma: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.cat([x, log_sigma.unsqueeze(-1)], -1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--plain", action="store_true", help="the plain perceptron")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, batch {BATCH}")
    print("domain    sampler             calls  bare ms a call  least  median  quartiles")
    for name, domain in DOMAINS.items():
        sde = ReflectedSDE(domain, 0.01)
        torch.manual_seed(0)
        network = (Plain(domain.event_shape[0]) if arguments.plain else MLP(domain, 256, 3)).eval()
        score = ScoreModel(network, sde).eval()
        x = domain.sample_uniform(BATCH)
        log_sigma = torch.tensor(-1.0).expand(BATCH)
        walks: list[Sampler] = [
            kind(sde, score, steps=arguments.steps)
            for kind in (EulerMaruyama, PredictorCorrector, AnnealedReflected, Heun, Multistep)
        ]
        walks.append(ProbabilityFlow(sde, score))
        evaluations = [walk.sample(BATCH).nfe for walk in walks]
        for walk, nfe in zip(walks, evaluations, strict=True):
            ratios, bare, whole = [], [], []
            with torch.no_grad():
                for _ in range(arguments.rounds):
                    bare.append(seconds(repeated(network, nfe, x, log_sigma)))
                    whole.append(seconds(lambda walk=walk: walk.sample(BATCH)))
                    ratios.append(whole[-1] / bare[-1])
            low, middle, high = statistics.quantiles(ratios, n=4)
            least = min(whole) / min(bare)
            print(
                f"{name:9s} {type(walk).__name__:18s} {nfe:6d} {1e3 * min(bare) / nfe:15.2f} {least:6.3f}  "
                f"{middle:6.3f}  {low:.3f} to {high:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
