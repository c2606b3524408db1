"""Money: reserved before, settled after, never beyond a budget."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.config import Budget
from router.ledger import Ledger, Refusal
from tests.ledger.making import NOON, Wall, attempt, decision, reserve, settle, wait_until

DAY = Budget(usd=1.0)


@pytest.fixture
def ledger(path: Path | None, wall: Wall) -> Iterator[Ledger]:
    ledger = Ledger(path, [DAY], wall=wall)
    yield ledger
    assert ledger.close()


def test_a_reservation_that_fits_is_granted_and_one_that_does_not_is_refused(ledger: Ledger) -> None:
    assert reserve(ledger, "1", "0.7") is None
    refusal = reserve(ledger, "2", "0.4")
    assert refusal is not None
    assert (refusal.budget, refusal.left_usd, refusal.asked_usd) == (DAY, Decimal("0.3"), Decimal("0.4"))
    assert str(refusal) == (
        "budget: 0.3 USD left of 1 USD per day, 0.4 USD asked; 0.7 USD set aside for requests under way"
        "; the period ends 2025-10-11 00:00 UTC"
    )
    assert not refusal.final, "what is set aside may come back"
    assert refusal.ends_at == NOON + 12 * 3600
    assert reserve(ledger, "3", "0.3") is None
    assert ledger.left(DAY) == 0


def test_settling_puts_the_real_cost_in_the_place_of_what_was_reserved(ledger: Ledger) -> None:
    reserve(ledger, "1", "0.7")
    assert settle(ledger, "1", "0.123456789123456789")
    assert ledger.left(DAY) == Decimal("0.876543210876543211")
    assert ledger.spent() == {"": Decimal("0.123456789123456789")}


def test_releasing_gives_everything_back(ledger: Ledger) -> None:
    reserve(ledger, "1", "1")
    assert settle(ledger, "1", None)
    assert ledger.left(DAY) == 1
    assert ledger.spent() == {}


def test_a_cost_above_the_reservation_is_booked_in_full_and_the_budget_is_then_closed(ledger: Ledger) -> None:
    reserve(ledger, "1", "0.5")
    settle(ledger, "1", "1.5")
    assert ledger.left(DAY) == 0
    assert ledger.spent() == {"": Decimal("1.5")}
    assert reserve(ledger, "2", "0.000000001") is not None
    assert reserve(ledger, "3", "0") is None, "what costs nothing needs no money"


def test_settling_twice_books_once(ledger: Ledger) -> None:
    reserve(ledger, "1", "0.5")
    assert settle(ledger, "1", "0.2")
    assert settle(ledger, "1", "0.2")
    assert ledger.spent() == {"": Decimal("0.2")}


def test_a_free_reservation_that_costs_something_after_all_is_booked(ledger: Ledger) -> None:
    assert reserve(ledger, "1", "0") is None
    assert settle(ledger, "1", "0.25")
    assert ledger.left(DAY) == Decimal("0.75")


def test_a_key_cannot_be_reserved_twice(ledger: Ledger) -> None:
    reserve(ledger, "1", "0.1")
    with pytest.raises(ValueError, match="reservation already"):
        reserve(ledger, "1", "0.1")


@pytest.mark.parametrize("usd", ["-1", "NaN", "Infinity"])
def test_an_absurd_amount_is_refused_where_it_is_asked(ledger: Ledger, usd: str) -> None:
    with pytest.raises(ValueError, match="no amount"):
        reserve(ledger, "1", usd)
    reserve(ledger, "2", "0.5")
    with pytest.raises(ValueError, match="no amount"):
        settle(ledger, "2", usd)
    assert settle(ledger, "2", "0.5"), "the reservation is still there to be settled"


def test_every_budget_that_covers_a_request_must_have_room(path: Path | None, wall: Wall) -> None:
    everything, support, kimi = Budget(usd=10), Budget(usd=1, task="support"), Budget(usd=2, model="kimi")
    ledger = Ledger(path, [everything, support, kimi], wall=wall)
    assert reserve(ledger, "1", "0.9", model="kimi", task="support") is None
    assert [ledger.left(b) for b in (everything, support, kimi)] == [
        Decimal("9.1"),
        Decimal("0.1"),
        Decimal("1.1"),
    ]
    refusal = reserve(ledger, "2", "0.2", model="qwen", task="support")
    assert refusal is not None
    assert refusal.budget == support
    assert "for task 'support'" in refusal.because
    assert reserve(ledger, "3", "1.1", model="kimi", task=None) is None
    assert ledger.room("kimi", "support") == 0
    assert ledger.room("qwen", "other") == Decimal(8)
    assert [ledger.left(b) for b in (everything, support, kimi)] == [8, Decimal("0.1"), 0]
    ledger.close()


def test_what_no_budget_covers_is_not_reserved_but_booked_with_its_decision(
    path: Path | None, wall: Wall
) -> None:
    ledger = Ledger(path, [Budget(usd=1, model="kimi")], wall=wall)
    assert not ledger.guards("qwen", None)
    assert reserve(ledger, "1", "5", model="qwen") is None
    assert settle(ledger, "1", "5")
    assert reserve(ledger, "2", "0.5", model="kimi") is None
    assert settle(ledger, "2", "0.4")
    ledger.record(decision(1, attempt("qwen", "5"), attempt("kimi", "0.4"), attempt("local", "0")))
    assert ledger.spent(by="model") == {"kimi": Decimal("0.4"), "qwen": Decimal(5)}
    ledger.close()


def test_a_budget_declared_later_sees_what_was_spent_before(tmp_path: Path, wall: Wall) -> None:
    first = Ledger(tmp_path / "l.db", wall=wall)
    first.record(decision(1, attempt("kimi", "0.25"), features={"task": "support"}))
    first.close()
    budgets = [Budget(usd=1, task="support", period="month"), Budget(usd=1, model="other")]
    second = Ledger(tmp_path / "l.db", budgets, wall=wall)
    assert [second.left(budget) for budget in budgets] == [Decimal("0.75"), 1]
    second.close()


@pytest.mark.parametrize(("period", "seconds"), [("hour", 3600), ("day", 86400), ("month", 31 * 86400)])
def test_a_new_period_begins_with_the_full_budget(
    path: Path | None, wall: Wall, period: str, seconds: int
) -> None:
    budget = Budget.parse({"usd": 1, "period": period})
    ledger = Ledger(path, [budget], wall=wall)
    reserve(ledger, "1", "0.9")
    settle(ledger, "1", "0.9")
    assert reserve(ledger, "2", "0.2") is not None
    wall.at += seconds
    assert ledger.left(budget) == 1, "known without I/O"
    assert reserve(ledger, "3", "1") is None
    assert ledger.left(budget) == 0
    ledger.close()


def test_a_budget_in_all_never_begins_anew(path: Path | None, wall: Wall) -> None:
    budget = Budget(usd=1, period="total")
    ledger = Ledger(path, [budget], wall=wall)
    reserve(ledger, "1", "0.9")
    settle(ledger, "1", "0.9")
    wall.at += 400 * 86400
    assert reserve(ledger, "2", "0.2") is not None
    assert ledger.left(budget) == Decimal("0.1")
    ledger.close()


def test_a_reservation_counts_in_the_period_it_was_made_in_also_when_it_is_settled_later(
    ledger: Ledger, wall: Wall
) -> None:
    reserve(ledger, "old", "1")
    wall.at += 86400
    assert reserve(ledger, "new", "0.6") is None
    settle(ledger, "old", "1")
    assert ledger.left(DAY) == Decimal("0.4")
    assert ledger.spent(until=NOON + 1) == {"": Decimal(1)}


def test_a_clock_that_jumps_back_finds_what_was_spent_then(ledger: Ledger, wall: Wall) -> None:
    reserve(ledger, "1", "0.8")
    settle(ledger, "1", "0.8")
    wall.at += 3 * 86400
    assert reserve(ledger, "2", "1") is None
    wall.at -= 3 * 86400
    assert reserve(ledger, "3", "0.3") is not None
    assert reserve(ledger, "4", "0.2") is None
    assert ledger.spent() == {"": Decimal("0.8")}


def test_after_closing_money_is_refused_and_nobody_waits_for_ever(path: Path | None) -> None:
    ledger = Ledger(path, [DAY])
    reserve(ledger, "1", "0.5")
    assert ledger.close()
    assert ledger.close()
    refusal = reserve(ledger, "2", "0.1")
    assert refusal is not None
    assert refusal.because == "ledger: it is closed"
    assert settle(ledger, "1", "0.5") is False


def test_a_callback_that_fails_does_not_stop_the_ledger(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Refusal | None) -> None:
        raise ZeroDivisionError

    ledger.reserve("1", "a", None, Decimal("0.1"), fail)
    assert reserve(ledger, "2", "0.1") is None
    assert "callback" in caplog.text


usd = st.decimals(min_value=0, max_value="0.5", places=12, allow_nan=False, allow_infinity=False)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.sampled_from("ab"), st.sampled_from([None, "t"]), usd),
        st.tuples(st.just("settle"), st.integers(0, 50), st.floats(0, 1)),
        st.tuples(st.just("release"), st.integers(0, 50)),
        st.tuples(st.just("wait"), st.sampled_from([1800, 90_000])),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_whatever_happens_no_budget_is_overrun_and_sums_stay_exact(todo: list[tuple[object, ...]]) -> None:
    wall = Wall()
    budgets = [
        Budget(usd=1),
        Budget(usd=0.7, model="a", period="hour"),
        Budget(usd=0.9, task="t", period="total"),
    ]
    ledger = Ledger(None, budgets, wall=wall)
    held: dict[str, tuple[str, str | None, Decimal]] = {}
    settled: dict[str, Decimal] = {}
    try:
        for number, step in enumerate(todo):
            match step:
                case ("reserve", str(model), task, Decimal() as amount):
                    named = task if isinstance(task, str) else None
                    before = ledger.room(model, named)
                    refusal = reserve(ledger, str(number), str(amount), model, named)
                    assert before is not None
                    assert (refusal is None) == (amount <= before or amount == 0)
                    if refusal is None:
                        held[str(number)] = (model, named, amount)
                case ("settle", int(place), float(share)) if held:
                    key = list(held)[place % len(held)]
                    model, _, amount = held.pop(key)
                    cost = (amount * Decimal(share)).quantize(Decimal("1e-15"), "ROUND_DOWN")
                    settle(ledger, key, str(cost))
                    settled[model] = settled.get(model, Decimal(0)) + cost
                case ("release", int(place)) if held:
                    settle(ledger, list(held)[place % len(held)], None)
                    held.pop(list(held)[place % len(held)])
                case ("wait", int(seconds)):
                    wall.at += seconds
                    ledger.record(decision(number, attempt(cost=None)))
                    ledger.flush()
        assert ledger.spent(by="model") == {model: cost for model, cost in sorted(settled.items()) if cost}
    finally:
        ledger.close()


def test_what_is_reserved_by_another_ledger_on_the_file_counts(tmp_path: Path) -> None:
    one, two = (Ledger(tmp_path / "l.db", [DAY]) for _ in range(2))
    assert reserve(one, "1", "0.6") is None
    assert reserve(two, "1", "0.6") is not None
    assert settle(one, "1", "0.1")
    assert reserve(two, "2", "0.6") is None
    wait_until(lambda: one.left(DAY) == Decimal("0.3"))
    one.close()
    two.close()


def test_closing_frees_what_is_still_reserved(tmp_path: Path) -> None:
    one, two = (Ledger(tmp_path / "l.db", [DAY]) for _ in range(2))
    assert reserve(one, "1", "0.9") is None
    one.close()
    assert reserve(two, "1", "0.9") is None
    two.close()
    with sqlite3.connect(tmp_path / "l.db") as connection:
        assert connection.execute("SELECT count(*) FROM owners").fetchone() == (0,)
    connection.close()
