"""The engine whose work is done in another process.

The face counts for itself what runs and waits: it hears of every job's beginning and end. A process that
dies takes its requests with it; the next request starts another one, unless it died too often.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from contextlib import suppress
from typing import cast

from adapters.local.engine import Finish, Job, ModelFacts, Opened
from adapters.local.isolation.crashes import Crashes
from adapters.local.isolation.ending import Ending
from adapters.local.isolation.messages import Cancel, Event, Heard, Open, Setup, Submit
from adapters.local.isolation.messages import Opened as OpenedThere
from adapters.local.isolation.process import Child
from adapters.local.isolation.tickets import Ticket, Tickets
from adapters.local.isolation.turn import shared_descriptor
from adapters.local.isolation.wire import job_fields
from router.adapter import Load
from router.errors import ModelConnectionError, ModelError, ModelHTTPError, ModelLoadError, ModelProtocolError
from router.models import LocalModel

__all__ = ["MOST_WAITING", "ProcessEngine"]

#: Jobs that may wait here; the engine in the child may refuse earlier.
MOST_WAITING = 256
#: What a child may have a listener told.
_METHODS = frozenset({"started", "piece", "finished", "failed"})


class ProcessEngine:
    """Generates with one model, in a process of its own. See `engine.Engine`."""

    def __init__(self, model: LocalModel) -> None:
        self._keeper = _Keeper(model)
        # Also runs at the interpreter's exit: no process is left behind.
        self._finalizer = weakref.finalize(self, self._keeper.close, 2.0)

    def open(self, told: Opened) -> None:
        """See `engine.Engine`."""
        self._keeper.open(told)

    def submit(self, job: Job) -> None:
        """See `engine.Engine`."""
        self._keeper.submit(job)

    def cancel(self, job: Job) -> None:
        """See `engine.Engine`."""
        self._keeper.cancel(job)

    def load(self) -> Load:
        """See `engine.Engine`."""
        return self._keeper.load()

    def close(self, *, wait: float = 2.0) -> None:
        """See `engine.Engine`."""
        self._keeper.close(wait)

    @property
    def ended(self) -> bool:
        """See `engine.Engine`."""
        return self._keeper.ended

    @property
    def pid(self) -> int | None:
        """The process that the engine runs in; None if there is none (any more)."""
        return self._keeper.pid


class _Keeper:
    """What is known of the child and of the jobs it has, under one lock."""

    def __init__(self, model: LocalModel) -> None:
        self._declared = model
        self._lock = threading.RLock()  # the collector may call `close` while its thread holds it
        self._owner: int | None = None  # the process that started the child
        self._child: Child | None = None
        self._dead = True
        self._crashes = Crashes()
        self._crash = ""
        self._tickets = Tickets()
        self._facts: ModelFacts | None = None
        self._told = Load(resident=False)
        self._closed = False

    # From any thread

    def open(self, told: Opened) -> None:
        self._refuse_after_fork()
        with self._lock:
            facts = self._facts
            if self._closed or facts is None:
                child = self._ready_child()
                child.send(Open(self._tickets.add_opening(told)))
                return
        told(facts)

    def submit(self, job: Job) -> None:
        self._refuse_after_fork()
        with self._lock:
            child = self._ready_child()
            number = self._tickets.add_job(job)
            try:
                child.send(Submit(number, job_fields(job)))
            except TypeError:
                self._tickets.end_job(number)
                raise

    def cancel(self, job: Job) -> None:
        job.cancelled = True
        if self._forked:
            return
        with self._lock:
            number = self._tickets.number(job)
            if number is not None:
                self._drop(number)

    def load(self) -> Load:
        # Without the lock: each read is atomic, and the figures are of the moment anyway.
        told, waiting = self._told, self._tickets.waiting
        return Load(
            resident=told.resident and not self._forked,
            running=self._tickets.running,
            waiting=waiting,
            # What the child said may be old; a queue in which nobody waits is not full.
            full=waiting >= MOST_WAITING or (told.full and waiting > 0),
            slots=told.slots,
        )

    def close(self, wait: float) -> None:
        if self._forked:
            return  # the child is the parent's
        with self._lock:
            self._closed = True
            child = self._child
        if child is not None:
            child.end(wait)

    @property
    def ended(self) -> bool:
        child = self._child
        return child is None or self._forked or child.ended

    @property
    def pid(self) -> int | None:
        child = self._child
        return None if child is None or self._dead else child.pid

    @property
    def _forked(self) -> bool:
        return self._owner is not None and self._owner != os.getpid()

    def _refuse_after_fork(self) -> None:
        if self._forked:
            raise ModelLoadError(
                "this process forked after the model was loaded; its engine belongs to the process it forked "
                "from. Use local models after forking, or start processes with the method 'spawn' or "
                "'forkserver'",
                model=self._declared.name,
            )

    def _ready_child(self) -> Child:
        """The child, started if there is none.

        Raises:
            ModelError: if nothing more is taken.
        """
        name = self._declared.name
        if self._closed:
            raise self._closed_error()
        if self._tickets.waiting >= MOST_WAITING:
            text = f"{MOST_WAITING} requests wait for {name!r} already"
            raise ModelHTTPError(text, model=name, status_code=503, code="queue_full")
        if self._child is not None and not self._dead:
            return self._child
        if pause := self._crashes.wait(time.monotonic()):
            text = f"{self._crash}; it crashed too often and is not started again for {pause:.0f} s"
            raise ModelLoadError(text, model=name)
        self._owner = os.getpid()
        fields = self._declared.model_dump(mode="json", include=set(LocalModel.model_fields))
        turn = shared_descriptor()
        setup = Setup(fields, turn=turn)
        keep = () if turn is None else (turn,)
        self._child = Child(name, setup, keep=keep, hear=self._hear, over=self._over)
        self._dead = False
        return self._child

    def _closed_error(self) -> ModelError:
        return ModelConnectionError(
            f"the local model {self._declared.name!r} was closed", model=self._declared.name
        )

    def _drop(self, number: int) -> Ticket | None:
        """Stops a job in the child; whatever is still told of it is not listened to."""
        with self._lock:
            ticket = self._tickets.end_job(number)
            if ticket is not None and self._child is not None:
                self._child.send(Cancel(number))
            return ticket

    # On the child's thread

    def _hear(self, message: object) -> None:
        event = cast("Event", message)
        if isinstance(event, Heard):
            self._hear_of_job(event)
        elif isinstance(event, OpenedThere):
            if isinstance(event.outcome, ModelFacts):
                self._facts = event.outcome
            with self._lock:
                told = self._tickets.end_opening(event.id)
            if told is not None:
                told(event.outcome)
        elif isinstance(event, Load):
            self._told = event

    def _hear_of_job(self, event: Heard) -> None:
        with self._lock:
            ticket = self._tickets.ticket(event.id)
            if ticket is None:  # cancelled
                return
            if event.method == "started":
                self._tickets.begin(ticket)
            elif event.method != "piece":
                self._tickets.end_job(event.id)
        try:
            self._tell(event, ticket)
        except Exception as error:  # noqa: BLE001 - one listener's failure must not end the thread that serves all
            self._drop(event.id)
            text = f"generation failed: {error!r}"
            ticket.job.listener.failed(ModelProtocolError(text, model=self._declared.name))

    def _tell(self, event: Heard, ticket: Ticket) -> None:
        listener = ticket.job.listener
        if event.method not in _METHODS:
            raise ValueError(event.method)
        go_on = getattr(listener, event.method)(*event.told, **event.named)
        if event.method == "piece":
            ticket.pieces += 1
            if not go_on and self._drop(event.id) is not None:
                # The child ran on meanwhile; what counts is what was listened to.
                finish: Finish = "stop"
                listener.finished(finish, ticket.pieces)

    def _over(self, ending: Ending) -> None:
        with self._lock:
            doing = self._doing()
            loaded, self._facts = self._told.resident, None
            self._told = Load(resident=False, slots=self._told.slots)
            lost, self._dead = self._tickets.end_all(), True
            if not self._closed:
                self._crashes.add(time.monotonic())
                self._crash = f"the local model {self._declared.name!r}: {ending.text(doing)}"
        for tell in lost:
            with suppress(Exception):  # whatever one of them does, the others must be told
                tell(self._lost(loaded=loaded))

    def _doing(self) -> str:
        if not self._told.resident:
            return "while it loaded the model"
        running = self._tickets.running
        return (
            f"while it answered {running} request{'s' * (running != 1)}" if running else "while it was idle"
        )

    def _lost(self, *, loaded: bool) -> ModelError:
        if self._closed:
            return self._closed_error()
        kind = ModelConnectionError if loaded else ModelLoadError
        return kind(self._crash, model=self._declared.name)
