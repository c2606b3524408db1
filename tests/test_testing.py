"""What apps test with: the manual clock, the scripted model, the contract checks, the plugin."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from router import HostedModel, ModelConnectionError, ModelTimeoutError, Policy, Price, Router
from router.adapter import AdapterSettings, Call, Load
from router.request import ChatRequest
from router.testing import LoopbackServer, ManualClock, ScriptedModel, Step, check_adapter
from router.testing.plugin import NetworkForbiddenError
from router.testing.scripted import ScriptedAdapter, create
from tests.helpers import HELLO, router_of, run_on, run_script, scripted

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion, ChatCompletionChunk

ASKED = Call(request=ChatRequest(messages=[{"role": "user", "content": "Say hello to me"}]))


def adapter_of(*script: object, **fields: object) -> ScriptedAdapter:
    return create(ScriptedModel("m", script=script, **fields), AdapterSettings())  # type: ignore[arg-type]


class TestManualClock:
    def test_it_stands_still_until_it_is_moved(self) -> None:
        clock = ManualClock(start=5.0, unix=1000.0)
        assert (clock.now(), clock.time()) == (5.0, 1000.0)
        clock.advance(2.5)
        assert (clock.now(), clock.time()) == (7.5, 1002.5)
        clock.set_time(10.0)
        assert (clock.now(), clock.time()) == (7.5, 10.0)
        clock.advance(1)
        assert clock.time() == 11.0

    def test_it_does_not_run_backwards(self) -> None:
        with pytest.raises(ValueError, match="backwards"):
            ManualClock().advance(-0.1)

    def test_threads_that_move_it_lose_nothing(self) -> None:
        clock = ManualClock(start=0.0)

        def advance() -> None:
            for _ in range(1000):
                clock.advance(1.0)

        threads = [threading.Thread(target=advance) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert clock.now() == 4000.0

    def test_the_fixture_is_one(self, manual_clock: ManualClock) -> None:
        assert isinstance(manual_clock, ManualClock)


def slow() -> str:
    time.sleep(0.1)
    return "done"


class TestEventLoop:
    def test_hours_pass_without_sleeping_and_timers_fire_in_order(self, manual_clock: ManualClock) -> None:
        fired: list[tuple[int, float]] = []

        async def sleep(seconds: int) -> None:
            await asyncio.sleep(seconds)
            fired.append((seconds, manual_clock.now()))

        async def several() -> None:
            await asyncio.gather(*(sleep(seconds) for seconds in (3600, 1, 60, 7, 1800)))

        began, really = manual_clock.now(), time.monotonic()
        run_on(manual_clock, several)
        assert [seconds for seconds, _ in fired] == [1, 7, 60, 1800, 3600]
        assert all(at - began == pytest.approx(seconds) for seconds, at in fired)
        assert time.monotonic() - really < 60  # and not an hour

    def test_many_small_waits_are_quick_too(self, manual_clock: ManualClock) -> None:
        async def tick() -> None:
            for _ in range(360):
                await asyncio.sleep(10)

        began, really = manual_clock.now(), time.monotonic()
        run_on(manual_clock, tick)
        assert manual_clock.now() - began == pytest.approx(3600)
        assert time.monotonic() - really < 60

    def test_a_timeout_comes_before_what_would_take_longer(self, manual_clock: ManualClock) -> None:
        async def wait() -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.sleep(500), 30)

        began = manual_clock.now()
        run_on(manual_clock, wait)
        assert manual_clock.now() - began == pytest.approx(30)

    def test_work_on_other_threads_is_waited_for_and_takes_no_time(self, manual_clock: ManualClock) -> None:
        async def work() -> str:
            return await asyncio.to_thread(slow)

        began = manual_clock.now()
        assert run_on(manual_clock, work) == "done"
        assert manual_clock.now() == began

    def test_a_timer_does_not_overtake_work_on_other_threads(self, manual_clock: ManualClock) -> None:
        async def work() -> str:
            return await asyncio.wait_for(asyncio.to_thread(slow), timeout=30)

        assert run_on(manual_clock, work) == "done"

    def test_another_thread_can_wake_it(self, manual_clock: ManualClock) -> None:
        async def wait() -> str:
            loop = asyncio.get_running_loop()
            told: asyncio.Future[str] = loop.create_future()
            timer = threading.Timer(0.05, lambda: loop.call_soon_threadsafe(told.set_result, "woken"))
            timer.start()
            return await told

        assert run_on(manual_clock, wait) == "woken"

    def test_a_real_connection_works(self, manual_clock: ManualClock) -> None:
        async def fetch() -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET /v1/models HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
            line = await reader.readline()
            writer.close()
            return line

        with LoopbackServer() as server:
            assert b"200" in run_on(manual_clock, fetch)

    def test_the_same_program_runs_the_same_way_every_time(self) -> None:
        def run() -> list[str]:
            clock = ManualClock()
            seen: list[str] = []

            async def worker(name: str, pause: float) -> None:
                for _ in range(5):
                    await asyncio.sleep(pause)
                    seen.append(f"{name}@{clock.now():.3f}")

            async def several() -> None:
                await asyncio.gather(worker("a", 0.3), worker("b", 0.2), worker("c", 0.1))

            run_on(clock, several)
            return seen

        assert run() == run() == run()


class TestScriptedModel:
    async def test_steps_are_played_in_order_and_the_last_for_ever(self) -> None:
        model = scripted("m", "one", Step(text="two"), "three")
        async with router_of(model) as router:
            texts = [
                (await router.chat.completions.create(messages=HELLO)).choices[0].message.content
                for _ in range(5)
            ]
        assert texts == ["one", "two", "three", "three", "three"]
        assert len(model.asked) == 5
        assert model.asked[0].messages == HELLO

    async def test_errors_are_raised_as_written_or_made(self) -> None:
        ready = ModelTimeoutError("slow", model="m", timeout=3)
        adapter = adapter_of(ready, ModelConnectionError)
        with pytest.raises(ModelTimeoutError) as first:
            await adapter.complete(ASKED)
        assert first.value is ready
        with pytest.raises(ModelConnectionError, match="as the script says"):
            await adapter.complete(ASKED)

    async def test_a_stream_is_a_chunk_per_word_with_usage_at_the_end(self) -> None:
        adapter = adapter_of(Step(text="one two", cached_tokens=2))
        chunks = [chunk async for chunk in adapter.stream(ASKED)]
        words = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
        assert words == ["", "one", " two", None]
        usage = chunks[-1].usage
        assert usage is not None
        assert (usage.prompt_tokens, usage.completion_tokens) == (4, 2)

    async def test_tool_calls_come_in_both_ways(self) -> None:
        call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        adapter = adapter_of(Step(text="", tool_calls=(call,), finish_reason="tool_calls"))
        message = (await adapter.complete(ASKED)).choices[0].message
        assert [made.id for made in message.tool_calls or []] == ["c1"]
        deltas = [c.choices[0].delta async for c in adapter.stream(ASKED) if c.choices]
        assert [p.id for delta in deltas for p in delta.tool_calls or []] == ["c1"]

    def test_times_pass_on_the_clock(self, manual_clock: ManualClock) -> None:
        model = ScriptedModel("m", script=(Step(text="a b c", ttft=2, per_token=1),), load_time=10)

        async def ask() -> float:
            async with router_of(model, clock=manual_clock) as router:
                began = manual_clock.now()
                await router.chat.completions.create(messages=HELLO)
                return manual_clock.now() - began

        assert run_on(manual_clock, ask) == pytest.approx(10 + 2 + 3, abs=0.1)

    def test_its_profile_says_what_was_declared(self) -> None:
        model = ScriptedModel(
            "m", price=Price(input=1, output=2), context_window=100, private=True, quality={"code": 0.5}
        )
        profile = model.profile()
        assert profile.context_window == 100
        assert profile.private
        assert profile.quality == {"code": 0.5}
        assert ScriptedModel("free", price=None).profile().price is None

    async def test_cancelled_calls_are_counted(self) -> None:
        model = scripted("m", Step(hangs=True))
        adapter = create(model, AdapterSettings())
        task = asyncio.create_task(adapter.complete(ASKED))
        await asyncio.sleep(0)
        assert model.running == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (model.running, model.cancelled) == (0, 1)


class _Broken(ScriptedAdapter):
    """Breaks the contract in one way, named by `how`."""

    def __init__(self, how: str) -> None:
        super().__init__(ScriptedModel("m", script=(Step(text="one two three", per_token=0.001),)))
        self._how = how

    async def complete(self, call: Call) -> ChatCompletion:
        if self._how == "never says that it began":
            call = Call(request=call.request)
        completion = await super().complete(call)
        if self._how == "no choices":
            completion.choices = []
        if self._how == "no finish reason":
            completion.choices[0].finish_reason = None  # type: ignore[assignment]
        if self._how == "absurd usage" and completion.usage is not None:
            completion.usage.prompt_tokens = -1
        if self._how == "another type":
            return completion.model_dump()  # type: ignore[return-value]
        return completion

    async def stream(self, call: Call) -> AsyncGenerator[ChatCompletionChunk, None]:
        async for chunk in super().stream(call):
            if self._how == "a stream without an end" and chunk.choices and chunk.choices[0].finish_reason:
                return
            if self._how != "an empty stream":
                yield chunk

    def load(self) -> Load:
        if self._how == "never idle":
            return Load(running=1)
        return Load(resident=self._how != "never resident")


class TestContract:
    async def test_the_scripted_adapter_keeps_it(self) -> None:
        await check_adapter(lambda: adapter_of(Step(text="one two three four", per_token=0.001)))

    @pytest.mark.parametrize(
        "how",
        [
            "no choices",
            "no finish reason",
            "absurd usage",
            "another type",
            "never says that it began",
            "an empty stream",
            "a stream without an end",
            "never idle",
            "never resident",
        ],
    )
    async def test_an_adapter_that_breaks_it_is_found_out(self, how: str) -> None:
        with pytest.raises(AssertionError, match="breaks its contract"):
            await check_adapter(lambda: _Broken(how))


class TestNoNetwork:
    def test_this_machine_stays_reachable(self, no_network: list[str]) -> None:
        with LoopbackServer() as server, socket.create_connection(("127.0.0.1", server.port), 5) as here:
            assert here.getpeername()[1] == server.port
            assert server.wait_until(lambda s: s.connections == 1)
        assert socket.getaddrinfo("localhost", 80)
        assert no_network == []

    @pytest.mark.parametrize("address", [("203.0.113.1", 80), ("2001:db8::1", 80, 0, 0)])
    def test_no_other_machine_is_reached(self, no_network: list[str], address: tuple[object, ...]) -> None:
        family = socket.AF_INET if len(address) == 2 else socket.AF_INET6
        with socket.socket(family) as outwards:
            for connect in (outwards.connect, outwards.connect_ex):
                with pytest.raises(NetworkForbiddenError, match=str(address[0])):
                    connect(address)
        assert no_network == [address[0]] * 2
        no_network.clear()

    @pytest.mark.parametrize("name", ["example.org", b"example.org"])
    def test_no_name_is_looked_up(self, no_network: list[str], name: str | bytes) -> None:
        with pytest.raises(NetworkForbiddenError, match=r"example\.org"):
            socket.getaddrinfo(name, 443)
        no_network.clear()

    async def test_an_event_loop_is_held_back_too(self, no_network: list[str]) -> None:
        with pytest.raises(NetworkForbiddenError):
            await asyncio.open_connection("example.org", 443)
        with pytest.raises(NetworkForbiddenError):
            await asyncio.open_connection("203.0.113.1", 443)
        no_network.clear()

    async def test_a_router_is_held_back_too(self, no_network: list[str]) -> None:
        models = HostedModel("away", base_url="http://203.0.113.1/v1", price=FREE), scripted("here", usd=9)
        async with router_of(*models, policy=Policy.cheapest()) as router:
            assert (await router.chat.completions.create(messages=HELLO)).routing.model == "here"
        assert no_network == ["203.0.113.1"]
        no_network.clear()

    def test_a_test_fails_even_if_the_router_heals_the_failure(self, tmp_path: Path) -> None:
        file = tmp_path / "test_leaves.py"
        file.write_text(
            "import pytest\n"
            "from router import HostedModel, Policy, Price, Router\n"
            "from router.testing import ScriptedModel\n"
            "def test_it(no_network):\n"
            "    away = HostedModel('away', base_url='http://203.0.113.1/v1', price=Price(input=0, output=0))\n"
            "    here = ScriptedModel('here', price=Price(input=9, output=9))\n"
            "    with Router(models=[away, here], policy=Policy.cheapest()) as router:\n"
            "        router.chat.completions.create(messages=[{'role': 'user', 'content': 'Hi'}])\n",
            encoding="utf-8",
        )
        ended = run_script(
            "import pytest, sys; sys.exit(pytest.main(['-q', '-p', 'no:multimodel_router', '-p', 'router.testing.plugin', sys.argv[1]]))",
            str(file),
        )
        assert ended.returncode == 1
        assert "203.0.113.1; the no_network fixture forbids it" in ended.stdout


FREE = Price(input=0, output=0)


def test_a_scripted_model_can_stand_in_a_configuration_file(tmp_path: Path) -> None:
    file = tmp_path / "router.toml"
    file.write_text(
        '[[models]]\nkind = "scripted"\nname = "stand-in"\nscript = ["Hello!"]\n', encoding="utf-8"
    )
    with Router.from_file(file) as router:
        answer = router.chat.completions.create(messages=HELLO)
    assert json.loads(answer.model_dump_json())["choices"][0]["message"]["content"] == "Hello!"
