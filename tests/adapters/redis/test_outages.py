"""A server that is gone, silent, slow, restarted, emptied or restored: nothing is booked twice, nothing is lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from adapters.redis import outage
from adapters.redis.books import RedisBooks
from adapters.redis.link import Link, UnreachableError
from router.config import Budget
from router.ledger.money import Refusal
from router.ledger.operations import Give, Reserve, Settle, Take, ignore
from router.limits import Ask, Limits
from tests.adapters.redis.serving import Proxy, Server, free_port
from tests.adapters.redis.test_contract import MILLI, lefts, reserve, settle, take
from tests.ledger.making import wait_until

Books = Callable[..., RedisBooks]


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    between = Proxy(server.port)
    yield between
    between.close()


def through(proxy: Proxy, url: str) -> str:
    """The same group, by way of the proxy, with little patience."""
    return f"{proxy.url}?{url.rpartition('?')[2]}&socket_timeout=0.3&socket_connect_timeout=0.3"


def recovers(keeper: RedisBooks) -> None:
    """Looks, as the writer does, until the server is used again."""

    def works() -> bool:
        keeper.look()
        return not keeper._outage.off and not keeper.owes

    wait_until(works)


class TestGone:
    def test_money_is_refused_with_what_to_do_and_limits_go_by_the_own_count(
        self, own_server: Server, books: Books, caplog: pytest.LogCaptureFixture
    ) -> None:
        keeper = books(Budget(usd=1), at=own_server.url)
        assert reserve(keeper, "a", 100) is None
        own_server.stop()
        for key in "bc":
            refusal = reserve(keeper, key, 100)
            assert refusal is not None
            assert refusal.budget is None
            assert refusal.because.startswith(f"shared: the Redis server at 127.0.0.1:{own_server.port}")
        assert take(keeper, 3, places=1) == (3, 0.0)
        warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == 1, "one for the whole outage"
        own_server.start()
        recovers(keeper)
        assert reserve(keeper, "d", 100) is None
        assert lefts(keeper) == [800], "what was reserved before stayed; what was refused did not"
        assert take(keeper, 1, places=3)[0] == 0, "what went meanwhile is under way"

    def test_what_was_spent_meanwhile_is_booked_when_the_server_is_back(
        self, own_server: Server, books: Books
    ) -> None:
        keeper = books(Budget(usd=1), at=own_server.url)
        assert reserve(keeper, "a", 100) is None
        own_server.stop()
        assert keeper.group([Settle("a", "m", "", 70 * MILLI, ignore)]) == [False]
        spent = [Settle("", "m", "", 10 * MILLI, ignore) for _ in range(5)]
        assert keeper.group(spent) == [False] * 5
        assert keeper.owes
        own_server.start()
        recovers(keeper)
        assert lefts(keeper) == [880]

    def test_a_server_that_was_never_there_is_used_as_soon_as_it_is(
        self, own_server: Server, books: Books
    ) -> None:
        own_server.stop()
        keeper = books(Budget(usd=1), at=own_server.url)
        assert reserve(keeper, "a", 100) is not None
        own_server.start()
        recovers(keeper)
        assert reserve(keeper, "a", 100) is None

    def test_what_a_server_lost_is_set_aside_again_and_what_it_should_not_know_is_freed(
        self, server: Server, books: Books, url: str
    ) -> None:
        keeper = books(Budget(usd=1))
        for key in "ab":
            assert reserve(keeper, key, 100) is None
        with server.client() as client:
            prefix = url.rpartition("=")[2]
            saved = {key: client.dump(key) for key in client.scan_iter(f"*{prefix}*")}
            client.delete(*saved)
            assert lefts(keeper) == [800], "as if it had never been away"
            settle(keeper, "a", 50)
            assert lefts(keeper) == [850]
            assert len(saved) > 3

    def test_a_server_restored_from_an_old_copy_frees_what_was_settled_since(
        self, own_server: Server, books: Books
    ) -> None:
        keeper = books(Budget(usd=1), at=own_server.url)
        assert reserve(keeper, "a", 100) is None
        with own_server.client() as client:
            held = list(client.scan_iter("*:held:*"))
            copy = {key: client.hgetall(key) for key in client.scan_iter("*") if client.type(key) == "hash"}
            settle(keeper, "a", None)
            for key, fields in copy.items():
                client.delete(key)
                client.hset(key, mapping=fields)
            assert held
        wait_until(lambda: lefts(keeper) == [1000])


class TestSilent:
    def test_an_answer_that_was_lost_is_booked_once(self, proxy: Proxy, url: str, books: Books) -> None:
        keeper, other = books(Budget(usd=1), at=through(proxy, url)), books(Budget(usd=1))
        assert reserve(keeper, "a", 100) is None
        proxy.deaf = True  # what is sent arrives; what is answered does not
        assert keeper.group([Settle("a", "m", "", 70 * MILLI, ignore)]) == [False]
        proxy.deaf = False
        recovers(keeper)
        assert lefts(other) == [930]

    def test_a_reservation_that_nobody_heard_of_is_undone(
        self, proxy: Proxy, url: str, books: Books, caplog: pytest.LogCaptureFixture
    ) -> None:
        keeper, other = books(Budget(usd=1), at=through(proxy, url)), books(Budget(usd=1))
        assert lefts(keeper) == [1000]
        proxy.deaf = True
        assert reserve(keeper, "a", 400) is not None
        wait_until(lambda: lefts(other) == [600])
        proxy.deaf = False
        recovers(keeper)
        assert lefts(other) == [1000]
        assert "knew" not in caplog.text, "it was undone by name, and not only found to be too much"

    def test_nobody_waits_for_a_server_that_is_known_to_be_silent(
        self, proxy: Proxy, url: str, books: Books
    ) -> None:
        keeper = books(Budget(usd=1), at=through(proxy, url))
        assert reserve(keeper, "a", 1) is None
        proxy.mute = True
        assert reserve(keeper, "b", 1) is not None
        steps = 0
        inner = keeper._link.step

        def counted(asked: str) -> list[object]:
            nonlocal steps
            steps += 1
            return inner(asked)

        keeper._link.step = counted  # type: ignore[method-assign]
        for key in range(50):
            assert reserve(keeper, str(key), 1) is not None
            assert take(keeper, 1, rpm=1) == (1, 0.0)
        assert steps == 0
        proxy.mute = False
        recovers(keeper)

    def test_a_slow_server_is_used_all_the_same(self, proxy: Proxy, url: str, books: Books) -> None:
        proxy.delay = 0.05
        keeper = books(Budget(usd=1), at=through(proxy, url))
        assert reserve(keeper, "a", 300) is None
        settle(keeper, "a", 100)
        assert take(keeper, 2, rpm=1)[0] == 1
        assert lefts(keeper) == [900]

    def test_what_is_no_redis_server_is_told_and_nothing_is_spent(
        self, url: str, books: Books, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keeper = books(Budget(usd=1))
        for answer in (
            [],
            ["done"],
            ["done", 1, 0, [], []],
            ["seen"],
            "OK",
            None,
            5,
            ["done", "x", 0, [[1]], []],
        ):
            monkeypatch.setattr(keeper._link, "step", lambda _, answer=answer: cast("Any", answer))
            keeper._outage.ends()
            refusal = reserve(keeper, "a", 1)
            assert refusal is not None
            assert refusal.budget is None
        monkeypatch.undo()
        recovers(keeper)
        assert lefts(keeper) == [1000]


class Flaky(Link):
    """Loses what is sent or what is answered, or delivers it late, as it is told."""

    fate = "ok"

    def __init__(self, url: SecretStr) -> None:
        super().__init__(url)
        self.late: list[str] = []

    def step(self, asked: str) -> list[object]:
        fate = self.fate
        if fate == "ok":
            return super().step(asked)
        if fate == "answer lost":
            super().step(asked)
        elif fate == "late":
            self.late.append(asked)
        raise UnreachableError(fate)

    def deliver_late(self) -> None:
        late, self.late = self.late, []
        for asked in late:
            super().step(asked)

    def alive(self) -> bool:
        return True


FATES = st.sampled_from(["ok", "ok", "sent lost", "answer lost", "late"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(FATES, st.integers(0, 4), st.integers(1, 300), st.booleans()), max_size=25))
def test_whatever_the_network_loses_or_delays_each_cost_is_booked_once_and_nothing_stays_reserved(
    server: Server, steps: list[tuple[str, int, int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage, "PAUSE", 0.0)
    url = SecretStr(f"{server.url}?prefix=flaky{time.monotonic_ns()}")
    link = Flaky(url)
    keeper = RedisBooks(link, [Budget(usd=1000, period="total")], wall=time.time)
    held: dict[str, int] = {}
    spent = 0

    def look() -> None:
        keeper.look()
        if keeper._outage._trying is not None:
            keeper._outage._trying.join()
        keeper.look()

    for number, (fate, which, milli, more) in enumerate(steps):
        link.fate = fate
        operations: list[Reserve | Settle] = []
        if held and which % 2:
            key = list(held)[which % len(held)]
            del held[key]
            spent += milli
            operations.append(Settle(key, "m", "", milli * MILLI, ignore))
        if more or not operations:
            operations.append(Reserve(f"k{number}", "m", "", milli * MILLI, ignore))
        answers = keeper.group(operations)
        if isinstance(operations[-1], Reserve) and answers[-1] is None:
            held[operations[-1].key] = milli
        if which == 0:
            link.deliver_late()
        look()
    link.fate = "ok"
    link.deliver_late()
    look()
    look()
    assert not keeper.owes
    standing = keeper.snapshot[0]
    assert standing.free == (1_000_000 - spent) * MILLI
    assert standing.free - standing.left == sum(held.values()) * MILLI
    link.deliver_late()
    keeper.close()


class TestOwners:
    def test_what_an_owner_that_went_silent_held_is_free_after_its_lease(self, books: Books) -> None:
        silent, other = books(Budget(usd=1), lease=0.2), books(Budget(usd=1))
        assert reserve(silent, "a", 400) is None
        assert take(silent, 2, places=2) == (2, 0.0)
        assert reserve(other, "b", 700) is not None
        wait_until(lambda: lefts(other) == [1000])
        assert take(other, 2, places=2) == (2, 0.0)
        assert reserve(other, "b", 700) is None

    def test_one_that_was_taken_for_dead_sets_aside_again_what_it_holds(self, books: Books) -> None:
        slow, other = books(Budget(usd=1), lease=0.2), books(Budget(usd=1))
        assert reserve(slow, "a", 400) is None
        wait_until(lambda: lefts(other) == [1000])
        slow.look()
        assert lefts(other) == [600]
        settle(slow, "a", 100)
        assert lefts(other) == [900]

    def test_one_that_is_heard_of_keeps_what_it_holds(self, books: Books) -> None:
        living, other = books(Budget(usd=1), lease=0.3), books(Budget(usd=1))
        assert reserve(living, "a", 400) is None
        end = time.monotonic() + 0.8
        while time.monotonic() < end:
            living.look()
            assert lefts(other) == [600]
            time.sleep(0.05)


def test_nothing_stays_on_the_server_for_ever(server: Server, url: str, books: Books) -> None:
    keeper = books(Budget(usd=1))
    reserve(keeper, "a", 100, "m", "t")
    reserve(keeper, "b", 100, "m", "t")
    settle(keeper, "a", 50, "m", "t")
    take(keeper, 2, rpm=5, places=5)
    keeper.group([Give("m", time.time(), tokens=3), Take(Ask("m", Limits(None, None, 9), (1,), 1.0), ignore)])
    with server.client() as client:
        keys = list(client.scan_iter(f"*{url.rpartition('=')[2]}*"))
        assert len(keys) >= 8
        assert all(client.ttl(key) > 0 for key in keys)


def test_a_cluster_takes_the_script(tmp_path: Any, books: Books) -> None:
    clustered = Server(tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    try:
        with clustered.client() as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE 0 16383")
            wait_until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
        for options in ("", "?cluster=true"):
            keeper = books(Budget(usd=1), at=clustered.url.removesuffix("/0") + options)
            assert reserve(keeper, f"a{options}", 100) is None
            assert take(keeper, 1, rpm=9) == (1, 0.0)
        assert lefts(keeper) == [800]
    finally:
        clustered.stop()


@pytest.mark.parametrize("milli", [10**18, 5 * 10**10])
def test_absurd_amounts_are_refused_or_booked_without_breaking_the_sums(books: Books, milli: int) -> None:
    keeper = books(Budget(usd=1), Budget(usd=10**9))
    refusal = reserve(keeper, "a", milli)
    assert isinstance(refusal, Refusal)
    for key in range(3):
        settle(keeper, str(key), milli)
    assert lefts(keeper)[0] == 0
    assert reserve(keeper, "b", 1) is not None
