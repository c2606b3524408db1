"""The rate limits that a model declares: requests and tokens per minute, requests at once.

Kept in this process; state under a lock, the clock passed in.
"""

from __future__ import annotations

import math
import threading
from collections import deque

from router.profile import Profile

__all__ = ["Limiter"]

WINDOW = 60.0
"""Seconds of a rate limit's window."""


class Limiter:
    """What one model may take: a sliding window for rates, a count for concurrency."""

    def __init__(self, rpm: int | None, tpm: int | None, max_concurrency: int | None) -> None:
        self._rpm = rpm
        self._tpm = tpm
        self._max_concurrency = max_concurrency
        self._sent: deque[tuple[float, int]] = deque()
        self._tokens = 0  # whole numbers: sums of fractions drift from what the window holds
        self._running = 0
        self._lock = threading.Lock()

    @classmethod
    def of(cls, profile: Profile) -> Limiter | None:
        """A limiter for a model; None if it declares no limit."""
        if profile.rpm is None and profile.tpm is None and profile.max_concurrency is None:
            return None
        return cls(profile.rpm, profile.tpm, profile.max_concurrency)

    def wait(self, tokens: float, now: float, service: float) -> float:
        """Seconds until a request of so many tokens may go; 0 if at once.

        `service` is how long a request usually takes, in seconds: when a place will be free is not known
        exactly.
        """
        with self._lock:
            return self._wait(tokens, now, service)

    def acquire(self, tokens: float, now: float, service: float) -> float:
        """Takes a place and returns 0, or takes nothing and returns the seconds to wait."""
        with self._lock:
            wait = self._wait(tokens, now, service)
            if wait <= 0.0:
                self._sent.append((now, math.ceil(tokens)))
                self._tokens += math.ceil(tokens)
                self._running += 1
                return 0.0
            return wait

    def release(self) -> None:
        """A request is over."""
        with self._lock:
            self._running = max(self._running - 1, 0)

    def _wait(self, tokens: float, now: float, service: float) -> float:
        # The same sum as in the waits below: what is told to wait so long finds the place free then.
        while self._sent and self._sent[0][0] + WINDOW <= now:
            self._tokens -= self._sent.popleft()[1]
        wait = 0.0
        if self._max_concurrency is not None and self._running >= self._max_concurrency:
            wait = max(service / self._max_concurrency, 0.01)
        if self._rpm is not None and len(self._sent) >= self._rpm:
            wait = max(wait, self._sent[0][0] + WINDOW - now)
        if self._tpm is not None:
            wait = max(wait, self._token_wait(min(math.ceil(tokens), self._tpm), now))
        return wait

    def _token_wait(self, tokens: int, now: float) -> float:
        """Seconds until the window has room for so many tokens; more than the limit fit into an empty one."""
        excess = self._tokens + tokens - (self._tpm or 0)
        for at, sent in self._sent:
            if excess <= 0:
                break
            excess -= sent
            if excess <= 0:
                return at + WINDOW - now
        return 0.0

    def after_fork(self) -> None:
        """In a child process: nothing of the parent's is running here."""
        self._lock = threading.Lock()
        self._running = 0
