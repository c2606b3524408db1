"""The lock that lets local models compute in turn."""

from __future__ import annotations

import threading
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
    lock, inside, most = FairLock(), [0], [0]
    counts = [0, 0, 0]

    def work(place: int) -> None:
        for _ in range(300):
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                counts[place] += 1
                inside[0] -= 1

    threads = [threading.Thread(target=work, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (most, counts) == ([1], [300, 300, 300])


def test_an_error_inside_gives_the_turn_back() -> None:
    lock = FairLock()
    with suppress(ZeroDivisionError), lock:
        _ = 1 / 0
    with lock:
        pass
