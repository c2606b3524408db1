"""What answers that nobody saw are charged to budgets, and what refusals of declared limits mean."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import AsyncRouter, Budget, RateLimit, Recovery, RoutedCompletion
from router.booking import FASTEST, SILENT, feared_cost, reserved_cost
from router.errors import (
    DeadlineExceededError,
    ModelConnectionError,
    ModelError,
    ModelHTTPError,
    ModelProtocolError,
    ModelTimeoutError,
    RouterError,
)
from router.failures import UNSENT, may_be_billed
from router.limits import Ask, Limits
from router.limits.counts import Counts
from router.limits.limiter import Limiter
from router.objective import MEASURED_AFTER, Estimate
from router.profile import PriceTable, Profile, Tier
from tests.helpers import HELLO, Step, eventually, router_of, scripted

DAY = Budget(usd=1.0, period="total")
PRICED = Profile(price=PriceTable(tiers=(Tier(above=0, input=1.0, output=10.0),)))
USD = 1000.0


def found(tokens: float, seen: int, most: float = 1000.0) -> Estimate:
    return Estimate(
        cost=0.01, ttft=0.5, latency=3.0, tokens_in=20, cached=0, tokens_out=tokens, scatter=0.3, most_out=most,
        wait=0, seen=seen,
    )  # fmt: skip


def ask(router: AsyncRouter, **options: Any) -> Any:
    routing = {"deadline": 10.0, **options.pop("routing", {})}
    asked: Any = {"messages": HELLO, "max_tokens": 100, "routing": routing, **options}
    return router.chat.completions.create(**asked)


async def left(router: AsyncRouter) -> Decimal:
    """USD, once nothing is set aside any more."""
    ledger = router._core.ledger
    assert await asyncio.to_thread(
        eventually, lambda: ledger.standings.of(0).left == ledger.standings.of(0).free
    )
    return ledger.left(DAY)


class TestFear:
    @given(st.floats(1, 900), st.integers(0, 20), st.floats(0, 100), st.integers(1, 4))
    def test_never_more_than_was_set_aside_and_never_less_than_nothing(
        self, tokens: float, seen: int, seconds: float, choices: int
    ) -> None:
        one = found(tokens, seen)
        reserved = reserved_cost(PRICED, one, 1000, choices=choices)
        assert 0 <= feared_cost(PRICED, one, reserved, seconds, choices=choices) <= reserved

    def test_of_an_unknown_model_all_that_was_set_aside_is_charged_after_a_while(self) -> None:
        reserved = reserved_cost(PRICED, found(100, 0), 1000)
        assert feared_cost(PRICED, found(100, 0), reserved, 30.0) >= reserved * Decimal("0.99")

    def test_of_a_known_model_it_is_a_long_answer_of_its_kind(self) -> None:
        known = found(100, MEASURED_AFTER)
        reserved = reserved_cost(PRICED, known, 1000)
        usd = feared_cost(PRICED, known, reserved, 30.0)
        assert Decimal("0.00102") < usd < reserved / 5

    def test_what_no_host_can_have_written_yet_is_not_charged(self) -> None:
        reserved = reserved_cost(PRICED, found(100, 0), 1000)
        assert feared_cost(PRICED, found(100, 0), reserved, SILENT) == Decimal("0.00002")
        soon = feared_cost(PRICED, found(100, 0), reserved, SILENT + 100 / FASTEST)
        assert soon == Decimal("0.00102")

    def test_what_computes_here_sends_no_bill(self) -> None:
        assert feared_cost(Profile(usd_per_hour=1.0), found(100, 0), Decimal(1), 30.0) == 0

    @pytest.mark.parametrize(
        ("error", "billed"),
        [
            (ModelConnectionError("broke", model="m"), True),
            (ModelConnectionError("refused", model="m", code=UNSENT), False),
            (ModelProtocolError("half an answer", model="m"), True),
            (ModelHTTPError("no", model="m", status_code=500), False),
            (ModelTimeoutError("silent", model="m"), False),
        ],
    )
    def test_hosts_may_bill_what_was_lost_on_its_way(self, error: ModelError, *, billed: bool) -> None:
        assert may_be_billed(error) is billed


async def test_an_answer_that_came_too_late_is_charged_as_it_may_be_billed() -> None:
    model = scripted("m", Step(hangs=True), usd=USD)  # sets 0.12 USD aside
    async with router_of(model, budget=DAY) as router:
        with pytest.raises(DeadlineExceededError) as caught:
            await ask(router, routing={"deadline": 0.8})
        assert Decimal("0.87") <= await left(router) <= Decimal("0.9")
    assert caught.value.decision is not None
    assert caught.value.decision.cost is not None
    assert caught.value.decision.cost < Decimal("0.1"), "the decision tells what is likely"


@pytest.mark.parametrize(("code", "spent"), [(UNSENT, False), (None, True)])
async def test_a_broken_connection_is_charged_and_one_that_never_was_is_not(
    code: str | None, *, spent: bool
) -> None:
    model = scripted("m", Step(ttft=0.6, error=ModelConnectionError("gone", model="m", code=code)), usd=USD)
    async with router_of(model, budget=DAY, recovery=Recovery(max_attempts=1)) as router:
        with pytest.raises(RouterError):
            await ask(router)
        assert (await left(router) < 1) is spent


async def test_a_refusal_of_a_declared_limit_fails_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.admission.SHORT", 0.5)
    refusal = ModelHTTPError("too many", model="m", status_code=429, retry_after=1.0)
    model = scripted("m", "fine", refusal, "fine", rpm=1000)
    async with router_of(model) as router:
        await ask(router)
        refused = asyncio.ensure_future(ask(router))
        assert await asyncio.to_thread(eventually, lambda: len(model.asked) == 2)
        await asyncio.sleep(0.05)
        later = await asyncio.gather(*(ask(router) for _ in range(4)), refused, return_exceptions=True)
    assert all(isinstance(answer, RoutedCompletion) for answer in later), later


class Store:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, float]] = []

    def take(self, ask: Ask, done: Any) -> None:
        done(len(ask.tokens), 0.0)

    def correct(self, model: str, tokens: int, *, age: float) -> None:
        """As every answer does."""

    def delayed(self, model: str, tokens: int, *, age: float) -> None:
        self.told.append((model, tokens, age))

    def give(self, model: str, *, unsent: int | None, age: float) -> None:
        """As every end does."""


def test_a_request_that_is_sent_late_counts_for_a_minute_from_then_on_with_all_its_limits() -> None:
    store, gates = Store(), (Counts(Limits(1, None, None), "m"), Counts(Limits(5, None, None), "all"))
    limiter = Limiter(Limits(1, None, None), model="m", store=store, gates=gates)
    seat = limiter.join(7, 100.0, 1.0)
    assert seat.granted
    limiter.begun(seat, 100.1)
    assert store.told == [], "as soon as requests usually go out"
    limiter.begun(seat, 105.0)
    assert store.told == [("m", 7, 5.0), ("all", 7, 5.0)]
    limiter.leave(seat, 106.0, sent=True)
    late = limiter.join(7, 162.0, 1.0)
    assert not late.granted
    assert 2.9 < limiter.left(late, 162.0) < 3.6


async def test_a_hundred_at_once_wait_although_the_profile_takes_answers_for_slow() -> None:
    model = scripted("m", Step(ttft=0.01), max_concurrency=4)
    limits = RateLimit(max_concurrency=3)
    async with router_of(model, limits=limits, recovery=Recovery(attempt_timeout=5.0)) as router:
        asked = (ask(router, routing={"deadline": None}) for _ in range(100))
        answers = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(answer, RoutedCompletion) for answer in answers), answers
