"""Waits for a turn at a model, on whichever event loop."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable

from router.limits.limiter import Limiter
from router.limits.seats import Seat

__all__ = ["turn"]

#: Seconds of the shortest sleep: clocks are not exact, and nobody spins.
LEAST_SLEEP = 0.001


class _Bell:
    """Wakes one task; rung from any thread, also before anybody listens."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._rung: asyncio.Future[None] = self._loop.create_future()

    def ring(self) -> bool:
        """Returns False if nobody will ever hear it."""
        try:
            if threading.get_ident() == self._thread:
                self._ring()
            else:
                self._loop.call_soon_threadsafe(self._ring)
        except RuntimeError:  # the loop is closed
            return False
        return not self._loop.is_closed()

    def _ring(self) -> None:
        if not self._rung.done():
            self._rung.set_result(None)

    async def listen(self, seconds: float) -> None:
        """Waits until it rings, for so many seconds at most."""
        timer = None if seconds == math.inf else self._loop.call_later(max(seconds, LEAST_SLEEP), self._ring)
        try:
            await self._rung
        finally:
            if timer is not None:
                timer.cancel()
        self._rung = self._loop.create_future()


async def turn(limiter: Limiter, seat: Seat, clock: Callable[[], float], until: float) -> bool:
    """Waits for a request's turn. If the waiting task is cancelled, the request leaves the queue.

    Args:
        limiter: Whose queue.
        seat: The request's place in it.
        clock: Seconds.
        until: When to stop waiting, on this clock; infinite for never. The request keeps its place.

    Returns:
        Whether it came.
    """
    bell = _Bell()
    try:
        while not (seat.granted or seat.over):
            again_at = limiter.claim(seat, clock(), bell.ring)
            now = clock()
            if seat.granted or seat.over or now >= until:
                break
            await bell.listen(min(again_at, until) - now)
    except BaseException:
        limiter.leave(seat, clock())
        raise
    return seat.granted
