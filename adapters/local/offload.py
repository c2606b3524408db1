"""Runs one piece of work in a thread of its own, which ends with it and can be ended from outside."""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["offload"]

T = TypeVar("T")


class _Stopped(Exception):  # noqa: N818 - no error: somebody wanted it
    """Nobody waits for the work any more."""


async def offload(
    work: Callable[[], T], *, limit: float | None = None, stop: type[Exception] = _Stopped
) -> T:
    """Runs `work` in a new thread; cancelling the wait, or its time being over, ends the thread.

    Python's own thread pools cannot do that, and their threads stay.

    Args:
        work: Python code; a single long call into C is only ended after it.
        limit: Seconds that it may take.
        stop: What is raised in the thread to end it, and here when time is over.

    Raises:
        Exception: what `work` raises.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    thread = _OneOff(work, loop, done, stop)
    thread.start()
    try:
        return await asyncio.wait_for(done, limit)
    except TimeoutError:
        raise stop from None
    finally:
        thread.stop()


class _OneOff(threading.Thread, Generic[T]):
    def __init__(
        self,
        work: Callable[[], T],
        loop: asyncio.AbstractEventLoop,
        done: asyncio.Future[T],
        stop: type[Exception],
    ) -> None:
        super().__init__(name="router-one-off", daemon=True)
        self._work = work
        self._loop = loop
        self._done = done
        self._stop_with = stop
        self._over = False

    def run(self) -> None:
        try:
            try:
                result = self._work()
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
                self._over = True
                self._tell(self._fail, error)
            else:
                self._over = True
                self._tell(self._done.set_result, result)
        except self._stop_with:  # it came in the last moment; nobody waits any more
            return

    def stop(self) -> None:
        """Raises in the thread, before its next bytecode, unless it is over."""
        if not self._over and self.is_alive() and self.ident is not None:
            raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
            raise_in(ctypes.c_ulong(self.ident), ctypes.py_object(self._stop_with))

    def _fail(self, error: BaseException) -> None:
        # A future takes no StopIteration, and what ends a process is not the event loop's to raise.
        usable = isinstance(error, Exception) and not isinstance(error, StopIteration)
        self._done.set_exception(error if usable else RuntimeError(repr(error)))

    def _tell(self, settle: Callable[[T], None] | Callable[[BaseException], None], what: object) -> None:
        def unless_done() -> None:
            if not self._done.done():
                settle(what)  # type: ignore[arg-type]  # each settler comes with its own kind

        try:
            self._loop.call_soon_threadsafe(unless_done)
        except RuntimeError:  # the loop is closed
            return
