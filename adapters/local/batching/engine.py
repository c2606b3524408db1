"""The engine as others hold it.

It has no reference cycle with the thread behind it, so that dropping an adapter ends its thread, too.
"""

from __future__ import annotations

import weakref

from adapters.local.batching.worker import Worker
from adapters.local.engine import Job, Opened
from adapters.local.residency.tenant import Place
from router.adapter import Load
from router.models import LocalModel

__all__ = ["BatchingEngine"]


class BatchingEngine:
    """Generates with one model, many jobs at once, fair among their sessions. See `engine.Engine`.

    Args:
        model: What it generates with.
        place: Where its memory comes from; None: this process's books.
        limit: Bytes that all local models in those books may take together; None: what there is to spare.
    """

    def __init__(self, model: LocalModel, *, place: Place | None = None, limit: int | None = None) -> None:
        self._worker = Worker(model, place, limit)
        # Also runs at the interpreter's exit, before daemon threads are frozen in the middle of a step.
        self._finalizer = weakref.finalize(self, self._worker.close, 2.0)

    def open(self, told: Opened) -> None:
        """See `engine.Engine`."""
        self._worker.open(told)

    def give_up(self, told: Opened) -> None:
        """See `engine.Engine`."""
        self._worker.give_up(told)

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
