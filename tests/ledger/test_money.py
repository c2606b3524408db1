"""Amounts and calendar periods."""

from __future__ import annotations

import decimal
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.ledger.money import LAST_HOUR, hour_of, to_text, to_units, to_usd, window

amounts = st.decimals(min_value=0, max_value=10**9, places=18, allow_nan=False, allow_infinity=False)


@given(st.lists(amounts, max_size=30))
def test_sums_of_amounts_are_exact_whatever_the_callers_decimal_context(given_amounts: list[Decimal]) -> None:
    with decimal.localcontext() as narrow:
        narrow.prec = 3
        total = to_usd(sum(map(to_units, given_amounts)))
    with decimal.localcontext() as wide:
        wide.prec = 100
        assert total == sum(given_amounts, Decimal(0))


@given(amounts)
def test_an_amount_survives_being_written_down(amount: Decimal) -> None:
    text = to_text(to_units(amount))
    assert Decimal(text) == amount
    assert "E" not in text


def test_what_is_smaller_than_the_unit_is_rounded_up_and_not_away() -> None:
    assert to_units(Decimal("1e-30")) == 1
    assert to_units(Decimal(0.1)) >= to_units(Decimal("0.1"))  # noqa: RUF032 - a float's 55 digits


@pytest.mark.parametrize("text", ["-0.01", "NaN", "sNaN", "Infinity", "1e13", "1e999999"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no amount of money"):
        to_units(Decimal(text))


@pytest.mark.parametrize(
    ("period", "start", "end"),
    [
        ("hour", (2024, 2, 29, 13), (2024, 2, 29, 14)),
        ("day", (2024, 2, 29, 0), (2024, 3, 1, 0)),
        ("month", (2024, 2, 1, 0), (2024, 3, 1, 0)),
    ],
)
def test_a_period_is_one_of_the_utc_calendar(
    period: str, start: tuple[int, int, int, int], end: tuple[int, int, int, int]
) -> None:
    hour = hour_of(datetime(2024, 2, 29, 13, 59, 59, tzinfo=UTC).timestamp())
    assert window(period, hour) == tuple(
        hour_of(datetime(*moment, tzinfo=UTC).timestamp()) for moment in (start, end)
    )


@given(st.integers(0, LAST_HOUR), st.sampled_from(["hour", "day", "month", "total"]))
def test_every_hour_lies_in_its_own_period_and_periods_do_not_overlap(hour: int, period: str) -> None:
    start, end = window(period, hour)
    assert start <= hour < end
    assert window(period, start) == window(period, end - 1) == (start, end)


@given(st.floats())
def test_any_clock_reading_is_an_hour_of_the_calendar(at: float) -> None:
    assert 0 <= hour_of(at) <= LAST_HOUR
