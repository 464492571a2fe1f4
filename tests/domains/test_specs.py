"""Domains by a word: their size is such that all the data lie inside, and what does not fit is said."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from constrained_diffusion import Ball, Domain, DomainError, Euclidean, Hypercube, ShapeError, Simplex
from constrained_diffusion.domains.specs import Extent, build, round_outwards, words

finite = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300)


@given(finite, finite)
def test_round_bounds_contain_and_are_near(a, b):
    low, high = sorted((a, b))
    below, above = round_outwards(low, high)
    assert below <= low
    assert high <= above
    room = (high - low) / 20 * (1 + 1e-6)
    assert low - below <= room
    assert above - high <= room
    assert below >= 0 or low < 0
    assert above <= 0 or high > 0


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((4.3, 7.9), (4.3, 7.9)),
        ((0.0, 1.0), (0.0, 1.0)),
        ((0.0031, 0.997), (0.0, 1.0)),
        ((278.0, 1680.0), (250.0, 1700.0)),
        ((-1.02, 0.98), (-1.1, 1.0)),
        ((5.0, 5.0), (5.0, 5.0)),
        ((0.0, 5e-324), (0.0, 5e-324)),
    ],
)
def test_round_bounds(interval, expected):
    assert round_outwards(*interval) == expected


@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2), min_size=1, max_size=8), st.integers(1, 8))
def test_the_extent_of_parts_is_that_of_the_whole(points, cut):
    x = torch.tensor(points, dtype=torch.float64)
    assume(0 < cut < len(x))
    whole, joined = Extent.of(x), Extent.of(x[:cut]).joined(Extent.of(x[cut:]))
    assert torch.equal(whole.low, joined.low)
    assert torch.equal(whole.high, joined.high)
    assert whole.length == pytest.approx(joined.length)
    assert whole.totals == pytest.approx(joined.totals)


@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), min_size=2, max_size=8))
def test_domains_of_the_datas_size_contain_them(points):
    x = torch.tensor(points, dtype=torch.float64)
    assume(bool((x.amax(0) - x.amin(0) > 1e-6).all()))
    for kind in (Hypercube, Ball, Euclidean):
        assert kind.from_data(x).contains(x).all()
    shares = x.softmax(-1)
    assert Simplex.from_data(shares).contains(shares, atol=1e-14).all()


def test_words_are_those_of_the_classes():
    found = words()
    assert {"box", "cube", "simplex", "ball", "euclidean", "polytope"} <= set(found)
    for word, kind in found.items():
        assert kind.specs[word]
        assert word == word.strip().lower()


def test_a_subclass_does_not_take_over_a_word():
    class OwnCubeOfSpecs(Hypercube):
        pass

    assert OwnCubeOfSpecs in Domain.registered()
    assert words()["box"] is Hypercube


def test_what_does_not_fit_is_said():
    x = torch.rand(5, 2, generator=torch.Generator().manual_seed(0))
    for shape in ((5,), (0, 2), (5, 2, 1)):
        with pytest.raises(ShapeError, match=r"expected \[n, k\]"):
            Extent.of(torch.ones(shape))
    with pytest.raises(DomainError, match="finite"):
        Extent.of(torch.tensor([[float("nan"), 1.0]]))
    with pytest.raises(ValueError, match="did you mean 'simplex'"):
        build("simplx", x)
    with pytest.raises(DomainError, match="all zero: give a radius"):
        build("ball", torch.zeros(3, 2))
    with pytest.raises(DomainError, match="column 1 has negative values"):
        build("simplex", torch.tensor([[1.5, -0.5]]))
    with pytest.raises(NotImplementedError, match="is not chosen by data"):
        Domain.from_data(x)
