"""The thread that owns a model, and what it shares with the others.

It loads the model and is the only one to touch it: llama.cpp aborts the process when two threads use one
context.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from adapters.local.batching.forking import forked, loads, refuse_after_fork
from adapters.local.batching.waiting import Waiting, closed, full
from adapters.local.engine import Job, ModelFacts, Opened
from adapters.local.residency import RESIDENCY, Tenant, UnwantedError
from adapters.local.residency.tenant import Place
from adapters.local.waking import flush, gather
from router.adapter import Load
from router.errors import ModelError, ModelLoadError, ModelProtocolError
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


class Worker:
    """One model's thread, its queue and its lock. No step is computed under the lock.

    The model may leave memory while it is idle, and comes back with the next request. Fulfils
    `residency.Engine`.

    Args:
        model: What to load, at the first use.
        place: Where its memory comes from; None: this process's books.
        limit: Bytes that all models in those books may take together; None: what there is to spare.
    """

    def __init__(self, model: LocalModel, place: Place | None = None, limit: int | None = None) -> None:
        self._declared = model
        self._place = place or Tenant(RESIDENCY, model.name, self, limit)
        self._slots = min(model.max_parallel, MOST_SLOTS)
        self._lock = threading.Condition()
        self._thread: threading.Thread | None = None
        self._waiting: Waiting[Chat] = Waiting()
        self._running: list[Chat] = []  # the serving's own list, which only the owner thread changes
        self._loaded: Loaded | None = None
        self._serving: Serving | None = None
        self._facts: ModelFacts | None = None  # of the last load
        self._leaving = False
        self._closed = False

    # From any thread

    def open(self, told: Opened) -> None:
        """Loads the model if need be, and tells. See `engine.Engine`."""
        refuse_after_fork(self._declared.name)
        with self._lock:
            loaded = self._loaded
            if self._closed or loaded is None:
                self._check_room()
                self._waiting.opened.append(told)
                self._wake()
                return
        told(loaded.facts)

    def give_up(self, told: Opened) -> None:
        """Nobody waits for what `open` would tell. See `engine.Engine`."""
        if forked():
            return
        with self._lock:
            self._waiting.forget(told)
        self._place.changed()

    def submit(self, job: Job) -> None:
        """Queues a job. See `engine.Engine`."""
        refuse_after_fork(self._declared.name)
        self._place.used()
        with self._lock:
            self._check_room()
            self._waiting.fresh.append(job)
            self._wake()

    def cancel(self, job: Job) -> None:
        """Stops a job. See `engine.Engine`."""
        job.cancelled = True
        if forked():
            return
        with self._lock:
            alone = len(self._running) == 1 and self._running[0].job is job
            if not self._waiting.remove(job) and self._loaded is not None and alone:
                self._loaded.context.abort()  # beside others a step is short, and theirs, too
        self._place.changed()

    def load(self) -> Load:
        """How busy it is. See `engine.Engine`."""
        # Without the lock: each read is atomic, and the figures are of the moment anyway.
        return Load(
            resident=self._loaded is not None and not forked(),
            running=len(self._running),
            waiting=len(self._waiting),
            full=len(self._waiting) >= MOST_WAITING,
            slots=self._slots,
        )

    def close(self, wait: float) -> None:
        """Ends the thread, and waits for it so many seconds. See `engine.Engine`."""
        if forked():
            return  # the thread is the parent's
        with self._lock:
            self._closed = True
            if self._loaded is not None:
                self._loaded.context.abort()
            self._lock.notify_all()
        self._place.close()
        if (thread := self._thread) not in (None, threading.current_thread()) and wait > 0:
            thread.join(wait)

    @property
    def ended(self) -> bool:
        """Whether the thread does not run (any more)."""
        return self._thread is None or not self._thread.is_alive()

    def _check_room(self) -> None:
        if self._closed:
            raise closed(self._declared.name)
        if len(self._waiting) >= MOST_WAITING:
            raise full(self._declared.name, MOST_WAITING)

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.name = f"router-local-{self._declared.name}"
            self._thread.start()
        self._lock.notify_all()

    # For the books, under their lock

    def idle(self) -> bool:
        """See `residency.Engine`."""
        with self._lock:
            return self._loaded is not None and not (self._running or self._waiting or self._closed)

    def leave(self) -> bool:
        """See `residency.Engine`."""
        with self._lock:
            if self.idle() and not self._leaving:
                self._leaving = True
                self._lock.notify_all()
                return True
            return False

    def _wanted(self) -> bool:
        with self._lock:
            return not self._closed and len(self._waiting) > 0

    # On the owner thread

    def _run(self) -> None:
        gather()
        try:
            while self._wait_for_work():
                if self._serving is None or self._loaded is None:
                    self._try_load()
                    continue
                if self._leaving:
                    self._let_go()
                    continue
                if len(self._waiting):
                    self._admit(self._serving, self._loaded.facts)
                    self._seat(self._serving)
                self._step(self._serving, self._loaded.context)
        finally:
            self._end()

    def _wait_for_work(self) -> bool:
        if not self._running:
            flush()
            self._place.changed()
            if self._serving is not None:
                self._serving.rest(lambda: self._closed or self._leaving or len(self._waiting) > 0)
        longest = self._declared.idle_ttl if self._loaded is not None else None
        end = None if longest is None else time.monotonic() + longest
        with self._lock:
            while not (self._closed or self._leaving or self._waiting or self._running):
                self._leaving = end is not None and time.monotonic() >= end
                if not self._leaving:
                    self._lock.wait(None if end is None else end - time.monotonic())
            return not self._closed

    def _let_go(self) -> None:
        """Gives the memory back. Whoever came meanwhile waits for the next load, unless it is closed."""
        error = closed(self._declared.name)
        with self._lock:
            loaded, self._loaded, serving, self._serving = self._loaded, None, self._serving, None
            self._running = []
        if serving is not None:
            serving.end(error)
            if self._closed:
                self._fail_waiting(error)
            flush()
            serving.put_away()
        if loaded is not None:
            loaded.close()
        self._leaving = False
        self._place.left()

    def _end(self) -> None:
        self._closed = True
        self._let_go()
        self._fail_waiting(closed(self._declared.name))
        flush()

    def _fail_waiting(self, error: ModelError) -> None:
        with self._lock:
            refused = self._waiting.clear()
        refused.tell(error)

    def _try_load(self) -> None:
        try:
            from adapters.local.batching.arriving import arrive
            from adapters.local.batching.serving import Serving

            loads()
            loaded = arrive(self._declared, self._slots, self._place, self._wanted, self._facts)
        except UnwantedError:
            return
        except ModelError as error:
            self._fail_waiting(closed(self._declared.name) if self._closed else error)
            return
        except Exception as error:  # noqa: BLE001 - whatever broke, those who wait must be told, and the thread lives
            reason = str(error) or type(error).__name__
            self._fail_waiting(ModelLoadError(f"cannot load: {reason}", model=self._declared.name))
            return
        self._facts = loaded.facts
        serving = Serving(loaded, self._declared.name, lambda: not self._closed)
        with self._lock:
            self._loaded, self._serving, self._running = loaded, serving, serving.running

    def _admit(self, serving: Serving, facts: ModelFacts) -> None:
        """Tells newcomers at once what they need to know, whether or not there is a seat for them."""
        with self._lock:
            opened = self._waiting.all_opened()
        for told in opened:
            told(facts)
        while self._waiting.fresh:
            with self._lock:
                if not self._waiting.fresh:  # cancelled meanwhile
                    return
                job = self._waiting.fresh[0]  # it counts as waiting all the time
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
                if self._waiting.fresh and self._waiting.fresh[0] is job:
                    self._waiting.fresh.popleft()
                    if chat is not None:
                        self._waiting.queue.push(chat, job.session)

    def _seat(self, serving: Serving) -> None:
        """Lets those begin whose turn it is, as long as there are slots and memory."""
        while len(serving.running) < self._slots:
            at_work = serving.sessions
            with self._lock:
                chat = self._waiting.queue.peek(at_work)
                if chat is None or not serving.fits(chat):
                    return
                self._waiting.queue.pop(at_work)
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
                        self._waiting.queue.push(chat, chat.job.session, first=True)
