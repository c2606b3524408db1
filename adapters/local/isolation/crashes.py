"""How often an engine's process may crash before it is left alone for a while."""

from __future__ import annotations

from collections import deque

__all__ = ["Crashes"]

#: So many crashes within so many seconds, and the process is not started again for a while.
MOST = 3
WINDOW = 60.0
#: Seconds of the first pause; each crash right after a pause doubles it, up to the longest.
FIRST_PAUSE = 30.0
LONGEST_PAUSE = 600.0


class Crashes:
    """Counts crashes. Times are seconds on one clock that never goes backwards."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=MOST)
        self._pause = 0.0

    def add(self, now: float) -> None:
        """A process crashed."""
        if self._times and now - self._times[-1] > self._pause + WINDOW:
            self._pause = 0.0  # it ran for long enough to be trusted again
        self._times.append(now)
        if self._pause:  # it was given another chance, and crashed
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        elif len(self._times) == MOST and now - self._times[0] <= WINDOW:
            self._pause = FIRST_PAUSE

    def wait(self, now: float) -> float:
        """Seconds until a process may be started; 0: now."""
        return max(0.0, self._times[-1] + self._pause - now) if self._times else 0.0
