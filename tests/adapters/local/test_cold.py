"""A model that is being loaded is neither silent nor slow: on a hand-moved clock, beside a hosted one."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from router import AsyncRouter, Policy
from router.actions import Cancel, Ending, Fail, Start
from router.adapter import Adapter, AdapterSettings, Call, Load
from router.attempts import AttemptMachine
from router.loading import load_adapter
from router.models import Model
from router.plan import Plan
from router.profile import Profile
from router.testing import ManualClock, ScriptedModel, Step
from router.testing.scripted import ScriptedAdapter
from tests.helpers import HELLO, router_of, run_on, scripted

#: Seconds that the model takes to load; what its file's size lets one expect is far less.
LOADING, EXPECTED = 20.0, 0.3
SLOTS = 4
ANSWER = Step(text="Hello there", ttft=0.4, per_token=0.05)


class Local(ScriptedModel):
    """Says of itself what a file on this machine does."""

    def profile(self) -> Profile:
        return replace(super().profile(), local=True, private=True)


class Engine(ScriptedAdapter):
    """Loads at its first call, then works on a few at once; as the local engine, it tells when it begins."""

    def __init__(self, model: ScriptedModel) -> None:
        super().__init__(model)
        self._loading: asyncio.Task[None] | None = None
        self._slots = asyncio.Semaphore(SLOTS)
        self._running = self._waiting = 0

    async def _load(self) -> None:
        await asyncio.sleep(LOADING)
        self._loaded = True

    async def _wait(self, call: Call, step: Step) -> None:
        self._waiting += 1
        try:
            if not self._loaded:
                self._loading = self._loading or asyncio.create_task(self._load())
                await asyncio.shield(self._loading)
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        self._running += 1
        try:
            call.started()
            await asyncio.sleep(step.ttft)
        finally:
            self._running -= 1
            self._slots.release()

    def load(self) -> Load:
        return Load(resident=self._loaded, slots=SLOTS, running=self._running, waiting=self._waiting)

    def leave(self) -> None:
        """Nobody needed the model for a while."""
        self._loaded, self._loading = False, None


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> Local:
    def load_here(model: Model, settings: AdapterSettings) -> Adapter:
        return Engine(model) if isinstance(model, Local) else load_adapter(model, settings)

    monkeypatch.setattr("router.fleet.load_adapter", load_here)
    return Local("local", script=(ANSWER,), load_time=EXPECTED)


async def burst(router: AsyncRouter, count: int, *, stream: bool) -> list[Any]:
    """The decisions of so many requests that come at once."""

    async def one() -> Any:
        answer: Any = await router.chat.completions.create(messages=HELLO, stream=stream)
        if stream:
            async for _ in answer:
                pass
        return answer.routing

    return await asyncio.gather(*(one() for _ in range(count)))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("known", [False, True], ids=["of which nothing is known", "that was here before"])
@pytest.mark.parametrize("at_once", [1, 3, 10])
def test_while_it_loads_it_is_not_given_up_and_afterwards_not_shut(
    local: Local, *, at_once: int, known: bool, stream: bool
) -> None:
    clock = ManualClock()
    spare = scripted("spare", ANSWER, usd=100)

    async def everything() -> None:
        async with router_of(local, spare, clock=clock, policy=Policy.cheapest()) as router:
            if known:
                for _ in range(12):
                    await burst(router, 1, stream=stream)
                engine: Any = router._core.fleet.loaded_adapter(0)
                engine.leave()
            for decision in await burst(router, at_once, stream=stream):
                assert [(each.model, each.outcome) for each in decision.attempts] == [("local", "succeeded")]
                assert decision.attempts[0].waited >= LOADING
            assert not router._core.health.shut(clock.now())
            later = [await burst(router, at_once, stream=stream) for _ in range(5)]
            assert {decision.model for answered in later for decision in answered} == {"local"}
            assert not router._core.health.shut(clock.now())
            assert not spare.asked

    run_on(clock, everything)


def test_a_hurried_request_goes_to_the_other_one_meanwhile_and_the_load_is_not_blamed(local: Local) -> None:
    clock = ManualClock()
    spare = scripted("spare", ANSWER, usd=100)

    async def everything() -> None:
        async with router_of(local, spare, clock=clock, policy=Policy.cheapest()) as router:
            create = router.chat.completions.create
            patient = [asyncio.create_task(create(messages=HELLO)) for _ in range(3)]
            await asyncio.sleep(5.0)
            for _ in range(20):
                hurried = await create(messages=HELLO, timeout=3.0)
                assert hurried.routing.model == "spare"
            assert not router._core.health.shut(clock.now())
            for answer in await asyncio.gather(*patient):
                assert answer.routing.model == "local"
            later = await create(messages=HELLO, timeout=3.0)
            assert later.routing.model == "local"

    run_on(clock, everything)


def test_whoever_comes_first_and_cannot_wait_so_long_is_answered_by_the_other_one(local: Local) -> None:
    clock = ManualClock()
    spare = scripted("spare", ANSWER, usd=100)

    async def everything() -> None:
        async with router_of(local, spare, clock=clock, policy=Policy.cheapest()) as router:
            create = router.chat.completions.create
            answers = await asyncio.gather(*(create(messages=HELLO, timeout=5.0) for _ in range(8)))
            told = [[(one.model, one.outcome) for one in answer.routing.attempts] for answer in answers]
            assert all(attempts[-1] == ("spare", "succeeded") for attempts in told)
            assert [("local", "cancelled"), ("spare", "succeeded")] in told
            assert not router._core.health.shut(clock.now())
            await asyncio.sleep(LOADING)
            assert (await create(messages=HELLO, timeout=5.0)).routing.model == "local"

    run_on(clock, everything)


def test_the_machine_asks_another_one_once_and_only_where_there_is_one() -> None:
    plan = Plan(names=["a", "b"], stream=False, deadline=10.0, last_wait=lambda _candidate, left: left / 2)
    machine = AttemptMachine(plan)
    assert machine.begin(0.0) == [Start(0, 0)]
    assert machine.wake_at == 5.0
    assert machine.timer(4.0) == []
    assert machine.timer(5.0) == [Cancel(0), Start(1, 1)]
    assert machine.wake_at == 7.5
    assert machine.timer(7.5) == []  # nobody is left
    assert machine.wake_at == 10.0
    assert machine.started(0, 8.0) == []
    assert machine.timer(10.0) == [Cancel(1), Fail(Ending.DEADLINE)]


def test_beside_a_hedge_nothing_is_let_go_and_no_timer_spins() -> None:
    plan = Plan(
        names=["a", "b", "c"],
        stream=False,
        deadline=10.0,
        hedge_after=(1.0, 1.0, 1.0),
        may_retry=lambda: True,
        last_wait=lambda _candidate, left: left / 2,
    )
    machine = AttemptMachine(plan)
    machine.begin(0.0)
    machine.started(0, 0.0)
    assert machine.timer(1.0) == [Start(1, 1, hedge=True)]
    assert machine.wake_at == 5.5
    assert machine.timer(5.5) == []
    assert machine.wake_at == 10.0


def test_without_another_one_it_is_waited_for_until_the_deadline(local: Local) -> None:
    clock = ManualClock()

    async def everything() -> None:
        async with router_of(local, clock=clock, policy=Policy.cheapest()) as router:
            answer: Any = await router.chat.completions.create(messages=HELLO, timeout=25.0)
            assert answer.routing.model == "local"
            assert len(local.asked) == 1

    run_on(clock, everything)
