"""Requests that do not fit into what a budget has left just now: who waits, for how long, and who is refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from router import AsyncRouter, Budget, Policy, Recovery, RoutedCompletion
from router.errors import BudgetExceededError, DeadlineExceededError, ModelConnectionError, RouterError
from router.ledger import Ledger
from tests.helpers import HELLO, Step, eventually, router_of, scripted, sync_router_of
from tests.ledger.making import NOON, Wall, reserve, settle, start

#: One that answers with 90 of the 100 tokens it may, in 30 ms; it costs 0.1 USD where 0.12 are set aside.
SHORT = Step(text="x", ttft=0.03, prompt_tokens=10, completion_tokens=90)
USD = 1000.0
DAY = Budget(usd=1.0, period="total")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at once a second is looked at more often."""
    monkeypatch.setattr("router.ledger.writer.LOOK", 0.05)


def ask(router: AsyncRouter, **options: Any) -> Coroutine[Any, Any, RoutedCompletion]:
    routing = {"deadline": 10.0, **options.pop("routing", {})}
    asked: Any = {"messages": HELLO, "max_tokens": 100, "routing": routing, **options}
    return router.chat.completions.create(**asked)


async def read(router: AsyncRouter, **options: Any) -> Decimal:
    stream: Any = await ask(router, stream=True, **options)
    async for _ in stream:
        pass
    return Decimal(stream.routing.cost)


def paid(answers: list[Any]) -> Decimal:
    costs = (answer.routing.cost for answer in answers if isinstance(answer, RoutedCompletion))
    return sum((cost for cost in costs if cost is not None), Decimal(0))


