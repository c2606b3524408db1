"""The fault server's other end: starts it, tells it how to behave, and reads what it saw."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from tests.benchmarks.faults.behaviour import Behaviour, Counts

__all__ = ["FaultServer"]

SERVER = "tests.benchmarks.faults.server"


class FaultServer:
    """A server in a process of its own; a context manager. Its calls block for about a millisecond."""

    def __init__(self) -> None:
        child = subprocess.Popen(
            [sys.executable, "-m", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        self._child: subprocess.Popen[str] | None = child
        self.port = int(child.stdout.readline())

    @classmethod
    def at(cls, port: int) -> Self:
        """One that another process has started."""
        server = cls.__new__(cls)
        server._child, server.port = None, port
        return server

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()

    @property
    def base_url(self) -> str:
        """What to give to a client as its base URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    def behave(self, **behaviours: Behaviour) -> None:
        """How models answer from now on, by their names; unnamed ones stay as they are."""
        self._ask("POST", "/control", {name: _told(what) for name, what in behaviours.items()})

    def reset(self) -> None:
        """Counts from 0."""
        self._ask("POST", "/control", {"reset": {}})

    def counts(self) -> dict[str, Counts]:
        """What was seen of each model since the last reset."""
        return {name: Counts(**counts) for name, counts in self._ask("GET", "/counts").items()}

    def accepted(self) -> int:
        """Requests that came in since the last reset, of all models."""
        return sum(counts.accepted for counts in self.counts().values())

    def in_flight(self) -> int:
        """Requests that are not over, of all models."""
        return sum(counts.in_flight for counts in self.counts().values())

    def wait_until(self, condition: Callable[[FaultServer], bool], timeout: float) -> bool:
        """Waits, blocking, until something holds; whether it did in time (s)."""
        until = time.monotonic() + timeout
        while not (holds := condition(self)) and time.monotonic() < until:
            time.sleep(0.01)
        return holds

    def _ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body=json.dumps(body) if body is not None else None)
            answer = connection.getresponse()
            if answer.status != 200:
                raise RuntimeError(f"the fault server says {answer.status}")
            told: dict[str, Any] = json.loads(answer.read())
            return told
        finally:
            connection.close()


def _told(behaviour: Behaviour) -> dict[str, object]:
    return {name: getattr(behaviour, name) for name in Behaviour.__dataclass_fields__}
