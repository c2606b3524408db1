"""An engine in a process of its own does what one on a thread does."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import weakref
from pathlib import Path
from typing import Any

import psutil
import pytest

from adapters.local.engine import Sampling
from adapters.local.isolation import ProcessEngine
from adapters.local.isolation.engine import MOST_WAITING
from router.adapter import AdapterSettings
from router.errors import ContextWindowExceededError, ModelConnectionError, ModelHTTPError, ModelLoadError
from router.models import LocalModel
from router.testing import check_adapter
from tests.adapters.local.conftest import Make, Tiny
from tests.adapters.local.isolation.conftest import Ear, Isolated, engine_of, job, opened, pid_of, pid_soon
from tests.adapters.local.kit import asking, calls_of, eventually, until, weather_tool
from tests.helpers import HELLO, sync_router_of, text_of

pytestmark = pytest.mark.gguf

GREEDY = Sampling(temperature=0)


async def test_the_same_text_and_the_same_pieces_as_on_a_thread(
    smollm: Path, make: Make, isolated: Isolated
) -> None:
    texts: list[Any] = []
    for build in (make, isolated):
        adapter = build(smollm, n_ctx=512, threads=1)
        whole = await adapter.complete(asking("Name three seas.", temperature=0, max_tokens=24))
        chunks = [c async for c in adapter.stream(asking("Name three seas.", temperature=0, max_tokens=24))]
        texts.append((whole.choices, whole.usage, text_of(chunks), chunks[-1].usage))
        assert len([chunk for chunk in chunks if chunk.choices]) > 4
        await adapter.aclose()
    assert texts[0] == texts[1]


async def test_seeds_bias_schemas_and_tools_work_as_on_a_thread(
    smollm: Path, make: Make, isolated: Isolated
) -> None:
    seeded = asking("Hi", temperature=1.5, seed=7, max_tokens=12, logit_bias={"28": -100})
    forced = asking("Oslo?", tools=[weather_tool()], tool_choice="required", max_tokens=80, seed=1)
    answers: list[Any] = []
    for build in (make, isolated):
        adapter = build(smollm, n_ctx=1024, threads=1)
        text = (await adapter.complete(seeded)).choices[0].message.content
        answers.append((text, calls_of(await adapter.complete(forced))))
        await adapter.aclose()
    assert answers[0] == answers[1]
    assert answers[0][1][0][0] == "get_weather"


async def test_pieces_arrive_while_the_answer_is_still_being_made(smollm: Path, isolated: Isolated) -> None:
    adapter = isolated(smollm, n_ctx=1024, threads=1)
    stream = adapter.stream(asking("Write a long story.", temperature=0, max_tokens=600))
    for _ in range(3):
        await anext(stream)
    assert adapter.load().running == 1
    await stream.aclose()
    await eventually(lambda: adapter.load().running == 0)


def test_a_listener_that_has_enough_ends_the_answer_at_that_piece(tiny: Tiny, engines: Any) -> None:
    engine = engines(tiny("qwen3"), n_ctx=2048)
    ear = Ear(enough=5)
    engine.submit(job(ear, sampling=GREEDY))
    until(lambda: ear.over)
    assert ear.error is None
    assert ear.finish == ("stop", 5)
    until(lambda: engine.load().running == 0)
    assert len(ear.pieces) == 5


def test_a_job_with_something_in_it_that_is_no_data_is_refused_and_leaves_nothing(
    tiny: Tiny, engines: Any
) -> None:
    engine = engines(tiny("qwen3"))
    with pytest.raises(TypeError):
        engine.submit(job(Ear(), prompt=object()))
    assert engine.load().waiting == 0


def test_the_load_is_known_without_asking(tiny: Tiny, engines: Any) -> None:
    engine = engines(tiny("qwen3"), n_ctx=8192)
    assert engine.load() == engine.load()
    assert not engine.load().resident
    assert engine.pid is None  # nothing is started before it is needed
    opened(engine)
    assert engine.load().resident
    slots = engine.load().slots
    assert slots is not None
    ears = [Ear() for _ in range(slots + 2)]
    jobs = [job(ear, sampling=GREEDY, max_tokens=4000) for ear in ears]
    for one in jobs:
        engine.submit(one)
    until(lambda: engine.load().running == slots)
    assert engine.load().waiting == 2
    for one in reversed(jobs):
        engine.cancel(one)
    assert (engine.load().running, engine.load().waiting, engine.load().full) == (0, 0, False)
    assert all(ear.error is None for ear in ears)


def test_cancelling_what_waits_and_what_runs_frees_the_engine_for_the_next(tiny: Tiny, engines: Any) -> None:
    engine = engines(tiny("qwen3"), n_ctx=8192)
    running, waiting, last = Ear(), Ear(), Ear()
    first, second = job(running, max_tokens=7000), job(waiting, max_tokens=7000)
    engine.submit(first)
    until(lambda: bool(running.pieces))
    engine.submit(second)
    engine.submit(job(last, max_tokens=3, sampling=GREEDY))
    engine.cancel(second)
    engine.cancel(first)
    engine.cancel(first)  # over: nothing happens
    until(lambda: last.over)
    assert last.error is None
    heard = len(running.pieces)
    assert (running.over, waiting.over, waiting.pieces) == (False, False, [])
    assert len(running.pieces) == heard < 7000


def test_a_full_queue_refuses_at_once(tiny: Tiny, engines: Any) -> None:
    engine = engines(tiny("qwen3"))
    jobs = []
    with pytest.raises(ModelHTTPError) as caught:
        for _ in range(MOST_WAITING + 50):
            jobs.append(job(Ear(), max_tokens=1000))
            engine.submit(jobs[-1])
    assert (caught.value.status_code, caught.value.code) == (503, "queue_full")
    assert engine.load().full
    for one in jobs:
        engine.cancel(one)
    assert not engine.load().full


async def test_typed_errors_cross(tiny: Tiny, isolated: Isolated) -> None:
    adapter = isolated(tiny("qwen3"), n_ctx=64)
    with pytest.raises(ContextWindowExceededError) as caught:
        await adapter.complete(asking("word " * 200))
    assert caught.value.window == 64
    assert caught.value.tokens is not None
    assert (await adapter.complete(asking(max_tokens=2))).usage


async def test_a_failed_load_is_told_and_tried_again_later(
    tiny: Tiny, isolated: Isolated, tmp_path: Path
) -> None:
    adapter = isolated(tmp_path / "late.gguf")
    with pytest.raises(ModelLoadError, match="no such file"):
        await adapter.complete(asking())
    assert engine_of(adapter).pid is None  # for nothing
    (tmp_path / "late.gguf").write_bytes(tiny("qwen3").read_bytes())
    assert (await adapter.complete(asking(max_tokens=2))).usage


async def test_a_prompt_larger_than_a_pipe_holds_does_not_stop_the_caller(
    tiny: Tiny, isolated: Isolated
) -> None:
    adapter = isolated(tiny("qwen3"), n_ctx=512)
    await adapter.complete(asking(max_tokens=1))
    os.kill(await pid_soon(engine_of(adapter)), signal.SIGSTOP)  # nobody reads
    asked = asyncio.create_task(adapter.complete(asking("word " * 200_000)))
    await asyncio.sleep(0.2)  # the loop turns
    os.kill(await pid_soon(engine_of(adapter)), signal.SIGCONT)
    with pytest.raises(ContextWindowExceededError):
        await asked


async def test_preloading_starts_it_at_once(tiny: Tiny, isolated: Isolated) -> None:
    adapter = isolated(tiny("qwen3"), preload=True)
    await eventually(lambda: adapter.load().resident)


async def test_closing_leaves_no_process_and_no_thread(tiny: Tiny, isolated: Isolated) -> None:
    before = threading.active_count()
    adapter = isolated(tiny("qwen3"))
    await adapter.complete(asking(max_tokens=2))
    process = psutil.Process(engine_of(adapter).pid)
    await adapter.aclose()
    assert not process.is_running()
    assert threading.active_count() <= before + 1  # the loop's own worker
    with pytest.raises(ModelConnectionError, match="was closed"):
        await adapter.complete(asking())
    await adapter.aclose()


async def test_closing_fails_what_runs_and_what_waits(tiny: Tiny, isolated: Isolated) -> None:
    adapter = isolated(tiny("qwen3"), n_ctx=8192)
    tasks = [asyncio.create_task(adapter.complete(asking(max_tokens=7000))) for _ in range(3)]
    await eventually(lambda: adapter.load().running > 0)
    await adapter.aclose()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(outcome, ModelConnectionError)
        assert "was closed" in str(outcome)


def test_a_process_that_does_not_listen_is_ended_all_the_same(tiny: Tiny, engines: Any) -> None:
    engine = engines(tiny("qwen3"))
    opened(engine)
    process = psutil.Process(pid_of(engine))
    process.suspend()
    engine.close(wait=1.0)
    assert engine.ended
    assert not process.is_running()


def test_closing_while_it_starts_leaves_nothing(tiny: Tiny, engines: Any) -> None:
    engine = engines(tiny("qwen3"))
    told: list[object] = []
    engine.open(told.append)
    engine.close()
    assert engine.ended
    assert isinstance(told[0], ModelConnectionError)


def test_dropping_the_engine_ends_its_process(tiny: Tiny) -> None:
    engine = ProcessEngine(LocalModel("m", path=tiny("qwen3"), isolation="process"))
    opened(engine)
    process, alive = psutil.Process(pid_of(engine)), weakref.ref(engine)
    del engine
    gc.collect()
    assert alive() is None
    until(lambda: not process.is_running())


def test_whole_routers_work_with_it(smollm: Path) -> None:
    model = LocalModel("m", path=smollm, n_ctx=512, threads=1, isolation="process", usd_per_hour=3.6)
    with sync_router_of(model) as router:
        whole = router.chat.completions.create(messages=HELLO, max_tokens=8, temperature=0)
        stream = router.chat.completions.create(messages=HELLO, max_tokens=8, temperature=0, stream=True)
        assert text_of(stream) == whole.choices[0].message.content
        assert whole.routing.cost


async def test_it_keeps_the_contract_of_adapters(smollm: Path) -> None:
    from adapters.local import create

    model = LocalModel("m", path=smollm, n_ctx=512, threads=1, isolation="process")
    await check_adapter(lambda: create(model, AdapterSettings()))
