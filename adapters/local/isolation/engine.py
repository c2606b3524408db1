"""The engine whose work is done in another process, as others hold it."""

from __future__ import annotations

import weakref

from adapters.local.engine import Job, Opened
from adapters.local.isolation.keeper import MOST_WAITING, Keeper
from router.adapter import Load
from router.models import LocalModel

__all__ = ["MOST_WAITING", "ProcessEngine"]


class ProcessEngine:
    """Generates with one model, in a process of its own. See `engine.Engine`.

    Args:
        model: What it generates with.
        limit: Bytes that all local models of the app may take together; None: what there is to spare.
    """

    def __init__(self, model: LocalModel, *, limit: int | None = None) -> None:
        self._keeper = Keeper(model, limit)
        # Also runs at the interpreter's exit: no process is left behind.
        self._finalizer = weakref.finalize(self, self._keeper.close, 2.0)

    def open(self, told: Opened) -> None:
        """See `engine.Engine`."""
        self._keeper.open(told)

    def give_up(self, told: Opened) -> None:
        """See `engine.Engine`."""
        self._keeper.give_up(told)

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
