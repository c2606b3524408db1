"""One AsyncRouter on many event loops, in many tasks, and while its models are replaced."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import threading
import warnings
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor

import pytest
from openai.types.chat import ChatCompletion
from pydantic import PrivateAttr

from router import (
    AsyncRouter,
    Budget,
    ModelConnectionError,
    Policy,
    Recovery,
    RoutedCompletion,
    loading,
)
from router.adapter import AdapterSettings, Call
from router.decision import Candidate
from router.models import Model
from router.testing import LoopbackServer, Reply, ScriptedModel, Step
from router.testing.scripted import ScriptedAdapter
from tests.helpers import HELLO, eventually, hosted, router_of, scripted, sync_router_of, text_of

pytestmark = pytest.mark.usefixtures("no_network")


async def ask(router: AsyncRouter, said: str = "Hi") -> RoutedCompletion:
    return await router.chat.completions.create(messages=[{"role": "user", "content": said}])


async def read(router: AsyncRouter) -> str:
    stream = await router.chat.completions.create(messages=HELLO, stream=True)
    return text_of([chunk async for chunk in stream])


class TestManyLoops:
    def test_several_loops_at_once(self) -> None:
        """Each thread has its loop; hosted and scripted models, answers and streams, a budget over all."""
        with LoopbackServer(Reply(text="whole answer", per_token=0.002)) as server:
            router = router_of(
                scripted("flaky", *[ModelConnectionError, "whole answer"] * 50, usd=1),
                hosted("m", server, usd=2),
                budget=Budget(usd=100),
                recovery=Recovery(failure_threshold=1000),
            )

            async def several() -> list[str]:
                answers = await asyncio.gather(*(ask(router) for _ in range(10)))
                streams = await asyncio.gather(*(read(router) for _ in range(10)))
                return [a.choices[0].message.content or "" for a in answers] + streams

            with ThreadPoolExecutor(6) as pool:
                texts = [pool.submit(asyncio.run, several()) for _ in range(6)]
                assert [text.result(30) for text in texts] == [["whole answer"] * 20] * 6
            asyncio.run(router.aclose())
            assert server.wait_until(lambda s: not s.connections)

    @pytest.mark.parametrize("runner", ["asyncio", "uvloop"])
    def test_a_new_loop_per_call_leaves_nothing_open(
        self, runner: str, recwarn: pytest.WarningsRecorder
    ) -> None:
        """As pytest does it: the connections of a loop end with it."""
        run: Callable[[Coroutine[object, object, object]], object] = asyncio.run
        if runner == "uvloop":
            run = pytest.importorskip("uvloop").run
        warnings.simplefilter("always")
        with LoopbackServer(Reply(text="one two three")) as server:
            router = router_of(hosted("m", server), budget=Budget(usd=100))
            for turn in range(20):
                run(ask(router) if turn % 2 else read(router))
                assert server.wait_until(lambda s: not s.connections)
            run(router.aclose())
            assert len(server.requests) == 20
        gc.collect()
        assert [str(warning.message) for warning in recwarn if warning.category is ResourceWarning] == []

    def test_a_loop_that_dies_in_the_middle_of_a_stream_takes_nothing_with_it(self) -> None:
        with LoopbackServer(Reply(text="word " * 200, per_token=0.01)) as server:
            router = router_of(hosted("m", server, max_concurrency=2))

            async def begin() -> object:
                stream = await router.chat.completions.create(messages=HELLO, stream=True)
                return await anext(stream)

            for _ in range(5):  # more than the model takes at once
                asyncio.run(begin())
            gc.collect()
            assert server.wait_until(lambda s: s.in_flight == 0)
            server.script("still here")
            assert asyncio.run(read(router)) == "still here"
            asyncio.run(router.aclose())

    def test_a_stream_whose_loop_is_closed_gives_its_place_and_money_back(self) -> None:
        budget = Budget(usd=1, period="total")
        model = scripted("m", Step(text="word " * 99, per_token=0.01), "next", max_concurrency=1)
        router = router_of(model, budget=budget)
        loop = asyncio.new_event_loop()
        stream = loop.run_until_complete(router.chat.completions.create(messages=HELLO, stream=True))
        loop.close()  # out of order: nothing was shut down
        del stream
        gc.collect()
        answer = asyncio.run(asyncio.wait_for(ask(router), 10))
        assert answer.choices[0].message.content == "next"
        asyncio.run(router.aclose())
        assert router._core.ledger.left(budget) > 0.999

    def test_closing_ends_what_runs_on_other_loops(self) -> None:
        hangs = scripted("hangs", Step(hangs=True))
        router = router_of(hangs)
        with ThreadPoolExecutor(3) as pool:
            asked = [pool.submit(asyncio.run, ask(router)) for _ in range(3)]
            assert eventually(lambda: hangs.running == 3)
            asyncio.run(router.aclose())
            kinds = {type(each.exception(10)).__name__ for each in asked}
        assert kinds == {"RouterClosedError"}
        assert hangs.running == 0

    def test_a_stream_dropped_on_another_thread_stops_on_its_own_loop(self) -> None:
        with LoopbackServer(Reply(text="word " * 500, per_token=0.02)) as server:
            router = router_of(hosted("m", server))
            streams: list[object] = []

            async def begin() -> None:
                streams.append(await router.chat.completions.create(messages=HELLO, stream=True))

                def drop() -> None:
                    streams.clear()
                    gc.collect()

                dropper = threading.Thread(target=drop)
                dropper.start()
                await asyncio.to_thread(dropper.join)
                assert await asyncio.to_thread(server.wait_until, lambda s: s.disconnects == 1)
                await router.aclose()

            asyncio.run(begin())


class TestManyTasks:
    @pytest.mark.parametrize("runner", ["asyncio", "uvloop"])
    def test_three_hundred_tasks_at_once_each_get_their_own_answer(self, runner: str) -> None:
        run: Callable[[Coroutine[object, object, None]], None] = asyncio.run
        if runner == "uvloop":
            run = pytest.importorskip("uvloop").run
        with LoopbackServer(lambda received: str(received.body["messages"])) as server:

            async def everybody() -> None:
                async with router_of(hosted("echo", server), budget=Budget(usd=100)) as router:
                    answers = await asyncio.gather(*(ask(router, f"number {n};") for n in range(300)))
                for number, answer in enumerate(answers):
                    assert f"number {number};" in (answer.choices[0].message.content or "")
                assert len({answer.routing.id for answer in answers}) == 300

            run(everybody())
            assert len(server.requests) == 300

    async def test_cancelling_some_of_many_hurts_no_other(self) -> None:
        with LoopbackServer(Reply(ttft=0.1)) as server:
            async with router_of(hosted("m", server)) as router:
                tasks = [asyncio.create_task(ask(router)) for _ in range(60)]
                assert await asyncio.to_thread(server.wait_until, lambda s: s.in_flight > 5)
                for task in tasks[::2]:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(isinstance(result, RoutedCompletion) for result in results[1::2])
                again = await ask(router)
                assert again.routing.attempts[0].outcome == "succeeded"


class Closing(ScriptedModel):
    """A scripted model whose adapter says whether it was used after it was closed."""

    adapter = "closing"

    #: `begun`, `ended`, `closed`, in order.
    _events: list[str] = PrivateAttr(default_factory=list)

    @property
    def events(self) -> list[str]:
        return self._events


class ClosingAdapter(ScriptedAdapter):
    def __init__(self, model: Closing) -> None:
        super().__init__(model)
        self._events = model.events

    async def complete(self, call: Call) -> ChatCompletion:
        self._events.append("begun")
        try:
            return await super().complete(call)
        finally:
            self._events.append("ended")

    async def aclose(self) -> None:
        self._events.append("closed")


def create_closing(model: Model, settings: AdapterSettings) -> ClosingAdapter:
    del settings
    assert isinstance(model, Closing)
    return ClosingAdapter(model)


@pytest.fixture
def closing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Closing]:
    monkeypatch.setitem(loading._BUILT_IN, "closing", (__name__, "create_closing", None))
    return lambda name, *script, **fields: Closing(name, script=script or ("Hello!",), **fields)


class TestUpdate:
    async def test_fifty_in_flight_lose_nothing(self, closing: Callable[..., Closing]) -> None:
        with LoopbackServer(Reply(text="from the host", ttft=1.0)) as server:
            old = closing("old", Step(text="old", ttft=1.0), max_concurrency=100)
            old_host, new_host = hosted("old-host", server), hosted("new-host", server)
            async with router_of(old, old_host) as router:
                names = ["old", "old-host"] * 25
                asked = [
                    asyncio.create_task(router.chat.completions.create(messages=HELLO, model=name))
                    for name in names
                ]
                assert await asyncio.to_thread(
                    eventually, lambda: old.running == 25 and server.in_flight == 25
                )
                router.update([new_host, closing("new")])
                assert (await ask(router)).routing.model in ("new-host", "new")
                answers = await asyncio.gather(*asked)
                assert [answer.routing.model for answer in answers] == names
                assert [a.outcome for answer in answers for a in answer.routing.attempts] == [
                    "succeeded"
                ] * 50
                assert await asyncio.to_thread(eventually, lambda: "closed" in old.events)
            assert old.events.index("closed") == len(old.events) - 1
            assert old.events.count("ended") == 25

    async def test_a_removed_model_with_a_limit_ends_its_requests(self) -> None:
        slow = scripted("slow", Step(text="one two three", ttft=0.05, per_token=0.02), max_concurrency=3)
        async with router_of(slow) as router:
            task = asyncio.create_task(ask(router))
            stream = await router.chat.completions.create(messages=HELLO, stream=True)
            router.update([scripted("new")])
            assert (await task).routing.model == "slow"
            assert text_of([chunk async for chunk in stream]) == "one two three"

    async def test_a_stream_outlives_its_model(self, closing: Callable[..., Closing]) -> None:
        old = closing("old", Step(text="one two three", per_token=0.02))
        async with router_of(old) as router:
            stream = await router.chat.completions.create(messages=HELLO, stream=True)
            router.update([scripted("new")])
            assert text_of([chunk async for chunk in stream]) == "one two three"
            assert await asyncio.to_thread(eventually, lambda: old.events == ["closed"])

    async def test_a_model_that_stays_keeps_its_adapter(self, closing: Callable[..., Closing]) -> None:
        kept = closing("kept")
        async with router_of(kept, scripted("other", usd=9)) as router:
            await ask(router)
            router.update([kept, scripted("another", usd=9)])
            await ask(router)
            assert kept.events == ["begun", "ended"] * 2
        assert kept.events[-1] == "closed"

    def test_without_a_loop_the_removed_model_is_closed_all_the_same(
        self, closing: Callable[..., Closing]
    ) -> None:
        old = closing("old")
        with sync_router_of(old) as router:
            router.chat.completions.create(messages=HELLO)
            router.update([scripted("new")])
            assert eventually(lambda: old.events[-1] == "closed")
            assert router.chat.completions.create(messages=HELLO).routing.model == "new"

    def test_models_that_are_replaced_between_the_choice_and_the_beginning_lose_nothing(self) -> None:
        with LoopbackServer("answer") as server:
            updates: list[Callable[[], None]] = []

            def utility(candidate: Candidate) -> float:
                if updates:
                    updates.pop()()
                return 0.0

            fleets = [[hosted(f"{kind}{n}", server) for kind in "ab"] for n in range(2)]
            with sync_router_of(*fleets[0], policy=Policy(explore=0, utility=utility)) as router:
                router.chat.completions.create(messages=HELLO)  # now there is a client to close
                updates.append(lambda: router.update(fleets[1]))
                decision = router.chat.completions.create(messages=HELLO).routing
        assert decision.model == "a1"
        assert [attempt.outcome for attempt in decision.attempts] == ["succeeded"]

    def test_threads_that_ask_while_others_update_lose_nothing(self) -> None:
        """A request that has chosen and not yet begun keeps its models open, too."""
        random.seed(1)
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        try:
            with LoopbackServer("answer") as server:
                fleets = [[hosted(f"m{number}", server)] for number in range(3)]
                router = sync_router_of(*fleets[0], recovery=Recovery(max_attempts=1))
                over = threading.Event()

                def replace() -> None:
                    number = 0
                    while not over.is_set():
                        number += 1
                        router.update(fleets[number % 3])

                def work() -> int:
                    return sum(bool(router.chat.completions.create(messages=HELLO)) for _ in range(60))

                with router, ThreadPoolExecutor(5) as pool:
                    replacing = pool.submit(replace)
                    try:
                        assert [each.result(60) for each in [pool.submit(work) for _ in range(4)]] == [60] * 4
                    finally:
                        over.set()
                    replacing.result(10)
        finally:
            sys.setswitchinterval(interval)
