"""The synchronous face: threads, running loops, interruptions, slow readers, and the end of the program."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import signal
import sqlite3
import textwrap
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING

import pytest
from pydantic import PrivateAttr

from router import (
    AllModelsFailedError,
    DeadlineExceededError,
    InvalidRequestError,
    ModelConnectionError,
    ModelHTTPError,
    NoEligibleModelError,
    Policy,
    RoutedCompletion,
    Router,
    RouterClosedError,
    RouterError,
    StreamInterruptedError,
    loading,
)
from router.adapter import AdapterSettings, Call
from router.background import READ_AHEAD, BackgroundLoop
from router.decision import Candidate
from router.models import Model
from router.testing import LoopbackServer, Reply, ScriptedModel, Step
from router.testing.replies import stream_events
from router.testing.scripted import ScriptedAdapter
from tests.helpers import (
    HELLO,
    eventually,
    hosted,
    router_of,
    run_script,
    scripted,
    sync_router_of,
    text_of,
)

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion, ChatCompletionChunk

ENDLESS = Step(text="word " * 20_000, per_token=0.001)
#: Its first tokens come at once, the next in a minute.
STALLING = Reply(raw=[b"".join(islice(stream_events(Reply(), {}), 3)), b"data: [DONE]\n\n"], per_token=60)
WHO: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


class Probe(ScriptedModel):
    """A scripted model whose adapter notes the caller's context and counts the chunks it gives."""

    adapter = "probe"

    _seen: list[str] = PrivateAttr(default_factory=list)
    _given: list[int] = PrivateAttr(default_factory=list)

    @property
    def seen(self) -> list[str]:
        """What the caller's context variable said in each call."""
        return self._seen

    @property
    def given(self) -> list[int]:
        """A number per chunk."""
        return self._given


class ProbeAdapter(ScriptedAdapter):
    def __init__(self, model: Probe) -> None:
        super().__init__(model)
        self._probe = model

    async def complete(self, call: Call) -> ChatCompletion:
        self._probe.seen.append(WHO.get())
        return await super().complete(call)

    async def stream(self, call: Call) -> AsyncGenerator[ChatCompletionChunk, None]:
        self._probe.seen.append(WHO.get())
        async for chunk in super().stream(call):
            self._probe.given.append(1)
            yield chunk


def create_probe(model: Model, settings: AdapterSettings) -> ProbeAdapter:
    del settings
    assert isinstance(model, Probe)
    return ProbeAdapter(model)


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Probe]:
    """Makes models with the probing adapter."""
    monkeypatch.setitem(loading._BUILT_IN, "probe", (__name__, "create_probe", None))
    return lambda *script, **fields: Probe("probe", script=script or ("Hello!",), **fields)


@pytest.fixture
def interrupt() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Sends this process's main thread a Ctrl-C as soon as a condition holds."""
    threads: list[threading.Thread] = []

    def arm(condition: Callable[[], object]) -> None:
        def send() -> None:
            if eventually(condition):
                time.sleep(0.02)  # lets the main thread begin to wait
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        threads.append(threading.Thread(target=send))
        threads[-1].start()

    yield arm
    for thread in threads:
        thread.join()


def figures(completion: RoutedCompletion) -> tuple[object, ...]:
    """What does not depend on when and how it was asked for."""
    decision = completion.routing
    return (
        completion.model_dump(exclude={"id"}),
        decision.model,
        decision.cost,
        [(attempt.model, attempt.outcome, type(attempt.error)) for attempt in decision.attempts],
        decision.features,
        decision.reason,
    )


