"""What the ledger's file and a Redis server do alike: the same tests for both."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from adapters.redis.books import RedisBooks
from adapters.redis.link import Link
from router.config import Budget
from router.ledger.keeper import Keeper
from router.ledger.money import SCALE, Refusal, window
from router.ledger.operations import Answer, Give, Reserve, Settle, Take, ignore
from router.limits import Ask, Limits
from tests.adapters.redis.conftest import TEST_CLOCK, ServerWall
from tests.adapters.redis.serving import Server
from tests.ledger.making import NOON

MILLI = SCALE // 1000
HOUR = 3600.0
Keepers = Callable[..., Keeper]


def reserve(
    keeper: Keeper, key: str, milli: int, model: str = "m", task: str = "", *, waits: bool = False
) -> Refusal | None:
    (answer,) = keeper.group([Reserve(key, model, task, milli * MILLI, ignore, waits)])
    assert answer is None or isinstance(answer, Refusal)
    return answer


def settle(keeper: Keeper, key: str, milli: int | None, model: str = "m", task: str = "") -> None:
    units = None if milli is None else milli * MILLI
    assert keeper.group([Settle(key, model, task, units, ignore)]) == [True]


def take(keeper: Keeper, requests: int, tokens: int = 1, **limits: int) -> tuple[int, float]:
    declared = Limits(limits.get("rpm"), limits.get("tpm"), limits.get("places"))
    (answer,) = keeper.group([Take(Ask("m", declared, (tokens,) * requests, 1.0), ignore)])
    assert isinstance(answer, tuple)
    return answer


def lefts(keeper: Keeper) -> list[int]:
    """Thousandths of a dollar."""
    keeper.look()
    return [standing.left // MILLI for standing in keeper.snapshot]


class TestMoney:
    def test_a_reservation_that_fits_is_made_and_one_that_does_not_is_refused(self, keepers: Keepers) -> None:
        keeper = keepers(Budget(usd=1))
        assert reserve(keeper, "a", 600) is None
        refusal = reserve(keeper, "b", 500)
        assert refusal is not None
        assert (refusal.budget, refusal.left_usd, refusal.asked_usd) == (
            Budget(usd=1),
            Decimal("0.4"),
            Decimal("0.5"),
        )
        assert not refusal.final
        assert reserve(keeper, "c", 400) is None
        assert lefts(keeper) == [0]

    def test_what_is_spent_is_refused_for_good_and_what_is_set_aside_is_not(self, keepers: Keepers) -> None:
        keeper = keepers(Budget(usd=1))
        assert reserve(keeper, "a", 600) is None
        settle(keeper, "a", 700)
        assert reserve(keeper, "b", 300) is None
        never, later = reserve(keeper, "c", 301), reserve(keeper, "d", 300)
        assert never is not None
        assert never.final
        assert later is not None
        assert not later.final

    def test_a_settlement_takes_the_place_of_its_reservation(self, keepers: Keepers) -> None:
        keeper = keepers(Budget(usd=1))
        reserve(keeper, "a", 600)
        settle(keeper, "a", 150)
        assert lefts(keeper) == [850]
        reserve(keeper, "b", 850)
        settle(keeper, "b", None)
        assert lefts(keeper) == [850]

    def test_what_cost_more_than_was_set_aside_is_booked_all_the_same(self, keepers: Keepers) -> None:
        keeper = keepers(Budget(usd=1))
        reserve(keeper, "a", 600)
        settle(keeper, "a", 1700)
        assert lefts(keeper) == [0]
        assert reserve(keeper, "b", 1) is not None

    def test_a_settlement_without_a_reservation_is_spent(self, keepers: Keepers) -> None:
        keeper = keepers(Budget(usd=1))
        settle(keeper, "nobody's", 300)
        settle(keeper, "nobody's", None)
        assert lefts(keeper) == [700]

    def test_a_key_is_reserved_once(self, keepers: Keepers) -> None:
        keeper = keepers(Budget(usd=1))
        assert reserve(keeper, "a", 100) is None
        assert reserve(keeper, "a", 100) is not None
        assert lefts(keeper) == [900]

    def test_all_budgets_that_cover_a_request_give_or_none_does(self, keepers: Keepers) -> None:
        keeper = keepers(
            Budget(usd=1),
            Budget(usd=0.5, model="m"),
            Budget(usd=0.2, task="t"),
            Budget(usd=0.1, model="m", task="t"),
        )
        assert reserve(keeper, "a", 150, "m", "t") is not None
        assert lefts(keeper) == [1000, 500, 200, 100]
        assert reserve(keeper, "b", 100, "m", "t") is None
        assert reserve(keeper, "c", 100, "n", "t") is None
        assert reserve(keeper, "d", 400, "m", "u") is None
        assert lefts(keeper) == [400, 0, 0, 0]
        settle(keeper, "b", 50, "m", "t")
        assert lefts(keeper) == [450, 50, 50, 50]

    def test_names_that_run_into_each_other_are_told_apart(self, keepers: Keepers) -> None:
        keeper = keepers(Budget(usd=1, model="a", task="b:c"), Budget(usd=1, model="a:b", task="c"))
        reserve(keeper, "x", 100, "a", "b:c")
        assert lefts(keeper) == [900, 1000]

    def test_two_processes_share_a_budget_and_see_each_other(self, keepers: Keepers) -> None:
        one, two = keepers(Budget(usd=1)), keepers(Budget(usd=1))
        assert reserve(one, "a", 700) is None
        assert reserve(two, "a", 400) is not None
        assert lefts(two) == [300]
        settle(one, "a", 100)
        assert reserve(two, "a", 400) is None
        assert lefts(one) == [500]

    def test_a_budget_that_is_declared_later_sees_what_was_spent_before(self, keepers: Keepers) -> None:
        early = keepers(Budget(usd=1))
        reserve(early, "a", 200, "m", "t")
        settle(early, "a", 200, "m", "t")
        for period in ("hour", "day", "month", "total"):
            late = keepers(Budget(usd=1, period=period, task="t"))
            assert lefts(late) == [800]

    def test_the_end_of_one_frees_what_it_had_set_aside_and_keeps_what_it_spent(
        self, keepers: Keepers
    ) -> None:
        one, two = keepers(Budget(usd=1)), keepers(Budget(usd=1))
        reserve(one, "a", 300)
        settle(one, "a", 100)
        reserve(one, "b", 700)
        one.close()
        assert lefts(two) == [900]

    @pytest.mark.parametrize(
        ("period", "same", "other"),
        [
            ("hour", 0.9 * HOUR, HOUR),
            ("day", 11 * HOUR, 12 * HOUR),
            ("month", 21 * 24 * HOUR, 22 * 24 * HOUR),  # from 10 October 2025
            ("total", 24 * HOUR, None),
        ],
    )
    def test_a_period_ends_by_the_utc_calendar(
        self, keepers: Keepers, wall: ServerWall, period: Any, same: float, other: float | None
    ) -> None:
        keeper = keepers(Budget(usd=1, period=period))
        reserve(keeper, "a", 400)
        settle(keeper, "a", 400)
        wall.set(NOON + same)
        assert lefts(keeper) == [600]
        if other is not None:
            wall.set(NOON + other)
            assert lefts(keeper) == [1000]

    def test_what_is_settled_late_counts_in_the_period_it_was_reserved_in(
        self, keepers: Keepers, wall: ServerWall
    ) -> None:
        keeper = keepers(Budget(usd=1, period="hour"), Budget(usd=1, period="day"))
        reserve(keeper, "a", 400)
        wall.set(NOON + HOUR)
        settle(keeper, "a", 300)
        assert lefts(keeper) == [1000, 700]

    def test_a_small_one_does_not_overtake_one_that_waits_in_the_same_step(self, keepers: Keepers) -> None:
        keeper = keepers(Budget(usd=1))
        reserve(keeper, "a", 600)
        large = Reserve("b", "m", "", 500 * MILLI, ignore, True)
        small = Reserve("c", "m", "", 100 * MILLI, ignore, True)
        first, second = keeper.group([large, small])
        assert isinstance(first, Refusal)
        if type(keeper).__name__ == "RedisBooks":  # of a file, the teller takes care of it
            assert isinstance(second, Refusal)

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(steps=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5), st.integers(0, 400)), max_size=30))
    def test_money_is_what_a_plain_reckoning_says(
        self, keepers: Keepers, wall: ServerWall, steps: list[tuple[int, int, int]]
    ) -> None:
        wall.set(wall.at + 24 * HOUR)  # each example has a day of its own
        pair = [keepers(Budget(usd=1), Budget(usd=0.5, model="m1")) for _ in range(2)]
        held: dict[tuple[int, int], tuple[str, int]] = {}
        spent = {"m0": 0, "m1": 0}
        for which, number, milli in steps:
            model, keeper = f"m{number % 2}", pair[which]
            if (which, number) in held:
                model, _ = held.pop((which, number))
                settle(keeper, str(number), milli or None, model)
                spent[model] += milli
            else:
                set_aside = {name: sum(v for m, v in held.values() if m == name) for name in spent}
                used = {name: spent[name] + set_aside[name] for name in spent}
                fits = sum(used.values()) + milli <= 1000 and (model != "m1" or used["m1"] + milli <= 500)
                if milli:
                    assert (reserve(keeper, str(number), milli, model) is None) == fits
                    if fits:
                        held[which, number] = model, milli
            used = {m: spent[m] + sum(v for n, v in held.values() if n == m) for m in spent}
            for one in pair:
                assert lefts(one) == [max(0, 1000 - sum(used.values())), max(0, 500 - used["m1"])]
        for one in pair:
            one.close()


class TestLimits:
    def test_requests_per_minute_are_shared_and_come_back(self, keepers: Keepers, wall: ServerWall) -> None:
        one, two = keepers(), keepers()
        assert take(one, 3, rpm=5) == (3, 0.0)
        granted, pause = take(two, 3, rpm=5)
        assert granted == 2
        assert 0 < pause <= 62
        wall.set(wall.at + pause + 0.01)
        assert take(two, 3, rpm=5) == (3, 0.0)

    def test_tokens_that_were_not_needed_are_free_for_others(
        self, keepers: Keepers, wall: ServerWall
    ) -> None:
        one, two = keepers(), keepers()
        assert take(one, 1, tokens=100, tpm=100) == (1, 0.0)
        assert take(two, 1, tokens=50, tpm=100)[0] == 0
        assert one.group([Give("m", wall.at, tokens=-60)]) == [True]
        assert take(two, 1, tokens=50, tpm=100)[0] == 1

    def test_a_request_that_was_not_sent_counts_in_no_minute(
        self, keepers: Keepers, wall: ServerWall
    ) -> None:
        keeper = keepers()
        assert take(keeper, 1, tokens=100, rpm=1, tpm=100) == (1, 0.0)
        assert keeper.group([Give("m", wall.at, over=1, requests=-1, tokens=-100)]) == [True]
        assert take(keeper, 1, tokens=100, rpm=1, tpm=100) == (1, 0.0)

    def test_a_request_that_is_sent_late_counts_for_a_minute_from_then_on(
        self, keepers: Keepers, wall: ServerWall
    ) -> None:
        one, two = keepers(), keepers()
        began = wall.at
        assert take(one, 1, tokens=7, rpm=1) == (1, 0.0)
        wall.set(began + 30)
        moved = [Give("m", began, requests=-1, tokens=-7), Give("m", wall.at, requests=1, tokens=7)]
        assert one.group(moved) == [True, True]
        wall.set(began + 62)
        assert take(two, 1, rpm=1)[0] == 0
        wall.set(began + 92)
        assert take(two, 1, rpm=1)[0] == 1

    def test_one_larger_than_a_minute_goes_when_the_minute_is_empty(
        self, keepers: Keepers, wall: ServerWall
    ) -> None:
        keeper = keepers()
        assert take(keeper, 1, tokens=500, tpm=100)[0] == 1
        granted, pause = take(keeper, 1, tokens=500, tpm=100)
        assert granted == 0
        wall.set(wall.at + pause + 0.01)
        assert take(keeper, 1, tokens=500, tpm=100)[0] == 1

    def test_places_are_shared_and_the_end_of_one_frees_its_own(
        self, keepers: Keepers, wall: ServerWall
    ) -> None:
        one, two = keepers(), keepers()
        assert take(one, 3, places=4) == (3, 0.0)
        granted, pause = take(two, 3, places=4)
        assert (granted, pause) == (1, 0.25), (
            "a place is free as often as the service takes, divided by places"
        )
        assert one.group([Give("m", wall.at, over=1)]) == [True]
        assert take(two, 1, places=4) == (1, 0.0)
        one.close()
        assert take(two, 3, places=4)[0] == 2

    def test_all_limits_of_a_request_let_it_go_or_none_counts_it(
        self, keepers: Keepers, wall: ServerWall
    ) -> None:
        one, two = keepers(), keepers()
        all_models = ("all", Limits(5, None, None))
        ask = Ask("m", Limits(None, None, 4), (1,) * 6, 1.0, (all_models,))
        assert one.group([Take(ask, ignore)]) == [(4, 0.25)]
        other = Ask("n", Limits(None, None, 9), (1,) * 3, 1.0, (all_models,))
        ((granted, pause),) = two.group([Take(other, ignore)])  # type: ignore[misc]
        assert granted == 1
        assert pause > 1, "it is the minute that is full, not the places"
        assert take(two, 1, places=4)[0] == 0
        assert one.group([Give("m", wall.at, over=1), Give("all", wall.at, over=1)]) == [True, True]
        assert take(two, 1, places=4)[0] == 1

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        rpm=st.integers(1, 6),
        steps=st.lists(st.tuples(st.floats(0, 25), st.integers(1, 4), st.booleans()), max_size=25),
    )
    def test_no_minute_holds_more_than_the_limit_whoever_sends(
        self, keepers: Keepers, wall: ServerWall, rpm: int, steps: list[tuple[float, int, bool]]
    ) -> None:
        wall.set(wall.at + HOUR)
        pair, sent = (keepers(), keepers()), list[float]()
        for step, wanted, which in steps:
            wall.set(wall.at + step)
            granted, pause = take(pair[which], wanted, rpm=rpm)
            sent += [wall.at] * granted
            assert (pause > 0) == (granted < wanted)
        for first in sent:
            assert sum(first <= other < first + 60 for other in sent) <= rpm
        for one in pair:
            one.close()


def test_many_operations_are_answered_in_their_order(keepers: Keepers, wall: ServerWall) -> None:
    keeper = keepers(Budget(usd=1))
    operations = [Reserve(str(number), "m", "", 10 * MILLI, ignore) for number in range(150)]
    answers: list[Answer] = keeper.group(operations)
    assert [answer is None for answer in answers] == [True] * 100 + [False] * 50
    settles = [Settle(str(number), "m", "", MILLI, ignore) for number in range(100)]
    assert keeper.group(settles) == [True] * 100
    assert lefts(keeper) == [900]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 4_000_000_000))
def test_periods_begin_on_the_server_when_they_begin_here(
    server: Server, url: str, wall: ServerWall, at: int
) -> None:
    wall.set(float(at))
    keeper = RedisBooks(Link(SecretStr(url), clock=TEST_CLOCK), [], wall=wall)
    settle(keeper, "", 1)
    hour = at // 3600
    prefix = url.rpartition("=")[2]
    with server.client() as client:
        for period in ("hour", "day", "month", "total"):
            assert client.delete(f"{{{prefix}}}:money:{period}:{window(period, hour)[0]}") == 1
    keeper.close()
