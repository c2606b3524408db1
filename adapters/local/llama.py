"""The engine that answers one chat after the other.

One owner thread loads the model and is the only one to touch it: llama.cpp aborts the process when two
threads use one context. The face that others hold has no reference cycle with the thread, so that dropping
an adapter ends its thread, too.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING

from adapters.local.engine import Finish, Job, ModelFacts, Opened
from router.adapter import Load
from router.errors import ModelConnectionError, ModelError, ModelHTTPError, ModelLoadError, ModelProtocolError
from router.models import LocalModel

if TYPE_CHECKING:
    from adapters.local.generation import Generator

__all__ = ["MOST_WAITING", "LlamaEngine"]

#: Jobs that may wait for a model; beyond it requests are better served elsewhere.
MOST_WAITING = 256

#: The process that loaded a model. llama.cpp's threads do not survive a fork, and waiting for them hangs.
_loader: int | None = None


def _refuse_after_fork(model: str) -> None:
    if _loader is not None and _loader != os.getpid():
        raise ModelLoadError(
            "this process forked after the model was loaded; llama.cpp does not survive a fork. Load local "
            "models after forking, or start processes with the method 'spawn' or 'forkserver'",
            model=model,
        )


class LlamaEngine:
    """Generates with one model, one job at a time, in the order of their coming. See `engine.Engine`."""

    def __init__(self, model: LocalModel) -> None:
        self._worker = _Worker(model)
        # Also runs at the interpreter's exit, before daemon threads are frozen in the middle of a step.
        self._finalizer = weakref.finalize(self, self._worker.close, 2.0)

    def open(self, told: Opened) -> None:
        """See `engine.Engine`."""
        self._worker.open(told)

    def submit(self, job: Job) -> None:
        """See `engine.Engine`."""
        self._worker.submit(job)

    def cancel(self, job: Job) -> None:
        """See `engine.Engine`."""
        self._worker.cancel(job)

    def load(self) -> Load:
        """See `engine.Engine`."""
        return self._worker.load()

    def close(self, *, wait: float = 2.0) -> None:
        """See `engine.Engine`."""
        self._worker.close(wait)

    @property
    def ended(self) -> bool:
        """See `engine.Engine`."""
        return self._worker.ended


class _Worker:
    """The owner thread and what it shares with others, under one lock."""

    def __init__(self, model: LocalModel) -> None:
        self._declared = model
        self._lock = threading.Condition()
        self._thread: threading.Thread | None = None
        self._opened: deque[Opened] = deque()
        self._fresh: deque[Job] = deque()  # not yet tokenized
        self._ready: deque[tuple[Job, list[int]]] = deque()
        self._running: Job | None = None
        self._generator: Generator | None = None
        self._facts: ModelFacts | None = None
        self._closed = False

    # From any thread

    def open(self, told: Opened) -> None:
        _refuse_after_fork(self._declared.name)
        with self._lock:
            facts = self._facts
            if self._closed or facts is None:
                self._check_room()
                self._opened.append(told)
                self._wake()
                return
        told(facts)

    def submit(self, job: Job) -> None:
        _refuse_after_fork(self._declared.name)
        with self._lock:
            self._check_room()
            self._fresh.append(job)
            self._wake()

    def cancel(self, job: Job) -> None:
        job.cancelled = True
        if _loader not in (None, os.getpid()):
            return
        with self._lock:
            if self._running is job and self._generator is not None:
                self._generator.abort()
            elif job in self._fresh:
                self._fresh.remove(job)
            else:
                self._ready = deque(entry for entry in self._ready if entry[0] is not job)

    def load(self) -> Load:
        # Without the lock: each read is atomic, and the figures are of the moment anyway.
        waiting = self._waiting()
        return Load(
            resident=self._facts is not None and _loader == os.getpid(),
            running=int(self._running is not None),
            waiting=waiting,
            full=waiting >= MOST_WAITING,
            slots=1,
        )

    def close(self, wait: float) -> None:
        if _loader not in (None, os.getpid()):
            return  # the thread is the parent's
        with self._lock:
            self._closed = True
            if self._generator is not None:
                self._generator.abort()
            self._lock.notify_all()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread() and wait > 0:
            thread.join(wait)

    @property
    def ended(self) -> bool:
        return self._thread is None or not self._thread.is_alive()

    def _waiting(self) -> int:
        return len(self._opened) + len(self._fresh) + len(self._ready)

    def _check_room(self) -> None:
        name = self._declared.name
        if self._closed:
            raise self._closed_error()
        if self._waiting() >= MOST_WAITING:
            raise ModelHTTPError(
                f"{MOST_WAITING} requests wait for {name!r} already",
                model=name,
                status_code=503,
                code="queue_full",
            )

    def _closed_error(self) -> ModelError:
        return ModelConnectionError(
            f"the local model {self._declared.name!r} was closed", model=self._declared.name
        )

    def _wake(self) -> None:
        if self._thread is None:
            name = f"router-local-{self._declared.name}"
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()
        self._lock.notify_all()

    # On the owner thread

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                if self._generator is None and not self._try_load():
                    continue
                self._admit()
                self._run_next()
        finally:
            self._end()

    def _wait_for_work(self) -> bool:
        with self._lock:
            while not (self._closed or self._waiting()):
                self._lock.wait()
            return not self._closed

    def _end(self) -> None:
        with self._lock:
            self._closed = True
            generator, self._generator, self._facts = self._generator, None, None
        self._fail_waiting(self._closed_error())
        if generator is not None:
            generator.close()

    def _fail_waiting(self, error: ModelError) -> None:
        with self._lock:
            opened = list(self._opened)
            jobs = [*self._fresh, *(job for job, _ in self._ready)]
            self._opened.clear()
            self._fresh.clear()
            self._ready.clear()
        for told in opened:
            told(error)
        for job in jobs:
            job.listener.failed(error)

    def _try_load(self) -> bool:
        global _loader  # noqa: PLW0603 - a fork is the process's matter, not one engine's
        try:
            from adapters.local.generation import Generator

            _loader = os.getpid()
            generator = Generator(self._declared, lambda: not self._closed)
        except ModelError as error:
            self._fail_waiting(self._closed_error() if self._closed else error)
            return False
        except Exception as error:  # noqa: BLE001 - whatever broke, those who wait must be told, and the thread lives
            reason = str(error) or type(error).__name__
            self._fail_waiting(ModelLoadError(f"cannot load: {reason}", model=self._declared.name))
            return False
        with self._lock:
            self._generator, self._facts = generator, generator.facts
        return True

    def _admit(self) -> None:
        """Tells newcomers what they need to know at once, even while a job runs."""
        generator = self._generator
        if generator is None:
            return
        while self._opened:
            self._opened.popleft()(generator.facts)
        while self._fresh:
            self._admit_one(generator)

    def _admit_one(self, generator: Generator) -> None:
        with self._lock:
            if not self._fresh:  # cancelled meanwhile
                return
            job = self._fresh.popleft()
        try:
            tokens = generator.tokens(job)
        except ModelError as error:
            job.listener.failed(error)
            return
        with self._lock:
            if not job.cancelled:
                self._ready.append((job, tokens))

    def _run_next(self) -> None:
        with self._lock:
            generator = self._generator
            if not self._ready or generator is None:
                return
            job, tokens = self._ready.popleft()
            self._running = job
            generator.abort(now=self._closed)
        outcome: tuple[Finish, int] | ModelError | None
        try:
            job.listener.started(len(tokens))
            outcome = generator.run(job, tokens, self._admit)
        except ModelError as error:
            outcome = error
        except Exception as error:  # noqa: BLE001 - one job's failure must not end the thread that serves all
            outcome = ModelProtocolError(f"generation failed: {error!r}", model=self._declared.name)
        with self._lock:
            self._running = None
        self._tell(job, outcome)

    def _tell(self, job: Job, outcome: tuple[Finish, int] | ModelError | None) -> None:
        if isinstance(outcome, tuple):
            job.listener.finished(*outcome)
        elif outcome is not None and not job.cancelled:
            job.listener.failed(self._closed_error() if self._closed else outcome)