class TestSameAsAsync:
    @pytest.mark.parametrize("stream", [False, True])
    async def test_both_faces_give_the_same_answer_and_decision(self, *, stream: bool) -> None:
        def fleet() -> tuple[ScriptedModel, ScriptedModel]:
            return scripted("broken", ModelConnectionError), scripted("works", "one two three", usd=9)

        async with router_of(*fleet()) as router:
            answered = await router.chat.completions.create(messages=HELLO)
            chunks = [
                chunk async for chunk in await router.chat.completions.create(messages=HELLO, stream=True)
            ]
        with sync_router_of(*fleet()) as sync:
            assert figures(sync.chat.completions.create(messages=HELLO)) == figures(answered)
            again = list(sync.chat.completions.create(messages=HELLO, stream=True))
        assert [chunk.model_dump() for chunk in again] == [chunk.model_dump() for chunk in chunks]

    def test_errors_are_the_same_ones(self) -> None:
        with sync_router_of(scripted("only", ModelHTTPError("no", model="only", status_code=400))) as router:
            with pytest.raises(AllModelsFailedError) as caught:
                router.chat.completions.create(messages=HELLO)
            assert caught.value.decision is not None
            with pytest.raises(InvalidRequestError):
                router.chat.completions.create(messages=[])
            with pytest.raises(NoEligibleModelError):
                router.chat.completions.create(messages=HELLO, routing={"privacy": "private"})

    def test_a_deadline_ends_the_wait(self) -> None:
        hangs = scripted("hangs", Step(hangs=True))
        with sync_router_of(hangs) as router:
            with pytest.raises(DeadlineExceededError):
                router.chat.completions.create(messages=HELLO, timeout=0.05)
            assert eventually(lambda: not hangs.running)


class TestThreads:
    def test_sixteen_threads_at_once_each_get_their_own_answer(self) -> None:
        with LoopbackServer(lambda received: str(received.body["messages"])) as server:
            router = sync_router_of(hosted("echo", server))
            barrier = threading.Barrier(16)

            def ask(number: int) -> bool:
                barrier.wait()
                for turn in range(5):
                    said = f"thread {number}, turn {turn}"
                    answer = router.chat.completions.create(messages=[{"role": "user", "content": said}])
                    if said not in (answer.choices[0].message.content or ""):
                        return False
                    said = f"stream {said}"
                    stream = router.chat.completions.create(
                        messages=[{"role": "user", "content": said}], stream=True
                    )
                    if said not in text_of(stream):
                        return False
                return True

            with router, ThreadPoolExecutor(16) as pool:
                assert list(pool.map(ask, range(16))) == [True] * 16
            assert len(server.requests) == 16 * 5 * 2

    def test_several_threads_may_read_one_stream(self) -> None:
        text = " ".join(str(number) for number in range(500))
        with sync_router_of(scripted("only", text)) as router:
            stream = router.chat.completions.create(messages=HELLO, stream=True)
            with ThreadPoolExecutor(4) as pool:
                parts = [pool.submit(lambda: list(stream)) for _ in range(4)]
                chunks = [chunk for part in parts for chunk in part.result(timeout=20)]
        assert sorted(text_of(chunks)) == sorted(text)

    async def test_it_works_inside_a_running_loop(self) -> None:
        """As in Jupyter: the loop is blocked meanwhile, as synchronous code blocks."""
        with sync_router_of(scripted("only", "a b")) as router:
            assert router.chat.completions.create(messages=HELLO).choices[0].message.content == "a b"
            assert text_of(router.chat.completions.create(messages=HELLO, stream=True)) == "a b"
        await asyncio.sleep(0)  # the loop outside is as it was


class TestOwnThread:
    def test_a_policy_that_calls_the_router_is_refused_instead_of_waiting_for_ever(self) -> None:
        holder: list[Router] = []

        def utility(candidate: Candidate) -> float:
            holder[0].chat.completions.create(messages=HELLO)
            return 0.0

        router = sync_router_of(scripted("a"), scripted("b"), policy=Policy(explore=0, utility=utility))
        holder.append(router)
        with router, pytest.raises(RouterError, match="own event loop"):
            router.chat.completions.create(messages=HELLO)

    def test_a_key_that_is_asked_of_the_router_fails_the_attempt_only(self) -> None:
        with LoopbackServer() as server:
            holder: list[Router] = []

            def key() -> str:
                return holder[0].chat.completions.create(messages=HELLO).id

            router = sync_router_of(hosted("keyed", server, api_key=key), hosted("plain", server, usd=9))
            holder.append(router)
            with router:
                decision = router.chat.completions.create(messages=HELLO).routing
            assert decision.model == "plain"
            assert decision.attempts[0].outcome == "failed"

    def test_another_routers_thread_may_be_waited_for(self) -> None:
        with sync_router_of(scripted("inner")) as inner:

            def utility(candidate: Candidate) -> float:
                return float(len(inner.chat.completions.create(messages=HELLO).choices))

            policy = Policy(explore=0, utility=utility)
            with sync_router_of(scripted("a"), scripted("b"), policy=policy) as outer:
                assert outer.chat.completions.create(messages=HELLO).routing.model == "a"