class TestWaiting:
    async def test_as_many_are_answered_as_can_be_paid_and_the_rest_is_refused(self) -> None:
        async with router_of(scripted("m", SHORT, usd=USD), budget=DAY) as router:
            answers = await asyncio.gather(*(ask(router) for _ in range(60)), return_exceptions=True)
            left = router._core.ledger.left(DAY)
        refused = [answer for answer in answers if not isinstance(answer, RoutedCompletion)]
        assert {type(error) for error in refused} == {BudgetExceededError}
        assert paid(answers) + left == 1
        assert left < Decimal("0.13"), "less than one more would need"
        assert len(answers) - len(refused) == 9

    async def test_streams_wait_too_and_the_next_goes_when_one_was_read(self) -> None:
        model = scripted("m", SHORT, usd=USD)
        async with router_of(model, budget=Budget(usd=0.25, period="total")) as router:
            costs = await asyncio.gather(*(read(router) for _ in range(4)), return_exceptions=True)
        assert sum(isinstance(cost, Decimal) for cost in costs) == 2

    async def test_what_comes_back_lets_the_next_one_in(self) -> None:
        slow = Step(text="x", ttft=0.2, prompt_tokens=10, completion_tokens=1)  # 0.011 USD of 0.13 set aside
        model = scripted("m", slow, usd=USD)
        async with router_of(model, budget=Budget(usd=0.15, period="total")) as router:
            first = asyncio.ensure_future(ask(router))
            assert await asyncio.to_thread(eventually, lambda: model.running == 1)
            second = asyncio.ensure_future(ask(router))
            await asyncio.sleep(0.05)
            assert len(model.asked) == 1, "the second waits"
            assert (await first).routing.cost == (await second).routing.cost == Decimal("0.011")

    async def test_who_is_refused_after_a_wait_is_told_so_before_its_deadline_with_the_numbers(self) -> None:
        model = scripted("m", Step(hangs=True), usd=USD)
        async with router_of(model, budget=Budget(usd=0.15, period="day")) as router:
            first = asyncio.ensure_future(ask(router))
            assert await asyncio.to_thread(eventually, lambda: model.running == 1)
            with pytest.raises(BudgetExceededError) as caught:
                await ask(router, routing={"deadline": 0.2})
            assert caught.value.ends_at is not None
            tomorrow = datetime.fromtimestamp(caught.value.ends_at, UTC)
            assert (tomorrow.hour, tomorrow.minute, tomorrow.second) == (0, 0, 0)
            reason = caught.value.reasons["m"]
            for told in ("budget: 0.0", "of 0.15 USD per day", "USD asked", "USD set aside", "period ends"):
                assert told in reason
            assert len(model.asked) == 1
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)

    async def test_without_a_deadline_the_wait_is_as_long_as_an_attempt_may_be(self) -> None:
        model = scripted("m", Step(hangs=True), usd=USD)
        recovery = Recovery(attempt_timeout=0.2, max_attempts=1)
        async with router_of(model, budget=Budget(usd=0.15), recovery=recovery) as router:
            answers = await asyncio.gather(
                *(ask(router, routing={"deadline": None}) for _ in range(2)), return_exceptions=True
            )
        assert len(model.asked) == 2, "the first was given up, and what it had set aside came back"
        assert all(isinstance(answer, RouterError) for answer in answers)

    async def test_what_is_spent_is_refused_at_once_however_long_the_deadline(self) -> None:
        model = scripted("m", SHORT, usd=USD)
        async with router_of(model, budget=Budget(usd=0.15, period="hour")) as router:
            await ask(router)
            began = time.monotonic()
            with pytest.raises(BudgetExceededError) as caught:
                await ask(router, routing={"deadline": 600.0})
            assert time.monotonic() - began < 60
            assert caught.value.ends_at is not None
            assert caught.value.decision is not None

    async def test_one_that_could_never_fit_is_refused_while_others_wait(self) -> None:
        model = scripted("m", Step(hangs=True), usd=USD)
        async with router_of(model, budget=Budget(usd=0.15)) as router:
            both = [asyncio.ensure_future(ask(router)) for _ in range(2)]
            assert await asyncio.to_thread(eventually, lambda: model.running == 1)
            with pytest.raises(BudgetExceededError):
                await ask(router, max_tokens=5000)
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def test_who_goes_away_leaves_the_line_and_nothing_set_aside(self) -> None:
        model = scripted("m", Step(hangs=True), usd=USD)
        async with router_of(model, budget=Budget(usd=0.3)) as router:
            router._core.warm()  # then they come in the order in which they are sent
            asked = [asyncio.ensure_future(ask(router)) for _ in range(20)]
            assert await asyncio.to_thread(eventually, lambda: model.running == 2)
            for one in asked[5:]:
                one.cancel()
            await asyncio.gather(*asked[5:], return_exceptions=True)
            for one in asked[:2]:
                one.cancel()
            assert await asyncio.to_thread(eventually, lambda: len(model.asked) == 4), "the next in line go"
            for one in asked:
                one.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            ledger = router._core.ledger
            assert await asyncio.to_thread(
                eventually, lambda: ledger.standings.of(0).left == ledger.standings.of(0).free
            )
        assert len(model.asked) <= 5, "who was cancelled while it waited was never sent"

    async def test_nobody_waits_for_money_on_a_place_that_another_could_use(self) -> None:
        model = scripted("m", Step(hangs=True), SHORT, usd=USD, max_concurrency=2)
        budget = Budget(usd=0.15, task="poor")
        async with router_of(model, budget=budget) as router:
            poor = [asyncio.ensure_future(ask(router, routing={"task": "poor"})) for _ in range(4)]
            assert await asyncio.to_thread(eventually, lambda: model.running == 1)
            rich = await ask(router, routing={"task": "rich"})
            assert rich.choices[0].message.content == "x"
            for one in poor:
                one.cancel()
            await asyncio.gather(*poor, return_exceptions=True)

    async def test_those_who_wait_for_money_are_no_load_on_the_model(self) -> None:
        model = scripted("m", Step(hangs=True), usd=USD)
        async with router_of(model, budget=Budget(usd=0.15)) as router:
            asked = [asyncio.ensure_future(ask(router, routing={"deadline": 60.0})) for _ in range(10)]
            flows = router._core.traffic.flows
            assert await asyncio.to_thread(
                eventually, lambda: model.running == 1 and "m" in flows and flows["m"].count == 1
            )
            for one in asked:
                one.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            assert flows == {}

    async def test_closing_the_router_answers_those_who_wait(self) -> None:
        model = scripted("m", Step(hangs=True), usd=USD)
        router = router_of(model, budget=Budget(usd=0.15))
        asked = [asyncio.ensure_future(ask(router)) for _ in range(3)]
        assert await asyncio.to_thread(eventually, lambda: model.running == 1)
        await router.aclose()
        errors = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 10)
        assert all(isinstance(error, RouterError) for error in errors)

    def test_threads_of_a_sync_router_wait_for_each_other(self) -> None:
        model = scripted("m", SHORT, usd=USD)
        budget = Budget(usd=0.35, period="total")
        with sync_router_of(model, budget=budget) as router, ThreadPoolExecutor(8) as pool:

            def work(_: int) -> Decimal | None:
                try:
                    done = router.chat.completions.create(messages=HELLO, max_tokens=100)
                except BudgetExceededError:
                    return None
                return done.routing.cost

            costs = list(pool.map(work, range(8)))
        assert sum(cost is not None for cost in costs) == 3


