"""How requests fare while models fail: on a hand-moved clock, so that hours take no time."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import pytest

from router import AllModelsFailedError, ModelConnectionError, ModelHTTPError, Policy, Recovery, RouterError
from router.streams import AsyncRoutedStream
from router.testing import LoopbackServer, ManualClock, Reply, ScriptedModel, Step
from tests.helpers import HELLO, hosted, router_of, run_on, scripted

GOOD = Step(text="Hello there", ttft=0.1)
BROKEN = Step(ttft=0.1, error=ModelConnectionError)
HOLE = Step(hangs=True)
DEAD = Step(error=ModelHTTPError("HTTP 500", model="?", status_code=500))


@dataclass(frozen=True)
class Fared:
    """How one request fared: when it came, how long it took, and what it failed with."""

    at: float
    seconds: float
    error: RouterError | None


class Timed(tuple[Step, ...]):  # noqa: SLOT001 - a test's
    """A script that tells by the clock, and not by the call's number, what comes next."""

    def __new__(cls, step_at: Callable[[], Step]) -> Self:
        made = super().__new__(cls, (GOOD,))
        made.step_at = step_at
        return made

    step_at: Callable[[], Step]

    def __getitem__(self, _place: object) -> Step:  # type: ignore[override]
        return self.step_at()


def timed(name: str, step_at: Callable[[], Step], *, usd: float) -> ScriptedModel:
    model = scripted(name, GOOD, usd=usd)
    object.__setattr__(model, "script", Timed(step_at))
    return model


def play(
    clock: ManualClock,
    *models: ScriptedModel,
    rate: float,
    requests: int,
    stream: bool = False,
    timeout: float | None = None,
    **fields: object,
) -> list[Fared]:
    """Sends requests at a steady rate; each is read to its end."""
    fared: list[Fared] = []
    start = clock.now()

    async def everything() -> None:
        async with router_of(*models, clock=clock, **fields) as router:

            async def one() -> None:
                came, error = clock.now(), None
                try:
                    answer = await router.chat.completions.create(
                        messages=HELLO, stream=stream, timeout=timeout
                    )
                    if isinstance(answer, AsyncRoutedStream):
                        async for _ in answer:
                            pass
                except RouterError as caught:
                    error = caught
                fared.append(Fared(came - start, clock.now() - came, error))

            tasks = []
            for _ in range(requests):
                tasks.append(asyncio.create_task(one()))
                await asyncio.sleep(1 / rate)
            await asyncio.gather(*tasks)

    run_on(clock, everything)
    return fared


def attempts(*models: ScriptedModel) -> int:
    return sum(len(model.asked) for model in models)


