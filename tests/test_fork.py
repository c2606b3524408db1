"""Processes that fork after a router was used, and go on with it on both sides."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import pickle
import selectors
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from router import Budget, Policy, Router, RouterClosedError, RouterError
from router.testing import LoopbackServer, Reply
from router.testing.server import serve_in_child
from tests.helpers import HELLO, hosted, router_of, scripted, sync_router_of, text_of

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
    pytest.mark.usefixtures("no_network"),
]

#: Seconds that a child may take before it counts as hanging.
PATIENCE = 20.0


def in_child(work: Callable[[], object]) -> object:
    """What a forked child makes of some work, or the error that it raised there.

    Raises:
        AssertionError: if the child hangs or dies.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            try:
                result: object = work()
            except Exception as error:  # noqa: BLE001 - the parent judges it
                result = f"{type(error).__name__}: {error}"
            gc.collect()
            os.write(writing, pickle.dumps(result))
        finally:
            os._exit(0)
    os.close(writing)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(reading, selectors.EVENT_READ)
            if not selector.select(PATIENCE):
                os.kill(child, signal.SIGKILL)
                raise AssertionError("the child hangs")
            told = os.read(reading, 1 << 16)
    finally:
        os.close(reading)
        os.waitpid(child, 0)
    assert told, "the child died"
    return pickle.loads(told)


def ask(router: Router) -> str | None:
    return router.chat.completions.create(messages=HELLO).choices[0].message.content


