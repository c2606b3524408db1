"""How a model of the fault server behaves, and what it saw."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

__all__ = ["Behaviour", "Counts", "Model"]


@dataclass(slots=True)
class Behaviour:
    """How a model answers.

    Attributes:
        median: Seconds that half of the answers take.
        sigma: Standard deviation of the logarithm of that.
        slow_share: The share of answers that take `slow_seconds` instead.
        slow_seconds: How long these take.
        fault: What goes wrong: "" nothing; "silent" is never answered; "headers" are all that comes; "error" is
            the status `status`; "reset" breaks the connection; "cut" ends a stream in the middle.
        fault_share: The share of requests that it happens to.
        status: The status of errors.
        error_seconds: Seconds until an error is told.
        retry_after: Seconds told with errors; 0: not told.
        chunks: Chunks of a stream.
        least, most: Tokens of an answer, as shares of `max_tokens`.
        seats: Answers worked on at once, others queue; 0: any number.
        queue: Requests that may wait for a seat; one more gets a 503 at once.
        limit: Requests in `window` seconds; one more gets a 429 with the time to wait; 0: any number.
        window: Seconds of that limit.
        tells_wait: Whether a 429 or a 503 of these says when to come back.
        price_in, price_out: USD per million tokens.
    """

    median: float = 0.05
    sigma: float = 0.0
    slow_share: float = 0.0
    slow_seconds: float = 0.0
    fault: str = ""
    fault_share: float = 1.0
    status: int = 500
    error_seconds: float = 0.0
    retry_after: float = 0.0
    chunks: int = 8
    least: float = 0.8
    most: float = 1.0
    seats: int = 0
    queue: int = 1_000_000
    limit: int = 0
    window: float = 60.0
    tells_wait: bool = True
    price_in: float = 0.0
    price_out: float = 0.0


@dataclass(slots=True)
class Counts:
    """What happened at a model since the last reset.

    Attributes:
        accepted: Requests that came in.
        in_flight: Of these, not over yet.
        peak: The most in flight at once.
        answered: Answered in full.
        faults: Broken on purpose.
        limited: Turned away by the limit (429).
        shed: Turned away by a full queue (503).
        left: Clients that went away before the answer was complete.
        usd: What the answers cost that were given in full.
    """

    accepted: int = 0
    in_flight: int = 0
    peak: int = 0
    answered: int = 0
    faults: int = 0
    limited: int = 0
    shed: int = 0
    left: int = 0
    usd: float = 0.0


class Model:
    """One model: its behaviour, its counts, its seats and its window."""

    def __init__(self) -> None:
        self.behaviour = Behaviour()
        self.counts = Counts()
        self._sent: deque[float] = deque()
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def reset(self) -> None:
        """Counts from 0; what is in flight stays in flight."""
        self.counts = Counts(in_flight=self.counts.in_flight, peak=self.counts.in_flight)
        self._sent.clear()

    def wait_for_limit(self, now: float) -> float:
        """Seconds until the limit lets one more through; 0 if it does now, which is then counted."""
        if not self.behaviour.limit:
            return 0.0
        while self._sent and self._sent[0] + self.behaviour.window <= now:
            self._sent.popleft()
        if len(self._sent) >= self.behaviour.limit:
            return self._sent[0] + self.behaviour.window - now
        self._sent.append(now)
        return 0.0

    @property
    def full(self) -> bool:
        """Whether nobody may even wait."""
        behaviour = self.behaviour
        return (
            bool(behaviour.seats) and self._taken >= behaviour.seats and len(self._waiting) >= behaviour.queue
        )

    @contextlib.asynccontextmanager
    async def seat(self) -> AsyncIterator[None]:
        """Waits in turn for one of the seats. Who goes away gives it back."""
        if not self.behaviour.seats:
            yield
            return
        if self._taken < self.behaviour.seats:
            self._taken += 1
        else:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn  # the seat is handed over, and stays counted
            except asyncio.CancelledError:
                if not turn.cancelled():
                    self._give_back()
                with contextlib.suppress(ValueError):
                    self._waiting.remove(turn)
                raise
        try:
            yield
        finally:
            self._give_back()

    def _give_back(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._taken -= 1
