"""Time that a test moves by hand."""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Protocol, TypeVar, TypeVarTuple

__all__ = ["Clock", "ManualClock"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> float:
        """Seconds on a clock that never jumps."""
        ...

    def time(self) -> float:
        """Unix time in seconds."""
        ...


class ManualClock:
    """A clock that stands still until `advance` moves it.

    `event_loop()` makes an asyncio event loop on this clock that never really sleeps: when nothing is left to
    do but wait, the clock jumps to the next timer. Hours pass in milliseconds, in the same order every time.

    Args:
        start: What `now()` says at first, in seconds.
        unix: What `time()` says at first, in seconds.
    """

    def __init__(self, start: float = 1000.0, unix: float = 1_767_225_600.0) -> None:
        self._now = start
        self._unix = unix - start
        self._lock = threading.Lock()

    def now(self) -> float:
        """Seconds on this clock."""
        return self._now

    def time(self) -> float:
        """Unix time in seconds on this clock; `set_time` lets it jump."""
        return self._now + self._unix

    def advance(self, seconds: float) -> None:
        """Moves the clock on.

        Raises:
            ValueError: if the seconds are negative; only the Unix time may jump back.
        """
        if seconds < 0:
            raise ValueError(f"seconds = {seconds}: a monotonic clock does not run backwards")
        with self._lock:
            self._now += seconds

    def set_time(self, unix: float) -> None:
        """Sets the Unix time, forwards or backwards, as an administrator may."""
        self._unix = unix - self._now

    def event_loop(self) -> asyncio.AbstractEventLoop:
        """A new event loop whose time is this clock's, and which jumps instead of sleeping."""
        return _JumpingLoop(self)


class _JumpingSelector(selectors.DefaultSelector):
    """Waits for no time; the clock moves instead, unless real I/O (another thread, a socket) is awaited.

    Attributes:
        on_threads: How many pieces of work the loop has given to its threads and not got back.
    """

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock
        self.on_threads = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            return super().select(None)
        ready = super().select(self._grace())
        if not ready:
            self._clock.advance(timeout)
        return ready

    def _grace(self) -> float:
        """Real seconds that what happens outside of the loop gets before time is moved past it."""
        if self.on_threads:
            return _FOR_THREADS
        sockets = len(self.get_map()) > 1  # the loop's own wake-up socket is always there
        return _FOR_SOCKETS if sockets else _FOR_THE_UNKNOWN


#: A thread says when it is done; this only bounds how long one that never is may hold up the clock.
_FOR_THREADS = 5.0
#: Whether an answer is awaited on a socket, or it is only kept open, cannot be told.
_FOR_SOCKETS = 0.05
#: Threads of others, such as the ledger's, which wake the loop without having been asked by it.
_FOR_THE_UNKNOWN = 0.002


class _JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._jumping = _JumpingSelector(clock)
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._clock.now()

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._jumping.on_threads += 1
        future.add_done_callback(self._back)
        return future

    def _back(self, _done: object) -> None:
        self._jumping.on_threads -= 1

    def __repr__(self) -> str:
        facts: Mapping[str, object] = {"running": self.is_running(), "time": self.time()}
        return f"<ManualClock loop {dict(facts)}>"
