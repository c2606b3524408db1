"""What an engine's process logs, as it comes: to the app's log, in bounded amounts."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from adapters.local.isolation.messages import Said

__all__ = ["Forwarding", "say"]

#: So many records within so many seconds are passed on; of those beyond, only their number is.
MOST, WINDOW = 20, 10.0
#: Characters of one record.
LONGEST = 4_000

_log = logging.getLogger("router.local")


class Forwarding(logging.Handler):
    """In the process: passes warnings, and what is worse, on to the app.

    Args:
        send: Sends a message to the app; must not log.
        clock: Seconds on a clock that never goes backwards.
    """

    def __init__(self, send: Callable[[Said], None], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.WARNING)
        self._send = send
        self._clock = clock
        self._since = -WINDOW
        self._count = self._left_out = 0
        self._sending = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`, which holds its lock meanwhile."""
        if getattr(self._sending, "now", False):  # what sending logs would be sent, and so on
            return
        self._sending.now = True
        try:
            now = self._clock()
            if now - self._since >= WINDOW:
                self._since, self._count = now, 0
            self._count += 1
            if self._count > MOST:
                self._left_out += 1
                return
            left_out, self._left_out = self._left_out, 0
            if left_out:
                self._send(Said(logging.WARNING, f"{left_out} records were left out here"))
            self._send(Said(record.levelno, self.format(record)[:LONGEST]))
        except Exception:  # noqa: BLE001 - as the standard library's handlers do: logging breaks nothing
            self.handleError(record)
        finally:
            self._sending.now = False


def say(model: str, said: Said) -> None:
    """In the app: puts what a model's process logged into the log."""
    if isinstance(said.level, int) and isinstance(said.text, str):
        _log.log(said.level, "%s (its process): %s", model, said.text[:LONGEST])
