import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from constrained_diffusion import metrics
from constrained_diffusion.domains import Ball, DomainError, Hypercube, ShapeError, Simplex
from constrained_diffusion.metrics import boundary_mass, floor, mmd, sbc_ranks, sliced_wasserstein, violation

F64 = torch.float64


def cloud(n: int, *event: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, *event, generator=torch.Generator().manual_seed(seed), dtype=F64)


class TestSlicedWasserstein:
    @pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 7), (5, 5), (6, 9), (10, 7), (200, 331)])
    def test_first_order_on_a_line_is_scipys(self, n: int, m: int) -> None:
        x, y = cloud(n, 1), cloud(m, 1, seed=1) * 2 + 0.3
        expected = wasserstein_distance(x.flatten().numpy(), y.flatten().numpy())
        assert sliced_wasserstein(x, y, p=1) == pytest.approx(expected, rel=1e-12)

    @settings(max_examples=50, deadline=None)
    @given(
        st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12),
        st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12),
    )
    def test_ties_and_odd_sizes(self, x: list[float], y: list[float]) -> None:
        value = sliced_wasserstein(np.array(x), np.array(y))
        assert value == pytest.approx(wasserstein_distance(x, y), rel=1e-9, abs=1e-9)

    @pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
    def test_unequal_sizes_equal_repeated_points(self, p: float) -> None:
        x, y = cloud(4, 3), cloud(6, 3, seed=1)
        repeated = sliced_wasserstein(x.repeat(3, 1), y.repeat(2, 1), p=p)
        assert sliced_wasserstein(x, y, p=p) == pytest.approx(repeated, rel=1e-12)

    @pytest.mark.parametrize("d", [2, 3, 10])
    def test_translation_has_a_closed_form(self, d: int) -> None:
        x, shift = cloud(50, d), torch.linspace(-1, 2, d, dtype=F64)
        length = float(shift.norm())
        first = length * math.exp(math.lgamma(d / 2) - math.lgamma((d + 1) / 2)) / math.sqrt(math.pi)
        # Standard errors with 20,000 directions are below 0.6 % of the value; 5 of them is 3 %.
        assert sliced_wasserstein(x, x + shift, projections=20_000) == pytest.approx(first, rel=0.03)
        second = sliced_wasserstein(x, x + shift, projections=20_000, p=2)
        assert second == pytest.approx(length / math.sqrt(d), rel=0.03)

    @pytest.mark.parametrize("p", [1.0, 2.0])
    def test_invariances(self, p: float) -> None:
        x, y = cloud(40, 3), cloud(25, 3, seed=1) + 0.5
        value = sliced_wasserstein(x, y, p=p)
        assert sliced_wasserstein(y, x, p=p) == pytest.approx(value, rel=1e-12)
        assert sliced_wasserstein(x.flip(0), y, p=p) == pytest.approx(value, rel=1e-12)
        assert sliced_wasserstein(x + 7, y + 7, p=p) == pytest.approx(value, rel=1e-9)
        assert sliced_wasserstein(-3 * x, -3 * y, p=p) == pytest.approx(3 * value, rel=1e-12)
        assert sliced_wasserstein(x, x.flip(0), p=p) < 1e-12  # rows may be multiplied in another order
        z = cloud(30, 3, seed=2)
        through = sliced_wasserstein(x, z, p=p) + sliced_wasserstein(z, y, p=p)
        assert value <= through + 1e-12

    def test_events_are_flattened_and_kinds_agree(self) -> None:
        x, y = cloud(12, 2, 3), cloud(9, 2, 3, seed=1)
        value = sliced_wasserstein(x, y)
        assert sliced_wasserstein(x.numpy(), y.numpy()) == value
        assert sliced_wasserstein(x.reshape(12, 6), y.reshape(9, 6)) == value
        assert sliced_wasserstein(x.float(), y.float()) == pytest.approx(value, rel=1e-5)

    def test_directions_are_fixed_unless_drawn(self) -> None:
        x, y = cloud(12, 3), cloud(9, 3, seed=1)
        fixed = [sliced_wasserstein(x, y, projections=8) for _ in range(2)]
        assert fixed[0] == fixed[1]
        generator = torch.Generator().manual_seed(3)
        drawn = [sliced_wasserstein(x, y, projections=8, generator=generator) for _ in range(2)]
        assert drawn[0] != drawn[1]

    def test_chunks_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x, y = cloud(20, 3), cloud(30, 3, seed=1)
        whole = sliced_wasserstein(x, y), mmd(x, y)
        monkeypatch.setattr(metrics, "_CHUNK", 90)
        assert (sliced_wasserstein(x, y), mmd(x, y)) == pytest.approx(whole, rel=1e-12)

    @pytest.mark.parametrize("options", [{"projections": 0}, {"p": 0.5}, {"p": math.nan}, {"p": math.inf}])
    def test_bad_options(self, options: dict[str, float]) -> None:
        (name,) = options
        with pytest.raises(ValueError, match=f"{name} must be at least 1"):
            sliced_wasserstein(cloud(3, 2), cloud(3, 2), **options)  # type: ignore[arg-type]


