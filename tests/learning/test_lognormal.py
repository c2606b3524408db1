"""The formulas of the log-normal distribution, held against the distribution itself."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from statistics import NormalDist, fmean, pvariance

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.learning.lognormal import above, capped, capped_spread, quantile, sum_quantile, z_of

#: Slices of equal probability that stand for a distribution.
SLICES = 20_000
_Z = [NormalDist().inv_cdf((slice_ + 0.5) / SLICES) for slice_ in range(SLICES)]

SPREADS = [0.1, 0.5, 1.0]
MEANS = st.floats(1e-3, 1e7)
SOME_SPREAD = st.floats(0.0, 4.0)
LIMITS = st.floats(1e-3, 1e8)


def lengths(mean: float, spread: float) -> list[float]:
    """A log-normal distribution of this mean, as values that are all as likely."""
    middle = math.log(mean) - 0.5 * spread * spread
    return [math.exp(middle + spread * z) for z in _Z]


class TestCapped:
    @pytest.mark.parametrize("spread", SPREADS)
    @pytest.mark.parametrize("limit", [40.0, 150.0, 200.0, 900.0])
    def test_the_mean_under_a_limit_is_the_distributions(self, spread: float, limit: float) -> None:
        real = fmean(min(value, limit) for value in lengths(200.0, spread))
        assert capped(200.0, spread, limit) == pytest.approx(real, rel=2e-3)

    @pytest.mark.parametrize("spread", SPREADS)
    @pytest.mark.parametrize("limit", [40.0, 150.0, 200.0, 900.0])
    def test_the_spread_under_a_limit_fits_the_distributions_mean_and_variance(
        self, spread: float, limit: float
    ) -> None:
        cut = [min(value, limit) for value in lengths(200.0, spread)]
        fitted = math.sqrt(math.log1p(pvariance(cut) / fmean(cut) ** 2))
        assert capped_spread(200.0, spread, limit) == pytest.approx(fitted, rel=0.01, abs=1e-3)

    def test_a_limit_far_above_changes_nothing(self) -> None:
        assert capped(200.0, 0.5, 1e9) == 200.0
        assert capped_spread(200.0, 0.5, 1e9) == 0.5

    def test_a_limit_far_below_is_all_that_is_left(self) -> None:
        assert capped(1e6, 0.5, 16.0) == pytest.approx(16.0)
        assert capped_spread(1e6, 0.5, 16.0) == pytest.approx(0.0, abs=1e-6)

    def test_without_a_spread_a_limit_cuts_or_does_not(self) -> None:
        assert capped(200.0, 0.0, 300.0) == 200.0
        assert capped(200.0, 0.0, 100.0) == 100.0
        assert capped_spread(200.0, 0.0, 100.0) == 0.0

    def test_where_the_formula_is_left_out_there_is_no_step(self) -> None:
        spread = 0.5
        edge = 200.0 * math.exp(8.0 * spread - 0.5 * spread * spread)  # eight deviations above the middle
        for formula in (capped, capped_spread):
            assert formula(200.0, spread, 0.999 * edge) == pytest.approx(formula(200.0, spread, 1.001 * edge))

    @given(mean=MEANS, spread=SOME_SPREAD, limit=LIMITS)
    def test_a_limit_never_lengthens_and_is_never_exceeded(
        self, mean: float, spread: float, limit: float
    ) -> None:
        found = capped(mean, spread, limit)
        assert 0.0 < found <= min(mean, limit) * (1 + 1e-9)
        assert 0.0 <= capped_spread(mean, spread, limit) <= spread * (1 + 1e-6) + 1e-6

    @given(mean=MEANS, spread=SOME_SPREAD, limit=LIMITS, more=st.floats(1.0, 10.0))
    def test_a_higher_limit_never_shortens(
        self, mean: float, spread: float, limit: float, more: float
    ) -> None:
        assert capped(mean, spread, limit * more) >= capped(mean, spread, limit) * (1 - 1e-9)


class TestAbove:
    @pytest.mark.parametrize("spread", SPREADS)
    @pytest.mark.parametrize("deviations", [-3.0, -0.5, 0.0, 1.0, 2.0])
    def test_what_lies_above_a_limit_is_the_distributions_tail(
        self, spread: float, deviations: float
    ) -> None:
        middle = math.log(200.0)
        limit = math.exp(middle + deviations * spread)
        tail = [middle + spread * z for z in _Z if z >= deviations]
        log, variance, mean = above(middle, spread, limit)
        assert log == pytest.approx(fmean(tail), rel=2e-3)
        assert variance == pytest.approx(pvariance(tail), rel=0.05)
        assert mean == pytest.approx(fmean(math.exp(value) for value in tail), rel=0.01)

    def test_far_out_hardly_anything_is_above_the_limit(self) -> None:
        assert above(math.log(10.0), 0.3, 1e6) == (math.log(1e6), 0.0, 1e6)

    @given(middle=st.floats(-5.0, 17.0), spread=st.floats(0.01, 4.0), limit=LIMITS)
    def test_what_is_above_is_never_below_and_scatters_less_than_all(
        self, middle: float, spread: float, limit: float
    ) -> None:
        log, variance, mean = above(middle, spread, limit)
        assert log >= math.log(limit) - 1e-6
        assert 0.0 <= variance <= spread * spread * (1 + 1e-6)
        assert limit <= mean < math.inf


class TestQuantiles:
    @pytest.mark.parametrize("spread", SPREADS)
    @pytest.mark.parametrize("probability", [0.05, 0.5, 0.95, 0.99])
    def test_a_quantile_is_kept_with_its_probability(self, spread: float, probability: float) -> None:
        most = quantile(200.0, spread, z_of(probability))
        kept = sum(value <= most for value in lengths(200.0, spread)) / SLICES
        assert kept == pytest.approx(probability, abs=1e-3)

    def test_a_z_that_was_asked_for_before_is_the_same(self) -> None:
        assert z_of(0.975) == z_of(0.975) == pytest.approx(1.959964)

    def test_one_part_alone_has_its_own_quantile(self) -> None:
        assert sum_quantile(((3.0, 0.5),), 0.0, 1.3) == pytest.approx(quantile(3.0, 0.5, 1.3))
        assert sum_quantile(((3.0, 0.0),), 0.5, 1.3) == pytest.approx(quantile(3.0, 0.5, 1.3))

    def test_a_parts_spread_and_the_common_factors_add_up_in_squares(self) -> None:
        assert sum_quantile(((3.0, 0.3),), 0.4, 1.3) == pytest.approx(quantile(3.0, 0.5, 1.3))

    def test_a_sum_that_nothing_scatters_is_the_sum(self) -> None:
        assert sum_quantile(((1.0, 0.0), (2.0, 0.0)), 0.0, 1.64) == 3.0

    def test_nothing_takes_no_time(self) -> None:
        assert sum_quantile(((0.0, 0.3), (0.0, 0.0)), 0.3, 1.64) == 0.0

    @pytest.mark.parametrize("common", [0.0, 0.25])
    @pytest.mark.parametrize("parts", [((0.6, 0.0), (3.0, 0.7)), ((1.0, 0.4), (1.0, 0.4))])
    def test_a_sums_quantile_holds_for_sums(
        self, parts: tuple[tuple[float, float], ...], common: float
    ) -> None:
        chance = random.Random(3)

        def one(mean: float, spread: float) -> float:
            return mean * math.exp(spread * chance.gauss() - 0.5 * spread * spread)

        most = sum_quantile(parts, common, z_of(0.95))
        sums = [one(1.0, common) * sum(one(*part) for part in parts) for _ in range(SLICES)]
        assert sum(value <= most for value in sums) / SLICES == pytest.approx(0.95, abs=0.01)

    def test_a_quantile_rises_with_its_probability(self) -> None:
        found = [sum_quantile(((0.6, 0.0), (3.0, 0.7)), 0.2, z_of(p)) for p in (0.1, 0.5, 0.9, 0.95, 0.99)]
        assert all(low < high for low, high in pairwise(found))


def test_ever_new_probabilities_are_not_all_remembered() -> None:
    for number in range(5_000):
        z_of(0.9 + number * 1e-6)
    kept = z_of.cache_info()
    assert kept.maxsize is not None
    assert kept.currsize == kept.maxsize < 1_000
