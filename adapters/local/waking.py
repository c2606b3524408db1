"""Wakes event loops from an engine's thread: once per step, not once per chat.

Waking a loop hands it the interpreter's lock, and the engine's thread waits to get it back: at eight chats a
step that was 4 % of it. A thread that gathers wakes its loops when it goes to compute, which needs no lock;
and of a small model, whose steps take a few milliseconds, several tokens are told at once: the loop's work
takes time from llama.cpp's threads.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TypeAlias

__all__ = ["flush", "gather", "hurry", "wake"]

_Call: TypeAlias = Callable[[], object]


class _Gathered(threading.local):
    """What this thread has to tell; None: it tells at once."""

    def __init__(self) -> None:
        self.calls: dict[asyncio.AbstractEventLoop, list[tuple[_Call, _Call]]] | None = None
        self.hurry = False
        self.told_at = 0.0


_gathered = _Gathered()


def gather() -> None:
    """From now on, what this thread tells loops waits for `flush`."""
    _gathered.calls = {}


def wake(loop: asyncio.AbstractEventLoop, call: _Call, abandon: _Call) -> None:
    """Has a loop make a call.

    Args:
        loop: Any thread's.
        call: Made on the loop. Must not raise.
        abandon: Called here, instead, if the loop was closed.
    """
    if _gathered.calls is None:
        _tell(loop, [(call, abandon)])
    else:
        _gathered.calls.setdefault(loop, []).append((call, abandon))


def hurry() -> None:
    """What this thread gathered is not to wait for more."""
    _gathered.hurry = True


def flush(patience: float = 0.0) -> None:
    """Tells the loops what this thread gathered.

    Args:
        patience: Seconds since the last time within which there is nothing to tell yet, unless in a `hurry`.
    """
    calls = _gathered.calls
    if not calls:
        return
    now = time.monotonic()
    if _gathered.hurry or now - _gathered.told_at >= patience:
        _gathered.hurry, _gathered.told_at = False, now
        _gathered.calls = {}
        for loop, made in calls.items():
            _tell(loop, made)


def _tell(loop: asyncio.AbstractEventLoop, made: list[tuple[_Call, _Call]]) -> None:
    try:
        loop.call_soon_threadsafe(_make, made)
    except RuntimeError:  # the loop was closed
        for _, abandon in made:
            abandon()


def _make(made: list[tuple[_Call, _Call]]) -> None:
    for call, _ in made:
        call()