def rows(path: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT * FROM decisions").fetchall()


@pytest.fixture
def far_server() -> Iterator[str]:
    """A server in a process of its own: its sockets are none of the parent's."""
    with serve_in_child("from afar") as url:
        yield url


def router_with_everything(url: str, ledger: Path) -> Router:
    from router import HostedModel, Price

    model = HostedModel("m", base_url=url, price=Price(input=1, output=1), max_concurrency=50)
    return Router(models=[model], ledger=ledger, budget=Budget(usd=1), policy=Policy(explore=0))


def test_children_and_parent_go_on_with_one_router(far_server: str, tmp_path: Path) -> None:
    path = tmp_path / "router.db"
    with router_with_everything(far_server, path) as router:
        assert ask(router) == "from afar"

        def work() -> object:
            answers = [ask(router), text_of(router.chat.completions.create(messages=HELLO, stream=True))]
            router.close()
            return answers

        for _ in range(3):
            assert in_child(work) == ["from afar", "from afar"]
            assert ask(router) == "from afar"
    assert len(rows(path)) == 1 + 3 * 2 + 3


def test_a_child_of_a_child_goes_on_too(far_server: str, tmp_path: Path) -> None:
    with router_with_everything(far_server, tmp_path / "router.db") as router:
        ask(router)
        assert in_child(lambda: [ask(router), in_child(lambda: ask(router))]) == ["from afar", "from afar"]


def _work_of_multiprocessing(router: Router, told: object) -> None:
    told.put(ask(router))  # type: ignore[attr-defined]  # a queue


def test_multiprocessings_forked_children_go_on(far_server: str, tmp_path: Path) -> None:
    path = tmp_path / "router.db"
    context = multiprocessing.get_context("fork")
    with router_with_everything(far_server, path) as router:
        ask(router)
        told = context.SimpleQueue()
        children = [context.Process(target=_work_of_multiprocessing, args=(router, told)) for _ in range(3)]
        for child in children:
            child.start()
        for child in children:
            child.join(PATIENCE)
            assert child.exitcode == 0
        assert [told.get() for _ in children] == ["from afar"] * 3
        assert ask(router) == "from afar"
        told.close()
    assert len(rows(path)) == 5


def test_a_budget_holds_over_parent_and_children(far_server: str, tmp_path: Path) -> None:
    from router import BudgetExceededError, HostedModel, Price

    dear = HostedModel("m", base_url=far_server, price=Price(input=0, output=0, per_request=0.3))
    with Router(models=[dear], ledger=tmp_path / "router.db", budget=Budget(usd=1)) as router:
        ask(router)
        for _ in range(2):
            assert in_child(lambda: ask(router)) == "from afar"
        with pytest.raises(BudgetExceededError):
            ask(router)
        assert str(in_child(lambda: ask(router))).startswith("BudgetExceededError")


def test_a_fork_with_requests_under_way_hurts_neither_side() -> None:
    """The child must not touch the parent's connections, not even when it collects what it was left."""
    with LoopbackServer(Reply(text="one two three", ttft=0.6, per_token=0.05)) as server:
        router = sync_router_of(hosted("slow", server), scripted("quick", usd=9))
        with router:
            router.chat.completions.create(messages=HELLO, model="slow")
            answers: list[str | None] = []

            def wait() -> None:
                stream = router.chat.completions.create(messages=HELLO, model="slow", stream=True)
                answers.append(text_of(stream))

            threads = [threading.Thread(target=wait) for _ in range(4)]
            for thread in threads:
                thread.start()
            assert server.wait_until(lambda s: s.in_flight == 4)

            def work() -> object:
                for _ in range(3):
                    router.chat.completions.create(messages=HELLO, model="quick")
                    gc.collect()
                router.close()
                return "answered"

            assert in_child(work) == "answered"
            for thread in threads:
                thread.join(PATIENCE)
    assert answers == ["one two three"] * 4


def test_a_stream_of_the_parent_is_refused_in_the_child_and_goes_on_in_the_parent() -> None:
    reply = Reply(text="one two three four", per_token=0.03)
    with LoopbackServer(reply) as server, sync_router_of(hosted("m", server)) as router:
        stream = router.chat.completions.create(messages=HELLO, stream=True)
        first = next(stream)

        def work() -> object:
            try:
                list(stream)
            except RouterClosedError:
                stream.close()
                return "refused"
            return "read"

        assert in_child(work) == "refused"
        assert text_of([first, *stream]) == "one two three four"


def test_an_async_router_goes_on_in_a_child(far_server: str, tmp_path: Path) -> None:
    from router import HostedModel, Price

    model = HostedModel("m", base_url=far_server, price=Price(input=1, output=1))
    router = router_of(model, ledger=tmp_path / "router.db", budget=Budget(usd=1))

    async def once() -> str | None:
        return (await router.chat.completions.create(messages=HELLO)).choices[0].message.content

    assert asyncio.run(once()) == "from afar"
    assert in_child(lambda: asyncio.run(once())) == "from afar"
    assert asyncio.run(once()) == "from afar"
    asyncio.run(router.aclose())


def test_a_fork_while_many_threads_work_does_not_hang(far_server: str, tmp_path: Path) -> None:
    """Whatever lock another thread holds at the moment of the fork, the child gets by without it."""
    over = threading.Event()
    with router_with_everything(far_server, tmp_path / "router.db") as router:

        def work() -> None:
            while not over.is_set():
                ask(router)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(12):
                time.sleep(0.005)
                assert in_child(lambda: ask(router)) == "from afar"
        finally:
            over.set()
            for thread in threads:
                thread.join(PATIENCE)


def test_a_closed_router_stays_closed_in_the_child() -> None:
    router = sync_router_of(scripted("m"))
    router.close()
    with pytest.raises(RouterError):
        ask(router)
    assert str(in_child(lambda: ask(router))).startswith("RouterClosedError")


@pytest.mark.gguf
def test_a_local_model_refuses_in_the_child_instead_of_hanging() -> None:
    from router import LocalModel
    from tests.helpers import smollm2

    with sync_router_of(LocalModel("local", path=smollm2(), n_ctx=256)) as router:
        router.chat.completions.create(messages=HELLO, max_tokens=3)
        told = str(in_child(lambda: router.chat.completions.create(messages=HELLO, max_tokens=3)))
        assert told.startswith("AllModelsFailedError")
        assert "fork" in told
        assert router.chat.completions.create(messages=HELLO, max_tokens=3).choices
