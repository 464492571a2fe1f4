"""Forest fires inside the outline of their region: a density that ends where the region does.

The 8,488 fires of Castilla-La Mancha (Spain), 1998 to 2007, in the outline of 2,325 corners that comes with them: data
set `clmfires` of the R package spatstat.data (GPL-2 or later). They are no part of this library: where Debian's tools
are there, the first call fetches the package r-cran-spatstat.data and keeps the numbers in the user's cache folder;
elsewhere give the unpacked R package's folder by --data (install.packages("spatstat.data") makes one). Without
either, points of a density in an outline made up here stand in.

Train on half of the fires, and compare samples and log-likelihoods with the other half: against a Gaussian kernel
density estimate clipped to the region, and against a diffusion model of the same size that knows of no wall.

    python examples/region_fires.py [--quick] [--out FOLDER] [--data FOLDER]
"""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import torch
from report import halves, options, report
from torch import Tensor

from constrained_diffusion import Euclidean, ReflectedDiffusion, Region
from constrained_diffusion.plotting import film_strip, save_figure

PACKAGE = "r-cran-spatstat.data"
LEAST = 0.003  # noise at the data, 1.2 km: they were noted to about that; in units of the region's diameter
BANDWIDTHS = np.geomspace(0.004, 0.12, 11)  # in units of the region's diameter


def main() -> None:
    run = options(__doc__, data="the unpacked R package spatstat.data")
    name, points, rings = fires(run.data)
    centre, size = np.concatenate(rings).mean(0), Region(rings).diameter
    domain = Region([(ring - centre) / size for ring in rings], resolution=40 if run.quick else 50)
    data = torch.from_numpy((points - centre) / size)
    data = data[domain.contains(data)]
    print(f"{name}: {len(data)} points, {domain.inradius * size:.0f} km from the wall at most; unit {size:.0f} km")
    train, held_back = halves(data)
    start = time.monotonic()
    gap = domain.spectral_gap
    print(f"{len(domain.mesh.triangles)} triangles, spectral gap {gap:.3g} ({time.monotonic() - start:.0f} s)")
    start = time.monotonic()
    batch = 64 if run.quick else 512
    # Widths of 128 and 256 and dropout were compared on a fourth of ``train``: the wider network fits its clusters.
    # The steps were chosen for an even weighting: with the default held-back points had 0.07 nats less after as many.
    size_of = {
        "width": 64 if run.quick else 256,
        "steps": run.steps(6000),
        "batch_size": batch,
        "weighting": "fidelity",
        "seed": run.seed,
    }
    model = ReflectedDiffusion(domain, sigma_min=LEAST, **size_of).fit(train)
    print(f"{1000 * (time.monotonic() - start) / model.steps:.0f} ms a training step")
    free = ReflectedDiffusion(Euclidean(2), sigma_min=LEAST / float(train.std(0).mean()), **size_of).fit(train)
    count = 300 if run.quick else len(held_back)
    samples = model.sample(count, steps=run.sampler_steps())
    note = report(name, domain, samples, train, held_back)
    unconstrained = free.sample(count, steps=run.sampler_steps())
    share = domain.contains(unconstrained).double().mean().item()
    print(f"  outside, of the model without walls {100 * (1 - share):.1f} %")
    few = held_back[: 20 if run.quick else None]
    estimate = Kde(domain, train[: 500 if run.quick else None])
    found = {
        "reflected diffusion": model.log_prob(few, rtol=1e-3, atol=1e-3),
        f"clipped kernel estimate (bandwidth {estimate.width * size:.1f} km)": estimate.log_prob(few),
        "diffusion without walls, clipped": free.log_prob(few, rtol=1e-3, atol=1e-3) - math.log(share),
    }
    print(f"log-likelihood of {len(few)} held-back points, nats a point above the uniform law's")
    for label, value in found.items():
        error = float(value.std()) / math.sqrt(len(value))
        print(f"  {label:46s} {float(value.mean()) + domain.log_volume:+.3f} +- {error:.3f}")
    reflected, kernel, _ = found.values()
    gap, error = float((reflected - kernel).mean()), float((reflected - kernel).std()) / math.sqrt(len(few))
    print(f"  the first less the second, point by point      {gap:+.3f} +- {error:.3f}")
    figure = film_strip(
        [size * (x + torch.from_numpy(centre) / size) for x in (held_back, samples, unconstrained)],
        ["held back", "samples", "without walls"],
        outline=domain.outline * size + torch.from_numpy(centre),
        generated=[1, 2],
        title=f"{name}: {note}",
    )
    run.finish(save_figure(figure, run.out / "region_fires.png"))


