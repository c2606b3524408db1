"""One client per event loop: connections belong to the loop that opened them."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary, WeakSet

__all__ = ["Clients", "Closeable"]


class Closeable(Protocol):
    """What can be closed on the loop that it belongs to."""

    async def aclose(self) -> None:
        """Closes it. May be called twice."""


class _Forkable(Protocol):
    def after_fork(self) -> None: ...


ClientT = TypeVar("ClientT", bound=Closeable)


class Clients(Generic[ClientT]):
    """The clients of one adapter, by event loop.

    A loop that ends in order (`asyncio.run`, `asyncio.Runner`, uvloop, pytest) closes its client itself: a
    loop closes its async generators last, and each client is kept by one. After a fork the child starts
    with none; the parent's connections are left alone.

    Args:
        build: Makes a client for the running loop, without I/O.
    """

    def __init__(self, build: Callable[[], ClientT]) -> None:
        self._build = build
        self._lock = threading.Lock()
        self._kept: WeakKeyDictionary[asyncio.AbstractEventLoop, _Kept[ClientT]] = WeakKeyDictionary()
        self.closed = False
        _ALL.add(self)

    def here(self) -> ClientT | None:
        """The running loop's client; None if it has none yet."""
        kept = self._kept.get(asyncio.get_running_loop())
        return None if kept is None else kept.client

    async def make(self) -> ClientT:
        """The running loop's client, built if need be."""
        loop = asyncio.get_running_loop()
        with self._lock:
            for other in [each for each in self._kept if each.is_closed()]:
                del self._kept[other]
            kept = self._kept.get(loop)
            if kept is not None:
                return kept.client
            kept = self._kept[loop] = _Kept(self._build())
        kept.keeper = self._keep(loop, kept.client)
        # Its first step makes the loop know the generator; it does not wait for anything.
        await anext(kept.keeper)
        return kept.client

    async def aclose(self) -> None:
        """Closes the running loop's client and has other running loops close theirs."""
        self.closed = True
        here = asyncio.get_running_loop()
        with self._lock:
            everywhere = list(self._kept.items())
            self._kept.clear()
        for loop, kept in everywhere:
            if loop is not here and loop.is_running():
                asyncio.run_coroutine_threadsafe(kept.aclose(), loop)
        for loop, kept in everywhere:
            if loop is here:
                await kept.aclose()

    async def _keep(self, loop: asyncio.AbstractEventLoop, client: ClientT) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            with self._lock:
                kept = self._kept.get(loop)
                if kept is not None and kept.client is client:
                    del self._kept[loop]
            await client.aclose()

    def after_fork(self) -> None:
        """Forgets, in a child process, what belongs to the parent."""
        # Kept alive on purpose: collecting them would close connections that the parent still uses.
        _ABANDONED.append(self._kept)
        self._lock = threading.Lock()
        self._kept = WeakKeyDictionary()


class _Kept(Generic[ClientT]):
    """A client and the generator that closes it with its loop."""

    __slots__ = ("client", "keeper")

    def __init__(self, client: ClientT) -> None:
        self.client = client
        self.keeper: AsyncGenerator[None, None] | None = None

    async def aclose(self) -> None:
        if self.keeper is not None:
            await self.keeper.aclose()
        await self.client.aclose()


_ALL: WeakSet[_Forkable] = WeakSet()
_ABANDONED: list[object] = []


def _after_fork() -> None:
    for clients in list(_ALL):
        clients.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
