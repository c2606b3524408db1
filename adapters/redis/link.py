"""The connection to the server. The only place that imports redis-py."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.exceptions import RedisClusterException
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from router.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic import SecretStr
    from redis.commands.core import Script

__all__ = ["SERVER_CLOCK", "Link", "UnreachableError"]

#: Seconds that connecting and an answer may take; the URL's options may say otherwise.
CONNECTS, ANSWERS = 1.0, 2.0
#: Characters of a server's own words that are told on.
MOST_WORDS = 200
PREFIX = "router"

#: Lua: the Unix time in seconds, by the server. Machines' clocks differ; there is one server.
SERVER_CLOCK = """local function clock()
  local time = redis.call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1000000
end
"""

_SCRIPT = Path(__file__).with_name("books.lua")
_FAILURES = (redis.RedisError, RedisClusterException, OSError, ValueError, EOFError)


class UnreachableError(Exception):
    """The server did not do what it was asked, or nobody knows. The text holds no credentials."""


class Link:
    """Runs the script. Used by one thread; `alive` by any."""

    def __init__(self, url: SecretStr, *, clock: str = SERVER_CLOCK) -> None:
        """Connects to nothing yet.

        Args:
            url: As `adapters.redis.create`.
            clock: The Lua function `clock`.

        Raises:
            ConfigurationError: if the URL is none.
        """
        self._url = url
        self._clock = clock
        self._lock = threading.Lock()
        self._client: redis.Redis | RedisCluster | None = None
        self._script: Script | None = None
        address, options = _parted(url)
        self.where = address
        self._cluster = options.get("cluster", "").lower() in ("1", "true", "yes")
        self._base = f"{{{options.get('prefix', PREFIX)}}}"
        trouble = None
        try:
            redis.ConnectionPool.from_url(_bare(url))
        except (ValueError, TypeError):
            trouble = "redis-py cannot read this URL or one of its options"
        if trouble:  # outside: the cause holds the URL
            raise ConfigurationError(f"shared: {trouble}", field="shared")

    def step(self, asked: str) -> list[object]:
        """Runs the script with what is asked (JSON), and returns its answer.

        Raises:
            UnreachableError: if it cannot be known that the script ran.
        """
        try:
            return cast("list[object]", self._loaded()(keys=[self._base], args=[asked]))
        except _FAILURES as error:
            why = self._told(error)
        # Outside of the clause: the error's frames hold the credentials. What comes late must find nobody.
        self.close()
        raise UnreachableError(why)

    def nonsense(self) -> UnreachableError:
        """The error for an answer that the script never gives."""
        return UnreachableError(f"what answers at {self.where} is no Redis server that keeps our books")

    def alive(self) -> bool:
        """Whether the server answers."""
        try:
            return bool(self._connected().ping())
        except _FAILURES:
            self.close()
            return False

    def close(self) -> None:
        """Closes the connections; the next use opens new ones, at an address that was looked up again."""
        with self._lock:
            client, self._client, self._script = self._client, None, None
        if client is not None:
            try:
                client.close()
            except _FAILURES:
                return

    def _loaded(self) -> Script:
        script = self._script
        if script is None:
            client = self._connected()
            script = client.register_script(self._clock + _SCRIPT.read_text(encoding="utf-8"))
            self._script = script
        return script

    def _connected(self) -> redis.Redis | RedisCluster:
        with self._lock:
            if self._client is not None:
                return self._client
        # Nothing is tried twice here: what was perhaps done must not be done again without its number.
        options = {
            "socket_connect_timeout": CONNECTS,
            "socket_timeout": ANSWERS,
            "retry": Retry(NoBackoff(), 0),
            "decode_responses": True,
            "protocol": 2,
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
            "client_name": "multimodel-router",
        }
        made: redis.Redis | RedisCluster
        if self._cluster:
            made = RedisCluster.from_url(_bare(self._url), **options)
        else:
            made = redis.Redis.from_url(_bare(self._url), **options)
        with self._lock:
            self._client = made
        return made

    def _told(self, error: Exception) -> str:
        """What went wrong, without what could be a secret."""
        words = " ".join(str(error).split())[:MOST_WORDS].rstrip(".")
        parts = urlsplit(self._url.get_secret_value())
        secrets = [part for part in (parts.password, parts.username) if part]
        if not words or any(secret in words for secret in secrets):
            words = type(error).__name__
        return f"the Redis server at {self.where} failed: {words}"


def _parted(url: SecretStr) -> tuple[str, dict[str, str]]:
    """Where the server is, without credentials, and the URL's options."""
    parts = urlsplit(url.get_secret_value())
    if parts.scheme == "unix":
        where = parts.path
    else:
        where = f"{parts.hostname or 'localhost'}:{parts.port or 6379}{parts.path.rstrip('/')}"
    return where, dict(parse_qsl(parts.query))


def _bare(url: SecretStr) -> str:
    """The URL without the options that are ours."""
    parts = urlsplit(url.get_secret_value())
    theirs = [(name, value) for name, value in parse_qsl(parts.query) if name not in ("prefix", "cluster")]
    return urlunsplit(parts._replace(query=urlencode(theirs)))
