"""A pytest plugin: fixtures for apps that use the router. pytest finds it by itself."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Never

import pytest

if TYPE_CHECKING:
    from router.testing.clock import ManualClock

__all__ = ["manual_clock", "no_network"]

Address = tuple[object, ...] | str | bytes


class NetworkForbiddenError(AssertionError):
    """A test tried to leave the machine."""


@pytest.fixture
def manual_clock() -> ManualClock:
    """A `router.testing.ManualClock`."""
    from router.testing.clock import ManualClock

    return ManualClock()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Forbids the network: a connection or a look-up of anything but this machine fails the test.

    It fails even if the code under test takes the error for a broken connection and heals it. Loopback
    addresses and Unix sockets stay allowed: that is where fakes live.

    Yields:
        The hosts that were tried; a test that tries one on purpose clears the list.
    """
    tried: list[str] = []
    connect, connect_ex, look_up = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Address) -> None:
        _check(self.family, address, tried)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Address) -> int:
        _check(self.family, address, tried)
        return connect_ex(self, address)

    def guarded_look_up(host: str | bytes | None, *args: Any, **kwargs: Any) -> object:
        name = host.decode() if isinstance(host, bytes) else host
        if name is not None and not _is_here(name):
            _forbid(name, tried)
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_look_up)
    yield tried
    if tried:
        raise NetworkForbiddenError(_text(*tried))


def _check(family: int, address: Address, tried: list[str]) -> None:
    if family in (socket.AF_INET, socket.AF_INET6) and isinstance(address, tuple):
        host = str(address[0])
        if not _is_here(host):
            _forbid(host, tried)


def _is_here(host: str) -> bool:
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _forbid(host: str, tried: list[str]) -> Never:
    tried.append(host)
    raise NetworkForbiddenError(_text(host))


def _text(*hosts: str) -> str:
    return f"a test tried to reach {', '.join(hosts)}; the no_network fixture forbids it"
