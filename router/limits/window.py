"""What was sent to a model in the last minute. Pure: the clock is passed in."""

from __future__ import annotations

from collections import deque

__all__ = ["GRAIN", "MINUTE", "SLACK", "WINDOW", "Grain", "Window"]

#: Seconds that a request may travel longer than one sent a minute later: the backend counts arrivals.
SLACK = 0.25
#: Seconds that a backend counts a request for.
MINUTE = 60.0
#: Seconds that we count it for.
WINDOW = MINUTE + SLACK
#: Seconds within which requests are counted together. So no look at a window is longer than 240 steps,
#: whatever the limit; a request may count for so much longer than its own minute.
GRAIN = 0.25


class Grain:
    """Requests that were sent at about the same time, and leave the window with the last of them."""

    __slots__ = ("first", "gone", "last", "requests", "tokens")

    def __init__(self, now: float) -> None:
        self.first = self.last = now
        self.requests = 0
        self.tokens = 0
        self.gone = False


class Window:
    """A sliding window of a minute.

    Attributes:
        requests: How many were sent in it.
        tokens: How many tokens these are taken for. Whole numbers: sums of fractions drift.
    """

    __slots__ = ("_grains", "requests", "tokens")

    def __init__(self) -> None:
        self._grains: deque[Grain] = deque()
        self.requests = 0
        self.tokens = 0

    def add(self, tokens: int, now: float) -> Grain:
        """A request is sent. Returns where it is counted."""
        if not self._grains or not 0.0 <= now - self._grains[-1].first < GRAIN:
            self._grains.append(Grain(now))
        grain = self._grains[-1]
        grain.last = max(grain.last, now)
        self._count(grain, 1, tokens)
        return grain

    def take_back(self, grain: Grain, tokens: int) -> None:
        """A request was not sent after all."""
        self._count(grain, -1, -tokens)

    def correct(self, grain: Grain, tokens: int) -> None:
        """A request turned out to have so many tokens more than it was taken for; negative: fewer."""
        self._count(grain, 0, tokens)

    def _count(self, grain: Grain, requests: int, tokens: int) -> None:
        grain.requests += requests
        grain.tokens += tokens
        if not grain.gone:
            self.requests += requests
            self.tokens += tokens

    def forget(self, now: float) -> None:
        """Lets go what is older than a minute."""
        grains = self._grains
        # The same sum as in `emptier_at`: what is told to come back then finds the room there.
        while grains and grains[0].last + WINDOW <= now:
            grain = grains.popleft()
            grain.gone = True
            self.requests -= grain.requests
            self.tokens -= grain.tokens

    def emptier_at(self, requests: int, tokens: int, now: float) -> float:
        """When so many requests and so many tokens have left; at the latest, when all have."""
        at = now
        for grain in self._grains:
            if requests <= 0 and tokens <= 0:
                break
            requests -= grain.requests
            tokens -= grain.tokens
            at = grain.last + WINDOW
        return max(at, now)