class Kde:
    """A Gaussian kernel density estimate, clipped to the region and divided by what is left of it."""

    def __init__(self, domain: Region, train: Tensor) -> None:
        self.domain, self.train = domain, train
        folds = torch.arange(len(train)) % 5
        scores = []
        for width in BANDWIDTHS:
            self.width = float(width)
            parts = [self._log_prob(train[folds == k], train[folds != k]).mean() for k in range(5)]
            scores.append(float(sum(parts)) / 5)
        self.width = float(BANDWIDTHS[int(np.argmax(scores))])

    def log_prob(self, x: Tensor) -> Tensor:
        return self._log_prob(x, self.train)

    def _log_prob(self, x: Tensor, centres: Tensor) -> Tensor:
        z = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
        draws = centres[torch.arange(len(z)) % len(centres)] + self.width * z
        left = self.domain.contains(draws).double().mean().log()
        square = torch.cdist(x, centres) ** 2 / (2 * self.width**2)
        norm = math.log(2 * math.pi * self.width**2 * len(centres))
        return torch.logsumexp(-square, 1) - norm - left


# ---------------------------------------------------------------------- data


def fires(folder: Path | None) -> tuple[str, np.ndarray, list[np.ndarray]]:
    """A name, points ``[n, 2]`` in km, and rings ``[k, 2]`` around them."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = base / "constrained_diffusion" / "clmfires.npz"
    if folder is None and cache.is_file():
        with np.load(cache) as found:
            return "forest fires", found["points"], [found["ring"]]
    try:
        points, ring = read(folder) if folder is not None else fetch()
    except (ImportError, OSError, subprocess.SubprocessError) as error:
        if folder is not None:
            sys.exit(f"error: {error}")
        print(f"no forest fires ({error}): made-up points stand in. See --help for where to get them", file=sys.stderr)
        return "made-up points", *made_up()
    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=cache.parent, suffix=".npz", delete=False) as file:
        np.savez(file, points=points, ring=ring)
    Path(file.name).replace(cache)
    return "forest fires", points, [ring]


def fetch() -> tuple[np.ndarray, np.ndarray]:
    """Fetch the package by Debian's tools, unpacked into a folder that is deleted again."""
    if importlib.util.find_spec("rdata") is None:
        raise ImportError('rdata is missing, which reads them: python -m pip install -c constraints.txt -e ".[fires]"')
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise FileNotFoundError(f"apt-get and dpkg-deb are not there to fetch {PACKAGE}")
    print(f"fetching {PACKAGE} (GPL-2 or later, 4 MB) from the distribution's packages", file=sys.stderr)
    quiet = {"check": True, "capture_output": True, "timeout": 120}
    with tempfile.TemporaryDirectory() as temporary:
        patience = ["-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=10"]
        subprocess.run(["apt-get", *patience, "download", PACKAGE], cwd=temporary, **quiet)
        archive = only(Path(temporary), "*.deb")
        subprocess.run(["dpkg-deb", "-x", str(archive), temporary], **quiet)
        return read(Path(temporary))


def only(folder: Path, pattern: str) -> Path:
    """The first file of a pattern."""
    for path in folder.glob(pattern):
        return path
    raise FileNotFoundError(f"{folder} holds no {pattern}")


def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Points and ring from the R package's lazy-load files: an index, and compressed objects one after the other."""
    import rdata

    index = only(folder, "**/data/Rdata.rdx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        begin, length = rdata.read_rds(index)["variables"]["clmfires"]
        raw = index.with_suffix(".rdb").read_bytes()[int(begin) : int(begin + length)]
        found = rdata.conversion.convert(rdata.parser.parse_data(zlib.decompress(raw[4:])))
    boundary = found["window"]["bdry"][0]
    return np.stack([found["x"], found["y"]], 1), np.stack([boundary["x"], boundary["y"]], 1)


def made_up() -> tuple[np.ndarray, list[np.ndarray]]:
    """Points that crowd along two lines, in a wavy outline with a lake."""
    t = np.linspace(0, 2 * np.pi, 1201)[:-1]
    r = 150 * (1 + 0.25 * np.cos(3 * t) + 0.08 * np.sin(7 * t) + 0.02 * np.sin(41 * t))
    around = np.stack([np.cos(t), np.sin(t)], 1)
    rings = [r[:, None] * around, np.array([40.0, 20.0]) + 25 * around[::20]]
    region = Region(rings)
    x = region.sample_uniform(60_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    crowd = np.exp(-(np.abs(x[:, 1] - 0.5 * x[:, 0] - 30) / 25)) + np.exp(-(np.abs(x[:, 0] + 60) / 15))
    keep = np.random.default_rng(0).random(len(x)) < crowd / crowd.max()
    return x[keep][:8000], rings


if __name__ == "__main__":
    main()
