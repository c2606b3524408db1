"""Turns among processes: what `turns` does for the models of one process, for an app and its children.

Two locks on bytes of one file without a name, which the system lets go of when a process dies. Whoever
waits for the turn holds the other lock, so that whoever has just had a turn cannot take it again first.
"""

from __future__ import annotations

import os
import tempfile
import threading
from contextlib import suppress
from types import TracebackType

from adapters.local.turns import TURN

try:
    import fcntl
except ImportError:  # Windows: models in several processes compute at once there
    fcntl = None  # type: ignore[assignment]

__all__ = ["SharedTurn", "join", "shared_descriptor"]

_NEXT, _NOW = 0, 1
_guard = threading.Lock()
_descriptor: int | None = None


class SharedTurn:
    """A lock among processes. Within one process, only one thread at a time may ask for it.

    Args:
        descriptor: The file, inherited from the app: the locks on it belong to processes.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> None:
        # Where the system has no locks to give, computing at the same time is slow but right.
        with suppress(OSError):
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, _NEXT)
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, _NOW)
            finally:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _NEXT)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _NOW)


def join(descriptor: int) -> None:
    """Makes every step of this process's models wait for the turn among processes, too."""
    TURN.outer = SharedTurn(descriptor)


def shared_descriptor() -> int | None:
    """The file of this app, which from now on takes turns with its children; None where there is none."""
    global _descriptor  # noqa: PLW0603 - the cores are shared by all models of the process
    with _guard:
        if _descriptor is None and fcntl is not None:
            with suppress(OSError), tempfile.TemporaryFile() as file:
                _descriptor = os.dup(file.fileno())  # lives as long as the process
                join(_descriptor)
        return _descriptor


if hasattr(os, "register_at_fork"):

    def _new_guard() -> None:
        global _guard  # noqa: PLW0603 - another thread may have held it
        _guard = threading.Lock()

    os.register_at_fork(after_in_child=_new_guard)
