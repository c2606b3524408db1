"""Ends adapters that nobody uses any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from router.adapter import Adapter

__all__ = ["close_all", "close_in_background"]


async def close_all(adapters: Sequence[Adapter]) -> None:
    """Closes adapters, all at once. One that fails keeps none of the others from it."""
    await asyncio.gather(*(adapter.aclose() for adapter in adapters), return_exceptions=True)


def close_in_background(adapters: Sequence[Adapter], keep: Callable[[asyncio.Task[None]], None]) -> None:
    """Closes adapters without waiting: on the running event loop, or else on a thread of its own.

    `keep` keeps a task from being collected while it runs.
    """
    if not adapters:
        return
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        threading.Thread(target=lambda: asyncio.run(close_all(adapters)), daemon=True).start()
    else:
        keep(loop.create_task(close_all(adapters)))
