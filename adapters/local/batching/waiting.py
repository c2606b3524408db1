"""Who waits for a model: to hear that it is loaded, to be looked at, for a seat.

Nothing here locks: whoever owns it does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from adapters.local.batching.queue import FairQueue
from adapters.local.engine import Job, Opened
from router.errors import ModelConnectionError, ModelError, ModelHTTPError
from router.failures import QUEUE_FULL

__all__ = ["Refused", "Waiting", "closed", "full"]


def closed(model: str) -> ModelError:
    """The error for who comes, or waits, when the engine is closed."""
    return ModelConnectionError(f"the local model {model!r} was closed", model=model)


def full(model: str, count: int) -> ModelError:
    """The error for who comes when as many as may wait do."""
    text = f"{count} requests wait for {model!r} already"
    return ModelHTTPError(text, model=model, status_code=503, code=QUEUE_FULL)


class _Seatable(Hashable, Protocol):
    job: Job

    def release(self) -> None: ...


T = TypeVar("T", bound=_Seatable)


class Waiting(Generic[T]):
    """Everybody who waits.

    Attributes:
        opened: Who only wants to hear that the model is loaded.
        fresh: Jobs that were not looked at yet.
        queue: Those that wait for a seat.
    """

    def __init__(self) -> None:
        self.opened: deque[Opened] = deque()
        self.fresh: deque[Job] = deque()
        self.queue: FairQueue[T] = FairQueue()

    def __len__(self) -> int:
        """How many; may be asked without the lock."""
        return len(self.opened) + len(self.fresh) + len(self.queue)

    def all_opened(self) -> list[Opened]:
        """Takes out those who only want to hear that the model is loaded."""
        opened = list(self.opened)
        self.opened.clear()
        return opened

    def forget(self, told: Opened) -> None:
        """Somebody does not want to hear any more."""
        with suppress(ValueError):
            self.opened.remove(told)

    def remove(self, job: Job) -> bool:
        """Takes a job out. Returns whether it waited."""
        if job in self.fresh:
            self.fresh.remove(job)
            return True
        for one in self.queue:
            if one.job is job:
                self.queue.remove(one)
                one.release()
                return True
        return False

    def take_back(self, evicted: Sequence[T]) -> None:
        """Those who had to make room are the first to come in again, unless they were cancelled meanwhile."""
        for one in reversed(evicted):
            if one.job.cancelled:
                one.release()
            else:
                self.queue.push(one, one.job.session, first=True)

    def newcomers(self) -> frozenset[Opened | Job]:
        """Those who wait for the model to be loaded."""
        return frozenset((*self.opened, *self.fresh))

    def clear(self) -> Refused[T]:
        """Takes all out, for who tells them."""
        refused = Refused(self.all_opened(), self.queue.clear(), list(self.fresh))
        self.fresh.clear()
        return refused

    def take(self, those: frozenset[Opened | Job]) -> Refused[T]:
        """Takes these newcomers out, for who tells them; whoever came later goes on waiting."""
        refused: Refused[T] = Refused(
            [told for told in self.opened if told in those], [], [job for job in self.fresh if job in those]
        )
        self.opened = deque(told for told in self.opened if told not in those)
        self.fresh = deque(job for job in self.fresh if job not in those)
        return refused


class Refused(Generic[T]):
    """Those who waited in vain."""

    def __init__(self, opened: list[Opened], seatless: list[T], fresh: list[Job]) -> None:
        self._opened = opened
        self._seatless = seatless
        self._fresh = fresh

    def tell(self, error: ModelError) -> None:
        """Tells them why; not under a lock."""
        for told in self._opened:
            told(error)
        for one in self._seatless:
            one.release()
        for job in (*(one.job for one in self._seatless), *self._fresh):
            if not job.cancelled:
                job.listener.failed(error)
