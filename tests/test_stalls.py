"""A stalled stream is ended long before any fixed time-out, and ordinary jitter never is."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import Decision, Recovery, StreamInterruptedError
from router.errors import ModelTimeoutError
from router.stalls import KNOWN_AFTER, LEAST, Gaps
from router.testing import ManualClock, Step
from tests.helpers import HELLO, router_of, run_on, scripted, text_of

MOST = 60.0
GAP = st.floats(1e-4, 2.0)


def learned(gaps: list[float]) -> Gaps:
    known = Gaps()
    for gap in gaps:
        known.note(gap)
    return known


class TestGaps:
    def test_a_model_that_is_not_known_is_given_its_time(self) -> None:
        assert learned([0.01] * (KNOWN_AFTER - 1)).limit(MOST) == MOST

    def test_a_quick_model_is_soon_missed(self) -> None:
        assert learned([0.02] * 50).limit(MOST) == LEAST

    def test_a_slow_one_is_waited_for(self) -> None:
        assert learned([1.0] * 50).limit(MOST) > 10

    @given(st.lists(GAP, min_size=KNOWN_AFTER, max_size=300))
    def test_what_was_seen_of_late_is_never_called_a_stall(self, gaps: list[float]) -> None:
        assert learned(gaps).limit(MOST) >= min(1.9 * max(gaps), MOST)
        assert LEAST <= learned(gaps).limit(MOST) <= MOST

    @given(st.lists(GAP, min_size=KNOWN_AFTER, max_size=300), st.integers(0, 2**32))
    def test_the_order_of_gaps_matters_little(self, gaps: list[float], seed: int) -> None:
        shuffled = [*gaps]
        random.Random(seed).shuffle(shuffled)
        one, other = learned(gaps).limit(MOST), learned(shuffled).limit(MOST)
        assert one <= 25 * other

    def test_long_pauses_are_forgotten_in_time(self) -> None:
        known = learned([10.0] * 3 + [0.02] * 100)
        assert known.limit(MOST) > 30
        for _ in range(30_000):
            known.note(0.02)
        assert known.limit(MOST) < 5

    def test_a_model_known_for_its_pauses_may_pause_beyond_the_limit(self) -> None:
        assert learned([50.0] * 40).limit(MOST) >= 90

    @pytest.mark.parametrize("seed", range(5))
    def test_lognormal_jitter_with_hiccups_raises_no_false_alarm(self, seed: int) -> None:
        draw = random.Random(seed)
        known, alarms = Gaps(), 0
        for place in range(20_000):
            gap = draw.lognormvariate(-3.5, 1.0)
            if draw.random() < 0.002:
                gap += draw.uniform(0.2, 1.5)  # collected garbage, a lost packet
            alarms += place >= KNOWN_AFTER and gap >= known.limit(MOST)
            known.note(gap)
        assert alarms == 0
        assert known.limit(MOST) < 10


class TestStreams:
    """On a clock that is moved by hand: the times are exact."""

    @staticmethod
    def broken(clock: ManualClock, *script: Any, streams: int = 1, **fields: Any) -> tuple[Exception, float]:
        """What the last of so many streams ended with, and after how many seconds."""

        async def ask() -> tuple[Exception, float]:
            model = scripted("m", *script, **fields)
            async with router_of(model, clock=clock, recovery=Recovery(ttft_timeout=30)) as router:
                for _ in range(streams - 1):
                    stream = await router.chat.completions.create(messages=HELLO, stream=True)
                    assert text_of([chunk async for chunk in stream])
                began = clock.now()
                stream = await router.chat.completions.create(messages=HELLO, stream=True)
                with pytest.raises(StreamInterruptedError) as caught:
                    async for chunk in stream:
                        del chunk
                return caught.value, clock.now() - began

        return run_on(clock, ask)

    def test_a_model_that_streamed_before_is_soon_missed(self, manual_clock: ManualClock) -> None:
        quick = Step(text="word " * 60, per_token=0.02)
        stalls = Step(text="word " * 10, per_token=0.02, stalls_after=5)
        error, took = self.broken(manual_clock, quick, stalls, streams=2)
        assert isinstance(error.__cause__, ModelTimeoutError)
        assert took < 2 * LEAST

    def test_one_that_never_did_is_given_twice_the_time_of_a_first_token(
        self, manual_clock: ManualClock
    ) -> None:
        error, took = self.broken(manual_clock, Step(text="word " * 10, stalls_after=5))
        assert isinstance(error.__cause__, ModelTimeoutError)
        assert took == pytest.approx(60.0)

    def test_a_reader_that_takes_its_time_is_no_stall(self, manual_clock: ManualClock) -> None:
        async def ask() -> str:
            model = scripted("m", Step(text="word " * 60, per_token=0.02))
            async with router_of(model, clock=manual_clock) as router:
                text = ""
                for pause in (0.0, 20.0):
                    stream = await router.chat.completions.create(messages=HELLO, stream=True)
                    text = ""
                    async for chunk in stream:
                        text += text_of([chunk])
                        await asyncio.sleep(pause)
                return text

        assert run_on(manual_clock, ask) == "word " * 60

    def test_a_reader_that_takes_its_time_teaches_no_long_pauses(self, manual_clock: ManualClock) -> None:
        async def ask() -> float:
            quick = Step(text="word " * 60, per_token=0.02)
            stalls = Step(text="word " * 10, per_token=0.02, stalls_after=5)
            model = scripted("m", quick, quick, stalls)
            async with router_of(model, clock=manual_clock) as router:
                for pause in (0.0, 20.01):  # the next chunk is always there some ms after it is asked for
                    stream = await router.chat.completions.create(messages=HELLO, stream=True)
                    async for _ in stream:
                        await asyncio.sleep(pause)
                began = manual_clock.now()
                stream = await router.chat.completions.create(messages=HELLO, stream=True)
                with pytest.raises(StreamInterruptedError):
                    [chunk async for chunk in stream]
                return manual_clock.now() - began

        assert run_on(manual_clock, ask) < 2 * LEAST

    def test_a_slow_first_token_is_no_stall(self, manual_clock: ManualClock) -> None:
        async def ask() -> str:
            quick, late = (Step(text="word " * 60, per_token=0.02, ttft=ttft) for ttft in (0.0, 25.0))
            async with router_of(scripted("m", quick, late), clock=manual_clock) as router:
                text = ""
                for _ in range(2):
                    stream = await router.chat.completions.create(messages=HELLO, stream=True)
                    text = text_of([chunk async for chunk in stream])
                return text

        assert run_on(manual_clock, ask) == "word " * 60

    async def test_the_watchdog_does_not_keep_a_stream_that_was_dropped(self) -> None:
        model = scripted("m", Step(text="word " * 600, per_token=0.01))
        async with router_of(model) as router:
            stream = await router.chat.completions.create(messages=HELLO, stream=True)
            await anext(stream)
            del stream
            for _ in range(100):
                await asyncio.sleep(0.01)
                if not model.running:
                    break
            assert not model.running


class TestTheFarewell:
    """Its reason to end was told; only the usage is missing, and the end of the connection."""

    @staticmethod
    def read(clock: ManualClock, **fields: Any) -> tuple[str, Decision, float]:
        async def ask() -> tuple[str, Decision, float]:
            model = scripted("m", Step(text="one two", stalls_after=4))  # a role, two words, the reason
            async with router_of(model, clock=clock) as router:
                began = clock.now()
                stream = await router.chat.completions.create(messages=HELLO, stream=True, **fields)
                chunks = [chunk async for chunk in stream]
                assert chunks[-1].choices[0].finish_reason == "stop"
                assert model.running == 0
                return text_of(chunks), stream.routing, clock.now() - began

        return run_on(clock, ask)

    def test_is_not_waited_for_as_long_as_for_a_word(self, manual_clock: ManualClock) -> None:
        text, decision, took = self.read(manual_clock)
        assert text == "one two"
        assert decision.attempts[0].outcome == "succeeded"
        assert took == pytest.approx(LEAST)

    def test_that_comes_too_late_for_the_deadline_costs_nobody_the_answer(
        self, manual_clock: ManualClock
    ) -> None:
        text, decision, took = self.read(manual_clock, timeout=2.0)
        assert text == "one two"
        assert decision.attempts[0].outcome == "succeeded"
        assert took == pytest.approx(2.0)

    def test_that_a_slow_reader_does_not_ask_for_costs_nobody_the_answer(
        self, manual_clock: ManualClock
    ) -> None:
        async def ask() -> str:
            model = scripted("m", Step(text="one two", stalls_after=4))
            async with router_of(model, clock=manual_clock) as router:
                stream = await router.chat.completions.create(messages=HELLO, stream=True, timeout=2.0)
                chunks = []
                async for chunk in stream:
                    chunks.append(chunk)
                    if chunk.choices[0].finish_reason:
                        await asyncio.sleep(5.0)
                return text_of(chunks)

        assert run_on(manual_clock, ask) == "one two"

    def test_of_one_of_two_answers_is_none(self, manual_clock: ManualClock) -> None:
        """As long as one of the answers is under way, silence is a stall."""

        async def ask() -> None:
            model = scripted("m", Step(text="one two", stalls_after=4))
            async with router_of(model, clock=manual_clock, recovery=Recovery(ttft_timeout=30)) as router:
                stream = await router.chat.completions.create(messages=HELLO, stream=True, n=2)
                with pytest.raises(StreamInterruptedError):
                    async for chunk in stream:
                        del chunk

        run_on(manual_clock, ask)
