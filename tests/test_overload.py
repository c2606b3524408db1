"""More requests than the models can take: who waits, who pays more, who is turned away, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from router import AllModelsFailedError, DeadlineExceededError, OverloadedError, Policy, RouterError
from router import core as core_module
from router.adapter import Call
from router.errors import ModelHTTPError
from router.objective import MEASURED_AFTER
from router.pressure import LEAST, Pressure
from router.testing import LoopbackServer, ManualClock, Reply
from router.testing.replies import Received
from router.testing.scripted import ScriptedAdapter, Step
from tests.helpers import HELLO, hosted, router_of, run_on, scripted

if TYPE_CHECKING:
    from router import AsyncRouter
    from router.completion import RoutedCompletion


async def ask(router: AsyncRouter) -> RoutedCompletion:
    """One request."""
    return await router.chat.completions.create(messages=HELLO)


class Host:
    """A host on a clock that a test moves, with limits of its own: what it is sent, and what it refuses."""

    def __init__(self, clock: ManualClock, rpm: int) -> None:
        self.clock = clock
        self.rpm = rpm
        self.sent: list[float] = []
        self.refused = 0

    def attach(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        """Answers for the scripted model of a name."""
        complete = ScriptedAdapter.complete

        async def limited(adapter: ScriptedAdapter, call: Call) -> object:
            if adapter._model.name == name:
                now = self.clock.now()
                recent = [at for at in self.sent if at + 60.0 > now]
                if len(recent) >= self.rpm:
                    self.refused += 1
                    raise ModelHTTPError(
                        "too many requests", model=name, status_code=429, retry_after=recent[0] + 60.0 - now
                    )
                self.sent.append(now)
            return await complete(adapter, call)

        monkeypatch.setattr(ScriptedAdapter, "complete", limited)


async def arrive(
    count: int, every: float, send: Callable[[], Coroutine[object, object, object]]
) -> list[object]:
    """Sends requests one after the other, without waiting for answers."""
    tasks = list[asyncio.Task[object]]()
    for _ in range(count):
        tasks.append(asyncio.create_task(send()))
        await asyncio.sleep(every)
    return list(await asyncio.gather(*tasks, return_exceptions=True))


class TestRateLimits:
    @pytest.fixture
    def host(self, manual_clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Host:
        host = Host(manual_clock, 30)
        host.attach(monkeypatch, "cheap")
        return host

    def test_a_cheap_model_is_used_up_to_its_limit_without_a_single_refusal(
        self, manual_clock: ManualClock, host: Host
    ) -> None:
        cheap = scripted("cheap", Step(ttft=0.2), usd=1, rpm=30)
        dear = scripted("dear", Step(ttft=0.2), usd=100)
        policy = Policy(value_of_time=1e-5, explore=0)

        async def work() -> list[object]:
            async with router_of(cheap, dear, clock=manual_clock, policy=policy) as router:
                return await arrive(300, 1.0, lambda: ask(router))

        answers = run_on(manual_clock, work)
        assert not [answer for answer in answers if isinstance(answer, BaseException)]
        assert host.refused == 0
        began = host.sent[0]
        assert sum(at < began + 300 for at in host.sent) >= 0.95 * 150, "the limit is used"
        assert len(cheap.asked) + len(dear.asked) == 300

    def test_a_host_that_allows_less_than_declared_refuses_little_and_loses_nothing(
        self, manual_clock: ManualClock, host: Host
    ) -> None:
        host.rpm = 15
        cheap = scripted("cheap", Step(ttft=0.2), usd=1, rpm=30)
        dear = scripted("dear", Step(ttft=0.2), usd=100)

        async def work() -> list[object]:
            policy = Policy(value_of_time=1e-5, explore=0)
            async with router_of(cheap, dear, clock=manual_clock, policy=policy) as router:
                return await arrive(600, 1.0, lambda: ask(router))

        answers = run_on(manual_clock, work)
        assert not [answer for answer in answers if isinstance(answer, BaseException)]
        assert host.refused <= 20

    def test_those_who_wait_are_served_in_the_order_in_which_they_came(
        self, manual_clock: ManualClock
    ) -> None:
        limited = scripted("limited", max_concurrency=1)

        async def work() -> None:
            async with router_of(limited, clock=manual_clock) as router:
                await ask(router)  # what is imported at first use is imported
                sends = [
                    router.chat.completions.create(messages=[{"role": "user", "content": str(place)}])
                    for place in range(50)
                ]
                await asyncio.gather(*sends)

        run_on(manual_clock, work)
        asked = [request.messages[0]["content"] for request in limited.asked[1:]]
        assert asked == [str(place) for place in range(50)]


class TestPlaces:
    def test_the_policy_decides_between_waiting_and_paying_more(self, manual_clock: ManualClock) -> None:
        """A second is worth 0.01 USD and the dear model costs 0.05 more: five seconds are worth waiting."""

        def spread(seconds: float) -> int:
            step = Step(text="word", ttft=seconds, completion_tokens=1)
            cheap = scripted("cheap", step, max_concurrency=1, speed_ttft=seconds)
            dear = scripted("dear", step, usd=5000, speed_ttft=seconds)
            policy = Policy(value_of_time=0.01, explore=0)

            async def work() -> None:
                async with router_of(cheap, dear, clock=manual_clock, policy=policy) as router:
                    await asyncio.gather(
                        *(router.chat.completions.create(messages=HELLO, max_tokens=1) for _ in range(20))
                    )

            run_on(manual_clock, work)
            assert len(cheap.asked) + len(dear.asked) == 20
            return len(dear.asked)

        assert spread(0.01) == 0
        assert 10 < spread(60.0) <= 19

    async def test_who_goes_away_leaves_the_queue_and_the_others_go_on(self) -> None:
        narrow = scripted("narrow", Step(ttft=0.02), max_concurrency=2, speed_ttft=0.02)
        async with router_of(narrow) as router:
            tasks = [asyncio.create_task(ask(router)) for _ in range(40)]
            await asyncio.sleep(0.01)
            for task in tasks[::2]:
                task.cancel()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            kinds = {type(answer).__name__ for answer in answers[::2]}
            assert kinds == {"CancelledError"}
            assert not [answer for answer in answers[1::2] if isinstance(answer, BaseException)]
            limiter = router._core.limiters["narrow"]
            assert (limiter.waiting, limiter.running) == (0, 0)

    def test_several_loops_share_the_places_and_the_queue(self) -> None:
        def busy(_: Received) -> Reply:
            return Reply(ttft=0.01)

        with LoopbackServer(busy) as server:
            router = router_of(hosted("m", server, max_concurrency=3))

            async def crowd() -> list[object]:
                return await asyncio.gather(*(ask(router) for _ in range(10)), return_exceptions=True)

            with ThreadPoolExecutor(4) as pool:
                answers = [one for each in pool.map(lambda _: asyncio.run(crowd()), range(4)) for one in each]
            assert server.most_in_flight <= 3
            assert len(server.requests) == 40
            assert not [answer for answer in answers if isinstance(answer, BaseException)]
            asyncio.run(router.aclose())

    async def test_a_host_with_as_many_places_as_declared_never_refuses(self) -> None:
        refused = 0

        def narrow(_: Received) -> Reply:
            nonlocal refused
            if server.in_flight > 4:
                refused += 1
                return Reply(status=429)
            return Reply(ttft=0.005)

        with LoopbackServer(narrow) as server:
            async with router_of(hosted("m", server, max_concurrency=4)) as router:
                answers = await asyncio.gather(*(ask(router) for _ in range(60)), return_exceptions=True)
            assert not [answer for answer in answers if isinstance(answer, BaseException)]
            assert (refused, len(server.requests)) == (0, 60)


class TestDeadlines:
    async def test_who_cannot_be_in_time_is_told_at_once_and_nothing_is_sent_in_vain(self) -> None:
        narrow = scripted("narrow", Step(ttft=0.1), max_concurrency=1, speed_ttft=0.1, speed_decode=1e5)
        async with router_of(narrow) as router:
            known = [await ask(router) for _ in range(MEASURED_AFTER)]
            answers = await asyncio.gather(
                *(router.chat.completions.create(messages=HELLO, timeout=1.0) for _ in range(50)),
                return_exceptions=True,
            )
        shed = [answer for answer in answers if isinstance(answer, OverloadedError)]
        served = [answer for answer in answers if not isinstance(answer, BaseException)]
        assert len(shed) + len(served) == 50
        assert all(error.retry_after for error in shed)
        assert len(served) >= 4
        assert len(narrow.asked) == len(known) + len(served), (
            "a place was spent on an answer that came too late"
        )

    async def test_on_a_guess_of_how_long_answers_take_nobody_is_sent_away(self) -> None:
        narrow = scripted("narrow", Step(ttft=0.02), max_concurrency=1)
        async with router_of(narrow) as router:
            asked = (router.chat.completions.create(messages=HELLO, timeout=2.0) for _ in range(6))
            assert len(await asyncio.gather(*asked)) == 6


class TestPressure:
    HORIZON = 2.0

    def fed(self, rate: float, seconds: float, under_way: int, usual: float = 0.1) -> Pressure:
        """A model that answered calmly, and then so many a second, each after so many seconds."""
        pressure, now = Pressure(), -(64 * 0.1 + 128 / rate)
        for _ in range(64):
            now += 0.1
            pressure.started("m", 1, now)
            pressure.served("m", usual, now)
        for place in range(under_way):
            pressure.started("m", place + 1, now)
        for _ in range(128):
            now += 1 / rate
            pressure.served("m", seconds, now)
        return pressure

    def test_a_model_that_answers_as_usual_is_never_left_alone_however_much_it_has(self) -> None:
        assert self.fed(1000.0, 0.1, 2000).excess("m", 2000, 0.5, 0.0) == 0.0

    def test_a_queue_longer_than_the_request_has_time_for_is_refused_by_as_much(self) -> None:
        pressure = self.fed(100.0, 1.0, 200)
        assert pressure.excess("m", 100, self.HORIZON, 0.0) == 0.0
        assert pressure.excess("m", 200, self.HORIZON, 0.0) == pytest.approx(2.0 - 1.2, abs=0.1)

    def test_a_few_are_always_let_through_so_that_recovery_shows(self) -> None:
        assert self.fed(1.0, 10.0, 200).excess("m", LEAST, self.HORIZON, 0.0) == 0.0

    def test_a_crowd_that_has_just_come_is_no_queue_yet(self) -> None:
        pressure = Pressure()
        for second in range(20):
            pressure.started("m", 1, float(second))
            pressure.served("m", 0.9, second + 0.9)
        for place in range(500):
            pressure.started("m", place + 1, 30.0)
        assert pressure.excess("m", 500, self.HORIZON, 30.0) == 0.0

    def test_nothing_is_known_of_a_model_that_is_new_or_was_replaced(self) -> None:
        pressure = self.fed(1.0, 10.0, 200)
        assert pressure.excess("other", 200, self.HORIZON, 0.0) == 0.0
        pressure.forget({"m"})
        assert pressure.excess("m", 200, self.HORIZON, 0.0) == 0.0

    def test_a_host_that_is_asked_for_twice_what_it_can_do_stays_useful(
        self, manual_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Four workers of 0.1 s each, an endless queue before them, deadlines of a second."""
        complete, workers, served = ScriptedAdapter.complete, list[asyncio.Semaphore](), list[float]()

        async def queued(adapter: ScriptedAdapter, call: Call) -> object:
            call.started()
            async with workers[0]:
                answer = await complete(adapter, call)
                served.append(manual_clock.now())
                return answer

        monkeypatch.setattr(ScriptedAdapter, "complete", queued)
        model = scripted("m", Step(ttft=0.1, completion_tokens=1), speed_ttft=0.1, speed_decode=1e5)

        async def work() -> tuple[list[object], list[object]]:
            workers.append(asyncio.Semaphore(4))
            async with router_of(model, clock=manual_clock) as router:

                async def send() -> object:
                    return await router.chat.completions.create(messages=HELLO, timeout=1.0)

                await arrive(60, 0.1, send)
                crowd = await arrive(800, 1 / 80, send)
                after = await arrive(60, 0.05, send)
            return crowd, after

        crowd, after = run_on(manual_clock, work)
        good = [answer for answer in crowd if not isinstance(answer, BaseException)]
        assert len(good) >= 0.8 * 400, "the host can answer 400 in these ten seconds"
        late = [
            answer for answer in crowd if isinstance(answer, DeadlineExceededError | AllModelsFailedError)
        ]
        assert len(late) <= 40
        assert sum(isinstance(answer, RouterError) for answer in after) <= 3


async def test_more_requests_than_a_router_keeps_track_of_are_turned_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(core_module, "MOST_REQUESTS", 5)
    slow = scripted("slow", Step(ttft=0.05), "next")
    async with router_of(slow) as router:
        answers = await asyncio.gather(*(ask(router) for _ in range(8)), return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, BaseException)]
        assert [type(error) for error in refused] == [OverloadedError] * 3
        assert all(error.decision for error in refused if isinstance(error, OverloadedError))
        assert (await ask(router)).choices[0].message.content == "next", "there is room again"
