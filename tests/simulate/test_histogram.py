"""Percentiles in constant memory are within 1 % of the exact ones."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.simulate.histogram import Histogram

SECONDS = st.floats(min_value=1e-5, max_value=1e6)


@given(st.lists(SECONDS, min_size=1, max_size=200), st.sampled_from([0.01, 0.5, 0.9, 0.95, 0.99, 1.0]))
def test_a_percentile_is_within_one_percent_of_the_exact_one(values: list[float], share: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    exact = sorted(values)[max(math.ceil(share * len(values)), 1) - 1]
    assert histogram.quantile(share) == pytest.approx(exact, rel=0.01)


@given(st.lists(SECONDS, min_size=1, max_size=50))
def test_the_mean_is_exact(values: list[float]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    assert histogram.mean == pytest.approx(sum(values) / len(values))


def test_nothing_has_no_percentiles() -> None:
    nothing = Histogram().percentiles()
    assert all(math.isnan(value) for value in (nothing.mean, nothing.p50, nothing.p99))


def test_a_time_of_zero_counts_as_the_shortest() -> None:
    histogram = Histogram()
    histogram.add(0.0)
    assert 0.0 <= histogram.quantile(0.5) <= 1e-6


def test_a_million_numbers_take_no_more_room_than_their_range_needs() -> None:
    histogram = Histogram()
    for number in range(20_000):
        histogram.add(1.0 + number % 1000)
    assert len(histogram._bins) <= math.log(1000) / math.log(1.02) + 2
    assert histogram.count == 20_000
