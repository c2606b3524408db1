"""When a model has more under way than it can answer in time. State under a lock; the clock is passed in.

A host that is asked for more than it can do answers later and later, until every answer comes after its
deadline and all work is in vain. By Little's law, what is under way divided by what is answered per second is
how long the next answer takes; where that is more than a request has, it is better refused at once. Nothing
has to be declared or found out by trial: as long as answers take what they usually take, nobody is refused.

Requests that were given up at their deadline tell as much as late answers do. Without them a host that is so
far behind that it answers nobody in time would look like one of which nothing is known, and stay so.
"""

from __future__ import annotations

import math
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
#: Answers by whose times the rate is told: enough for chance to matter little, few enough to be quick.
RATE_OVER = 8
#: Seconds that a request without a deadline is taken to have, and the same in usual answers: the longer
#: of both. An answer that comes after minutes is of no use to most, and the queue before it never ends.
PATIENCE, PATIENCE_TIMES = 15.0, 40.0
#: Answers that tell what a model can do at most.
PEAK_OVER = 32
#: Seconds after which it is forgotten beside how many others a model has answered, and how quickly.
MEMORY = 15.0
#: Seconds after which a model that had too much, and answers as usual again, may have any number: else it
#: would have too much again before its answers could tell.
WARY = 10.0


class _Gauge:
    """One model's answers: when they came, how long they took, and since when so many are under way."""

    __slots__ = (
        "answered_at",
        "blocks",
        "count",
        "level",
        "most",
        "peak",
        "raised_at",
        "recent",
        "renewed_at",
        "since",
        "sum",
        "times",
        "usual",
    )

    def __init__(self, now: float) -> None:
        self.times: deque[float] = deque(maxlen=PEAK_OVER)
        self.recent: deque[float] = deque(maxlen=BLOCK)
        self.blocks: deque[float] = deque(maxlen=MOST_BLOCKS)
        self.count = 0
        self.sum = 0.0
        self.usual = 0.0
        self.level = 1
        self.since = now
        self.answered_at = -math.inf
        self.most: tuple[int, int] = (-1, -1)  # others beside whom it answered: of late, and just before
        self.peak: tuple[float, float] = (0.0, 0.0)  # answers per second at most: of late, and just before
        self.renewed_at = now
        self.raised_at = -math.inf

    def took(self, seconds: float) -> None:
        if len(self.recent) == BLOCK:
            self.sum -= self.recent[0]
        self.recent.append(seconds)
        self.sum += seconds

    def served(self, seconds: float, now: float, beside: int) -> None:
        self.took(seconds)
        self.times.append(now)
        self.count += 1
        if self.count == 1 or self.count % BLOCK == 0:
            self.sum = sum(self.recent)  # sums of fractions drift
            self.blocks.append(self.sum / len(self.recent))
            self.usual = min(self.blocks)
        self.answered_at = now
        self._renew(now)
        self.most = (max(self.most[0], beside), self.most[1])
        if len(self.times) == PEAK_OVER:
            rate = (PEAK_OVER - 1) / max(now - self.times[0], 1e-9)
            self.peak = (max(self.peak[0], rate), self.peak[1])

    def _renew(self, now: float) -> None:
        if now - self.renewed_at > MEMORY:
            fresh = now - self.renewed_at < 2 * MEMORY
            self.most = (-1, self.most[0] if fresh else -1)
            self.peak = (0.0, self.peak[0] if fresh else 0.0)
            self.renewed_at = now

    def beside(self, now: float) -> int:
        """Beside how many others it has answered of late; -1 if it has not."""
        self._renew(now)
        return max(self.most)

    def drain(self, under_way: int, now: float, *, hurried: bool) -> float | None:
        """Seconds until so many are answered; None if nothing tells of a queue.

        `hurried`: it may tell that no answers come. A model that has become slow has no queue, either: who
        has time waits for its answers.
        """
        if not self.count:
            return None
        if self.sum <= RAISED * self.usual * len(self.recent):
            peak = max(self.peak)
            return under_way / peak if peak and now - self.raised_at < WARY else None
        self.raised_at = now
        # Answers from before so many were under way say nothing of what the model can do now. What does not
        # come for long tells as much as what comes.
        if len(self.times) >= RATE_OVER and self.times[-RATE_OVER] >= self.since:
            return under_way * max(now - self.times[-RATE_OVER], 1e-9) / (RATE_OVER - 1)
        if not hurried or now - self.since < 2.0 * self.usual:
            return None
        answers = sum(at >= self.since for at in tuple(self.times)[-RATE_OVER:])
        return under_way * (now - self.since) / (answers + 1)


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

    def served(self, name: str, seconds: float, now: float, beside: int = 0) -> None:
        """A model answered an attempt so many seconds after it was sent, beside so many others."""
        with self._lock:
            gauge = self._gauges.get(name)
            if gauge is not None:
                gauge.served(seconds, now, beside)

    def missed(self, name: str, seconds: float) -> None:
        """A model had not answered an attempt when its deadline came, so many seconds after it was sent."""
        with self._lock:
            gauge = self._gauges.get(name)
            if gauge is not None:
                gauge.took(seconds)

    def beside(self, name: str, now: float) -> int:
        """Beside how many others a model has answered an attempt of late; -1 if it has answered none."""
        with self._lock:
            gauge = self._gauges.get(name)
            return -1 if gauge is None else gauge.beside(now)

    def excess(self, name: str, under_way: int, horizon: float | None, now: float) -> float:
        """Seconds by which one more answer would come too late, behind so many; 0 if in time.

        Args:
            name: The model.
            under_way: Attempts that it was sent and has not answered.
            horizon: Seconds that the request has; None: there is no deadline.
            now: Seconds.
        """
        if under_way <= LEAST or name not in self._gauges:
            return 0.0
        with self._lock:
            gauge = self._gauges.get(name)
            drain = gauge.drain(under_way, now, hurried=horizon is not None) if gauge is not None else None
            if gauge is None or drain is None:
                return 0.0
            if horizon is None:
                horizon = max(PATIENCE, PATIENCE_TIMES * gauge.usual)
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