class TestChoosing:
    async def test_another_model_is_better_than_a_wait_that_costs_more_than_it(self) -> None:
        cheap, dear = scripted("cheap", Step(hangs=True), usd=USD), scripted("dear", SHORT, usd=1.5 * USD)
        policy = Policy(value_of_time=0.5, explore=0)
        budget = Budget(usd=0.15, model="cheap")
        async with router_of(cheap, dear, policy=policy, budget=budget) as router:
            first = asyncio.ensure_future(ask(router, model="cheap"))
            assert await asyncio.to_thread(eventually, lambda: cheap.running == 1)
            answer = await asyncio.wait_for(ask(router), 5)
            assert answer.routing.model == "dear"
            assert "budget: " in str(answer.routing.attempts[0].error)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)

    async def test_the_cheapest_is_waited_for_where_nothing_but_money_counts(self) -> None:
        cheap, dear = scripted("cheap", SHORT, usd=USD), scripted("dear", SHORT, usd=2 * USD)
        budget = Budget(usd=0.25, model="cheap")
        async with router_of(cheap, dear, policy=Policy.cheapest(), budget=budget) as router:
            answers = await asyncio.gather(ask(router), ask(router))
            assert {answer.routing.model for answer in answers} == {"cheap"}

    async def test_a_budget_of_one_model_that_is_spent_sends_the_others_on_at_once(self) -> None:
        cheap, dear = scripted("cheap", SHORT, usd=USD), scripted("dear", SHORT, usd=2 * USD)
        budget = Budget(usd=0.15, model="cheap")
        async with router_of(cheap, dear, policy=Policy.cheapest(), budget=budget) as router:
            answers = [await ask(router) for _ in range(3)]
        assert [answer.routing.model for answer in answers] == ["cheap", "dear", "dear"]

    async def test_company_for_a_late_attempt_never_waits(self) -> None:
        late = scripted("late", Step(text="late", ttft=0.5), usd=USD, speed_ttft=0.01)
        other = scripted("other", "other", usd=2 * USD)
        policy = Policy(hedge=True, explore=0)
        budget = Budget(usd=0.3, model="other")
        async with router_of(late, other, policy=policy, budget=budget) as router:
            held = router._core.ledger.areserve("held", "other", None, Decimal("0.2"))
            assert await held is None
            answer = await ask(router)
        assert answer.choices[0].message.content == "late"
        assert other.asked == []

    async def test_who_goes_on_with_a_broken_stream_has_the_money_of_who_began(self) -> None:
        broken = Step(text="one two three", error=ModelConnectionError("cut", model="a"), breaks_after=2)
        first, second = scripted("a", broken, usd=USD), scripted("b", Step(text="one two three"), usd=USD)
        recovery = Recovery(on_interrupt="continue")
        async with router_of(first, second, recovery=recovery, budget=Budget(usd=0.15)) as router:
            stream: Any = await ask(router, stream=True)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
        assert text == "one two three"


