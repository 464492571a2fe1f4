"""Tables and short trainings for the tests of the command line."""

import numpy as np

from constrained_diffusion.tables import open_table, write_table

TINY = ["--steps", "20", "--width", "16", "--depth", "1", "--quiet"]
FEW = ["--steps", "5", "--quiet"]


def rows(kind="box", n=200):
    g = np.random.default_rng(0)
    if kind == "parts":
        return g.dirichlet([2.0, 1.0, 0.5], n)
    if kind == "ball":
        x = g.normal(size=(n, 2))
        return 3 * x / np.linalg.norm(x, axis=1, keepdims=True) * g.random((n, 1)) ** 0.5
    return np.stack([g.beta(2, 5, n) * 1000 + 300, g.beta(1, 3, n), g.integers(0, 3, n).astype(float)], 1)


def put(path, text):
    path.write_text(text)
    return str(path)


def table(path, names=("mass", "share", "kind"), x=None):
    write_table(path, list(names), rows() if x is None else x)
    return str(path)


def values(path):
    return np.concatenate(list(open_table(path).pieces()))
