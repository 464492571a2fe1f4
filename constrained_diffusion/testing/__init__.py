"""A conformance suite for domains: call :func:`check_domain` on a new subclass before training in it.

>>> from constrained_diffusion.testing import check_domain
>>> print(check_domain(Annulus()))

May use: the domains' public interface, and nothing of networks or training.
"""

from __future__ import annotations

import random
import time

import numpy as np
import torch
from tqdm.auto import tqdm

from constrained_diffusion.domains import Domain

from . import geometry, interface, laws, noising
from .bench import Bench, Promise, SkipCheck
from .report import BrokenPromises, Check, Report

__all__ = ["BrokenPromises", "Check", "Report", "check_domain"]

_PROMISES = (*interface.PROMISES, *geometry.PROMISES, *laws.PROMISES, *noising.PROMISES)


def check_domain(
    domain: Domain,
    *,
    points: int = 4000,
    paths: int = 8000,
    seed: int = 0,
    strict: bool = True,
    progress: bool = True,
) -> Report:
    """Try every promise of the :class:`~constrained_diffusion.Domain` interface on one domain.

    Geometry is tried at random points and at the places where formulas fail; laws by two-sample tests; denoising
    targets by the test-field identities E[target . phi] = -E[div phi], which need no kernel. A statistical promise
    counts as broken if the deviation is both significant (4.5 standard errors) and larger than what a finite
    number of steps explains (3 %). All checks are independent: an exception in one is reported as that
    promise broken. Only where ``project`` or ``boundary`` answer in a wrong shape, or change the points they are given,
    nothing else is tried.

    Args:
        domain: an instance of the class to check; float32 and float64 are tried on the CPU.
        points: points of the uniform law in each check, at least 100.
        paths: noised points in each check of noising, at least 100; the smallest bias that can be seen falls with its
            root, and is some 5 % for the default.
        seed: of everything random; the global random state is left as it was.
        strict: raise if a promise is broken.
        progress: show a progress bar, which names the promise, if it takes longer than two seconds.

    Returns:
        A report with one check for each promise; printing it shows a table.

    Raises:
        BrokenPromises: with ``strict``, a promise is broken; the message names each, what was seen, and a cure.
        TypeError, ValueError: an argument is not what it should be.
    """
    if not isinstance(domain, Domain):
        what = f"the class {domain.__name__}" if isinstance(domain, type) else type(domain).__name__
        raise TypeError(f"domain must be an instance of a subclass of Domain, not {what}")
    for name, count in (("points", points), ("paths", paths)):
        if count < 100:
            raise ValueError(f"{name} must be at least 100 for the tests to say anything, not {count}")
    started = time.monotonic()
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - kept for user code that draws from it
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            bench = Bench(domain, points, paths, seed)
            checks = []
            with tqdm(_PROMISES, desc="checking", unit="promise", delay=2, disable=not progress, leave=False) as bar:
                for promise in bar:
                    bar.set_postfix_str(promise.name, refresh=False)
                    checks.append(_try(promise, bench, seed))
                    if promise is interface.ANSWERS and not checks[-1].passed:
                        break  # all others would fail, by the same fault, without naming it
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
    report = Report(_name(domain), tuple(checks), time.monotonic() - started)
    if strict and not report.passed:
        raise BrokenPromises(report)
    return report


def _try(promise: Promise, bench: Bench, seed: int) -> Check:
    """Try one promise; whatever the domain's code raises is a promise broken."""
    torch.default_generator.manual_seed(seed)
    try:
        finding = promise.check(bench)
    except SkipCheck as reason:
        return Check(promise.name, True, str(reason), skipped=True)
    except Exception as error:
        lines = str(error).splitlines() or [""]
        return Check(promise.name, False, f"raised {type(error).__name__}: {lines[0][:300]}", cure=promise.cure)
    return Check(promise.name, finding.ok, finding.detail, finding.z, cure=promise.cure)


def _name(domain: Domain) -> str:
    try:
        return repr(domain)
    except Exception:
        return f"{type(domain).__name__}(...)"
