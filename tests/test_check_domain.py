"""check_domain: what keeps its promises passes, and each broken promise is named."""

import pickle
import random
from functools import cache

import numpy as np
import pytest
import torch
from tqdm.auto import tqdm

from constrained_diffusion import (
    Ball,
    Euclidean,
    Hypercube,
    MetropolisDomain,
    Polytope,
    Product,
    Simplex,
    testing,
)
from constrained_diffusion.testing import BrokenPromises, check_domain
from constrained_diffusion.testing import report as report_module
from tests import broken_geometry, broken_noising
from tests.broken_geometry import LazyMoves, SticksToWalls
from tests.broken_noising import GlobalNoise, HiddenArgument, NumpyNoise, Raises
from tests.own_domains import (
    FEW,
    OwnAnnulus,
    OwnProjectedBox,
    OwnProjectedDisc,
    OwnSquare,
    in_disc,
    in_l_shape,
    random_polytope,
)

BROKEN = [*broken_geometry.BROKEN, *broken_noising.BROKEN]


def slow(*values, id, marks=()):  # noqa: A002 - pytest's own word
    return pytest.param(*values, id=id, marks=[pytest.mark.slow, *marks])


SHIPPED = [  # built when the test runs: a broken constructor fails its own test only
    pytest.param(lambda: Hypercube(2), id="square"),
    pytest.param(lambda: Hypercube((2, 3), low=-1, high=2), id="cube 2x3"),
    pytest.param(lambda: Simplex(2), id="simplex 2"),
    pytest.param(lambda: Simplex(3), id="simplex 3"),
    slow(lambda: Simplex(5, "euclidean"), id="simplex 5 euclidean"),
    pytest.param(lambda: Simplex(6), id="simplex 6 cumulative"),
    slow(lambda: Simplex(20), id="simplex 20 cumulative"),
    pytest.param(lambda: Ball(2), id="disc"),
    slow(lambda: Ball(3, radius=2.5), id="ball 3"),
    slow(lambda: Ball(5), id="ball 5"),
    slow(random_polytope, id="random polytope"),
    slow(lambda: Polytope.birkhoff(3), id="birkhoff 3"),
    slow(lambda: Polytope.from_vertices([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), id="triangle"),
    slow(lambda: Product(Hypercube(2), Simplex(3), Ball(2)), id="product"),
    slow(lambda: Product(Ball(2), Simplex(4, "euclidean")), id="product without a kernel"),
    pytest.param(lambda: Euclidean(3), id="space"),
    slow(lambda: MetropolisDomain(2, in_disc, -1, 1, spectral_gap=3.0), id="metropolis disc"),
    slow(lambda: MetropolisDomain(2, in_l_shape, 0, 1, spectral_gap=1.0), id="metropolis L"),
]
OWN = [
    pytest.param(OwnAnnulus, id="annulus"),
    slow(OwnProjectedBox, id="projected box"),
    slow(OwnProjectedDisc, id="projected disc"),
]


@pytest.mark.parametrize("build", [*SHIPPED, *OWN])
def test_good_domains_pass(build):
    report = check_domain(build())
    assert report.passed
    assert len(report.skipped) < len(report.checks)


@cache
def report_of(cls, points, paths):
    return check_domain(cls(), points=points, paths=paths, strict=False)


@pytest.mark.parametrize(("cls", "promises", "also", "sizes"), BROKEN)
def test_broken_promises_are_named(cls, promises, also, sizes):
    assert report_of(cls.__bases__[0], **sizes).passed  # what is found is the one change that was made
    report = report_of(cls, **sizes)
    found = {c.promise for c in report.failures}
    assert promises <= found, f"not found: {promises - found}"
    assert found <= promises | also, f"false alarms: {found - promises - also}"
    assert all(c.detail and c.cure for c in report.failures)


def test_every_promise_is_broken_by_some_class():
    named = set().union(*(case.values[1] for case in BROKEN))
    assert named == {c.promise for c in report_of(OwnSquare, **FEW).checks}


# ---------------------------------------------------------------------- the report and its error


def test_strict_raises_and_carries_the_report():
    with pytest.raises(BrokenPromises, match="reflect far from walls is a sum") as caught:
        check_domain(LazyMoves(), **FEW)
    message, report = str(caught.value), caught.value.report
    assert isinstance(caught.value, AssertionError)
    assert "LazyMoves" in message.splitlines()[0]
    assert "1 broken" in message.splitlines()[0]
    assert " ".join(report.failures[0].cure.split()) in " ".join(message.split())
    assert "kept " not in "\n".join(message.splitlines()[1:])  # only what is broken
    assert not report.passed
    assert [c.promise for c in report.failures] == ["reflect far from walls is a sum"]
    again = pickle.loads(pickle.dumps(caught.value))  # as a test runner's workers send it
    assert str(again) == message
    assert again.report == report


def test_the_report_is_returned():
    report = report_of(LazyMoves, **FEW)
    text = str(report)
    assert not report.passed
    assert report.seconds > 0
    assert [c.status for c in report.failures] == ["BROKEN"]
    assert "BROKEN" in text
    assert all(c.promise in text for c in report.checks)
    assert {c.status for c in report.checks} == {"kept", "BROKEN", "skipped"}
    assert set(report.skipped) == {c for c in report.checks if c.status == "skipped"}
    assert all(c.passed and c.detail for c in report.skipped)  # with the reason

    good = report_of(OwnSquare, **FEW)
    assert good.passed
    assert good.failures == ()
    assert "BROKEN" not in str(good)
    assert "0 broken" in str(good)
    assert good.checks == check_domain(OwnSquare(), **FEW).checks  # strict returns it too


def test_the_report_says_where_to_begin():
    class Inverted(OwnSquare):
        def boundary(self, x):
            distance, normal = super().boundary(x)
            return -distance, normal

    report = report_of(Inverted, **FEW)
    assert len(report.failures) > 1
    assert report.root.promise == "boundary: sign of the distance"
    assert "Begin with 'boundary: sign of the distance'" in str(report).splitlines()[1]
    assert report_of(OwnSquare, **FEW).root is None
    assert report_of(LazyMoves, **FEW).root.promise == "reflect far from walls is a sum"
    assert "Begin" not in str(report_of(LazyMoves, **FEW))
    names = [c.promise for c in report.checks]
    assert set(report_module._FOUNDATIONS) <= set(names)


def test_an_exception_is_reported_and_the_rest_is_tried():
    report = report_of(Raises, **FEW)
    (check,) = report.failures
    assert "ZeroDivisionError: a mistake in the user's code" in check.detail
    assert len(report.checks) == len(report_of(OwnSquare, **FEW).checks)


def test_a_repr_that_raises_does_not_hide_the_rest():
    report = report_of(HiddenArgument, **FEW)  # its repr needs the attribute that is missing
    assert report.domain == "HiddenArgument(...)"
    assert [c.promise for c in report.failures] == ["value: config, equality, hash"]


def test_bad_arguments():
    with pytest.raises(TypeError, match=r"must be an instance .* not the class OwnSquare"):
        check_domain(OwnSquare)
    with pytest.raises(TypeError, match=r"must be an instance .* not str"):
        check_domain("square")
    for name in ("points", "paths"):
        with pytest.raises(ValueError, match=f"{name} must be at least 100 .* not 99"):
            check_domain(OwnSquare(), **{name: 99})
    with pytest.raises(TypeError, match="positional"):
        check_domain(OwnSquare(), 1000)


def test_progress_is_shown_where_it_takes_long(capsys, monkeypatch):
    few = {"points": 100, "paths": 100, "strict": False}
    monkeypatch.setattr(testing, "tqdm", lambda *a, **k: tqdm(*a, **k | {"delay": 0, "mininterval": 0}))
    check_domain(OwnSquare(), **few)
    assert "checking: " in (shown := capsys.readouterr().err)
    assert "reflect" in shown
    check_domain(OwnSquare(), **few, progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("cls", [OwnSquare, GlobalNoise, NumpyNoise])
def test_global_random_state_is_left(cls):
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002 - the global state is what is tested
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    check_domain(cls(), points=100, paths=100, strict=False)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    for now, before in zip(np.random.get_state(), states[2], strict=True):  # noqa: NPY002
        assert np.array_equal(now, before)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("cls", [SticksToWalls, GlobalNoise])
def test_same_seed_same_report(cls):
    """Whatever the global state is; a domain that draws from it is no exception."""
    reports = []
    for state in (1, 2):
        torch.manual_seed(state)
        reports.append(check_domain(cls(), points=200, paths=200, seed=3, strict=False))
    assert reports[0].checks == reports[1].checks
    other = check_domain(cls(), points=200, paths=200, seed=4, strict=False)
    assert [c.z for c in other.checks] != [c.z for c in reports[0].checks]
