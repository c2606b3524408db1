"""How much may be retried, by all requests of a router together."""

from __future__ import annotations

import threading

__all__ = ["RetryBudget"]


class RetryBudget:
    """A token bucket: every answered request puts `share` in, every retry takes one out.

    After gRPC's retry throttling: since only answers fill it, it runs dry in an outage and stays so, however
    long that lasts, and what was saved in a calm is bounded. Other than there, a retry that is answered is
    paid back, and pays for one that is not: as long as about every second one helps, nothing is lost to a
    lack of them. So of N requests at most `share` × N + `MOST` retries are in vain beyond those that helped,
    and in a total outage at most `MOST`. The reserve lets a quiet app retry at all.

    Args:
        share: Retries in vain per answered request, 0..1; 0 forbids all retries.
    """

    RESERVE = 10.0
    MOST = 50.0

    def __init__(self, share: float) -> None:
        self._share = share
        self._tokens = self.RESERVE if share else 0.0
        self._lock = threading.Lock()

    def deposit(self, *, refund: int = 0) -> None:
        """A request was answered; `refund`: what it brings beside its share, see `router.actions.Start`."""
        with self._lock:
            self._tokens = min(self._tokens + self._share + refund, self.MOST)

    def withdraw(self) -> bool:
        """Takes one retry; False if there is none."""
        with self._lock:
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True

    def after_fork(self) -> None:
        """In a child process: a lock that another thread may have held is made anew."""
        self._lock = threading.Lock()
