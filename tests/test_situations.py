"""What a decision sees of how busy an engine is: its queue, its slots, and what it keeps of earlier prompts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from router import (
    AllModelsFailedError,
    AsyncRouter,
    LocalModel,
    ModelConnectionError,
    NoEligibleModelError,
    OverloadedError,
    Policy,
)
from router.adapter import Load
from router.errors import ModelHTTPError
from router.testing import ManualClock, ScriptedModel
from router.testing.scripted import ScriptedAdapter
from tests.helpers import HELLO, router_of, scripted, smollm2, sync_router_of

FULL = Load(running=4, waiting=256, full=True, slots=4)
BUSY = ModelHTTPError("256 requests wait already", model="m", status_code=503, code="queue_full")


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> dict[str, Load]:
    """What scripted models say of their load, by name."""
    told: dict[str, Load] = {}

    def load(adapter: ScriptedAdapter) -> Load:
        return told.get(adapter._model.name, Load())

    monkeypatch.setattr(ScriptedAdapter, "load", load)
    return told


@pytest.fixture(scope="module")
def path() -> Path:
    return smollm2()


@pytest.fixture(scope="module")
def system() -> str:
    """A long system prompt."""
    return " ".join(f"Rule {number}: answer politely and mention {number} cats." for number in range(60))


def built(*models: ScriptedModel, **fields: Any) -> AsyncRouter:
    """A router whose adapters stand."""
    router = router_of(*models, **fields)
    for place in range(len(models)):
        router._core.fleet.adapter(place)
    return router


class TestFullQueue:
    async def test_another_model_answers_and_the_reason_is_told(self, loads: dict[str, Load]) -> None:
        models = scripted("small"), scripted("large", usd=9)
        async with built(*models, policy=Policy.cheapest()) as router:
            loads["small"] = FULL
            answer = await router.chat.completions.create(messages=HELLO)
            assert answer.routing.model == "large"
            reasons = {candidate.model: candidate.rejected_because for candidate in answer.routing.ranking}
            assert reasons["large"] is None
            assert re.match("queue: full", reasons["small"] or "")
            loads["small"] = Load()
            assert router.route(messages=HELLO).model == "small"

    async def test_where_all_are_full_the_caller_is_told_to_come_back(self, loads: dict[str, Load]) -> None:
        models = scripted("small"), scripted("large")
        async with built(*models) as router:
            loads.update(small=FULL, large=FULL)
            with pytest.raises(OverloadedError, match="small, large") as caught:
                await router.chat.completions.create(messages=HELLO)
            assert caught.value.retry_after is not None
            assert 0.0 < caught.value.retry_after < 10.0
            assert caught.value.decision is not None
            assert "queue: full" in caught.value.decision.explain()
            assert not models[0].asked
            loads.clear()
            assert (await router.chat.completions.create(messages=HELLO)).routing.model == "small"

    async def test_a_full_model_is_the_reason_even_if_the_others_may_not_take_it(
        self, loads: dict[str, Load]
    ) -> None:
        failing = scripted("failing", ModelConnectionError, usd=0)
        models = scripted("small", private=True), scripted("public"), failing
        async with built(*models) as router:
            loads["small"] = FULL
            with pytest.raises(OverloadedError):
                router.route(messages=HELLO, routing={"privacy": "private"})
            loads.clear()
            with pytest.raises(NoEligibleModelError):
                router.route(messages=HELLO, routing={"privacy": "private", "exclude": ["small"]})

    async def test_a_model_asked_for_by_name_is_asked_all_the_same(self, loads: dict[str, Load]) -> None:
        """There may be room by then, and no other may answer."""
        async with built(scripted("small"), scripted("large")) as router:
            loads["small"] = FULL
            answer = await router.chat.completions.create(messages=HELLO, model="small")
            assert answer.routing.model == "small"

    async def test_if_it_is_still_full_then_it_is_overload_and_no_failure(
        self, loads: dict[str, Load]
    ) -> None:
        small = scripted("small", BUSY, BUSY, BUSY, BUSY, BUSY, BUSY, "Hello!")
        async with built(small, scripted("large")) as router:
            loads["small"] = FULL
            for _ in range(3):
                with pytest.raises(OverloadedError) as caught:
                    await router.chat.completions.create(messages=HELLO, model="small", stream=True)
                assert isinstance(caught.value.__cause__, ModelHTTPError)
                assert len(small.asked) <= 6
            loads.clear()
            # Being busy is no illness: nothing was counted against it.
            assert router.route(messages=HELLO).ranking[0].model == "small"
            assert router._core.fleet.learned.failing[0] == 0.0

    async def test_a_queue_that_fills_after_the_decision_costs_nobody_an_answer(self) -> None:
        models = scripted("small", BUSY), scripted("large", usd=9)
        async with built(*models, policy=Policy.cheapest()) as router:
            for _ in range(6):
                answer = await router.chat.completions.create(messages=HELLO)
                assert answer.routing.model == "large"
                assert [attempt.model for attempt in answer.routing.attempts] == ["small", "large"]

    async def test_a_real_failure_among_full_queues_is_told_as_one(self) -> None:
        models = scripted("small", BUSY), scripted("large", ModelConnectionError, usd=9)
        async with built(*models) as router:
            with pytest.raises(AllModelsFailedError) as caught:
                await router.chat.completions.create(messages=HELLO)
            assert len(caught.value.causes) >= 2


class TestSlots:
    async def test_while_there_are_slots_nobody_waits_and_company_slows_down(
        self, loads: dict[str, Load]
    ) -> None:
        async with built(scripted("m")) as router:
            loads["m"] = Load(running=0, slots=4)
            alone = router.route(messages=HELLO).ranking[0]
            loads["m"] = Load(running=3, slots=4)
            beside = router.route(messages=HELLO).ranking[0]
            assert alone.parts["wait s"] == beside.parts["wait s"] == 0.0
            assert beside.parts["slowdown"] > 1.0
            assert (alone.latency or 0.0) < (beside.latency or 0.0)

    async def test_choices_slow_each_other_down_and_take_turns_beyond_the_slots(
        self, loads: dict[str, Load]
    ) -> None:
        async with built(scripted("m")) as router:
            loads["m"] = Load(running=0, slots=4)
            one, four, many = (
                router.route(messages=HELLO, n=n, max_tokens=200).ranking[0].parts for n in (1, 4, 40)
            )
        assert "slowdown" not in one
        assert four["slowdown"] > 1.0
        assert many["slowdown"] > 5 * four["slowdown"]  # ten rounds; the first token waits for none

    async def test_beyond_them_the_wait_grows_with_the_queue(self, loads: dict[str, Load]) -> None:
        waits = []
        async with built(scripted("m")) as router:
            for waiting in (0, 1, 4, 40):
                loads["m"] = Load(running=4, waiting=waiting, slots=4)
                waits.append(router.route(messages=HELLO).ranking[0].parts["wait s"])
        assert waits == sorted(waits)
        assert waits[0] > 0.0
        assert waits[-1] > 5 * waits[1]


@pytest.mark.gguf
@pytest.mark.usefixtures("no_network")
class TestLocalPrefixes:
    def test_the_next_turn_of_a_long_chat_is_predicted_with_its_beginning_cached(
        self, path: Path, system: str
    ) -> None:
        local = LocalModel("local", path=path, n_ctx=2048, threads=1)
        chat: list[dict[str, Any]] = [
            {"role": "system", "content": system},
            {"role": "user", "content": "Who are you?"},
        ]
        with sync_router_of(local) as router:
            first = router.chat.completions.create(messages=chat, max_tokens=8)  # type: ignore[arg-type]
            chat += [
                {"role": "assistant", "content": first.choices[0].message.content},
                {"role": "user", "content": "And what is your name?"},
            ]
            other = [{"role": "system", "content": system[::-1]}, *chat[1:]]
            known = router.route(messages=chat, max_tokens=8).ranking[0]  # type: ignore[arg-type]
            strange = router.route(messages=other, max_tokens=8).ranking[0]  # type: ignore[arg-type]
            assert known.parts["tokens cached"] > 0.85 * known.parts["tokens in"]
            assert "tokens cached" not in strange.parts
            assert known.ttft is not None
            assert strange.ttft is not None
            assert known.ttft < 0.5 * strange.ttft
            second = router.chat.completions.create(messages=chat, max_tokens=8)  # type: ignore[arg-type]
        attempt = second.routing.attempts[0]
        assert attempt.cached_tokens is not None
        assert attempt.cached_tokens == pytest.approx(known.parts["tokens cached"], rel=0.15)

    def test_a_long_chat_goes_on_where_it_is_cached(self, path: Path, system: str) -> None:
        """Both compute alike; without its beginning, the first declared would be chosen."""
        models = [LocalModel(name, path=path, n_ctx=2048, threads=1) for name in ("one", "two")]
        chat: list[dict[str, Any]] = [
            {"role": "system", "content": system},
            {"role": "user", "content": "Who are you?"},
        ]
        with sync_router_of(*models, policy=Policy(value_of_time=1.0, explore=0)) as router:
            for model in ("one", "two"):  # both are loaded
                router.chat.completions.create(messages=HELLO, max_tokens=2, model=model)
            router.chat.completions.create(messages=chat, max_tokens=2, model="two")  # type: ignore[arg-type]
            learned = router._core.fleet.learned
            for column in (learned.base, learned.per_in, learned.per_out):
                column[1] = column[0]  # what the machine did meanwhile is no matter here
            following = [
                *chat,
                {"role": "assistant", "content": "A cat."},
                {"role": "user", "content": "Oh?"},
            ]
            decision = router.route(messages=following, max_tokens=2)  # type: ignore[arg-type]
            assert decision.model == "two"
            assert router.route(messages=HELLO, max_tokens=2).ranking[0].model == "one"


class TestLeavingMemory:
    async def test_what_left_memory_is_not_cached_any_more(
        self, loads: dict[str, Load], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = ManualClock()
        text = [{"role": "user", "content": "word " * 2000}]
        async with built(scripted("m"), clock=clock) as router:
            fleet = router._core.fleet
            monkeypatch.setattr(fleet, "cached_share", [0.98])
            monkeypatch.setattr(fleet, "kept", [16_384])

            def cached() -> float:
                found = router.route(messages=text)  # type: ignore[arg-type]
                return found.ranking[0].parts.get("tokens cached", 0.0)

            assert cached() == 0.0
            await router.chat.completions.create(messages=text)  # type: ignore[arg-type]
            clock.advance(86_400.0)
            assert cached() > 1500, "an engine of ours forgets nothing by the hour"
            loads["m"] = Load(resident=False)
            assert cached() == 0.0
            loads["m"] = Load()
            assert cached() == 0.0, "loaded again, it is empty"
            await router.chat.completions.create(messages=text)  # type: ignore[arg-type]
            assert cached() > 1500
