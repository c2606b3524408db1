"""The lock that lets local models compute in turn."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

from adapters.local.turns import FairLock
from tests.adapters.local.kit import until


def test_turns_are_taken_in_the_order_they_were_asked_for() -> None:
    lock = FairLock()
    order: list[int] = []

    def take(place: int) -> None:
        with lock:
            order.append(place)

    threads: list[threading.Thread] = []
    with lock:
        for place in range(8):
            threads.append(threading.Thread(target=take, args=(place,)))
            threads[-1].start()
            until(lambda: len(lock._queue) == len(threads))
    for thread in threads:
        thread.join(10)
    assert order == list(range(8))


def test_only_one_holds_it_and_nobody_starves() -> None:
    lock, together = FairLock(), threading.Barrier(3)
    inside: list[int] = []
    crowds: list[list[int]] = []
    counts = [0, 0, 0]
    progress: list[list[int]] = []

    def work(place: int) -> None:
        together.wait(10)
        while not progress:
            with lock:
                inside.append(place)
                time.sleep(0.001)  # lets the others run: without the lock they would come in
                if len(inside) > 1:
                    crowds.append([*inside])
                inside.remove(place)
                counts[place] += 1
                if counts[place] == 100:
                    progress.append([*counts])

    threads = [threading.Thread(target=work, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not crowds
    assert min(progress[0]) >= 50, "one was ahead of the others: a lock that promises no order"


def test_an_error_inside_gives_the_turn_back() -> None:
    lock = FairLock()
    with suppress(ZeroDivisionError), lock:
        _ = 1 / 0
    with lock:
        pass
