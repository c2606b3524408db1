"""Backends at work in one world: their places, queues and outages."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from router.adapter import Load
from router.errors import ModelConnectionError, ModelError, ModelTimeoutError
from router.simulate.demand import Demand, Fate
from router.simulate.truth import Service, Truth

__all__ = ["Agenda", "Host", "Job", "Told"]


class Told(Protocol):
    """Who asked for a job, and is told what becomes of it."""

    def begun(self, job: Job) -> None:
        """The backend begins to work on it, as far as the caller can see."""

    def visible(self, job: Job) -> None:
        """The first token is there."""

    def finished(self, job: Job) -> None:
        """The whole answer is there."""

    def failed(self, job: Job, error: ModelError) -> None:
        """It failed."""

    def silent(self, job: Job) -> None:
        """Nothing is heard of it any more, or not for long."""


class Agenda(Protocol):
    """The world's time and what is due."""

    now: float

    def at(self, time: float, act: Callable[[], None]) -> None:
        """Lets something happen at a time."""


class Job:
    """One attempt at a host.

    Attributes:
        number: The attempt's number within its request.
        due_at: When something is heard of it next; infinite while that is not known.
        queued: Whether it waits in the backend's queue.
        visible: Whether its first token was there.
        over: Whether it ended or was cancelled.
    """

    __slots__ = (
        "asker",
        "begun_at",
        "demand",
        "due_at",
        "fate",
        "number",
        "over",
        "queued",
        "service",
        "visible",
    )

    def __init__(self, asker: Told, number: int, demand: Demand, fate: Fate) -> None:
        self.asker = asker
        self.number = number
        self.demand = demand
        self.fate = fate
        self.service: Service | None = None
        self.begun_at = 0.0
        self.due_at = math.inf
        self.queued = False
        self.visible = False
        self.over = False

    @property
    def ends_at(self) -> float:
        """When it ends, once it is served."""
        if self.service is None:
            return math.inf
        after = self.service.fails_after
        return self.begun_at + (self.service.total if after is None else after)