class TestContext:
    def test_the_callers_context_is_seen_by_the_adapter(self, probe: Callable[..., Probe]) -> None:
        model = probe(ModelConnectionError, "a b")
        with sync_router_of(model) as router:
            for who in ("alice", "bob"):
                token = WHO.set(who)
                list(router.chat.completions.create(messages=HELLO, stream=True))
                WHO.reset(token)
            router.chat.completions.create(messages=HELLO)
        # The first attempt of alice fails, and her retry comes from a timer.
        assert model.seen == ["alice", "alice", "bob", "nobody"]

    def test_the_callers_context_is_seen_by_the_policy(self) -> None:
        seen: list[str] = []

        def utility(candidate: Candidate) -> float:
            seen.append(WHO.get())
            return 0.0

        policy = Policy(explore=0, utility=utility)
        long: list[dict[str, str]] = [{"role": "user", "content": "word " * 50_000}]
        with sync_router_of(scripted("a"), scripted("b"), policy=policy) as router:
            token = WHO.set("carol")
            router.chat.completions.create(messages=HELLO)
            router.chat.completions.create(messages=long)  # type: ignore[arg-type]  # decided on another thread
            WHO.reset(token)
        assert set(seen) == {"carol"}

    def test_the_callers_context_is_seen_by_a_key(self) -> None:
        seen: list[str] = []

        def key() -> str:
            seen.append(WHO.get())
            return "secret-key"

        with LoopbackServer() as server, sync_router_of(hosted("m", server, api_key=key)) as router:
            token = WHO.set("dave")
            router.chat.completions.create(messages=HELLO)
            WHO.reset(token)
        assert seen == ["dave"]


class TestInterruption:
    def test_ctrl_c_while_waiting_stops_the_attempt(
        self, interrupt: Callable[[Callable[[], object]], None]
    ) -> None:
        hangs = scripted("hangs", Step(hangs=True), "Hello again!")
        with sync_router_of(hangs) as router:
            interrupt(lambda: hangs.running)
            with pytest.raises(KeyboardInterrupt):
                router.chat.completions.create(messages=HELLO)
            assert eventually(lambda: not hangs.running)
            assert hangs.cancelled == 1
            assert router.chat.completions.create(messages=HELLO).choices[0].message.content == "Hello again!"

    def test_ctrl_c_while_waiting_closes_the_connection(
        self, interrupt: Callable[[Callable[[], object]], None]
    ) -> None:
        with LoopbackServer() as server, sync_router_of(hosted("m", server)) as router:
            router.chat.completions.create(messages=HELLO)
            server.script(Reply(fault="hang"))
            interrupt(lambda: server.in_flight)
            with pytest.raises(KeyboardInterrupt):
                router.chat.completions.create(messages=HELLO)
            assert server.wait_until(lambda s: s.disconnects == 1)

    def test_ctrl_c_while_reading_stops_the_stream(
        self, interrupt: Callable[[Callable[[], object]], None]
    ) -> None:
        stalls = scripted("stalls", Step(text="one two three", per_token=0.2))
        with sync_router_of(stalls) as router:
            stream = router.chat.completions.create(messages=HELLO, stream=True)
            seen = [next(stream), next(stream)]
            interrupt(lambda: True)
            with pytest.raises(KeyboardInterrupt):
                for chunk in stream:
                    seen.append(chunk)  # noqa: PERF402 - what was read before the interruption counts
            assert not stalls.running
            assert stream.routing.attempts[0].outcome == "cancelled"
            assert len(seen) < 5


