"""What dies in the engine's process: its requests, and nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from adapters.local.engine import Sampling
from adapters.local.isolation import process, starting
from adapters.local.isolation.crashes import FIRST_PAUSE, MOST
from router import AllModelsFailedError, LocalModel, Policy, StreamInterruptedError
from router.errors import ModelConnectionError, ModelLoadError
from router.failures import CRASHED, judge
from tests.adapters.local.conftest import Tiny
from tests.adapters.local.isolation.conftest import Ear, Isolated, engine_of, job, opened, pid_of, pid_soon
from tests.adapters.local.kit import asking, eventually, until
from tests.helpers import HELLO, scripted, smollm2, sync_router_of, text_of

pytestmark = pytest.mark.gguf

#: One token for ever: what these random weights would say by themselves may end at any time.
LONG: dict[str, Any] = {"max_tokens": 7000, "temperature": 0, "logit_bias": {"65": 100}}


@pytest.mark.parametrize("crash", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
async def test_a_crash_in_the_middle_of_an_answer_is_a_typed_error_and_the_next_request_is_answered(
    tiny: Tiny, isolated: Isolated, crash: signal.Signals
) -> None:
    adapter = isolated(tiny("qwen3"), n_ctx=8192)
    before = (await adapter.complete(asking(temperature=0, max_tokens=8))).choices
    stream = adapter.stream(asking(**LONG))
    await anext(stream)
    waiting = [asyncio.create_task(adapter.complete(asking(**LONG))) for _ in range(3)]
    await eventually(lambda: adapter.load().running + adapter.load().waiting == 4)
    dead = await pid_soon(engine_of(adapter))
    os.kill(dead, crash)
    with pytest.raises(ModelConnectionError, match=f"killed by {crash.name} while it answered"):
        async for _ in stream:
            pass
    for outcome in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(outcome, ModelConnectionError)
        assert crash.name in str(outcome)
    assert adapter.load().running == adapter.load().waiting == 0
    assert not adapter.load().resident
    assert (await adapter.complete(asking(temperature=0, max_tokens=8))).choices == before
    assert await pid_soon(engine_of(adapter)) != dead


def test_a_real_crash_of_native_code_is_told_with_its_last_words(
    tiny: Tiny, engines: Any, monkeypatch: Any
) -> None:
    """The child is made to read address 0 when it has said hello."""
    code = (
        "import os, sys, ctypes, threading\n"
        "from adapters.local.isolation import child\n"
        "def fall():\n"
        "    sys.stderr.write('first\\nGGML_ASSERT(x != 0) failed\\n')\n"
        "    sys.stderr.flush()\n"
        "    ctypes.string_at(0)\n"
        "child._Office.take = lambda *_: fall()\n"
        "child.main()\n"
    )
    start = starting.start

    def start_with(keep: Any) -> Any:
        monkeypatch.setattr(process, "start", start)
        return _started_as(["-c", code], monkeypatch, start, keep)

    monkeypatch.setattr(process, "start", start_with)
    engine = engines(tiny("qwen3"))
    told: list[object] = []
    engine.open(told.append)
    until(lambda: bool(told))
    assert isinstance(told[0], ModelLoadError)
    assert "killed by SIGSEGV while it loaded the model" in str(told[0])
    assert "GGML_ASSERT(x != 0) failed" in str(told[0])
    opened(engine)


def _started_as(arguments: list[str], monkeypatch: Any, start: Any, keep: Any) -> Any:
    import subprocess

    popen = subprocess.Popen
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", lambda command, **rest: popen([command[0], *arguments], **rest))
        return start(keep)


def test_a_crash_while_loading_is_an_error_of_loading(smollm: Path, engines: Any) -> None:
    engine = engines(smollm)
    told: list[object] = []
    engine.open(told.append)
    os.kill(pid_of(engine), signal.SIGKILL)
    until(lambda: bool(told))
    assert isinstance(told[0], ModelLoadError)
    assert "ran out of memory" in str(told[0])
    assert told[0].code == CRASHED


def test_a_crash_while_idle_is_healed_by_the_next_request(tiny: Tiny, engines: Any) -> None:
    engine = engines(tiny("qwen3"))
    opened(engine)
    os.kill(pid_of(engine), signal.SIGKILL)
    until(lambda: engine.pid is None)
    assert not engine.load().resident
    ear = Ear()
    engine.submit(job(ear, sampling=Sampling(temperature=0), max_tokens=4))
    until(lambda: ear.over)
    assert ear.finish is not None


def test_a_process_that_crashes_again_and_again_is_left_alone_for_a_while(
    tiny: Tiny, engines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engines(tiny("qwen3"))
    for _ in range(MOST):
        told: list[object] = []
        engine.open(told.append)
        os.kill(pid_of(engine), signal.SIGSEGV)
        until(lambda told=told: bool(told))  # type: ignore[misc]  # mypy cannot infer a lambda's default
        assert isinstance(told[0], ModelLoadError)
    ear = Ear()
    refusal = r"SIGSEGV.*crashed too often.*not started again for \d+ s"
    with pytest.raises(ModelLoadError, match=refusal) as caught:
        engine.open(told.append)
    # Health leaves it alone for as long as the keeper does, and no longer.
    assert judge(caught.value).shut_for == caught.value.retry_after
    assert FIRST_PAUSE - 10 < (caught.value.retry_after or 0) <= FIRST_PAUSE
    with pytest.raises(ModelLoadError, match=refusal):
        engine.submit(job(ear))
    assert engine.pid is None
    later = time.monotonic() + FIRST_PAUSE + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    engine.submit(job(ear, max_tokens=2, sampling=Sampling(temperature=0)))
    monkeypatch.undo()
    until(lambda: ear.over)
    assert ear.finish is not None


def test_without_an_interpreter_it_says_what_to_do(
    tiny: Tiny, engines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    engine = engines(tiny("qwen3"))
    told: list[object] = []
    engine.open(told.append)
    until(lambda: bool(told))
    assert isinstance(told[0], ModelLoadError)
    assert "use isolation='thread'" in str(told[0])


@pytest.mark.parametrize("first", ["print('hello from a start-up file', flush=True)", ""])
def test_what_start_up_files_print_does_no_harm(
    tiny: Tiny, engines: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, first: str
) -> None:
    (tmp_path / "usercustomize.py").write_text("")
    (tmp_path / "sitecustomize.py").write_text(first)
    monkeypatch.syspath_prepend(tmp_path)
    assert opened(engines(tiny("qwen3"))).n_ctx


def test_a_child_that_speaks_nonsense_is_ended(
    tiny: Tiny, engines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import os, time; from adapters.local.isolation.wire import GREETING; os.write(1, GREETING + b'\\xff' * 99); time.sleep(60)"
    start = starting.start
    monkeypatch.setattr(process, "start", lambda keep: _started_as(["-c", code], monkeypatch, start, keep))
    engine = engines(tiny("qwen3"))
    told: list[object] = []
    engine.open(told.append)
    until(lambda: bool(told))
    assert "it cannot be spoken with (a message of" in str(told[0])


def test_a_listener_that_breaks_fails_its_own_job_only(tiny: Tiny, engines: Any) -> None:
    class Broken(Ear):
        def piece(self, text: bytes, *_more: object) -> bool:
            raise ZeroDivisionError

    engine, broken, good = engines(tiny("qwen3")), Broken(), Ear()
    engine.submit(job(broken, max_tokens=50))
    engine.submit(job(good, max_tokens=5, sampling=Sampling(temperature=0)))
    until(lambda: good.over and broken.over)
    assert "ZeroDivisionError" in str(broken.error)
    assert good.finish is not None


class TestThroughARouter:
    def test_the_next_candidate_answers_when_the_process_dies(self) -> None:
        local = LocalModel("local", path=smollm2(), n_ctx=1024, threads=1, isolation="process", quality=0.9)
        with sync_router_of(local, scripted("spare", usd=9), policy=Policy.cheapest()) as router:
            router.chat.completions.create(messages=HELLO, max_tokens=1, model="local")
            adapter: Any = router._core.fleet.loaded_adapter(0)
            psutil.Process(pid_of(engine_of(adapter))).suspend()  # it cannot answer before it is killed
            threading.Timer(0.3, lambda: os.kill(pid_of(engine_of(adapter)), signal.SIGKILL)).start()
            completion = router.chat.completions.create(messages=HELLO, max_tokens=4)
            assert completion.routing.model == "spare"
            assert "SIGKILL" in str(completion.routing.attempts[0].error)

    def test_alone_it_is_started_again_and_the_caller_gets_the_answer(self) -> None:
        local = LocalModel("local", path=smollm2(), n_ctx=1024, threads=1, isolation="process")
        with sync_router_of(local) as router:
            router.chat.completions.create(messages=HELLO, max_tokens=1)
            adapter: Any = router._core.fleet.loaded_adapter(0)
            process = psutil.Process(pid_of(engine_of(adapter)))
            process.suspend()
            threading.Timer(0.3, process.kill).start()
            completion = router.chat.completions.create(messages=HELLO, max_tokens=4)
            assert [attempt.outcome for attempt in completion.routing.attempts] == ["failed", "succeeded"]

    def test_one_crash_with_many_requests_in_flight_does_not_shut_the_model(self) -> None:
        local = LocalModel("local", path=smollm2(), n_ctx=1024, threads=1, isolation="process")
        with sync_router_of(local) as router:
            ask = router.chat.completions.create
            ask(messages=HELLO, max_tokens=1)
            adapter: Any = router._core.fleet.loaded_adapter(0)
            dead = pid_of(engine_of(adapter))
            psutil.Process(dead).suspend()  # all four are lost, whatever the machine's speed
            with ThreadPoolExecutor(4) as threads:
                answers = [threads.submit(ask, messages=HELLO, max_tokens=4) for _ in range(4)]
                until(lambda: adapter.load().running + adapter.load().waiting == 4)
                os.kill(dead, signal.SIGKILL)
                outcomes = [answer.result(60) for answer in answers]
            for completion in outcomes:
                assert [attempt.outcome for attempt in completion.routing.attempts] == ["failed", "succeeded"]
                error: Any = completion.routing.attempts[0].error
                assert (type(error), error.code) == (ModelConnectionError, CRASHED)
            assert router._core.health.last_error("local") is None
            assert ask(messages=HELLO, max_tokens=1).choices

    def test_a_stream_that_began_says_what_was_lost(self) -> None:
        local = LocalModel("local", path=smollm2(), n_ctx=1024, threads=1, isolation="process")
        with sync_router_of(local) as router:
            stream = router.chat.completions.create(
                messages=HELLO, max_tokens=900, temperature=0, stream=True
            )
            first = text_of([next(stream)])
            adapter: Any = router._core.fleet.loaded_adapter(0)
            os.kill(pid_of(engine_of(adapter)), signal.SIGSEGV)
            with pytest.raises((StreamInterruptedError, AllModelsFailedError)) as caught:
                list(stream)
            assert first in getattr(caught.value, "text", first)
            again = router.chat.completions.create(messages=HELLO, max_tokens=2)
            assert again.choices