class TestOddities:
    async def test_without_max_tokens_what_an_answer_hardly_ever_exceeds_is_set_aside(self) -> None:
        model = scripted("m", SHORT, usd=USD)
        async with router_of(model, budget=DAY) as router:
            answers = await asyncio.gather(
                *(ask(router, max_tokens=None) for _ in range(30)), return_exceptions=True
            )
        assert Decimal("0.3") < paid(answers) <= 1

    @pytest.mark.parametrize("tokens", [-5, 10**9])
    async def test_absurd_usage_is_settled_by_the_estimate(self, tokens: int) -> None:
        odd = Step(text="a few words", prompt_tokens=10, completion_tokens=tokens)
        async with router_of(scripted("m", odd, usd=USD), budget=DAY) as router:
            answer = await ask(router)
            left = router._core.ledger.left(DAY)
        cost = answer.routing.cost
        assert cost is not None
        assert 0 < cost < Decimal("0.15")
        assert left == 1 - cost
        assert "estimated instead" in str(answer.routing.notes)

    async def test_an_unknown_price_is_sent_by_name_only_while_the_budget_has_anything_left(self) -> None:
        unknown = scripted("unknown", SHORT).model_copy(update={"price": None})
        priced = scripted("priced", SHORT, usd=USD)
        async with router_of(unknown, priced, budget=Budget(usd=0.1, period="total")) as router:
            assert (await ask(router, model="unknown")).routing.cost is None
            await ask(router, model="priced", max_tokens=70)  # costs all there is, by its own word
            with pytest.raises(BudgetExceededError):
                await ask(router, model="unknown")
        assert len(unknown.asked) == 1