class TestStreams:
    def test_an_exception_in_the_middle_arrives_where_it_is_read(self) -> None:
        breaks = scripted("breaks", Step(text="one two three", error=ModelConnectionError, breaks_after=3))
        with sync_router_of(breaks) as router:
            stream = router.chat.completions.create(messages=HELLO, stream=True)
            read = []
            with pytest.raises(StreamInterruptedError) as caught:
                for chunk in stream:
                    read.append(chunk)  # noqa: PERF402 - the loop is the point
            assert text_of(read) == caught.value.text == "one two"
            assert caught.value.decision is not None
            assert list(stream) == []  # it is over, and says so

    def test_a_deadline_in_the_middle_arrives_where_it_is_read(self) -> None:
        slow = scripted("slow", Step(text="one two three", per_token=0.2))
        with sync_router_of(slow) as router:
            stream = router.chat.completions.create(messages=HELLO, stream=True, timeout=0.5)
            with pytest.raises(DeadlineExceededError):
                list(stream)
            assert eventually(lambda: not slow.running)

    def test_leaving_its_block_stops_the_work(self) -> None:
        endless = scripted("endless", ENDLESS)
        with sync_router_of(endless) as router:
            with router.chat.completions.create(messages=HELLO, stream=True) as stream:
                next(stream)
            assert not endless.running
            assert stream.routing.attempts[0].outcome == "cancelled"
            stream.close()  # twice does no harm

    def test_closing_at_once_stops_the_work(self) -> None:
        endless = scripted("endless", ENDLESS)
        with sync_router_of(endless) as router:
            for _ in range(20):
                router.chat.completions.create(messages=HELLO, stream=True).close()
            assert eventually(lambda: not endless.running)

    @pytest.mark.parametrize("read", [0, 1, 5])
    def test_dropping_stops_the_work(self, read: int) -> None:
        stalls = scripted("stalls", Step(text="one two three four five six " * 20, per_token=0.05))
        with sync_router_of(stalls) as router:
            stream = router.chat.completions.create(messages=HELLO, stream=True)
            for _ in range(read):
                next(stream)
            assert stalls.running
            del stream
            gc.collect()
            assert eventually(lambda: not stalls.running, 3)

    def test_dropping_at_once_stops_the_work_every_time(self) -> None:
        with LoopbackServer(STALLING) as server, sync_router_of(hosted("m", server)) as router:
            for _ in range(30):
                router.chat.completions.create(messages=HELLO, stream=True)  # dropped in the same moment
            gc.collect()
            assert server.wait_until(lambda s: s.in_flight == 0)

    def test_dropping_a_hosted_stream_closes_the_connection(self) -> None:
        with LoopbackServer(STALLING) as server, sync_router_of(hosted("m", server)) as router:
            stream = router.chat.completions.create(messages=HELLO, stream=True)
            next(stream)
            del stream
            gc.collect()
            assert server.wait_until(lambda s: s.disconnects == 1 and s.in_flight == 0)

    def test_a_slow_reader_bounds_what_is_read_ahead(self, probe: Callable[..., Probe]) -> None:
        model = probe(Step(text="word " * 5_000))
        with sync_router_of(model) as router:
            stream = router.chat.completions.create(messages=HELLO, stream=True)
            for read in (1, 40, 200):
                for _ in range(read):
                    next(stream)
                before = -1
                while before != len(model.given):  # until nothing more is read
                    before = len(model.given)
                    time.sleep(0.05)
            assert len(model.given) <= 241 + READ_AHEAD + 4
            assert len(list(stream)) + 241 == 5_000 + 3  # role, finish; the text ends with an empty word

    def test_no_chunk_is_lost_or_repeated_between_the_threads(self) -> None:
        """A reader that is now faster, now slower than the source goes through every state of the queue."""
        words = [str(number) for number in range(3_000)]
        with sync_router_of(scripted("fast", " ".join(words))) as router:
            for pause in (0, 37, 64, 151):
                read = []
                for place, chunk in enumerate(router.chat.completions.create(messages=HELLO, stream=True)):
                    read.append(chunk)
                    if pause and place % pause == 0:
                        time.sleep(0.002)
                assert text_of(read).split() == words


