"""Rings when something was idle for long enough."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["Alarm"]


class Alarm:
    """At most one thread waits, and none while there is nothing to wait for.

    Args:
        seconds: How long is long enough; None: it never rings.
        since: Tells when it became idle, on `time.monotonic`; None: it is not.
        ring: Is called, on a thread of its own.
    """

    def __init__(
        self, seconds: float | None, since: Callable[[], float | None], ring: Callable[[], object]
    ) -> None:
        self._seconds = seconds
        self._since = since
        self._ring = ring
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._stopped = False

    def look(self) -> None:
        """It may have become idle."""
        since = self._since()
        if self._seconds is None or since is None:
            return
        with self._lock:
            if self._timer is None and not self._stopped:
                left = since + self._seconds - time.monotonic()
                self._timer = threading.Timer(max(left, 0.0), self._over)
                self._timer.daemon = True
                self._timer.start()

    def stop(self) -> None:
        """Never rings again."""
        with self._lock:
            self._stopped = True
            if self._timer is not None:
                self._timer.cancel()

    def _over(self) -> None:
        with self._lock:
            self._timer = None
        since = self._since()
        if self._seconds is None or since is None or self._stopped:
            return
        if time.monotonic() - since >= self._seconds:
            self._ring()
        else:
            self.look()
