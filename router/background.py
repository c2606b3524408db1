"""A private event loop on a daemon thread, for callers that have none or must not block theirs."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextvars
import os
import queue
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Generic, TypeVar

from router.errors import RouterClosedError, RouterError

__all__ = ["BackgroundLoop", "Pump"]

T = TypeVar("T")

#: Seconds to wait for the loop's thread at the end of the program.
EXIT_PATIENCE = 2.0
#: Chunks that are read ahead of a synchronous caller.
READ_AHEAD = 64


class BackgroundLoop:
    """Runs coroutines for threads that wait. Its thread starts with the first one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        _LOOPS.add(self)

    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop; in a forked child, a new one."""
        if self._pid != os.getpid():
            self._lock, self._loop, self._thread, self._pid = threading.Lock(), None, None, os.getpid()
        with self._lock:
            if self._loop is None:
                ready: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()
                self._thread = threading.Thread(target=_run, args=(ready,), name="router-loop", daemon=True)
                self._thread.start()
                self._loop = ready.result()
            return self._loop

    def run(self, make: Callable[[], Coroutine[object, object, T]]) -> T:
        """Runs a coroutine on the loop, in the caller's context, and waits for it.

        An interruption of the wait (such as KeyboardInterrupt) cancels the coroutine.

        Raises:
            RouterError: if called on the loop's own thread, where waiting would never end.
        """
        loop = self.loop()
        if threading.current_thread() is self._thread:
            raise RouterError(
                "the synchronous Router was called on its own event loop's thread and would wait for itself "
                "for ever; use AsyncRouter there"
            )
        result: concurrent.futures.Future[T] = concurrent.futures.Future()
        context = contextvars.copy_context()
        tasks: list[asyncio.Task[T]] = []

        def begin() -> None:
            task = loop.create_task(make(), context=context)
            tasks.append(task)
            task.add_done_callback(lambda done: _hand_over(done, result))

        try:
            loop.call_soon_threadsafe(begin)
        except RuntimeError as error:
            raise RouterClosedError("this router was closed, or the program is ending") from error
        try:
            return result.result()
        except BaseException:
            if not result.done():
                loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])
            raise

    def stop(self) -> None:
        """Ends the loop and its thread, within two seconds."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is None or thread is None or self._pid != os.getpid():
            return
        loop.call_soon_threadsafe(loop.stop)
        if thread is not threading.current_thread():
            thread.join(EXIT_PATIENCE)


def _hand_over(done: asyncio.Task[T], result: concurrent.futures.Future[T]) -> None:
    if done.cancelled():
        result.set_exception(concurrent.futures.CancelledError())
    elif (error := done.exception()) is not None:
        result.set_exception(error)
    else:
        result.set_result(done.result())


def _run(ready: concurrent.futures.Future[asyncio.AbstractEventLoop]) -> None:
    """The thread: a loop until it is stopped, then what is left is cancelled."""
    loop = asyncio.new_event_loop()
    loop.call_soon(ready.set_result, loop)
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(_cancel_all())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def _cancel_all() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


_LOOPS: weakref.WeakSet[BackgroundLoop] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    for loop in list(_LOOPS):
        loop.stop()


class Pump(Iterator[T], Generic[T]):
    """Reads an asynchronous stream on the background loop, a little ahead of a synchronous reader.

    One hop between threads per chunk would cost more than the chunk; so a task on the loop fills a queue.
    """

    def __init__(self, background: BackgroundLoop, source: AsyncIterator[T]) -> None:
        self._source = source
        self._queue: queue.SimpleQueue[tuple[T] | BaseException] = queue.SimpleQueue()
        self._room: asyncio.Event | None = None
        self._waits = False
        self._over = False
        self._loop = background.loop()
        self._task: asyncio.Task[None] | None = None
        context = contextvars.copy_context()
        self._loop.call_soon_threadsafe(self._begin, context)

    def _begin(self, context: contextvars.Context) -> None:
        self._room = asyncio.Event()
        self._task = self._loop.create_task(
            _pump(weakref.ref(self), self._source, self._room), context=context
        )

    def __next__(self) -> T:
        if self._over:
            raise StopIteration
        item = self._queue.get()
        if self._waits and self._queue.qsize() < READ_AHEAD // 2 and self._room is not None:
            self._waits = False
            self._loop.call_soon_threadsafe(self._room.set)
        if isinstance(item, tuple):
            return item[0]
        self._over = True
        raise item

    def put(self, item: tuple[T] | BaseException) -> bool:
        """Adds to the queue; False if it is full now, and the reader will say when it is not."""
        self._queue.put(item)
        self._waits = self._queue.qsize() >= READ_AHEAD
        return not self._waits

    def stop(self) -> None:
        """Stops reading. The source is closed by its owner."""
        self._over = True
        task = self._task
        if task is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(task.cancel)


async def _pump(reader: weakref.ref[Pump[T]], source: AsyncIterator[T], room: asyncio.Event) -> None:
    """Fills the queue until the source ends or nobody reads any more."""
    end: BaseException = StopIteration()
    try:
        async for item in source:
            pump = reader()
            if pump is None:
                return
            full = not pump.put((item,))
            del pump
            if full:
                room.clear()
                await room.wait()
    except asyncio.CancelledError:
        end = StopIteration()
        raise
    except Exception as error:  # noqa: BLE001 - it is raised again where the stream is read
        end = error
    finally:
        pump = reader()
        if pump is not None:
            pump.put(end)