class TestClosing:
    def test_a_closed_router_says_so(self) -> None:
        router = sync_router_of(scripted("only"))
        router.chat.completions.create(messages=HELLO)
        router.close()
        router.close()
        with pytest.raises(RouterClosedError):
            router.chat.completions.create(messages=HELLO)
        with pytest.raises(RouterClosedError):
            router.route(messages=HELLO)

    def test_closing_an_unused_router_does_no_harm(self) -> None:
        sync_router_of(scripted("only")).close()

    def test_using_a_closed_router_leaves_no_thread(self) -> None:
        router = sync_router_of(scripted("only"))
        router.close()
        with pytest.raises(RouterClosedError):
            router.chat.completions.create(messages=HELLO)
        assert eventually(lambda: not loop_threads())

    def test_closing_ends_what_other_threads_wait_for(self) -> None:
        hangs = scripted("hangs", Step(hangs=True))
        router = sync_router_of(hangs)
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(router.chat.completions.create, messages=HELLO) for _ in range(8)]
            assert eventually(lambda: hangs.running == 8)
            router.close()
            errors = [each.exception(timeout=10) for each in asked]
        assert [type(error) for error in errors] == [RouterClosedError] * 8
        assert not hangs.running

    def test_closing_is_never_missed_by_a_thread_that_begins(self) -> None:
        """Whenever a request comes, it ends: with an answer or with the word that the router is closed."""
        for _ in range(20):
            router = sync_router_of(scripted("quick"))
            kinds: list[object] = []

            def ask(router: Router = router, kinds: list[object] = kinds) -> None:
                try:
                    while True:
                        router.chat.completions.create(messages=HELLO)
                except BaseException as error:  # noqa: BLE001 - which one it is is the question
                    kinds.append(type(error))

            threads = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
            for thread in threads:
                thread.start()
            time.sleep(0.005)
            router.close()
            for thread in threads:
                thread.join(10)
            assert kinds == [RouterClosedError] * 4

    @pytest.mark.parametrize("fast", [True, False])
    def test_closing_ends_a_stream_with_an_error_and_never_silently(self, *, fast: bool) -> None:
        endless = scripted("endless", Step(text="word " * 5_000, per_token=0 if fast else 0.01))
        router = sync_router_of(endless)
        stream = router.chat.completions.create(messages=HELLO, stream=True)
        next(stream)
        time.sleep(0.1)  # a fast source has filled the queue by now
        router.close()
        with pytest.raises(RouterClosedError):
            for _ in stream:
                pass
        assert not endless.running

    def test_a_reader_that_waits_is_woken_by_closing(self) -> None:
        with LoopbackServer(STALLING) as server:
            router = sync_router_of(hosted("m", server))
            stream = router.chat.completions.create(messages=HELLO, stream=True)
            with ThreadPoolExecutor(1) as pool:
                reading: Future[object] = pool.submit(lambda: list(stream))
                time.sleep(0.1)
                router.close()
                error = reading.exception(timeout=10)
                assert isinstance(error, RouterClosedError)
                assert error.decision is not None

    def test_a_stream_may_be_closed_after_its_router(self) -> None:
        router = sync_router_of(scripted("endless", ENDLESS))
        stream = router.chat.completions.create(messages=HELLO, stream=True)
        router.close()
        stream.close()
        del stream
        gc.collect()


def loop_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "router-loop"]


class TestBackgroundLoop:
    def test_its_thread_starts_with_the_first_call_and_ends_with_stop(self) -> None:
        background = BackgroundLoop()
        assert eventually(lambda: not loop_threads())
        assert background.run(lambda: asyncio.sleep(0, "done")) == "done"
        assert len(loop_threads()) == 1
        background.stop()
        assert eventually(lambda: not loop_threads())

    def test_a_task_that_ignores_its_cancellation_does_not_hold_up_the_end(self) -> None:
        background = BackgroundLoop()

        async def stubborn() -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.sleep(0.05)

        background.loop().call_soon_threadsafe(lambda: background.loop().create_task(stubborn()))
        background.stop()
        assert eventually(lambda: not loop_threads())


PRELUDE = """
import sys, threading, time
from router import *
from router.testing import LoopbackServer, Reply, ScriptedModel, Step
HELLO = [{"role": "user", "content": "Hi"}]
"""

