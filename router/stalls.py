"""How long a stream may be silent: learned, per model, from the gaps between what came before.

A fixed time-out must suit the slowest host's worst pause, so a stalled stream of a quick one hangs for
minutes. What a model has shown is the better judge: a silence many times as long as hardly any gap was, and
several times as long as the longest of late, is a stall.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakMethod

if TYPE_CHECKING:
    from router.core import Core
    from router.fleet import Fleet

__all__ = ["Gaps", "Watchdog", "watch"]

#: Gaps after which a model is known.
KNOWN_AFTER = 30
#: Seconds of silence that are never called a stall: a lost packet alone can cost as many (RFC 6298 doubles
#: its wait from some 0.2 s on), and hosts collect garbage.
LEAST = 3.0
#: A stall lasts so many times the gap that 99 in 100 stay below ...
TIMES_USUAL = 20.0
#: ... and so many times the longest of late, ...
TIMES_LONGEST = 4.0
#: ... or, if that is more than a model may be silent before it is known, only so many times.
TIMES_LONGEST_AT_LEAST = 2.0
#: The share of gaps that `_usual` follows, and how fast: by this power of e for a gap above it.
_SHARE = 0.99
_STEP, _FIRST_STEP = 1.2, 2.5
_BELOW, _FIRST_BELOW = _STEP ** -((1 - _SHARE) / _SHARE), _FIRST_STEP ** -((1 - _SHARE) / _SHARE)
#: A model that is not known yet may be silent for so many times the time to a first token.
TIMES_TTFT = 2.0
#: Seconds of waiting for a chunk from which on its coming tells a gap: else it was there already.
WAITED = 0.0005
#: A gap counts for at most so many times what somebody waited in it: of the rest, when the reader was busy
#: with something else, nobody knows whether the chunk was there already.
TIMES_WAITED = 2.0
#: What one more gap leaves of the longest: half of it after some 3,500 gaps, or a dozen answers.
_FADING = 0.9998


class Gaps:
    """The gaps between the chunks of one model's streams.

    Streams of several threads tell it without a lock: a lost update of an estimate does no harm, and a lock
    would cost more than the update.
    """

    __slots__ = ("_longest", "_seen", "_usual")

    def __init__(self) -> None:
        self._seen = 0
        self._usual = 1e-3
        self._longest = 0.0

    def note(self, seconds: float) -> None:
        """A gap of so many seconds was over. Costs some 0.2 µs."""
        # A stochastic quantile: balanced where 1 in 100 steps goes up. Quick at first, calm later.
        self._seen = seen = self._seen + 1
        if seconds > self._usual:
            self._usual *= _FIRST_STEP if seen <= KNOWN_AFTER else _STEP
        else:
            self._usual *= _FIRST_BELOW if seen <= KNOWN_AFTER else _BELOW
        longest = self._longest * _FADING
        self._longest = seconds if seconds > longest else longest  # noqa: FURB136 - max() takes twice as long

    def limit(self, most: float) -> float:
        """Seconds of silence from which on a stream has stalled.

        Args:
            most: The same for a model that is not known yet, and at most for one that is, unless it has
                been silent for about as long before.
        """
        if self._seen < KNOWN_AFTER:
            return most
        learned = min(max(LEAST, TIMES_USUAL * self._usual, TIMES_LONGEST * self._longest), most)
        return max(learned, TIMES_LONGEST_AT_LEAST * self._longest)


class Watchdog:
    """Watches one stream's silences. Lives on one event loop; between chunks it asks for no timer.

    Args:
        gaps: Of the stream's model.
        most: See `Gaps.limit`.
        now: The clock, in seconds.
        bark: A bound method, held weakly. Called once, on the loop, with the seconds of silence, when the
            stream has stalled.
    """

    def __init__(
        self, gaps: Gaps, *, most: float, now: Callable[[], float], bark: Callable[[float], None]
    ) -> None:
        self._gaps = gaps
        self._most = most
        self._now = now
        self._bark = WeakMethod(bark)  # who drops a stream drops this with it
        self._came_at = now()
        #: Since when somebody waits for a chunk: the time that the reader itself takes is no silence.
        self._waiting_since: float | None = None
        #: Whether the answer is whole: what is still to come is the host's farewell.
        self.whole = False
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(min(LEAST, most), self._look)

    def ask(self) -> float:
        """Somebody waits for the next chunk from now on. Returns what `came` is to be told.

        Two plain calls around the waiting: a coroutine of its own for each chunk would cost as much again.
        """
        self._waiting_since = now = self._now()
        return now

    def came(self, asked_at: float) -> None:
        """The chunk is there."""
        self._waiting_since = None
        came_at = self._now()
        waited = came_at - asked_at
        if waited > WAITED:
            gap, most = came_at - self._came_at, TIMES_WAITED * waited
            self._gaps.note(gap if gap < most else most)  # noqa: FURB136 - min() takes twice as long
        self._came_at = came_at

    def _look(self) -> None:
        self._timer = None
        bark = self._bark()
        if bark is None:
            return
        left = limit = min(LEAST, self._most) if self.whole else self._gaps.limit(self._most)
        if self._waiting_since is not None:
            silent = self._now() - self._waiting_since
            if silent >= limit:
                bark(silent)
                return
            left -= silent
        # Not later than the least limit: it may have been learned by then that this one was too long.
        self._timer = self._loop.call_later(min(left, LEAST), self._look)

    def stop(self) -> None:
        """Watches no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def watch(core: Core, fleet: Fleet, place: int, bark: Callable[[float], None]) -> Watchdog | None:
    """A watchdog for a stream of a model that begins now; None for a local one.

    A local model makes room for others in the midst of an answer, as long as they need, and there is no
    network on which an answer could be lost.
    """
    if fleet.profiles[place].local:
        return None
    gaps = core.gaps.setdefault(fleet.names[place], Gaps())
    most = TIMES_TTFT * core.config.recovery.ttft_timeout
    return Watchdog(gaps, most=most, now=core.now, bark=bark)
