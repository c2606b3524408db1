"""An OpenAI-compatible server on the loopback interface, for tests, examples and benchmarks.

::

    with LoopbackServer(reply="Hello!", models={"broken": Reply(fault="html")}) as server:
        model = HostedModel("mine", base_url=server.base_url, model="any")
        ...
        assert server.requests[0].body["messages"][0]["content"] == "Hi"

It runs on its own daemon thread and answers `POST .../chat/completions` and `GET .../models`. A reply is a
text, a `Reply` (latency, status, headers, tool calls, faults), a list of these to be given in turn (the
last one for ever), or a callable that is given the request. `models` holds replies by the name of the model
that is asked for; `reply` answers for the others.

Its HTTP is written by hand, because it must be able to break HTTP on purpose. For benchmarks,
`serve_in_child` runs it in a process of its own, whose CPU time does not count.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeAlias

from router.testing.replies import Received, Reply
from router.testing.wire import Connection

__all__ = ["LoopbackServer", "Received", "Reply", "Script", "serve_in_child"]

Script: TypeAlias = "str | Reply | Sequence[str | Reply] | Callable[[Received], str | Reply]"
"""What to answer: one reply, replies in turn (the last one for ever), or a callable."""


class LoopbackServer:
    """The server; a context manager.

    Args:
        reply: What to answer when `models` has nothing for the model asked for.
        models: What to answer, by the name of the model asked for.

    Attributes:
        requests: What was received, in order.
        most_in_flight: The most requests that were being answered at once.
        accepted: How many connections were opened in all.
    """

    def __init__(self, reply: Script = "Hello!", *, models: Mapping[str, Script] | None = None) -> None:
        self.requests: list[Received] = []
        self.most_in_flight = 0
        self.accepted = 0
        self._reply = reply
        self._models = dict(models or {})
        self._turns: dict[str, int] = {}
        self._open: set[Connection] = set()
        self._answering = 0
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="loopback-server", daemon=True)
        self._thread.start()
        if not ready.wait(10):
            raise RuntimeError("the loopback server did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops the server and closes its connections. May be called twice."""
        if self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)

    @property
    def port(self) -> int:
        """The TCP port."""
        if self._server is None:
            raise RuntimeError("the server is not running: use it as a context manager")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def base_url(self) -> str:
        """What to give to a client as its base URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._open)

    @property
    def in_flight(self) -> int:
        """How many requests are being answered now."""
        with self._lock:
            return self._answering

    @property
    def disconnects(self) -> int:
        """How many clients went away before their answer was complete."""
        with self._lock:
            return sum(request.disconnected for request in self.requests)

    def wait_until(self, condition: Callable[[LoopbackServer], bool], timeout: float = 5.0) -> bool:
        """Waits up to `timeout` seconds until `condition(server)` holds; whether it does.

        Blocks: call it from a thread without a running loop, or through `asyncio.to_thread`.
        """
        # The condition reads properties that take the lock themselves, so it is checked outside of it.
        for _ in range(max(1, int(timeout / 0.01))):
            if condition(self):
                return True
            with self._changed:
                self._changed.wait(0.01)
        return condition(self)

    def script(self, reply: Script, *, model: str | None = None) -> None:
        """Changes what is answered from now on, for one model or for the others."""
        with self._lock:
            self._turns.pop(model or "", None)
            if model is None:
                self._reply = reply
            else:
                self._models[model] = reply

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        create = self._loop.create_server(self._accept, "127.0.0.1", 0, backlog=1024)
        self._server = self._loop.run_until_complete(create)
        ready.set()
        self._loop.run_forever()
        self._server.close()
        for connection in list(self._open):
            connection.abort()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, asyncio.sleep(0), return_exceptions=True))
        self._loop.close()

    def _accept(self) -> Connection:
        self.accepted += 1
        return Connection(self._begin, self._end, self._open)

    def _begin(self, request: Received) -> Reply:
        with self._changed:
            self.requests.append(request)
            self._answering += 1
            self.most_in_flight = max(self.most_in_flight, self._answering)
            key = request.model if request.model in self._models else ""
            script = self._models.get(key, self._reply)
            turn = self._turns.get(key, 0)
            self._turns[key] = turn + 1
            self._changed.notify_all()
        if isinstance(script, Sequence) and not isinstance(script, str):
            script = script[min(turn, len(script) - 1)]
        chosen = script(request) if callable(script) else script
        return Reply(text=chosen) if isinstance(chosen, str) else chosen

    def _end(self, request: Received, *, whole: bool) -> None:
        with self._changed:
            self._answering -= 1
            request.disconnected = not whole
            self._changed.notify_all()


@contextlib.contextmanager
def serve_in_child(
    text: str = "Hello!", *, ttft: float = 0.0, per_token: float = 0.0, chunk: int = 4
) -> Iterator[str]:
    """Runs the server in a child process; gives its base URL."""
    script = (
        "import sys, json; from router.testing.server import LoopbackServer, Reply; "
        "server = LoopbackServer(Reply(**json.loads(sys.argv[1]))).__enter__(); "
        "print(server.base_url, flush=True); sys.stdin.read()"
    )
    reply = json.dumps({"text": text, "ttft": ttft, "per_token": per_token, "chunk": chunk})
    with subprocess.Popen(  # noqa: S603 - our own interpreter with our own script
        [sys.executable, "-c", script, reply], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None  # noqa: S101 - a pipe was asked for
        try:
            yield child.stdout.readline().strip()
        finally:
            child.terminate()