ENDINGS = {
    "used": """
        router = Router(models=[ScriptedModel("m")], ledger=sys.argv[1])
        router.chat.completions.create(messages=HELLO)
    """,
    "a stream half read": """
        router = Router(models=[ScriptedModel("m", script=(Step(text="word " * 999, per_token=0.01),))])
        stream = router.chat.completions.create(messages=HELLO, stream=True)
        next(stream), next(stream)
    """,
    "a hosted stream half read": """
        server = LoopbackServer(Reply(text="word " * 999, per_token=0.02)).__enter__()
        router = Router(models=[HostedModel("m", base_url=server.base_url, price=Price(input=1, output=1))])
        stream = router.chat.completions.create(messages=HELLO, stream=True)
        next(stream), next(stream)
    """,
    "a hanging backend": """
        server = LoopbackServer(Reply(fault="hang")).__enter__()
        router = Router(
            models=[HostedModel("m", base_url=server.base_url, price=Price(input=1, output=1))],
            ledger=sys.argv[1],
            budget=Budget(usd=1),
        )
        def ask():
            try:
                router.chat.completions.create(messages=HELLO)
            except RouterError:
                pass
        threading.Thread(target=ask, daemon=True).start()
        server.wait_until(lambda s: s.in_flight == 1)
    """,
    "daemon threads that wait for answers": """
        server = LoopbackServer(
            Reply(text="word " * 999, per_token=0.02), models={"mute": Reply(fault="hang")}
        ).__enter__()
        models = [
            HostedModel(name, base_url=server.base_url, price=Price(input=1, output=1))
            for name in ("m", "mute")
        ]
        router = Router(models=models)
        def read():
            while True:
                for chunk in router.chat.completions.create(model="m", messages=HELLO, stream=True):
                    pass
        def ask():
            router.chat.completions.create(model="mute", messages=HELLO)
        for work in (read, ask):
            threading.Thread(target=work, daemon=True).start()
        server.wait_until(lambda s: s.in_flight == 2)
    """,
    "an exception": """
        router = Router(models=[ScriptedModel("m")])
        stream = router.chat.completions.create(messages=HELLO, stream=True)
        next(stream)
        sys.exit(0)
    """,
}


class TestExit:
    @pytest.mark.parametrize("ending", ENDINGS)
    def test_a_program_that_closes_nothing_ends_quickly_and_quietly(
        self, ending: str, tmp_path: object
    ) -> None:
        script = PRELUDE + textwrap.dedent(ENDINGS[ending]).replace(
            "sys.exit(0)", "print(time.monotonic(), flush=True); sys.exit(0)"
        )
        ended = run_script(script + "\nprint(time.monotonic(), flush=True)\n", f"{tmp_path}/router.db")
        took = time.monotonic() - float(ended.stdout.split()[-1])
        assert ended.returncode == 0
        assert ended.stderr == ""
        assert took < 3

    @pytest.mark.parametrize("stream", [False, True])
    def test_what_was_under_way_at_the_end_is_booked_and_written_down(
        self, stream: bool, tmp_path: object
    ) -> None:
        script = f"""
        server = LoopbackServer(Reply(text="word " * 999, per_token=0.02)).__enter__()
        router = Router(
            models=[HostedModel("m", base_url=server.base_url, price=Price(input=1e5, output=1))],
            ledger=sys.argv[1],
            budget=Budget(usd=1000),
        )
        def ask():
            global stream
            try:
                stream = router.chat.completions.create(messages=HELLO, stream={stream})
            except RouterError:
                pass
        threading.Thread(target=ask, daemon=True).start()
        server.wait_until(lambda s: s.in_flight == 1)
        """
        path = f"{tmp_path}/router.db"
        run_script(PRELUDE + textwrap.dedent(script), path)
        with contextlib.closing(sqlite3.connect(path)) as file:
            attempts = file.execute("SELECT outcome, CAST(cost AS REAL) FROM attempts").fetchall()
            (spent,) = file.execute("SELECT SUM(CAST(usd AS REAL)) FROM money").fetchone()
        assert [outcome for outcome, _ in attempts] == ["cancelled"]
        assert spent == pytest.approx(attempts[0][1])
        assert spent > 0
