"""Event loops are woken once for what came together, at once for what is waited for."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from adapters.local import waking
from adapters.local.waking import flush, gather, hurry, wake


class Loop(asyncio.SelectorEventLoop):
    """Makes calls at once, and counts how often it was woken."""

    woken = 0

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: object, **_: object) -> None:  # type: ignore[override]
        self.woken += 1
        callback(*args)


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    monkeypatch.setattr(waking, "_gathered", waking._Gathered())
    made = Loop()
    yield made
    made.close()


def test_a_thread_that_does_not_gather_tells_at_once(loop: Loop) -> None:
    heard: list[int] = []
    wake(loop, lambda: heard.append(1), list)
    assert heard == [1]


def test_a_thread_that_gathers_wakes_each_loop_once(loop: Loop) -> None:
    heard: list[int] = []
    gather()
    for number in range(3):
        wake(loop, lambda number=number: heard.append(number), list)  # type: ignore[misc]
    assert not heard
    flush()
    assert (heard, loop.woken) == ([0, 1, 2], 1)
    flush()
    assert loop.woken == 1


def test_what_is_not_urgent_waits_for_more_but_not_for_long(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, heard = [100.0], list[int]()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    gather()
    wake(loop, lambda: heard.append(1), list)
    flush(0.015)
    assert heard == [1]  # nothing was told for long
    wake(loop, lambda: heard.append(2), list)
    now[0] += 0.01
    flush(0.015)
    assert heard == [1]
    now[0] += 0.01
    flush(0.015)
    assert heard == [1, 2]


def test_what_is_urgent_takes_the_rest_along(loop: Loop) -> None:
    heard: list[int] = []
    gather()
    wake(loop, lambda: heard.append(1), list)
    flush(1000.0)
    wake(loop, lambda: heard.append(2), list)
    hurry()
    flush(1000.0)
    assert heard == [1, 2]
    wake(loop, lambda: heard.append(3), list)
    flush(1000.0)
    assert heard == [1, 2]  # a hurry is over once it was heard


def test_a_loop_that_was_closed_has_its_calls_abandoned() -> None:
    closed = asyncio.new_event_loop()
    closed.close()
    abandoned: list[int] = []

    def tell() -> None:
        gather()
        wake(closed, lambda: None, lambda: abandoned.append(1))
        flush()

    thread = threading.Thread(target=tell)
    thread.start()
    thread.join()
    assert abandoned == [1]
