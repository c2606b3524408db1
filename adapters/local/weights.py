"""Weights in memory, once for all models of this process that are made of the same file.

Each model has a context of its own, and maybe a LoRA adapter; what they share is only read meanwhile.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field

from adapters.local.native import LoadSettings, NativeError, NativeWeights
from adapters.local.residency.prediction import identity

__all__ = ["WEIGHTS", "Shared", "Weights", "give_memory_back"]

#: Seconds between two looks of who waits for another one's load whether it is still wanted itself.
_LOOK = 0.2


@dataclass(eq=False, slots=True)
class Shared:
    """Weights that one model or several hold.

    Attributes:
        key: What they are.
        native: The weights; None until they are loaded.
        fixed: Bytes of them that the system cannot drop and read again; None: unknown.
        users: How many hold them, or wait for them.
        wanted: Asked while they load: somebody goes on wanting them.
        failed: They could not be loaded.
    """

    key: Hashable
    native: NativeWeights | None = None
    fixed: int | None = None
    users: int = 0
    wanted: list[Callable[[], bool]] = field(default_factory=list)
    failed: bool = False

    def go_on(self) -> bool:
        """Whether anybody still wants them."""
        return any(wanted() for wanted in tuple(self.wanted))


class Weights:
    """All weights of this process. For any thread; nothing is loaded under the lock."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._shared: dict[Hashable, Shared] = {}
        self._abandoned: list[object] = []

    def take(self, settings: LoadSettings, go_on: Callable[[], bool]) -> Shared:
        """The weights of a file, loaded if nobody holds them; waits while another one loads them.

        Args:
            settings: Which file, and how; the context and the LoRA adapter are no matter.
            go_on: Asked now and then; False gives up, unless another one wants them, too.

        Raises:
            NativeError: if they cannot be loaded, or nobody wants them any more.
            OSError: if there is no such file.
        """
        key = (identity(settings.path), settings.n_gpu_layers)
        while True:
            with self._lock:
                shared = self._shared.get(key)
                if first := shared is None:
                    shared = self._shared[key] = Shared(key)
                shared.users += 1
                shared.wanted.append(go_on)
            loaded = False
            try:
                loaded = self._load(shared, settings) if first else self._wait(shared, go_on)
            finally:
                shared.wanted.remove(go_on)
                if not loaded:
                    self.give_back(shared)
            if loaded:
                return shared
            # Whoever loaded them could not, for reasons that may be its own: try it here.

    def give_back(self, shared: Shared) -> None:
        """One user less; the last one frees them."""
        with self._lock:
            shared.users -= 1
            if shared.users:
                return
            self._drop(shared)
        if shared.native is not None:
            shared.native.close()

    def after_fork(self) -> None:
        """In a forked child: what is loaded is the parent's, and must not be touched here."""
        self._lock = threading.Condition()
        self._abandoned.append(self._shared)
        self._shared = {}

    def _load(self, shared: Shared, settings: LoadSettings) -> bool:
        before = _fixed_bytes()
        try:
            native = NativeWeights(settings, shared.go_on)
        except BaseException:
            with self._lock:
                shared.failed = True
                self._drop(shared)
                self._lock.notify_all()
            raise
        after = _fixed_bytes()
        with self._lock:
            shared.fixed = None if before is None or after is None else max(0, after - before)
            shared.native = native
            self._lock.notify_all()
        return True

    def _wait(self, shared: Shared, go_on: Callable[[], bool]) -> bool:
        with self._lock:
            while shared.native is None and not shared.failed:
                if not go_on():
                    raise NativeError("it was not wanted any more")
                self._lock.wait(_LOOK)
        return not shared.failed

    def _drop(self, shared: Shared) -> None:
        if self._shared.get(shared.key) is shared:
            del self._shared[shared.key]


#: The weights of this process.
WEIGHTS = Weights()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=WEIGHTS.after_fork)


def _fixed_bytes() -> int | None:
    """Bytes of this process that come from no file; None where the system does not tell."""
    try:
        import psutil
    except ImportError:
        return None
    memory = psutil.Process().memory_info()
    shared = getattr(memory, "shared", None)  # Linux has it
    return None if shared is None else int(memory.rss - shared)


def give_memory_back() -> None:
    """Has the C library give the system what was freed: glibc keeps it for a next time."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
