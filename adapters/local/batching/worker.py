"""The thread that owns a model, and what it shares with the others.

It loads the model and is the only one to touch it: llama.cpp aborts the process when two threads use one
context.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from adapters.local.batching.door import Door
from adapters.local.batching.forking import forked, loads, refuse_after_fork
from adapters.local.batching.waiting import Waiting, closed, full
from adapters.local.engine import Job, ModelFacts, Opened
from adapters.local.residency import RESIDENCY, Tenant, UnwantedError
from adapters.local.residency.tenant import Place
from adapters.local.waking import flush, gather
from router.adapter import Load
from router.catalogue.local import MOST_SLOTS
from router.errors import ModelError, ModelLoadError, ModelProtocolError
from router.failures import QUEUE_FULL
from router.models import LocalModel

if TYPE_CHECKING:
    from adapters.local.batching.chats import Chat
    from adapters.local.batching.loaded import Loaded
    from adapters.local.batching.serving import Serving
    from adapters.local.context import NativeContext

__all__ = ["MOST_SLOTS", "MOST_WAITING", "Worker"]

_log = logging.getLogger("router.local")

#: Jobs that may wait for a model; beyond it requests are better served elsewhere.
MOST_WAITING = 256


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
        self._door = Door(model.name, self._lock, self._waiting, self._slots)
        self._running: list[Chat] = []  # the serving's own list, which only the owner thread changes
        self._loaded: Loaded | None = None
        self._serving: Serving | None = None
        self._facts: ModelFacts | None = None  # of the last load
        self._leaving = False
        self._stepping = False  # who has to make room in a step is in no list until it is over
        self._closed = False

    # From any thread

    def open(self, told: Opened) -> None:
        """Loads the model if need be, and tells. See `engine.Engine`."""
        refuse_after_fork(self._declared.name)
        with self._lock:
            loaded = self._loaded
            if self._closed or loaded is None:
                self._check_room()
                self._wake()
                self._waiting.opened.append(told)
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
            self._wake()
            self._waiting.fresh.append(job)

    def cancel(self, job: Job) -> None:
        """Stops a job. See `engine.Engine`."""
        job.cancelled = True
        if forked():
            return
        with self._lock:
            running = tuple(self._running)  # the owner changes it without the lock
            alone = len(running) == 1 and running[0].job is job
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
        """Has the owner thread look, once the lock is free.

        Raises:
            ModelLoadError: if there can be no thread.
        """
        if self._thread is None:
            name = f"router-local-{self._declared.name}"
            thread = threading.Thread(target=self._run, name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                text = f"cannot load: the system gives this process no thread more ({error})"
                raise ModelLoadError(text, model=self._declared.name) from error
            self._thread = thread
        self._lock.notify_all()

    # For the books, under their lock

    def idle(self) -> bool:
        """See `residency.Engine`."""
        with self._lock:
            busy = self._running or self._waiting or self._stepping or self._closed
            return self._loaded is not None and not busy

    def leave(self) -> bool:
        """See `residency.Engine`."""
        with self._lock:
            if self.idle() and not self._leaving:
                self._leaving = True
                self._lock.notify_all()
                return True
            return False

    def untaken(self) -> float:
        """See `residency.Engine`."""
        shelf = None if self._loaded is None else self._loaded.shelf
        return 1.0 if shelf is None else shelf.empty

    def _wanted(self) -> bool:
        with self._lock:
            return not self._closed and len(self._waiting) > 0

    # On the owner thread

    def _run(self) -> None:
        gather()
        try:
            while True:
                try:
                    if not self._wait_for_work():
                        return
                    self._work()
                except Exception as error:  # noqa: BLE001 - it is for all who come, whatever broke for one
                    self._recover(error)
        finally:
            self._end()

    def _work(self) -> None:
        if self._serving is None or self._loaded is None:
            self._try_load()
            return
        if self._leaving:
            self._let_go(closed(self._declared.name))
            return
        if len(self._waiting):
            self._door.admit(self._serving, self._loaded.facts)
            self._door.seat(self._serving)
        self._step(self._serving, self._loaded.context)

    def _recover(self, error: Exception) -> None:
        """Begins anew after what nobody foresaw: those who are here fail, the next one loads it again."""
        name = self._declared.name
        _log.error("the engine of %s broke and begins anew", name, exc_info=error)
        failed = ModelProtocolError(f"the engine broke: {error!r}", model=name)
        failed.__cause__ = error
        self._stepping = False
        with self._lock:  # who comes once the first are told waits for the next load
            refused = self._waiting.clear()
        self._let_go(failed)
        refused.tell(failed)

    def _wait_for_work(self) -> bool:
        if self._running:  # between two steps: nobody else changes it
            return not self._closed
        flush()
        self._place.changed()
        if self._serving is not None:
            self._serving.rest(lambda: self._closed or self._leaving or len(self._waiting) > 0)
        longest = self._declared.idle_ttl if self._loaded is not None else None
        end = None if longest is None else time.monotonic() + longest
        with self._lock:
            while not (self._closed or self._leaving or self._waiting):
                self._leaving = end is not None and time.monotonic() >= end
                if not self._leaving:
                    self._lock.wait(None if end is None else end - time.monotonic())
            return not self._closed

    def _let_go(self, error: ModelError) -> None:
        """Gives the memory back, whatever happens. Those at work, if there are any, get the error.

        Whoever came meanwhile waits for the next load, unless it is closed.
        """
        with self._lock:
            loaded, self._loaded, serving, self._serving = self._loaded, None, self._serving, None
            self._running = []
        try:
            if serving is not None:
                self._dismiss(serving, error)
        finally:
            try:
                if loaded is not None:
                    loaded.close()
            finally:
                self._leaving = False
                self._place.left()

    def _dismiss(self, serving: Serving, error: ModelError) -> None:
        serving.end(error)
        if self._closed:
            self._fail_waiting(error)
        flush()
        try:
            serving.put_away()
        except Exception:  # noqa: BLE001 - what is kept on disk is no reason to keep the memory
            _log.exception("what %s computed cannot be kept on disk", self._declared.name)

    def _end(self) -> None:
        self._closed = True
        error = closed(self._declared.name)
        try:
            self._let_go(error)
        finally:
            self._fail_waiting(error)
            flush()

    def _fail_waiting(self, error: ModelError) -> None:
        with self._lock:
            refused = self._waiting.clear()
        refused.tell(error)

    def _try_load(self) -> None:
        with self._lock:
            first = self._waiting.newcomers()
        try:
            from adapters.local.batching.arriving import arrive
            from adapters.local.batching.serving import Serving

            loads()
            loaded = arrive(self._declared, self._slots, self._place, self._wanted, self._facts)
        except UnwantedError:
            return
        except ModelError as error:
            if self._closed:
                self._fail_waiting(closed(self._declared.name))
            elif error.code == QUEUE_FULL:  # no room in time: whoever came meanwhile has a time of his own
                with self._lock:
                    refused = self._waiting.take(first)
                refused.tell(error)
            else:
                self._fail_waiting(error)
            return
        except Exception as error:  # noqa: BLE001 - whatever broke, those who wait must be told, and the thread lives
            reason = str(error) or type(error).__name__
            self._fail_waiting(ModelLoadError(f"cannot load: {reason}", model=self._declared.name))
            return
        self._facts = loaded.facts
        serving = Serving(loaded, self._declared.name, lambda: not self._closed)
        with self._lock:
            self._loaded, self._serving, self._running = loaded, serving, serving.running

    def _step(self, serving: Serving, context: NativeContext) -> None:
        with self._lock:
            # A cancelled chat that aborted a step is known by now; a close stays in force.
            context.abort(now=self._closed)
            if self._closed:
                return
            self._stepping = True
        evicted = serving.step()
        with self._lock:
            self._waiting.take_back(evicted)
            self._stepping = False