class TestLedger:
    """The same below the router: who is granted when, on a clock that is set."""

    @pytest.fixture
    def wall(self) -> Wall:
        return Wall()

    @pytest.fixture
    def ledger(self, wall: Wall) -> Iterator[Ledger]:
        ledger = Ledger(None, [Budget(usd=1.0, period="hour")], wall=wall)
        yield ledger
        ledger.close()

    async def test_a_large_one_is_not_overtaken_for_ever_by_small_ones(self, ledger: Ledger) -> None:
        assert await ledger.areserve("held", "m", None, Decimal("0.5")) is None
        order: list[str] = []

        async def want(key: str, usd: str) -> None:
            assert await ledger.areserve(key, "m", None, Decimal(usd), patience=30) is None
            order.append(key)
            await ledger.asettle(key, None)

        wanting = [asyncio.ensure_future(want("large", "0.9"))]
        await asyncio.sleep(0.02)
        wanting += [asyncio.ensure_future(want(f"small {n}", "0.01")) for n in range(20)]
        await asyncio.sleep(0.05)
        assert order == [], "what is left is kept for who came first"
        await ledger.asettle("held", None)
        await asyncio.gather(*wanting)
        assert order[0] == "large"

    async def test_a_new_period_lets_in_who_waits(self, ledger: Ledger, wall: Wall) -> None:
        assert await ledger.areserve("held", "m", None, Decimal("0.9")) is None
        waiting = asyncio.ensure_future(ledger.areserve("1", "m", None, Decimal("0.5"), patience=30))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        wall.at = NOON + 3600
        assert await asyncio.wait_for(waiting, 10) is None
        refusal = await ledger.areserve("2", "m", None, Decimal("0.6"))
        assert refusal is not None
        assert refusal.ends_at == NOON + 7200

    async def test_who_is_not_let_in_by_its_time_is_refused_and_holds_nothing(self, ledger: Ledger) -> None:
        assert await ledger.areserve("held", "m", None, Decimal("0.9")) is None
        refusal = await ledger.areserve("1", "m", None, Decimal("0.5"), patience=0.05)
        assert refusal is not None
        assert not refusal.final
        await ledger.asettle("held", None)
        assert await ledger.areserve("1", "m", None, Decimal(1)) is None

    async def test_a_settlement_that_leaves_too_little_refuses_those_it_is_too_little_for(
        self, ledger: Ledger
    ) -> None:
        assert await ledger.areserve("held", "m", None, Decimal("0.9")) is None
        large = asyncio.ensure_future(ledger.areserve("l", "m", None, Decimal("0.5"), patience=60))
        small = asyncio.ensure_future(ledger.areserve("s", "m", None, Decimal("0.2"), patience=60))
        await asyncio.sleep(0.02)
        await ledger.asettle("held", Decimal("0.7"))
        refusal = await asyncio.wait_for(large, 10)
        assert refusal is not None
        assert refusal.final
        assert await asyncio.wait_for(small, 10) is None

    async def test_closing_refuses_those_who_wait(self, ledger: Ledger) -> None:
        assert await ledger.areserve("held", "m", None, Decimal("0.9")) is None
        waiting = asyncio.ensure_future(ledger.areserve("1", "m", None, Decimal("0.5"), patience=60))
        await asyncio.sleep(0.02)
        assert await asyncio.to_thread(ledger.close)
        refusal = await asyncio.wait_for(waiting, 10)
        assert refusal is not None
        assert refusal.because == "ledger: it is closed"

    async def test_a_thousand_who_wait_cost_one_look_at_a_time(self, ledger: Ledger) -> None:
        assert await ledger.areserve("held", "m", None, Decimal("0.99")) is None
        waiting = [
            asyncio.ensure_future(ledger.areserve(str(n), "m", None, Decimal("0.02"), patience=60))
            for n in range(1000)
        ]
        await asyncio.sleep(0.05)
        writer = ledger._desk.writer()
        looks: list[object] = []
        inner = writer._clerk.group
        writer._clerk.group = lambda operations: looks.append(len(operations)) or inner(operations)  # type: ignore[method-assign,func-returns-value]
        await asyncio.sleep(0.3)
        assert looks == [], "nothing is asked while nothing has changed"
        await ledger.asettle("held", None)
        assert await asyncio.to_thread(eventually, lambda: sum(w.done() for w in waiting) == 50)
        assert sum(map(int, map(str, looks))) <= 60, "only those are asked for who get it"
        for number, one in enumerate(waiting):
            if not one.cancel():
                ledger.settle(str(number), None)
        await asyncio.gather(*waiting, return_exceptions=True)
        ledger.flush()
        assert ledger.left(Budget(usd=1.0, period="hour")) == 1

    async def test_what_another_process_settles_or_dies_with_lets_in_who_waits_here(
        self, tmp_path: Path
    ) -> None:
        path, budget = tmp_path / "l.db", Budget(usd=1.0)
        child = start(
            """
            import sys, time
            from decimal import Decimal
            from pathlib import Path
            from router.config import Budget
            from router.ledger import Ledger
            ledger = Ledger(Path(sys.argv[1]), [Budget(usd=1.0)])
            for key in "ab":
                ledger.reserve(key, "m", None, Decimal("0.45"), lambda refusal: print(refusal, flush=True))
            time.sleep(0.7)
            ledger.settle("a", Decimal("0.01"), lambda ok: print(ok, flush=True))
            time.sleep(60)
            """,
            path,
        )
        assert child.stdout is not None
        with child:
            assert [child.stdout.readline(), child.stdout.readline()] == ["None\n", "None\n"]
            ledger = Ledger(path, [budget])
            first = asyncio.ensure_future(ledger.areserve("1", "m", None, Decimal("0.5"), patience=60))
            second = asyncio.ensure_future(ledger.areserve("2", "m", None, Decimal("0.4"), patience=60))
            assert await asyncio.wait_for(first, 20) is None, "it was settled there"
            assert not second.done()
            child.kill()
            assert await asyncio.wait_for(second, 20) is None, "it died with the rest"
        assert await asyncio.to_thread(ledger.close)

    def test_whoever_only_asks_is_refused_at_once_and_overtakes_nobody(self, ledger: Ledger) -> None:
        assert reserve(ledger, "held", "0.9") is None
        loop = asyncio.new_event_loop()
        waiting = loop.create_task(ledger.areserve("1", "m", None, Decimal("0.5"), patience=60))
        loop.run_until_complete(asyncio.sleep(0.02))
        refusal = reserve(ledger, "2", "0.05")
        assert refusal is not None
        assert not refusal.final
        assert settle(ledger, "held", None)
        assert loop.run_until_complete(waiting) is None
        loop.close()


async def test_a_deadline_that_passes_elsewhere_is_no_affair_of_the_budget() -> None:
    model = scripted("m", Step(hangs=True), usd=USD)
    async with router_of(model, budget=DAY) as router:
        with pytest.raises(DeadlineExceededError):
            await ask(router, routing={"deadline": 0.1})
        standings = router._core.ledger.standings
        assert await asyncio.to_thread(eventually, lambda: standings.of(0).left == standings.of(0).free)