class Host:
    """A backend at work.

    Attributes:
        truth: How it really behaves.
        local: Whether it is an engine of this machine: it tells its queue, and when it begins.
        waiting: Jobs in its queue.
        queued_seconds: How long the jobs in its queue would take now, one after the other; an estimate.
    """

    def __init__(self, truth: Truth, agenda: Agenda, *, local: bool, patience: float) -> None:
        self.truth = truth
        self.local = local
        self.slots = truth.backend.slots or math.inf
        self.waiting = 0
        self.queued_seconds = 0.0
        self.running: dict[Job, None] = {}
        self._agenda = agenda
        self._patience = patience
        self._queue: deque[tuple[Job, float]] = deque()
        loads = local and truth.backend.load and not getattr(truth.backend.model, "preload", False)
        self._ready_at = math.inf if loads else 0.0

    @property
    def resident(self) -> bool:
        """Whether it is loaded."""
        return self._agenda.now >= self._ready_at

    def load(self) -> Load:
        """What an engine tells of itself."""
        running = len(self.running)
        return Load(
            resident=self.resident, running=running, waiting=self.waiting, slots=self.truth.backend.slots
        )

    def wait(self) -> float:
        """Seconds until a job that arrived now would begin, as one sees who looks into the queue."""
        now = self._agenda.now
        if not self.resident:
            loading = self.truth.backend.load if self._ready_at == math.inf else self._ready_at - now
            return loading + self.queued_seconds / self.slots
        if len(self.running) < self.slots:
            return 0.0
        first = min(job.ends_at for job in self.running)
        return max(first - now, 0.0) + self.queued_seconds / self.slots

    def submit(self, job: Job) -> None:
        """A job arrives."""
        out = self.truth.out(self._agenda.now)
        if out is not None:
            self._lost(job, out)
        elif self.resident and len(self.running) < self.slots:
            self._serve(job)
        else:
            self._enqueue(job)
        if not self.local:
            job.asker.begun(job)  # a host tells nothing of its queue

    def cancel(self, job: Job) -> None:
        """The caller does not want it any more: the work stops at once."""
        if job.over:
            return
        job.over = True
        if job in self.running:
            self._free(job)
        elif job.queued:
            self._forget(job)

    def _enqueue(self, job: Job) -> None:
        seconds = self.truth.expected(job.demand, self._agenda.now).latency
        self._queue.append((job, seconds))
        job.queued = True
        self.waiting += 1
        self.queued_seconds += seconds
        if self._ready_at == math.inf:
            self._ready_at = self._agenda.now + self.truth.backend.load
            self._agenda.at(self._ready_at, self._serve_next)

    def _forget(self, job: Job) -> None:
        """Takes a cancelled job out of the queue; a deque finds its place slowly, but that is rare."""
        for place, (queued, seconds) in enumerate(self._queue):
            if queued is job:
                del self._queue[place]
                self.waiting -= 1
                self.queued_seconds -= seconds
                return

    def _serve(self, job: Job) -> None:
        now = self._agenda.now
        job.queued = False
        self.running[job] = None
        job.service = service = self.truth.serve(job.demand, job.fate, now)
        job.begun_at = now
        job.due_at = now + service.ttft
        if job.demand.kind.request.stream and job.due_at < job.ends_at:
            self._agenda.at(job.due_at, partial(self._first, job))
        else:
            job.due_at = job.ends_at
            self._agenda.at(job.due_at, partial(self._last, job))
        if self.local:
            job.asker.begun(job)

    def _serve_next(self) -> None:
        while self._queue and self.resident and len(self.running) < self.slots:
            job, seconds = self._queue.popleft()
            self.waiting -= 1
            self.queued_seconds = self.queued_seconds - seconds if self.waiting else 0.0
            self._serve(job)

    def _free(self, job: Job) -> None:
        del self.running[job]
        self._serve_next()

    def _served(self, job: Job) -> Service | None:
        """What a job is being served, if something of it is due now; None if it is over or just lost."""
        if job.over:
            return None
        out = self.truth.out(self._agenda.now)
        if out is not None:
            self._lost(job, out)
            return None
        return job.service

    def _first(self, job: Job) -> None:
        """The first token is due."""
        if self._served(job) is None:
            return
        job.visible = True
        job.due_at = job.ends_at
        self._agenda.at(job.due_at, partial(self._last, job))
        job.asker.visible(job)

    def _last(self, job: Job) -> None:
        """The end is due."""
        service = self._served(job)
        if service is None:
            return
        job.over = True
        self._free(job)
        if service.fails_after is None:
            self.truth.keep(job.demand.session, service.prompt_tokens, self._agenda.now)
            job.asker.finished(job)
        else:
            job.asker.failed(job, self.truth.backend.error())

    def _lost(self, job: Job, out: str) -> None:
        """An outage swallows a job: it fails at once, or nothing is heard of it any more."""
        now = self._agenda.now
        if out == "refuses":
            job.due_at = now
            self._agenda.at(now, partial(self._refused, job))
        elif job.visible:  # whoever reads a stream gives up when nothing comes for long
            job.due_at = now + self._patience
            self._agenda.at(job.due_at, partial(self._stalled, job))
            job.asker.silent(job)
        else:
            job.due_at = math.inf
            job.asker.silent(job)
        if job in self.running:
            self._free(job)

    def _refused(self, job: Job) -> None:
        self._broke(job, ModelConnectionError("the simulated host is down", model=self.truth.backend.name))

    def _stalled(self, job: Job) -> None:
        text = "the simulated host fell silent"
        error = ModelTimeoutError(text, model=self.truth.backend.name, timeout=self._patience)
        self._broke(job, error)

    def _broke(self, job: Job, error: ModelError) -> None:
        if job.over:
            return
        job.over = True
        job.asker.failed(job, error)
