"""One adapter serves several loops, tasks and processes, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading

import pytest

from adapters.hosted import create
from router.adapter import AdapterSettings, Call
from router.errors import ModelConnectionError
from router.models import HostedModel
from router.testing.contract import check_adapter
from router.testing.server import LoopbackServer, Reply
from tests.adapters.hosted.conftest import Make, call, text_of


async def test_cancelling_a_call_closes_its_connection(server: LoopbackServer, make: Make) -> None:
    server.script(Reply(fault="hang"))
    task = asyncio.create_task(make().complete(call()))
    assert await asyncio.to_thread(server.wait_until, lambda s: s.in_flight == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(server.wait_until, lambda s: s.disconnects == 1)


@pytest.mark.parametrize("after", [0, 2])
async def test_closing_a_stream_closes_its_connection(server: LoopbackServer, make: Make, after: int) -> None:
    server.script(Reply(text="word " * 100, per_token=0.05))
    stream = make().stream(call())
    for _ in range(after + 1):
        await anext(stream)
    await stream.aclose()
    assert await asyncio.to_thread(server.wait_until, lambda s: s.disconnects == 1)


async def test_cancelling_the_reader_of_a_stream_closes_its_connection(
    server: LoopbackServer, make: Make
) -> None:
    server.script(Reply(text="word " * 100, per_token=0.05))
    task = asyncio.create_task(text_of(make()))
    assert await asyncio.to_thread(server.wait_until, lambda s: s.in_flight == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(server.wait_until, lambda s: s.disconnects == 1)


async def test_a_stream_may_be_begun_in_one_task_and_read_in_another(
    server: LoopbackServer, make: Make
) -> None:
    server.script(Reply(text="one two three", per_token=0.01))
    stream = make().stream(call())
    first = await asyncio.create_task(anext(stream))

    async def rest() -> str:
        return "".join([c.choices[0].delta.content or "" for c in [x async for x in stream] if c.choices])

    assert (first.choices[0].delta.content or "") + await asyncio.create_task(rest()) == "one two three"


async def test_it_keeps_the_contract_of_adapters(server: LoopbackServer) -> None:
    server.script(Reply(text="word " * 40, per_token=0.01))
    model = HostedModel(name="m", base_url=server.base_url)
    await check_adapter(lambda: create(model, AdapterSettings()))


async def test_many_calls_at_once_share_one_client(server: LoopbackServer, make: Make) -> None:
    server.script(Reply(ttft=0.2))
    adapter = make()
    await asyncio.gather(*(adapter.complete(call()) for _ in range(64)))
    assert server.most_in_flight == 64


async def test_the_backend_is_said_to_have_started(make: Make) -> None:
    told: list[int] = []
    adapter = make()
    await adapter.complete(Call(request=call().request, started=lambda: told.append(1)))
    await text_of(adapter, Call(request=call().request, started=lambda: told.append(2)))
    assert told == [1, 2]
    assert adapter.load().resident


async def test_closing_twice_is_harmless_and_what_runs_is_stopped(server: LoopbackServer, make: Make) -> None:
    server.script(Reply(fault="hang"))
    adapter = make()
    running = asyncio.create_task(adapter.complete(call()))
    assert await asyncio.to_thread(server.wait_until, lambda s: s.in_flight == 1)
    await adapter.aclose()
    await adapter.aclose()
    with pytest.raises(ModelConnectionError):
        await running
    with pytest.raises(ModelConnectionError, match="closed"):
        await adapter.complete(call())


def test_one_adapter_serves_one_loop_after_another(server: LoopbackServer) -> None:
    adapter = create(HostedModel(name="m", base_url=server.base_url), AdapterSettings())
    for _ in range(3):
        assert asyncio.run(adapter.complete(call())).choices[0].message.content == "Hello!"
        assert asyncio.run(text_of(adapter)) == "Hello!"
    gc.collect()  # an unclosed connection would warn here, and a warning is an error
    assert server.wait_until(lambda s: s.connections == 0)


def test_one_adapter_serves_several_loops_at_once_and_closes_on_all(server: LoopbackServer) -> None:
    adapter = create(HostedModel(name="m", base_url=server.base_url), AdapterSettings())
    answered, closed = threading.Barrier(3, timeout=20), threading.Event()
    answers: list[str | None] = []

    async def work() -> None:
        answers.append((await adapter.complete(call())).choices[0].message.content)
        await asyncio.to_thread(answered.wait)
        await asyncio.to_thread(closed.wait, 20)

    threads = [threading.Thread(target=lambda: asyncio.run(work())) for _ in range(2)]
    for thread in threads:
        thread.start()
    answered.wait()
    asyncio.run(adapter.aclose())
    assert server.wait_until(lambda s: s.connections == 0)
    closed.set()
    for thread in threads:
        thread.join(20)
    assert answers == ["Hello!", "Hello!"]


SCRIPT = """
import asyncio, gc, os, sys
from adapters.hosted import create
from router.adapter import AdapterSettings, Call
from router.models import HostedModel
from router.request import ChatRequest

adapter = create(HostedModel("m", base_url=sys.argv[1]), AdapterSettings())
assert "openai" not in sys.modules and "httpx2" not in sys.modules, "the SDK is loaded at the first call"
call = Call(request=ChatRequest(messages=[{"role": "user", "content": "Hi"}]), timeout=10)

async def both():
    answer = await adapter.complete(call)
    parts = [c.choices[0].delta.content or "" async for c in adapter.stream(call) if c.choices]
    return answer.choices[0].message.content, "".join(parts)

async def broken_off():
    async for chunk in adapter.stream(call):
        break
    await adapter.complete(call)
"""


def run(script: str, url: str) -> str:
    """Runs a script with all warnings shown; its output."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", SCRIPT + textwrap.dedent(script), url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_nothing_is_left_behind_by_programs_that_never_close(server: LoopbackServer) -> None:
    script = """
    for _ in range(3):
        assert asyncio.run(both()) == ("Hello!", "Hello!")
        asyncio.run(broken_off())
        gc.collect()
    print("fine")
    """
    assert run(script, server.base_url) == "fine\n"


def test_it_works_under_uvloop(server: LoopbackServer) -> None:
    pytest.importorskip("uvloop")
    script = """
    import uvloop
    for _ in range(2):
        assert uvloop.run(both()) == ("Hello!", "Hello!")
        gc.collect()
    print("fine")
    """
    assert run(script, server.base_url) == "fine\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_opens_its_own_connections_and_leaves_its_parents_alone(
    server: LoopbackServer,
) -> None:
    script = """
    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(both()) == ("Hello!", "Hello!")
    child = os.fork()
    if child == 0:
        assert not list(adapter._clients._kept), "the parent's client is not the child's"
        asyncio.set_event_loop(None)
        ok = asyncio.run(both()) == ("Hello!", "Hello!")
        gc.collect()
        os._exit(0 if ok else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert loop.run_until_complete(both()) == ("Hello!", "Hello!")
    loop.run_until_complete(adapter.aclose())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    print("fine")
    """
    assert run(script, server.base_url) == "fine\n"
    assert len(server.requests) == 6
