"""Whether the server answers. While it does not, nobody waits for it but one thread that tries."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable

__all__ = ["Outage"]

_log = logging.getLogger("router.ledger")

#: Seconds between two tries at the least.
PAUSE = 0.5


class Outage:
    """Begins with the first failure and ends with the first success. Told by one thread.

    Attributes:
        why: What went wrong last.
    """

    def __init__(self, alive: Callable[[], bool], where: str) -> None:
        """There is none.

        Args:
            alive: Asks the server whether it answers; may wait.
            where: The server's address, without credentials.
        """
        self.why: Exception | None = None
        self._alive = alive
        self._where = where
        self._begun = self._answered = False
        self._tried_at = 0.0
        self._trying: threading.Thread | None = None

    @property
    def off(self) -> bool:
        """Whether it is of no use to ask the server."""
        return self._begun and not self._answered

    def begins(self, error: Exception) -> None:
        """The server failed. Said once per outage."""
        if not self._begun:
            _log.warning(
                "%s. Until it answers, nothing is sent that a budget covers, and every process keeps rate "
                "limits by its own count",
                error,
            )
        self.why = error
        self._begun, self._answered = True, False

    def ends(self) -> None:
        """The server did what it was asked."""
        if self._begun:
            _log.info("the Redis server at %s works again", self._where)
        self._begun = self._answered = False

    def probe(self) -> None:
        """Has another thread try, unless one does or has just done so."""
        now = time.monotonic()
        busy = self._trying is not None and self._trying.is_alive()
        if not self.off or busy or now < self._tried_at + PAUSE:
            return
        self._tried_at = now
        self._trying = threading.Thread(target=self._try, name="router-redis-probe", daemon=True)
        with contextlib.suppress(RuntimeError):  # the interpreter is ending and starts no more threads
            self._trying.start()

    def _try(self) -> None:
        if self._alive():
            self._answered = True
