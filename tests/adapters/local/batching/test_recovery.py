"""Whatever breaks: those who are there are told, the memory is given back, and the next request is answered."""

from __future__ import annotations

import logging
import threading

import pytest

from adapters.local.batching import BatchingEngine
from adapters.local.batching.serving import Serving
from adapters.local.residency import RESIDENCY
from adapters.local.weights import WEIGHTS
from router.errors import ModelLoadError, ModelProtocolError
from tests.adapters.local.batching.kit import engine_of, job_of
from tests.adapters.local.conftest import Tiny
from tests.adapters.local.kit import until

pytestmark = pytest.mark.gguf


def test_an_unforeseen_error_fails_those_who_are_there_and_no_more(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_of(tiny("qwen3"))
    step, steps = Serving.step, [0]

    def breaks_once(serving: Serving) -> object:
        steps[0] += 1
        if steps[0] == 3:
            raise MemoryError("no room for a list")
        return step(serving)

    monkeypatch.setattr(Serving, "step", breaks_once)
    jobs = [job_of("the dog", 20) for _ in range(3)]
    with caplog.at_level(logging.ERROR, "router.local"):
        for job, _ in jobs:
            engine.submit(job)
        for _, heard in jobs:
            with pytest.raises(ModelProtocolError, match="no room for a list"):
                assert heard.text
    assert "begins anew" in caplog.text
    job, heard = job_of("the dog", 5)
    engine.submit(job)
    assert heard.text
    assert engine.load().running == 0
    engine.close()


def test_memory_is_given_back_even_if_nothing_can_be_kept_on_disk(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(_serving: Serving) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(Serving, "put_away", cannot)
    before = RESIDENCY.held()
    engine = engine_of(tiny("llama"))
    job, heard = job_of("the dog", 5)
    engine.submit(job)
    assert heard.text
    assert RESIDENCY.held() > before
    engine.close()
    assert RESIDENCY.held() == before
    assert not WEIGHTS._shared


def test_where_no_thread_can_be_had_the_request_fails_and_a_later_one_is_answered(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(tiny("qwen3"))
    with monkeypatch.context() as patched:

        def cannot(_thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patched.setattr(threading.Thread, "start", cannot)
        with pytest.raises(ModelLoadError, match="thread"):
            engine.submit(job_of("the dog")[0])
        with pytest.raises(ModelLoadError, match="thread"):
            engine.open(lambda _told: None)
    assert engine.load().waiting == 0
    job, heard = job_of("the dog", 5)
    engine.submit(job)
    assert heard.text
    engine.close()


def test_nobody_is_sent_away_in_the_middle_of_a_step(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who makes room in a step in which the last other chat ends is in no list until it is over."""
    engine = engine_of(tiny("qwen3"))
    worker, step, seen = engine._worker, Serving.step, list[bool]()

    def looked_at(serving: Serving) -> object:
        evicted = step(serving)
        seen.append(worker.idle() or worker.leave())
        return evicted

    monkeypatch.setattr(Serving, "step", looked_at)
    job, heard = job_of("the dog", 3)
    engine.submit(job)
    assert heard.text
    until(worker.idle)
    assert seen == [False] * len(seen) != []
    engine.close()


def test_an_engine_that_is_dropped_ends(tiny: Tiny) -> None:
    engine: BatchingEngine | None = engine_of(tiny("qwen3"))
    assert engine is not None
    job, heard = job_of("the dog", 3)
    engine.submit(job)
    assert heard.text
    thread = engine._worker._thread
    assert thread is not None
    engine = None
    until(lambda: not thread.is_alive())
