"""Keeps an engine's process: starts it when there is work and room, and ends it when it has none.

It counts for itself what runs and waits: it hears of every job's beginning and end. A process that dies
takes its requests with it; the next request starts another one, unless it died too often.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from adapters.local.batching.waiting import closed, full
from adapters.local.batching.worker import MOST_SLOTS, MOST_WAITING
from adapters.local.engine import Job, ModelFacts, Opened
from adapters.local.isolation.alarm import Alarm
from adapters.local.isolation.crashes import Crashes
from adapters.local.isolation.ending import Ending, what
from adapters.local.isolation.life import Life
from adapters.local.isolation.messages import Cancel, Event, Heard, Open, Said, Submit
from adapters.local.isolation.messages import Opened as OpenedThere
from adapters.local.isolation.process import Child
from adapters.local.isolation.saying import say
from adapters.local.isolation.tickets import Ticket, Tickets
from adapters.local.isolation.wire import job_fields
from adapters.local.residency import RESIDENCY, Tenant
from router.adapter import Load
from router.errors import ModelConnectionError, ModelError, ModelLoadError, ModelProtocolError
from router.failures import CRASHED, QUEUE_FULL
from router.models import LocalModel

__all__ = ["MOST_WAITING", "Keeper"]


class Keeper:
    """What is known of the child and of the jobs it has, under one lock. Fulfils `residency.Engine`.

    Args:
        model: What the process is to load.
        limit: Bytes that all local models of the app may take together; None: what there is to spare.
    """

    def __init__(self, model: LocalModel, limit: int | None) -> None:
        self._declared = model
        self._place = Tenant(RESIDENCY, model.name, self, limit)
        self._lock = threading.RLock()  # the collector may call `close` while its thread holds it
        self._owner: int | None = None  # the process that started the child
        self._child: Child | None = None
        self._life: Life | None = None
        self._former: list[Child] = []  # that were sent away, and may not have ended yet
        self._dead = True
        self._crashes = Crashes()
        self._crash = ""
        self._tickets = Tickets()
        self._facts: ModelFacts | None = None
        self._told = Load(resident=False, slots=min(model.max_parallel, MOST_SLOTS))
        self._alarm = Alarm(model.idle_ttl, self._idle_since, self.leave)
        self._idle_from = 0.0
        self._closed = False

    # From any thread

    def open(self, told: Opened) -> None:
        """See `engine.Engine`."""
        self._refuse_after_fork()
        with self._lock:
            facts = self._facts
            if self._closed or facts is None:
                child = self._ready_child()
                child.send(Open(self._tickets.add_opening(told)))
                return
        told(facts)

    def give_up(self, told: Opened) -> None:
        """See `engine.Engine`."""
        if self._forked:
            return
        with self._lock:
            self._tickets.forget(told)
        self._rest()

    def submit(self, job: Job) -> None:
        """See `engine.Engine`."""
        self._refuse_after_fork()
        self._place.used()
        with self._lock:
            child = self._ready_child()
            number = self._tickets.add_job(job)
            try:
                child.send(Submit(number, job_fields(job)))
            except TypeError:
                self._tickets.end_job(number)
                raise

    def cancel(self, job: Job) -> None:
        """See `engine.Engine`."""
        job.cancelled = True
        if self._forked:
            return
        with self._lock:
            number = self._tickets.number(job)
            if number is not None:
                self._drop(number)
        self._rest()

    def load(self) -> Load:
        """See `engine.Engine`."""
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
        """See `engine.Engine`."""
        if self._forked:
            return  # the child is the parent's
        with self._lock:
            self._closed = True
            child = self._child
        self._alarm.stop()
        self._place.close()
        if child is not None:
            child.end(wait)

    @property
    def ended(self) -> bool:
        """See `engine.Engine`."""
        children = [*self._former, self._child]
        return self._forked or all(child is None or child.ended for child in children)

    @property
    def pid(self) -> int | None:
        """The process that the engine runs in; None if there is none (any more)."""
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
            raise closed(name)
        if self._tickets.waiting >= MOST_WAITING:
            raise full(name, MOST_WAITING)
        if self._child is not None and not self._dead:
            return self._child
        if pause := self._crashes.wait(time.monotonic()):
            text = f"{self._crash}; it crashed too often and is not started again for {pause:.0f} s"
            raise ModelLoadError(text, model=name, retry_after=pause)
        self._owner = os.getpid()
        life = Life(self._declared, self._place, lambda: self._wanted(life))
        self._former = [child for child in (*self._former, self._child) if child and not child.ended]
        try:
            child = life.start(lambda told: self._hear(life, told), lambda ending: self._over(life, ending))
        except RuntimeError as error:
            text = f"cannot load: the system gives this process no thread more ({error})"
            raise ModelLoadError(text, model=name) from error
        self._life, self._dead, self._child = life, False, child
        return child

    def _drop(self, number: int) -> Ticket | None:
        """Stops a job in the child; whatever is still told of it is not listened to."""
        with self._lock:
            ticket = self._tickets.end_job(number)
            if ticket is not None and self._child is not None:
                self._child.send(Cancel(number))
            return ticket

    def _look_round(self) -> None:
        """After something ended, under the lock: a process that loads for nobody is ended."""
        if not self._tickets and not self._told.resident and not self._dead:
            self._retire()

    def _retire(self) -> None:
        """Sends the child away, under the lock; the next request starts another one."""
        if self._life is not None and self._child is not None:
            self._life.retired = self._dead = True
            self._facts, self._told = None, Load(resident=False, slots=self._told.slots)
            self._child.end(0)

    def _idle_since(self) -> float | None:
        """When it became idle; None: it is not, or has nothing in memory."""
        return None if self._tickets or not self._told.resident else self._idle_from

    # For the books, under their lock

    def idle(self) -> bool:
        """See `residency.Engine`."""
        with self._lock:
            return self._told.resident and not self._tickets and not self._dead and not self._closed

    def untaken(self) -> float:
        """See `residency.Engine`; what it does not know it does not count on."""
        return 1.0

    def leave(self) -> bool:
        """See `residency.Engine`."""
        with self._lock:
            if not self.idle():
                return False
            self._retire()
            return True

    def _wanted(self, life: Life) -> bool:
        with self._lock:
            if self._closed or not self._tickets or life.retired:
                life.retired = True
                self._dead = self._dead or life is self._life
                return False
            if life.newest is None:
                life.newest = self._tickets.newest
            return True

    # On the child's thread

    def _hear(self, life: Life, message: object) -> None:
        event = cast("Event", message)
        if isinstance(event, Said):
            say(self._declared.name, event)
            return
        if life is not self._life or life.retired:
            return
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
            before, self._told = self._told, event
            if event.resident and not before.resident:
                life.loaded(self.pid)
        self._rest()

    def _rest(self) -> None:
        """After something was heard, or given up: is there nothing more to do?"""
        with self._lock:
            if self._tickets:
                return
            self._idle_from = time.monotonic()
            self._look_round()
        self._alarm.look()
        self._place.changed()

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
            if not ticket.tell(event) and self._drop(event.id) is not None:
                # The child ran on meanwhile; what counts is what was listened to.
                ticket.job.listener.finished("stop", ticket.pieces)
        except Exception as error:  # noqa: BLE001 - one listener's failure must not end the thread that serves all
            self._drop(event.id)
            text = f"generation failed: {error!r}"
            ticket.job.listener.failed(ModelProtocolError(text, model=self._declared.name))

    def _over(self, life: Life, ending: Ending) -> None:
        life.over()
        with self._lock:
            if life is not self._life or life.retired:
                return
            doing = what(self._tickets.running, loaded=self._told.resident)
            loaded, self._facts = self._told.resident, None
            self._told = Load(resident=False, slots=self._told.slots)
            # Without room in time: whoever came meanwhile has a time of his own.
            busy = life.refusal is not None and life.refusal.code == QUEUE_FULL
            lost, self._dead = self._tickets.end_all(life.newest if busy else None), True
            if not self._closed and life.refusal is None:
                self._crashes.add(time.monotonic())
                self._crash = f"the local model {self._declared.name!r}: {ending.text(doing)}"
            refusal = life.refusal or self._lost(loaded=loaded)
            lost += self._start_anew()
        for tell in lost:
            with suppress(Exception):  # whatever one of them does, the others must be told
                tell(refusal)

    def _start_anew(self) -> list[Callable[[ModelError], object]]:
        """For those who still wait, under the lock. Whom to tell that it cannot be."""
        if not self._tickets:
            return []
        try:
            child = self._ready_child()
        except ModelError:
            return self._tickets.end_all()
        for message in self._tickets.messages():
            child.send(message)
        return []

    def _lost(self, *, loaded: bool) -> ModelError:
        if self._closed:
            return closed(self._declared.name)
        kind = ModelConnectionError if loaded else ModelLoadError
        return kind(self._crash, model=self._declared.name, code=CRASHED)
