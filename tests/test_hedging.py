"""Hedging from end to end: company for a late answer, when, how much of it, and what it costs."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from router import AsyncRouter, Budget, Decision, Policy, Price
from router.testing import LoopbackServer, ManualClock, Reply, ScriptedModel, Step
from router.testing.server import Script
from tests.helpers import HELLO, hosted, router_of, run_on, scripted, text_of

pytestmark = pytest.mark.usefixtures("no_network")

#: What a quick model does, often enough to be known for it.
QUICK, TIMES = Step(text="one", ttft=0.1), 30
LATE = Step(text="one", ttft=60.0)


async def ask(router: AsyncRouter, *, stream: bool = False, **fields: Any) -> tuple[str, Decision]:
    if stream:
        read = await router.chat.completions.create(messages=HELLO, stream=True, **fields)
        return text_of([chunk async for chunk in read]), read.routing
    whole = await router.chat.completions.create(messages=HELLO, **fields)
    return whole.choices[0].message.content or "", whole.routing


def told(decision: Decision) -> list[tuple[str, str, bool]]:
    return [(a.model, a.outcome, a.hedge) for a in decision.attempts]


class TestWhether:
    """A model that was quick is late once; another is there."""

    @staticmethod
    def decided(clock: ManualClock, *, hedge: bool, stream: bool = False, **fields: Any) -> Decision:
        async def run() -> Decision:
            first = scripted("first", *[QUICK] * TIMES, LATE)
            async with router_of(
                first, scripted("second", usd=9), clock=clock, policy=Policy(hedge=hedge, explore=0)
            ) as router:
                for _ in range(TIMES):
                    await ask(router, stream=stream, routing={"hedge": False})
                _, decision = await ask(router, stream=stream, **fields)
                for _ in range(3):
                    await asyncio.sleep(0)
                assert first.running == 0, "the loser is stopped at once"
                return decision

        return run_on(clock, run)

    @pytest.mark.parametrize("stream", [False, True])
    def test_on_by_the_policy(self, manual_clock: ManualClock, *, stream: bool) -> None:
        decision = self.decided(manual_clock, hedge=True, stream=stream)
        assert told(decision) == [("first", "cancelled", False), ("second", "succeeded", True)]

    def test_on_by_the_request(self, manual_clock: ManualClock) -> None:
        decision = self.decided(manual_clock, hedge=False, routing={"hedge": True})
        assert any(attempt.hedge for attempt in decision.attempts)

    @pytest.mark.parametrize("hedge", [False, True])
    def test_off_by_the_request_or_by_default(self, manual_clock: ManualClock, *, hedge: bool) -> None:
        fields: dict[str, Any] = {"routing": {"hedge": False}} if hedge else {}
        decision = self.decided(manual_clock, hedge=hedge, **fields)
        assert not any(attempt.hedge for attempt in decision.attempts)

    def test_never_for_a_pinned_model(self, manual_clock: ManualClock) -> None:
        decision = self.decided(manual_clock, hedge=True, model="first")
        assert told(decision) == [("first", "succeeded", False)]

    def test_not_before_the_answer_is_late(self, manual_clock: ManualClock) -> None:
        decision = self.decided(manual_clock, hedge=True)
        first, second = decision.attempts
        assert first.duration is not None
        assert second.duration is not None
        assert first.duration - second.duration > 0.1, "longer than the usual answer"


class TestAfterTheFirstToken:
    def test_never(self, manual_clock: ManualClock) -> None:
        """A stream that begins in time and then is slow gets no company."""
        slow = Step(text="one two three four", per_token=0.08)

        async def run() -> Decision:
            first = scripted("first", *[QUICK] * TIMES, slow)
            async with router_of(
                first, scripted("second", usd=9), clock=manual_clock, policy=Policy(hedge=True, explore=0)
            ) as router:
                for _ in range(TIMES):
                    await ask(router, stream=True)
                text, decision = await ask(router, stream=True)
                assert text == "one two three four"
                return decision

        assert told(run_on(manual_clock, run)) == [("first", "succeeded", False)]


class TestHowMuch:
    async def test_a_model_that_has_become_slow_is_not_hedged_for_ever(self) -> None:
        replies: dict[str, Script] = {"first": "one", "second": "two"}
        with LoopbackServer(models=replies) as server:
            policy = Policy(hedge=True, explore=0, value_of_time=0)
            models = hosted("first", server), hosted("second", server, usd=9)
            async with router_of(*models, policy=policy) as router:
                for _ in range(60):
                    await ask(router)
                server.script(Reply(text="one", ttft=0.05), model="first")
                before = len(server.requests)
                decisions = [(await ask(router))[1] for _ in range(60)]
                calls = len(server.requests) - before
        hedges = sum(attempt.hedge for one in decisions for attempt in one.attempts)
        assert hedges <= 20, "ten to begin with, and a tenth of what is answered"
        assert calls <= 60 + 20

    def test_one_that_the_budget_does_not_allow_is_left_out(self, manual_clock: ManualClock) -> None:
        """The first answer goes on alone; nothing is spent beyond the budget."""

        async def run() -> tuple[str, Decision]:
            first = scripted("first", *[QUICK] * TIMES, Step(text="one", ttft=0.8))
            dollar_a_token = Price(input=0, output=1e6)
            second = ScriptedModel("second", script=("two",), price=dollar_a_token)
            budget = Budget(usd=80, period="total", model="second")
            policy = Policy.cheapest().model_copy(update={"hedge": True})
            async with router_of(first, second, clock=manual_clock, policy=policy, budget=budget) as router:
                for _ in range(TIMES):
                    await ask(router)
                    await ask(router, model="second", max_tokens=1)
                text, decision = await ask(router, max_tokens=60)
                assert len(second.asked) == TIMES
                return text, decision

        text, decision = run_on(manual_clock, run)
        assert text == "one"
        ranked = {candidate.model: candidate.rejected_because for candidate in decision.ranking}
        assert ranked == {"first": None, "second": None}, "it was there to be asked"


class TestWhatItCosts:
    def test_a_loser_that_was_all_but_there_is_booked_with_its_answer(
        self, manual_clock: ManualClock
    ) -> None:
        """Its host may bill all of it, and nobody will see that bill."""

        async def run() -> Decision:
            first = scripted("first", *[QUICK] * TIMES, LATE)
            async with router_of(
                first, scripted("second", usd=9), clock=manual_clock, policy=Policy(hedge=True, explore=0)
            ) as router:
                for _ in range(TIMES):
                    await ask(router)
                return (await ask(router))[1]

        decision = run_on(manual_clock, run)
        loser, winner = decision.attempts
        assert loser.completion_tokens
        assert (loser.cost_source, winner.cost_source) == ("estimate", "usage")
        assert decision.cost == Decimal(loser.cost or 0) + Decimal(winner.cost or 0)

    async def test_two_that_answer_at_once_are_one_answer_and_two_bills(self) -> None:
        replies: dict[str, Script] = {"first": "one", "second": "two"}
        with LoopbackServer(models=replies) as server:
            policy = Policy(hedge=True, explore=0, value_of_time=0)
            async with router_of(
                hosted("first", server), hosted("second", server, usd=9), policy=policy
            ) as router:
                for _ in range(TIMES):
                    await ask(router)
                both = Reply(text="one", ttft=0.3), Reply(text="two", ttft=0.25)
                server.script(both[0], model="first")
                server.script(both[1], model="second")
                decisions = [(await ask(router))[1] for _ in range(3)]
        for decision in decisions:
            assert [a.outcome for a in decision.attempts].count("succeeded") == 1
            assert decision.cost == sum(a.cost or 0 for a in decision.attempts)