def p99(fared: list[Fared]) -> float:
    return sorted(one.seconds for one in fared)[len(fared) * 99 // 100]


def nothing_lost(fared: list[Fared]) -> bool:
    return all(one.error is None for one in fared)


def cheap_one(*script: object) -> tuple[ScriptedModel, ScriptedModel, ScriptedModel]:
    """Three models, of which the cheapest is in trouble."""
    return scripted("a", *script, usd=1), scripted("b", GOOD, usd=2), scripted("c", GOOD, usd=3)


class TestBlackHole:
    """It accepts every call and answers none."""

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("rate", [1, 60, 1000])
    @pytest.mark.parametrize("good", [0, 100])
    def test_it_is_left_within_a_handful_of_calls(
        self, manual_clock: ManualClock, rate: int, good: int, stream: bool
    ) -> None:
        models = cheap_one(*[GOOD] * good, HOLE)
        fared = play(manual_clock, *models, rate=rate, requests=400, stream=stream)
        assert nothing_lost(fared)
        # What a well model has under way at such a rate cannot be told from silence before it is due.
        under_way = int(rate * 0.1)
        assert len(models[0].asked) - good <= 12 + 2 * under_way
        assert attempts(*models) <= 1.05 * len(fared) + 2 * under_way

    def test_no_deadline_is_missed_for_it(self, manual_clock: ManualClock) -> None:
        models = cheap_one(HOLE)
        fared = play(manual_clock, *models, rate=20, requests=400, timeout=10.0)
        assert nothing_lost(fared)
        assert p99(fared) <= 5.1
        assert sum(one.seconds > 0.2 for one in fared) <= 8

    @pytest.mark.parametrize("rate", [20, 60])
    def test_no_deadline_is_missed_for_one_that_was_well(self, manual_clock: ManualClock, rate: int) -> None:
        well = [scripted(name, GOOD, usd=usd) for name, usd in (("b", 2), ("c", 3))]
        silent = timed("a", lambda: HOLE if manual_clock.now() - start > 5.0 else GOOD, usd=1)
        start = manual_clock.now()
        fared = play(manual_clock, silent, *well, rate=rate, requests=20 * rate, timeout=1.0)
        assert nothing_lost(fared)

    def test_whoever_was_caught_by_it_does_not_wait_for_the_fixed_timeout(
        self, manual_clock: ManualClock
    ) -> None:
        models = cheap_one(*[GOOD] * 100, HOLE)
        fared = play(manual_clock, *models, rate=20, requests=300)
        assert max(one.seconds for one in fared) < 5.0

    def test_a_long_answer_is_not_given_up_while_its_model_answers_others(
        self, manual_clock: ManualClock
    ) -> None:
        long = Step(text="Hello there", ttft=60.0)
        models = cheap_one(*[GOOD] * 100, long, GOOD)
        fared = play(manual_clock, *models, rate=20, requests=1300)
        assert max(one.seconds for one in fared) == pytest.approx(60.0)
        assert attempts(*models) == len(fared)

    def test_over_http_it_is_left_as_fast(self) -> None:
        with LoopbackServer("Hello!", models={"hole": Reply(fault="hang")}) as server:
            models = [hosted(name, server, usd=usd, model=name) for name, usd in (("hole", 1), ("well", 2))]

            async def ask() -> None:
                async with router_of(*models) as router:
                    answers = [
                        asyncio.create_task(router.chat.completions.create(messages=HELLO, timeout=2.0))
                        for _ in range(100)
                    ]
                    await asyncio.gather(*answers)

            asyncio.run(ask())
            asked = [request.model for request in server.requests]
        assert asked.count("hole") <= 100 - 8
        assert asked.count("well") == 100


class TestNobodyIsKnown:
    """Before anything was measured, a deadline is compared with guesses."""

    @pytest.mark.parametrize("stream", [True, False])
    @pytest.mark.parametrize("deadline", [1.0, 1.5, 2.0, 2.5, 3.0])
    async def test_a_short_deadline_leaves_nobody_at_once(self, deadline: float, stream: bool) -> None:
        for _ in range(5):
            with LoopbackServer("Hello!") as server:
                async with router_of(*(hosted(name, server) for name in ("a", "b", "c"))) as router:
                    began = time.monotonic()
                    answer = await router.chat.completions.create(
                        messages=HELLO, stream=stream, max_tokens=20, timeout=deadline
                    )
                    if [attempt.model for attempt in answer.routing.attempts] == ["a"]:
                        return
                    # A busy machine may stand still for as long; then it is right to ask another one.
                    assert time.monotonic() - began > 0.3
        pytest.fail("five times in a row it took long, and was left")


class TestDead:
    def test_a_dead_model_is_left_after_a_few_calls(self, manual_clock: ManualClock) -> None:
        models = cheap_one(DEAD)
        fared = play(manual_clock, *models, rate=60, requests=600)
        assert nothing_lost(fared)
        assert len(models[0].asked) <= 10
        assert p99(fared) < 0.12

    @pytest.mark.parametrize("policy", [Policy(explore=0), Policy.cheapest()], ids=["objective", "cheapest"])
    @pytest.mark.parametrize("rate", [5, 60])
    def test_thirty_in_a_hundred_errors_cost_few_attempts(
        self, manual_clock: ManualClock, rate: int, policy: Policy
    ) -> None:
        chance = random.Random(7)
        models = cheap_one(*[BROKEN if chance.random() < 0.3 else GOOD for _ in range(3000)])
        fared = play(manual_clock, *models, rate=rate, requests=800, policy=policy)
        assert nothing_lost(fared)
        assert attempts(*models) <= 1.12 * len(fared)

    def test_a_flapping_model_loses_nothing_and_is_asked_less_and_less(
        self, manual_clock: ManualClock
    ) -> None:
        start = manual_clock.now()
        flapping = timed("a", lambda: GOOD if (manual_clock.now() - start) % 20 < 4 else DEAD, usd=1)
        _, second, third = cheap_one(GOOD)
        fared = play(manual_clock, flapping, second, third, rate=20, requests=1600, policy=Policy.cheapest())
        assert nothing_lost(fared)
        assert attempts(flapping, second, third) <= 1.05 * len(fared)


class TestSlow:
    def test_a_model_that_becomes_very_slow_is_left_even_where_time_costs_nothing(
        self, manual_clock: ManualClock
    ) -> None:
        models = cheap_one(*[GOOD] * 100, Step(text="Hello there", ttft=5.0))
        fared = play(manual_clock, *models, rate=5, requests=300, policy=Policy.cheapest())
        assert nothing_lost(fared)
        assert len(models[0].asked) < 180

    def test_the_only_model_is_asked_however_slow_it_is(self, manual_clock: ManualClock) -> None:
        only = scripted("only", *[GOOD] * 100, Step(text="Hello there", ttft=5.0))
        assert nothing_lost(play(manual_clock, only, rate=5, requests=400))

    def test_loading_is_not_slowness(self, manual_clock: ManualClock) -> None:
        local = scripted("a", GOOD, usd=1, load_time=60.0)
        fared = play(manual_clock, local, rate=5, requests=100)
        assert nothing_lost(fared)
        assert len(local.asked) == len(fared)


class TestNoise:
    def test_two_errors_in_a_hundred_everywhere_shut_nobody_out(self, manual_clock: ManualClock) -> None:
        chance = random.Random(3)
        models = [
            scripted(name, *[BROKEN if chance.random() < 0.02 else GOOD for _ in range(3000)], usd=usd)
            for name, usd in (("a", 1), ("b", 2), ("c", 3))
        ]
        fared = play(manual_clock, *models, rate=60, requests=1200, policy=Policy.cheapest())
        assert nothing_lost(fared)
        assert len(models[0].asked) == len(fared)
        assert attempts(*models) <= 1.04 * len(fared)

    def test_however_noisy_all_are_they_go_on_being_asked(self, manual_clock: ManualClock) -> None:
        chance = random.Random(3)
        models = [
            scripted(name, *[BROKEN if chance.random() < 0.25 else GOOD for _ in range(3000)], usd=usd)
            for name, usd in (("a", 1), ("b", 2), ("c", 3))
        ]
        fared = play(manual_clock, *models, rate=60, requests=600)
        # Three failures in a row, by chance: 1.6 %.
        assert sum(one.error is not None for one in fared) < 0.04 * len(fared)

    @pytest.mark.parametrize("rate", [1, 60])
    def test_fifteen_errors_in_a_hundred_everywhere_lose_nothing(
        self, manual_clock: ManualClock, rate: int
    ) -> None:
        chance = random.Random(11)
        models = [
            scripted(name, *[BROKEN if chance.random() < 0.15 else GOOD for _ in range(3000)], usd=usd)
            for name, usd in (("a", 1), ("b", 2), ("c", 3))
        ]
        assert nothing_lost(play(manual_clock, *models, rate=rate, requests=600))

    def test_a_well_model_is_preferred_to_two_that_fail_often(self, manual_clock: ManualClock) -> None:
        chance = random.Random(5)
        failing = [
            scripted(name, *[BROKEN if chance.random() < 0.5 else GOOD for _ in range(2000)], usd=usd)
            for name, usd in (("a", 1), ("b", 2))
        ]
        models = (*failing, scripted("c", GOOD, usd=9))
        fared = play(manual_clock, *models, rate=60, requests=600, policy=Policy.cheapest())
        assert nothing_lost(fared)
        assert attempts(*models) <= 1.1 * len(fared)

    def test_the_only_model_is_never_shut_out_by_noise(self, manual_clock: ManualClock) -> None:
        chance = random.Random(2)
        only = scripted("only", *[BROKEN if chance.random() < 0.2 else GOOD for _ in range(3000)])
        fared = play(manual_clock, only, rate=20, requests=600)
        # Three attempts, as SDKs make, lose eight in a thousand.
        assert sum(one.error is not None for one in fared) <= 2

    def test_a_host_that_says_that_it_is_full_at_random_loses_no_more_than_by_an_sdk(
        self, manual_clock: ManualClock
    ) -> None:
        chance = random.Random(4)
        full = ModelHTTPError("HTTP 503", model="?", status_code=503, retry_after=1.0)
        only = scripted("only", *[full if chance.random() < 1 / 3 else GOOD for _ in range(3000)])
        fared = play(manual_clock, only, rate=40, requests=1000)
        # Three attempts lose 37 in a thousand.
        assert sum(one.error is not None for one in fared) <= 37

    def test_the_only_model_goes_on_though_it_is_full_now_and_then(self, manual_clock: ManualClock) -> None:
        full = ModelHTTPError("HTTP 503", model="?", status_code=503, retry_after=0.2)
        only = scripted("only", *[full if call % 8 == 1 else GOOD for call in range(3000)])
        fared = play(manual_clock, only, rate=20, requests=400, timeout=5.0)
        assert sum(one.error is not None for one in fared) <= 0.03 * len(fared)


class TestTotalOutage:
    @pytest.mark.parametrize("how", [DEAD, HOLE], ids=["dead", "silent"])
    def test_it_is_not_amplified_and_fails_fast_and_ends(self, manual_clock: ManualClock, how: Step) -> None:
        start = manual_clock.now()

        def step() -> Step:
            return how if 10.0 <= manual_clock.now() - start < 40.0 else GOOD

        models = [timed(name, step, usd=usd) for name, usd in (("a", 1), ("b", 2), ("c", 3))]
        fared = play(manual_clock, *models, rate=20, requests=1100, recovery=Recovery(cooldown=5.0))
        assert attempts(*models) <= 1.1 * len(fared)
        lost = [one for one in fared if one.error is not None]
        assert all(isinstance(one.error, AllModelsFailedError) for one in lost)
        assert max(one.at for one in lost) <= 40.0 + 5.0 + 1.0
        once_open = [one for one in lost if one.at > 28.0]
        quick = [one for one in once_open if one.seconds <= 0.05]
        assert len(quick) >= 0.97 * len(once_open), "all but the probes"

    def test_not_even_slow_requests_one_by_one_are_amplified(self, manual_clock: ManualClock) -> None:
        models = [scripted(name, DEAD, usd=1) for name in "abcde"]
        fared = play(manual_clock, *models, rate=1 / 60, requests=1000)
        assert attempts(*models) <= 1.1 * len(fared)

    def test_a_model_that_is_well_again_is_found_though_others_are_not(
        self, manual_clock: ManualClock
    ) -> None:
        start = manual_clock.now()
        models = [
            scripted("a", DEAD, usd=1),
            timed("b", lambda: DEAD if manual_clock.now() - start < 100.0 else GOOD, usd=2),
        ]
        fared = play(manual_clock, *models, rate=10, requests=1150, recovery=Recovery(cooldown=5.0))
        assert max(one.at for one in fared if one.error is not None) <= 100.0 + 5.0 + 1.0

    def test_what_only_a_person_can_heal_is_not_probed_all_the_time(self, manual_clock: ManualClock) -> None:
        wrong_key = ModelHTTPError("HTTP 401", model="?", status_code=401)
        models = [scripted("a", wrong_key, usd=1), scripted("b", wrong_key, usd=2)]
        play(manual_clock, *models, rate=10, requests=800)
        assert attempts(*models) == 2
