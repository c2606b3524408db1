"""Everything here runs against a real redis-server; where there is none, it is skipped."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("redis", reason="redis-py is not installed (the extra redis)")

from pydantic import SecretStr

from adapters.redis.books import LEASE, RedisBooks
from adapters.redis.link import Link
from router.config import Budget
from router.ledger.keeper import Keeper
from tests.adapters.redis.serving import BINARY, Server
from tests.ledger.making import NOON, Wall

#: Lua: the time that a test has set, so that hours pass without waiting.
TEST_CLOCK = "local function clock() return tonumber(redis.call('GET', KEYS[1] .. ':clock')) end\n"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if BINARY is None:
        pytest.skip("redis-server is not installed (Debian: redis-server)")
    running = Server(tmp_path_factory.mktemp("redis"))
    yield running
    running.stop()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """One that a test may kill."""
    if BINARY is None:
        pytest.skip("redis-server is not installed (Debian: redis-server)")
    running = Server(tmp_path)
    yield running
    running.stop()


@pytest.fixture
def url(server: Server) -> str:
    """A group of its own on the server."""
    return f"{server.url}?prefix={uuid.uuid4().hex}"


class ServerWall(Wall):
    """A wall clock that is also the clock of one group of keys."""

    def __init__(self, server: Server, url: str) -> None:
        super().__init__()
        self._client, self._key = server.client(), f"{{{url.rpartition('=')[2]}}}:clock"
        self.set(NOON)

    def set(self, at: float) -> None:
        self.at = at
        self._client.set(self._key, repr(at), ex=600)


@pytest.fixture
def wall(server: Server, url: str) -> ServerWall:
    return ServerWall(server, url)


@pytest.fixture(params=["file", "redis"])
def keepers(
    request: pytest.FixtureRequest, tmp_path: Path, url: str, wall: ServerWall
) -> Iterator[Callable[..., Keeper]]:
    """Makes keepers that share what they keep; each is one process of many."""
    made: list[Keeper] = []

    def make(*budgets: Budget) -> Keeper:
        keeper: Keeper
        if request.param == "file":
            from functools import partial

            from router.ledger.clerk import Clerk
            from router.ledger.schema import open_file

            keeper = Clerk(partial(open_file, tmp_path / "l.db"), budgets, shared=True, wall=wall)
        else:
            keeper = RedisBooks(Link(SecretStr(url), clock=TEST_CLOCK), budgets, wall=wall, lease=LEASE)
        made.append(keeper)
        return keeper

    yield make
    for keeper in made:
        keeper.close()


@pytest.fixture
def books(server: Server, url: str) -> Iterator[Callable[..., RedisBooks]]:
    """Makes books by the server's own clock."""
    made: list[RedisBooks] = []

    def make(*budgets: Budget, at: str = url, lease: float = LEASE) -> RedisBooks:
        made.append(RedisBooks(Link(SecretStr(at)), budgets, wall=time.time, lease=lease))
        return made[-1]

    yield make
    for one in made:
        one.close()
