"""Time that a test moves by hand."""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Mapping
from typing import Protocol

__all__ = ["Clock", "ManualClock"]


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
    """Waits for no time; the clock moves instead, unless real I/O (another thread, a socket) is awaited."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            return super().select(None)
        # Work on other threads (a ledger's commit) gets a moment before time is moved past it.
        ready = super().select(0.002)
        if not ready:
            self._clock.advance(timeout)
        return ready


class _JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        super().__init__(_JumpingSelector(clock))

    def time(self) -> float:
        return self._clock.now()

    def __repr__(self) -> str:
        facts: Mapping[str, object] = {"running": self.is_running(), "time": self.time()}
        return f"<ManualClock loop {dict(facts)}>"
