"""Jobs that come, go and are cancelled while the process dies under them: each ends once, and the next works."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from typing import Any

import pytest

from adapters.local.engine import Finish, Job, Sampling
from router.errors import ModelConnectionError, ModelError, ModelLoadError
from tests.adapters.local.conftest import Tiny
from tests.adapters.local.isolation.conftest import Ear, job, opened, pid_of
from tests.adapters.local.kit import until

pytestmark = pytest.mark.gguf


class Strict(Ear):
    """Complains about whatever a listener must not be told."""

    def __init__(self) -> None:
        super().__init__()
        self.complaints: list[str] = []

    def piece(self, text: bytes, *more: object) -> bool:
        if self.over or self.prompt_tokens is None:
            self.complaints.append("a piece before the start or after the end")
        return super().piece(text, *more)

    def finished(self, finish: Finish, completion_tokens: int, *more: object) -> None:
        if self.over or completion_tokens != len(self.pieces):
            self.complaints.append(
                f"{completion_tokens} tokens, {len(self.pieces)} pieces, over: {self.over}"
            )
        super().finished(finish, completion_tokens, *more)

    def failed(self, error: ModelError) -> None:
        if self.over:
            self.complaints.append(f"failed after its end: {error}")
        super().failed(error)


@pytest.mark.parametrize("seed", range(3))
def test_every_job_ends_once_whatever_happens(tiny: Tiny, engines: Any, seed: int) -> None:
    chance = random.Random(seed)
    engine = engines(tiny("qwen3"), n_ctx=2048, threads=1)
    opened(engine)
    reference = Ear()
    engine.submit(job(reference, sampling=Sampling(temperature=0), max_tokens=12))
    until(lambda: reference.over)
    kept: list[tuple[Strict, Job]] = []
    cancelled: list[Job] = []
    guard = threading.Lock()

    def come_and_go(chance: random.Random) -> None:
        for _ in range(15):
            ear = Strict()
            one = job(ear, sampling=Sampling(temperature=0), max_tokens=chance.choice([1, 12, 60, 400]))
            engine.submit(one)
            with guard:
                kept.append((ear, one))
            time.sleep(chance.random() * 0.02)
            if chance.random() < 0.4:
                with guard:
                    cancelled.append(one)
                engine.cancel(one)

    threads = [threading.Thread(target=come_and_go, args=(random.Random(chance.random()),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(chance.random() * 0.2)
    os.kill(pid_of(engine), chance.choice([signal.SIGKILL, signal.SIGSEGV]))
    for thread in threads:
        thread.join(60)
    until(lambda: all(ear.over or one in cancelled for ear, one in kept), 60)
    assert [ear.complaints for ear, _ in kept if ear.complaints] == []
    for ear, one in kept:
        assert ear.error is None or isinstance(ear.error, ModelConnectionError | ModelLoadError), ear.error
        if ear.finish is not None and one.max_tokens == 12:
            assert ear.pieces == reference.pieces
    assert (engine.load().running, engine.load().waiting) == (0, 0)
    last = Ear()
    engine.submit(job(last, sampling=Sampling(temperature=0), max_tokens=12))
    until(lambda: last.over)
    assert last.pieces == reference.pieces
