"""Writes blobs on a thread of its own: the thread that computes does not wait for a disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from adapters.local.batching.disk.folder import Data, Folder

__all__ = ["Writer"]

#: Bytes that may wait to be written.
_MOST_WAITING = 128 << 20


class Writer:
    """A queue of blobs in front of a folder.

    Attributes:
        dropped: Blobs that were not kept: the queue was full, or the folder did not take them.

    Args:
        folder: Where they go.
        most: Bytes that may wait; one blob always may.
    """

    def __init__(self, folder: Folder, *, most: int = _MOST_WAITING) -> None:
        self.dropped = 0
        self._folder = folder
        self._most = most
        self._changed = threading.Condition()
        self._waiting: dict[str, tuple[Sequence[Data], int]] = {}  # the one being written, too
        self._bytes = 0
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def full(self) -> bool:
        """Whether the next blob would be dropped."""
        return self._closed or self._bytes >= self._most

    def waiting(self, name: str) -> Sequence[Data] | None:
        """A blob that is not written yet."""
        known = self._waiting.get(name)
        return None if known is None else known[0]

    def put(self, name: str, parts: Sequence[Data], age: int = 0) -> None:
        """Has a blob written, if there is room. See `Folder.write`."""
        with self._changed:
            if self.full:
                self.dropped += 1
                return
            if name in self._waiting:
                return
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="router-local-disk", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the system gives no thread more; a later one may be had
                    self.dropped += 1
                    return
                self._thread = thread
            self._waiting[name] = (parts, age)
            self._bytes += sum(map(len, parts))
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Waits until something was written, at most so long."""
        with self._changed:
            if self._waiting:
                self._changed.wait(seconds)

    def close(self, seconds: float) -> None:
        """Takes no more, and waits for what is under way, at most so long. The rest is dropped."""
        end = time.monotonic() + seconds
        with self._changed:
            while self._waiting and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
            self._closed = True
            self.dropped += len(self._waiting)
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(max(0.0, end - time.monotonic()))

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._closed or self._waiting):
                    self._changed.wait()
                if self._closed:
                    self._waiting.clear()
                    return
                name, (parts, age) = next(iter(self._waiting.items()))
            kept = self._folder.write(name, parts, age)
            with self._changed:
                self._waiting.pop(name, None)
                self._bytes -= sum(map(len, parts))
                self.dropped += not kept
                self._changed.notify_all()
