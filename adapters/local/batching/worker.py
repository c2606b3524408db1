"""The thread that owns a model, and what it shares with the others.

It loads the model and is the only one to touch it: llama.cpp aborts the process when two threads use one
context.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import TYPE_CHECKING

from adapters.local.batching.queue import FairQueue
from adapters.local.engine import Job, ModelFacts, Opened
from adapters.local.waking import flush, gather
from router.adapter import Load
from router.errors import ModelConnectionError, ModelError, ModelHTTPError, ModelLoadError, ModelProtocolError
from router.models import LocalModel

if TYPE_CHECKING:
    from adapters.local.batching.loaded import Loaded
    from adapters.local.batching.serving import Chat, Serving
    from adapters.local.context import NativeContext

__all__ = ["MOST_SLOTS", "MOST_WAITING", "Worker"]

#: Jobs that may wait for a model; beyond it requests are better served elsewhere.
MOST_WAITING = 256
#: The most requests at work at once: a step on a CPU computes 63 tokens, and prompts want their share.
MOST_SLOTS = 48

#: The process that loaded a model. llama.cpp's threads do not survive a fork, and waiting for them hangs.
_loader: int | None = None


def _refuse_after_fork(model: str) -> None:
    if _loader is not None and _loader != os.getpid():
        raise ModelLoadError(
            "this process forked after the model was loaded; llama.cpp does not survive a fork. Load local "
            "models after forking, or start processes with the method 'spawn' or 'forkserver'",
            model=model,
        )


class Worker:
    """One model's thread, its queue and its lock. No step is computed under the lock.

    Args:
        model: What to load, at the first use.
    """

    def __init__(self, model: LocalModel) -> None:
        self._declared = model
        self._slots = min(model.max_parallel, MOST_SLOTS)
        self._lock = threading.Condition()
        self._thread: threading.Thread | None = None
        self._opened: deque[Opened] = deque()
        self._fresh: deque[Job] = deque()  # not yet tokenized
        self._queue: FairQueue[Chat] = FairQueue()
        self._running: list[Chat] = []  # the serving's own list, which only the owner thread changes
        self._loaded: Loaded | None = None
        self._serving: Serving | None = None
        self._closed = False

    # From any thread

    def open(self, told: Opened) -> None:
        """Loads the model if need be, and tells. See `engine.Engine`."""
        _refuse_after_fork(self._declared.name)
        with self._lock:
            loaded = self._loaded
            if self._closed or loaded is None:
                self._check_room()
                self._opened.append(told)
                self._wake()
                return
        told(loaded.facts)

    def submit(self, job: Job) -> None:
        """Queues a job. See `engine.Engine`."""
        _refuse_after_fork(self._declared.name)
        with self._lock:
            self._check_room()
            self._fresh.append(job)
            self._wake()

    def cancel(self, job: Job) -> None:
        """Stops a job. See `engine.Engine`."""
        job.cancelled = True
        if _loader not in (None, os.getpid()):
            return
        with self._lock:
            if job in self._fresh:
                self._fresh.remove(job)
                return
            for chat in self._queue:
                if chat.job is job:
                    self._queue.remove(chat)
                    chat.release()
                    return
            running = self._running
            if self._loaded is not None and len(running) == 1 and running[0].job is job:
                self._loaded.context.abort()  # beside others a step is short, and theirs, too

    def load(self) -> Load:
        """How busy it is. See `engine.Engine`."""
        # Without the lock: each read is atomic, and the figures are of the moment anyway.
        waiting = self._waiting()
        return Load(
            resident=self._loaded is not None and _loader == os.getpid(),
            running=len(self._running),
            waiting=waiting,
            full=waiting >= MOST_WAITING,
            slots=self._slots,
        )

    def close(self, wait: float) -> None:
        """Ends the thread, and waits for it so many seconds. See `engine.Engine`."""
        if _loader not in (None, os.getpid()):
            return  # the thread is the parent's
        with self._lock:
            self._closed = True
            if self._loaded is not None:
                self._loaded.context.abort()
            self._lock.notify_all()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread() and wait > 0:
            thread.join(wait)

    @property
    def ended(self) -> bool:
        """Whether the thread does not run (any more)."""
        return self._thread is None or not self._thread.is_alive()

    def _waiting(self) -> int:
        return len(self._opened) + len(self._fresh) + len(self._queue)

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
        gather()
        try:
            while self._wait_for_work():
                if self._serving is None or self._loaded is None:
                    self._try_load()
                    continue
                self._admit(self._serving, self._loaded.facts)
                self._seat(self._serving)
                self._step(self._serving, self._loaded.context)
        finally:
            self._end()

    def _wait_for_work(self) -> bool:
        if not self._running:
            flush()
        with self._lock:
            while not (self._closed or self._waiting() or self._running):
                self._lock.wait()
            return not self._closed

    def _end(self) -> None:
        with self._lock:
            self._closed = True
            loaded, self._loaded, serving, self._serving = self._loaded, None, self._serving, None
        if serving is not None:
            serving.end(self._closed_error())
        self._fail_waiting(self._closed_error())
        flush()
        if loaded is not None:
            loaded.close()

    def _fail_waiting(self, error: ModelError) -> None:
        with self._lock:
            opened = list(self._opened)
            chats = self._queue.clear()
            jobs = [*(chat.job for chat in chats), *self._fresh]
            self._opened.clear()
            self._fresh.clear()
        for told in opened:
            told(error)
        for chat in chats:
            chat.release()
        for job in jobs:
            if not job.cancelled:
                job.listener.failed(error)

    def _try_load(self) -> None:
        global _loader  # noqa: PLW0603 - a fork is the process's matter, not one engine's
        try:
            from adapters.local.batching.loaded import Loaded
            from adapters.local.batching.serving import Serving

            _loader = os.getpid()
            loaded = Loaded(self._declared, lambda: not self._closed, slots=self._slots)
        except ModelError as error:
            self._fail_waiting(self._closed_error() if self._closed else error)
            return
        except Exception as error:  # noqa: BLE001 - whatever broke, those who wait must be told, and the thread lives
            reason = str(error) or type(error).__name__
            self._fail_waiting(ModelLoadError(f"cannot load: {reason}", model=self._declared.name))
            return
        serving = Serving(loaded, self._declared.name, lambda: not self._closed)
        with self._lock:
            self._loaded, self._serving, self._running = loaded, serving, serving.running

    def _admit(self, serving: Serving, facts: ModelFacts) -> None:
        """Tells newcomers at once what they need to know, whether or not there is a seat for them."""
        while self._opened:
            self._opened.popleft()(facts)
        while self._fresh:
            with self._lock:
                if not self._fresh:  # cancelled meanwhile
                    return
                job = self._fresh[0]  # it counts as waiting all the time
            try:
                chat: Chat | None = serving.chat(job)
            except ModelError as error:
                chat = None
                if not job.cancelled:
                    job.listener.failed(error)
            except Exception as error:  # noqa: BLE001 - one job's failure must not end the thread that serves all
                chat = None
                job.listener.failed(ModelProtocolError(f"cannot begin: {error!r}", model=self._declared.name))
            with self._lock:
                if self._fresh and self._fresh[0] is job:
                    self._fresh.popleft()
                    if chat is not None:
                        self._queue.push(chat, job.session)

    def _seat(self, serving: Serving) -> None:
        """Lets those begin whose turn it is, as long as there are slots and memory."""
        while len(serving.running) < self._slots:
            at_work = serving.sessions
            with self._lock:
                chat = self._queue.peek(at_work)
                if chat is None or not serving.fits(chat):
                    return
                self._queue.pop(at_work)
                serving.running.append(chat)
            serving.begin(chat)

    def _step(self, serving: Serving, context: NativeContext) -> None:
        with self._lock:
            # A cancelled chat that aborted a step is known by now; a close stays in force.
            context.abort(now=self._closed)
            if self._closed:
                return
        evicted = serving.step()
        if evicted:
            with self._lock:
                for chat in reversed(evicted):
                    if chat.job.cancelled:
                        chat.release()
                    else:
                        self._queue.push(chat, chat.job.session, first=True)