class TestMmd:
    @staticmethod
    def by_loops(x: torch.Tensor, y: torch.Tensor, h: float) -> float:
        def mean(a: torch.Tensor, b: torch.Tensor) -> float:
            values = [math.exp(-float(((u - v) ** 2).sum()) / (2 * h * h)) for u in a for v in b]
            return math.fsum(values) / len(values)

        return math.sqrt(mean(x, x) + mean(y, y) - 2 * mean(x, y))

    @pytest.mark.parametrize("h", [0.1, 1.0, 20.0])
    def test_equals_the_double_sum(self, h: float) -> None:
        x, y = cloud(30, 3), cloud(40, 3, seed=1) * 1.5 + 100
        assert mmd(x + 100, y, bandwidth=h) == pytest.approx(self.by_loops(x + 100, y, h), rel=1e-9)

    def test_default_bandwidth_is_the_median_distance(self) -> None:
        x, y = cloud(30, 3), cloud(40, 3, seed=1) + 0.5
        pooled = torch.cat([x, y])
        distances = sorted(float((pooled[i] - pooled[j]).norm()) for i in range(70) for j in range(i))
        h = distances[(len(distances) - 1) // 2]
        assert mmd(x, y) == pytest.approx(self.by_loops(x, y, h), rel=1e-9)

    def test_thinned_pool_gives_nearly_the_same_bandwidth(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x, y = cloud(900, 2), cloud(600, 2, seed=1) + 1
        whole = mmd(x, y)
        monkeypatch.setattr(metrics, "_MEDIAN_POINTS", 500)
        assert mmd(x, y) == pytest.approx(whole, rel=0.03)

    def test_two_points_and_invariances(self) -> None:
        x, y = torch.zeros(1, 2, dtype=F64), torch.tensor([[0.6, 0.8]], dtype=F64)
        assert mmd(x, y, bandwidth=0.5) == pytest.approx(math.sqrt(2 - 2 * math.exp(-2)), rel=1e-12)
        assert mmd(x, y, bandwidth=1e-3) == pytest.approx(math.sqrt(2), rel=1e-12)
        x, y = cloud(40, 3), cloud(25, 3, seed=1) + 0.5
        value = mmd(x, y)
        rotation = torch.linalg.qr(cloud(3, 3, seed=2)).Q
        assert mmd(y, x) == pytest.approx(value, rel=1e-9)
        assert mmd(5 * x @ rotation + 1, 5 * y @ rotation + 1) == pytest.approx(value, rel=1e-9)
        assert mmd(x.numpy(), y.numpy()) == value
        assert mmd(x, x.flip(0)) < 1e-7

    @pytest.mark.parametrize("bandwidth", [0.0, -1.0, 1e-300, math.nan, math.inf])
    def test_bad_bandwidth(self, bandwidth: float) -> None:
        with pytest.raises(ValueError, match="bandwidth is"):
            mmd(cloud(3, 2), cloud(3, 2), bandwidth=bandwidth)

    def test_coinciding_points_need_a_bandwidth(self) -> None:
        x = torch.zeros(9, 2)
        with pytest.raises(ValueError, match="most points coincide; give a number"):
            mmd(x, x)
        assert mmd(x, x, bandwidth=1.0) == 0


@pytest.mark.parametrize("metric", [sliced_wasserstein, mmd])
class TestBadClouds:
    def test_shapes(self, metric) -> None:  # type: ignore[no-untyped-def]
        with pytest.raises(ShapeError, match=r"y has shape \[5, 2\]; expected \[m, 3\]"):
            metric(cloud(4, 3), cloud(5, 2))
        with pytest.raises(ShapeError, match=r"x has shape \[0, 3\]"):
            metric(cloud(0, 3), cloud(5, 3))
        with pytest.raises(ShapeError, match=r"y has shape \[\]"):
            metric(cloud(5), cloud(1)[0])

    def test_values_and_kinds(self, metric) -> None:  # type: ignore[no-untyped-def]
        bad = cloud(4, 3)
        bad[2, 1] = math.nan
        with pytest.raises(DomainError, match=r"y must be finite; row 2 is not \(1 of 4 rows\)"):
            metric(cloud(4, 3), bad)
        bad[2, 1] = math.inf
        with pytest.raises(DomainError, match="x must be finite"):
            metric(bad, cloud(4, 3))
        with pytest.raises(TypeError, match="x must be a numpy array, a data frame .* of real numbers, not list"):
            metric([[1.0]], cloud(1, 1))


class TestKinds:
    def test_columns_go_together_by_name(self) -> None:
        x = pd.DataFrame(np.random.default_rng(0).random((20, 2)), columns=["a", "b"])
        for metric in (sliced_wasserstein, mmd):
            assert metric(x, x) == 0
            with pytest.raises(ValueError, match="x has the columns a, b, y has b, a: give y"):
                metric(x, x[["b", "a"]])
            assert metric(x, x.to_numpy()) == 0

    def test_what_holds_no_real_numbers(self) -> None:
        x = np.ones((3, 2))
        for strange in (x.astype(complex), x.astype(str), x.astype(object), torch.ones(3, 2, dtype=torch.complex64)):
            for call in (lambda v: sliced_wasserstein(x, v), lambda v: violation(Ball(2), v)):
                with pytest.raises(TypeError, match="of real numbers, not of"):
                    call(strange)
        assert sliced_wasserstein(x.astype(">f4"), x.astype(np.longdouble)) == 0

    def test_rounding_decides_no_rank(self) -> None:
        """0.1 is less than what single precision makes of it: a tie all the same."""
        ranks = sbc_ranks(torch.full((2000,), 0.1, dtype=F64), torch.full((5, 2000), 0.1))
        assert set(ranks.tolist()) == set(range(6))


class TestShares:
    def test_violation_counts_points(self) -> None:
        square = Hypercube((2,))
        x = torch.tensor([[0.5, 0.5], [1.0, 0.0], [1.01, 0.5], [0.5, -0.2]])
        assert violation(square, x) == 0.5
        assert violation(square, x, atol=0.05) == 0.25
        assert violation(square, x.numpy()) == 0.5
        assert violation(square, x.reshape(2, 2, 2)) == 0.5

    def test_what_is_not_finite_is_outside(self) -> None:
        x = torch.tensor([[0.0, math.nan], [math.inf, 0.0], [0.1, 0.2], [-0.3, 0.0]])
        assert violation(Ball(2), x) == 0.5
        assert violation(Ball(2), x[:2]) == 1.0

    def test_boundary_mass_of_a_uniform_ball(self) -> None:
        x = Ball(3).sample_uniform(20_000, generator=torch.Generator().manual_seed(0), dtype=F64)
        expected = 1 - 0.9**3
        error = math.sqrt(expected * (1 - expected) / 20_000)
        assert abs(boundary_mass(Ball(3), x, 0.1) - expected) < 4.5 * error
        assert boundary_mass(Ball(3), x, 1.0) == 1
        assert boundary_mass(Ball(3), x, 0.0) == 0

    def test_boundary_mass_counts_what_is_off_the_plane(self) -> None:
        x = torch.tensor([[5.0, 5.0, 5.0], [0.3, 0.3, 0.4], [0.2, 0.2, 0.2]])
        assert boundary_mass(Simplex(3), x, 0.01) == pytest.approx(2 / 3)
        shares = Simplex(3).sample_uniform(1000, generator=torch.Generator().manual_seed(0))  # sums round to 1
        assert boundary_mass(Simplex(3), shares, 0.0) == 0
        assert boundary_mass(Simplex(3), shares.double(), 0.0) == 0

    def test_boundary_mass_sees_clipping(self) -> None:
        x = (cloud(1000, 2) + 0.5).clamp(0, 1)
        on_the_wall = float(((x == 0) | (x == 1)).any(1).double().mean())
        assert boundary_mass(Hypercube((2,)), x, 0.0) == pytest.approx(on_the_wall, abs=1e-12)

    def test_errors(self) -> None:
        for share in (violation, lambda d, x: boundary_mass(d, x, 0.1)):
            with pytest.raises(ShapeError, match=r"x has shape \[4, 3\]; expected \[\*batch, 2\]"):
                share(Ball(2), cloud(4, 3))
            with pytest.raises(ShapeError, match="at least one point"):
                share(Ball(2), cloud(0, 2))
        with pytest.raises(DomainError, match="x must be finite"):
            boundary_mass(Ball(2), np.array([[0.0, math.nan]]), 0.1)
        with pytest.raises(ValueError, match="width must be at least 0, not -1"):
            boundary_mass(Ball(2), cloud(4, 2), -1)


class TestFloor:
    def test_parts_are_disjoint_and_of_the_datas_kind(self) -> None:
        data = np.arange(11.0)

        def overlap(a: np.ndarray, b: np.ndarray) -> float:
            assert isinstance(a, np.ndarray)
            assert len(a) == len(b) == 5
            return len(set(a) & set(b)) + len(set(a) - set(data))

        assert floor(overlap, data) == 0
        assert floor(lambda a, b: float(torch.is_tensor(a) and len(a) == 3), torch.arange(11.0), size=3) == 1

    def test_it_is_the_mean_and_repeatable(self) -> None:
        seen: list[float] = []

        def record(a: torch.Tensor, b: torch.Tensor) -> float:
            seen.append(sliced_wasserstein(a, b, projections=16))
            return seen[-1]

        data = cloud(60, 2)
        value = floor(record, data, splits=4)
        assert len(set(seen)) == 4
        assert value == pytest.approx(math.fsum(seen) / 4, rel=1e-12)
        assert floor(record, data, splits=4) == value
        assert floor(record, data, splits=4, seed=1) != value

    @pytest.mark.parametrize("metric", [sliced_wasserstein, lambda a, b: mmd(a, b, bandwidth=0.5)])
    def test_it_falls_as_the_square_root(self, metric) -> None:  # type: ignore[no-untyped-def]
        data = torch.rand(3200, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
        sizes = [100, 400, 1600]
        values = [floor(metric, data, splits=20, size=size) for size in sizes]
        slope = np.polyfit(np.log(sizes), np.log(values), 1)[0]
        assert slope == pytest.approx(-0.5, abs=0.12)

    def test_errors(self) -> None:
        with pytest.raises(ShapeError, match="data has 10 points; two disjoint parts of 6 need more"):
            floor(mmd, cloud(10, 2), size=6)
        with pytest.raises(ShapeError, match="data has 1 points"):
            floor(mmd, cloud(1, 2))
        for options in ({"splits": 0}, {"size": 0}):
            with pytest.raises(ValueError, match="must be at least 1"):
                floor(mmd, cloud(10, 2), **options)
