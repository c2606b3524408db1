"""The books: who comes in, who leaves, who waits, who is refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest

from adapters.local.residency.limits import Room
from adapters.local.residency.prediction import Need
from adapters.local.residency.residency import Account, Residency, UnwantedError
from router.errors import ModelHTTPError, ModelLoadError
from tests.adapters.local.kit import until

MIB = 1 << 20
#: Cells of these needs take a megabyte each 256.
CELL = MIB // 256


class Engine:
    """Gives its memory back as soon as it is asked to, or when it is told."""

    def __init__(self, residency: Residency, name: str, *, limit: int | None = None) -> None:
        self.residency = residency
        self.account = Account(name, self, limit)
        self.busy = False
        self.prompt = True
        self.asked = 0
        self.empty = 1.0
        residency.register(self.account)

    def idle(self) -> bool:
        return not self.busy

    def untaken(self) -> float:
        return self.empty

    def leave(self) -> bool:
        self.asked += 1
        if self.busy:
            return False
        if self.prompt:
            threading.Thread(target=lambda: self.residency.left(self.account)).start()
        return True

    def enter(self, need: Need, wanted: Callable[[], bool] = lambda: True) -> int:
        cells = self.residency.enter(self.account, need, wanted)
        self.residency.entered(self.account, 1.0, 0)
        return cells

    @property
    def here(self) -> bool:
        return self.account.state == "in"


def need(weights: int, *, own: int = 0, window: int = 0, extra: int = 0, source: object = None) -> Need:
    """In megabytes."""
    return Need(
        source=source or object(),
        weights=weights * MIB,
        fixed=own * MIB,
        per_cell=CELL,
        window=window * 256,
        extra=extra * 256,
    )


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def waits(future: Future[int], residency: Residency) -> None:
    until(lambda: residency._waiting > 0)
    assert not future.done()


def test_models_come_in_as_long_as_there_is_room_and_weights_count_once() -> None:
    residency = Residency()
    one, two, three = (Engine(residency, name, limit=100 * MIB) for name in "abc")
    one.enter(need(60, own=5, source="base"))
    two.enter(need(60, own=5, source="base"))
    three.enter(need(20, own=10))
    assert residency.held() == 100 * MIB
    assert (one.asked, two.asked) == (0, 0)


def test_the_least_valuable_idle_one_leaves() -> None:
    clock = Clock()
    residency = Residency(clock=clock)
    often, seldom, new = (Engine(residency, name, limit=100 * MIB) for name in ("often", "seldom", "new"))
    often.enter(need(40))
    seldom.enter(need(40))
    for _ in range(3):
        residency.used(often.account)
    residency.used(seldom.account)
    new.enter(need(50))
    assert (often.here, seldom.here, new.here) == (True, False, True)


def test_whoever_serves_does_not_leave_and_the_load_waits_until_it_is_idle(pool: ThreadPoolExecutor) -> None:
    residency = Residency()
    first, second = (Engine(residency, name, limit=100 * MIB) for name in "ab")
    first.enter(need(60))
    first.busy = True
    entered = pool.submit(second.enter, need(60))
    waits(entered, residency)
    first.busy = False
    residency.changed()
    assert entered.result(10) == 0
    assert not first.here


def test_waiting_ends_with_an_error_that_has_the_numbers(pool: ThreadPoolExecutor) -> None:
    clock = Clock()
    residency = Residency(clock=clock, patience=5.0)
    first, second = (Engine(residency, name, limit=100 * MIB) for name in "ab")
    first.enter(need(60))
    first.busy = True
    entered = pool.submit(second.enter, need(60))
    waits(entered, residency)
    clock.now = 5.0
    residency.changed()
    with pytest.raises(ModelHTTPError) as caught:
        entered.result(10)
    assert (caught.value.status_code, caught.value.code) == (503, "queue_full")
    for part in ("'b' needs 60.0 MiB", "100.0 MiB", "'a' 60.0 MiB (at work)", "5 s"):
        assert part in str(caught.value)
    assert residency.held() == 60 * MIB


def test_a_load_that_nobody_wants_any_more_waits_no_longer(pool: ThreadPoolExecutor) -> None:
    residency = Residency()
    first, second = (Engine(residency, name, limit=100 * MIB) for name in "ab")
    first.enter(need(60))
    first.busy = True
    wanted = [True]
    entered = pool.submit(second.enter, need(60), lambda: wanted[0])
    waits(entered, residency)
    wanted[0] = False
    residency.changed()
    with pytest.raises(UnwantedError):
        entered.result(10)
    assert residency.held() == 60 * MIB


def test_what_can_never_fit_is_refused_at_once_with_what_helps() -> None:
    residency = Residency()
    first, second = Engine(residency, "a", limit=100 * MIB), Engine(residency, "b")
    first.enter(need(60))
    with pytest.raises(ModelLoadError) as caught:
        second.enter(need(90, own=8, window=5))
    for part in (
        "'b' needs 103.0 MiB",
        "weights 90.0 MiB",
        "1,280 tokens 5.0 MiB",
        "100.0 MiB",
        "local_memory",
    ):
        assert part in str(caught.value)
    for part in ("quantisation", "n_ctx", "max_parallel"):
        assert part in str(caught.value)
    assert first.here


def test_of_several_limits_the_smallest_holds_until_its_engine_is_closed() -> None:
    residency = Residency()
    small, large = Engine(residency, "a", limit=10 * MIB), Engine(residency, "b", limit=100 * MIB)
    with pytest.raises(ModelLoadError):
        large.enter(need(50))
    residency.forget(small.account)
    large.enter(need(50))
    assert residency.limit() == 100 * MIB


def test_fewer_cells_are_better_than_sending_another_model_away() -> None:
    residency = Residency()
    first, second = (Engine(residency, name, limit=100 * MIB) for name in "ab")
    first.enter(need(60))
    assert second.enter(need(10, window=8, extra=40)) == 30 * 256
    assert first.here


def test_but_not_fewer_than_half_of_what_it_could_do_without() -> None:
    residency = Residency()
    first, second = (Engine(residency, name, limit=100 * MIB) for name in "ab")
    first.enter(need(80))
    assert second.enter(need(10, window=8, extra=40)) == 48 * 256
    assert not first.here


def test_and_as_few_as_it_must_have_if_the_others_serve() -> None:
    residency = Residency()
    first, second = (Engine(residency, name, limit=100 * MIB) for name in "ab")
    first.enter(need(80))
    first.busy = True
    assert second.enter(need(10, window=8, extra=40)) == 10 * 256
    assert first.here


def test_room_is_not_given_before_whoever_leaves_has_left(pool: ThreadPoolExecutor) -> None:
    residency = Residency()
    first, second = (Engine(residency, name, limit=100 * MIB) for name in "ab")
    first.enter(need(60))
    first.prompt = False
    entered = pool.submit(second.enter, need(60))
    until(lambda: first.asked == 1)
    assert not entered.done()
    residency.left(first.account)
    entered.result(10)


def test_room_set_aside_is_free_again_if_the_load_is_given_up_while_another_leaves(
    pool: ThreadPoolExecutor,
) -> None:
    residency = Residency()
    first, second = (Engine(residency, name, limit=100 * MIB) for name in "ab")
    first.enter(need(60))
    first.prompt = False
    wanted = [True]
    entered = pool.submit(second.enter, need(60), lambda: wanted[0])
    until(lambda: first.asked == 1)
    wanted[0] = False
    residency.changed()
    with pytest.raises(UnwantedError):
        entered.result(10)
    residency.left(first.account)
    assert residency.held() == 0


def test_two_do_not_get_the_same_room(pool: ThreadPoolExecutor) -> None:
    residency = Residency(patience=0.3)
    engines = [Engine(residency, str(number), limit=100 * MIB) for number in range(6)]
    for engine in engines:
        engine.busy = True  # once it is in, it stays
    outcomes = [pool.submit(engine.enter, need(40)) for engine in engines]
    refused = [outcome for outcome in outcomes if outcome.exception(10) is not None]
    assert len(refused) == 4
    assert residency.held() == 80 * MIB


def test_by_default_there_is_what_the_machine_has_to_spare_and_what_the_models_hold() -> None:
    free = 2000
    residency = Residency(room=lambda: Room(free * MIB, 4096 * MIB))
    first, second = Engine(residency, "a"), Engine(residency, "b")
    margin = 256
    assert residency.limit() == (2000 - margin) * MIB
    first.enter(need(1000, own=100))
    free = 1900  # the weights are a mapped file, which the machine could drop
    assert residency.limit() == (2000 - margin) * MIB
    residency.entered(first.account, 1.0, 1000 * MIB)
    free = 900  # they are not
    assert residency.limit() == (2000 - margin) * MIB
    second.enter(need(800))
    assert not first.here


def test_what_a_model_takes_by_and_by_counts_once() -> None:
    """What is set aside for finished chats and was not taken yet is among what the machine has to spare."""
    free = 2000
    residency = Residency(room=lambda: Room(free * MIB, 4096 * MIB))
    one = Engine(residency, "a")
    limit = residency.limit()
    one.enter(replace(need(0, window=100, extra=300), per_shelved=CELL))
    assert residency.held() == 700 * MIB
    free = 2000 - 400
    assert residency.limit() == limit
    one.empty, free = 0.5, 2000 - 400 - 150
    assert residency.limit() == limit


def test_a_model_that_fits_once_others_left_is_not_refused_though_their_size_is_uncertain() -> None:
    """Where the system does not tell what it could drop, a model is sent away before another is refused."""
    free = [2000]
    residency = Residency(room=lambda: Room(free[0] * MIB, 4096 * MIB))
    first, second = Engine(residency, "a"), Engine(residency, "b")
    first.enter(need(1500))
    residency.entered(first.account, 1.0, 0)
    free[0] = 500  # it cannot drop them after all
    first.prompt = False
    with ThreadPoolExecutor(1) as pool:
        entered = pool.submit(second.enter, need(1600))
        time.sleep(0.05)
        assert not entered.done()
        free[0] = 2000
        residency.left(first.account)
        entered.result(10)


def test_nobody_can_tell_how_much_there_is_then_all_are_let_in() -> None:
    residency = Residency(room=lambda: None)
    assert Engine(residency, "a").enter(need(10**6, window=4, extra=4)) == 8 * 256
    assert residency.limit() is None


def test_after_a_fork_nothing_is_held() -> None:
    residency = Residency()
    engine = Engine(residency, "a", limit=100 * MIB)
    engine.enter(need(60))
    residency.after_fork()
    assert residency.held() == 0
    assert residency.limit() == 100 * MIB
    engine.enter(need(60))
