"""When a model has more under way than it can answer in time. State under a lock; the clock is passed in.

A host that is asked for more than it can do answers later and later, until every answer comes after its
deadline and all work is in vain. By Little's law, what is under way divided by what is answered per second is
how long the next answer takes; where that is more than a request has, it is better refused at once. Nothing
has to be declared or found out by trial: as long as answers take what they usually take, nobody is refused.
"""

from __future__ import annotations

import threading
from collections import deque

__all__ = ["Pressure"]

#: Requests at once below which nobody is refused: so a model that recovers is seen to recover.
LEAST = 4
#: Answers whose mean time tells of now; the lowest of the means before tells what is usual.
BLOCK = 16
#: Blocks that "usual" looks back on.
MOST_BLOCKS = 64
#: How many times as long as usual answers take when a model has too much.
RAISED = 1.5
#: What share of the time that a request has may be spent on those before it: predictions are not exact.
SHARE = 0.6
#: The same where even an answer of a calm model takes longer than that share.
MOST_SHARE = 0.95
#: Times of answers that are kept.
MOST_TIMES = 256


class _Gauge:
    """One model's answers: when they came, how long they took, and since when so many are under way."""

    __slots__ = ("blocks", "count", "level", "recent", "since", "sum", "times", "usual")

    def __init__(self, now: float) -> None:
        self.times: deque[float] = deque(maxlen=MOST_TIMES)
        self.recent: deque[float] = deque(maxlen=BLOCK)
        self.blocks: deque[float] = deque(maxlen=MOST_BLOCKS)
        self.count = 0
        self.sum = 0.0
        self.usual = 0.0
        self.level = 1
        self.since = now

    def served(self, seconds: float, now: float) -> None:
        if len(self.recent) == BLOCK:
            self.sum -= self.recent[0]
        self.recent.append(seconds)
        self.sum += seconds
        self.times.append(now)
        self.count += 1
        if self.count == 1 or self.count % BLOCK == 0:
            self.sum = sum(self.recent)  # sums of fractions drift
            self.blocks.append(self.sum / len(self.recent))
            self.usual = min(self.blocks)

    def drain(self, under_way: int) -> float | None:
        """Seconds until so many are answered; None if nothing tells of a queue."""
        needed = min(max(under_way // 4, BLOCK // 2), MOST_TIMES)
        if len(self.times) < needed or self.sum <= RAISED * self.usual * len(self.recent):
            return None
        first = self.times[-needed]
        # Answers from before so many were under way say nothing of what the model can do now.
        return None if first < self.since else under_way * max(self.times[-1] - first, 1e-9) / needed


class Pressure:
    """How much the models of one router have under way against what they answer, by name."""

    def __init__(self) -> None:
        self._gauges: dict[str, _Gauge] = {}
        self._lock = threading.Lock()

    def started(self, name: str, under_way: int, now: float) -> None:
        """An attempt begins; with it, so many are under way."""
        with self._lock:
            gauge = self._gauges.get(name)
            if gauge is None:
                gauge = self._gauges[name] = _Gauge(now)
            if under_way >= 2 * gauge.level:
                gauge.level, gauge.since = under_way, now
            elif 2 * under_way < gauge.level:
                gauge.level = max(under_way, 1)

    def served(self, name: str, seconds: float, now: float) -> None:
        """A model answered an attempt so many seconds after it was sent."""
        with self._lock:
            gauge = self._gauges.get(name)
            if gauge is not None:
                gauge.served(seconds, now)

    def excess(self, name: str, under_way: int, horizon: float) -> float:
        """Seconds by which one more answer would come too late, behind so many; 0 if in time.

        Args:
            name: The model.
            under_way: Attempts that it was sent and has not answered.
            horizon: Seconds that the request has.
        """
        if under_way <= LEAST or name not in self._gauges:
            return 0.0
        with self._lock:
            gauge = self._gauges.get(name)
            drain = gauge.drain(under_way) if gauge is not None else None
            if gauge is None or drain is None:
                return 0.0
            allowed = max(SHARE * horizon, min(RAISED * gauge.usual, MOST_SHARE * horizon))
            return max(drain - allowed, 0.0)

    def forget(self, names: set[str]) -> None:
        """Drops what is known of models that were removed or declared anew."""
        with self._lock:
            for name in names:
                self._gauges.pop(name, None)

    def after_fork(self) -> None:
        """In a child process: a lock that another thread may have held is made anew."""
        self._lock = threading.Lock()
