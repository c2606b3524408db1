"""Keys: where they come from for each call, and how they are kept out of every text."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Mapping

from pydantic import SecretStr

from router.catalogue.providers import Provider
from router.errors import ConfigurationError, ModelHTTPError
from router.models import HostedModel

__all__ = ["Credentials", "mask", "mask_logs"]

_MASK = "(hidden)"
_LOGGERS = ("openai", "httpx2", "httpcore2")
#: Loggers that httpcore2 makes when it first needs them.
_LATE_LOGGERS = tuple(f"httpcore2.{name}" for name in ("connection", "http11", "http2", "proxy", "socks"))

#: Texts that look like credentials wherever they stand; our own keys are masked whatever they look like.
_LOOKS_SECRET = re.compile(
    r"(?i)(?<=bearer )[^\s'\",)\]}]{6,}"
    r"|\b(?:sk|gsk|xai|nvapi)[-_][A-Za-z0-9_\-*.]{8,}"
    r"|\bAIza[\w-]{20,}"
)

_QUERY = re.compile(r"(\bhttps?://[^\s\"'?#]*)\?[^\s\"']*")

#: A header of an answer, as the HTTP client writes it down, unless its value is of a known kind.
_HEADER = re.compile(
    r"(\(b['\"](?!(?:content-|cf-ray|connection|date|retry-after|server|transfer-encoding|x-ratelimit-|x-request-id))"
    r"[\w-]+['\"], b)(['\"]).*?(\2\))",
    re.IGNORECASE,
)

_lock = threading.Lock()
#: The keys in use, newest last; a rotated key is forgotten after a thousand others.
_known: dict[str, None] = {}
_MOST_KNOWN = 1000
_SHORTEST_SECRET = 4


class Credentials:
    """The headers that authorise the requests of one model.

    The key is looked up for each request, so that it can be rotated: `api_key` (text or a callable), else
    the variable `api_key_env`, else the provider's variable. Nothing else is taken from the environment.
    """

    def __init__(self, model: HostedModel, provider: Provider) -> None:
        self._model = model.name
        self._key = model.api_key
        self._variable = model.api_key_env or (None if model.api_key is not None else provider.key_env)
        self._fixed: dict[str, str] = {}
        if model.organization is not None:
            self._fixed["openai-organization"] = model.organization
        if model.project is not None:
            self._fixed["openai-project"] = model.project
        for name, value in (model.headers or {}).items():
            self._fixed[name.lower()] = _header_value(name, value.get_secret_value())
        self._own_scheme = not {"authorization", "api-key", "x-api-key"}.isdisjoint(self._fixed)

    def __repr__(self) -> str:
        return f"<Credentials of {self._model!r}>"

    def headers(self) -> Mapping[str, str]:
        """The headers to add, by lower-case name. Without a key there is no `authorization` among them.

        Raises:
            ModelHTTPError: 401, as the host would say, if a key is needed and there is none, or if the
                callable that should give it fails.
        """
        headers, problem = self._found()
        if problem:
            # Here, where no frame holds a key: error trackers send the variables of every frame along.
            raise ModelHTTPError(
                f"no API key: {problem}", model=self._model, status_code=401, code="missing_api_key"
            )
        return headers

    def _found(self) -> tuple[Mapping[str, str], str]:
        """The headers, or why there are none."""
        key, problem = self._current()
        if key is None:
            return self._fixed, problem
        key = key.strip()
        if not key or not _fits_a_header(key):
            return {}, f"{self._where()} is empty or holds characters that no header may have"
        if key not in _known:
            _remember(key)
        return {"authorization": f"Bearer {key}", **self._fixed}, ""

    def _where(self) -> str:
        return (
            "api_key()"
            if callable(self._key)
            else "api_key"
            if self._key is not None
            else f"{self._variable}"
        )

    def _current(self) -> tuple[str | None, str]:
        """The key as it is now, or why there is none; neither if none is needed."""
        if callable(self._key):
            try:
                key = self._key()
            except Exception as error:  # noqa: BLE001 - the app's own code may raise anything
                # Neither its text nor its traceback may be shown: they may hold a key.
                return None, f"api_key() raised {type(error).__name__}"
            if isinstance(key, SecretStr):
                key = key.get_secret_value()
            return (key, "") if isinstance(key, str) else (None, _no_text(key))
        if self._key is not None:
            return self._key.get_secret_value(), ""
        if self._variable is None:
            return None, ""
        found = os.environ.get(self._variable, "").strip()
        if found or self._own_scheme:
            return found or None, ""
        return None, f"the environment variable {self._variable} is not set"


def _no_text(key: object) -> str:
    return f"api_key() returned {type(key).__name__}, not a text"


def _fits_a_header(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _header_value(name: str, value: str) -> str:
    if not _fits_a_header(name) or not _fits_a_header(value):
        raise ConfigurationError(
            f"headers: {name!r} holds characters that no header may have", field="headers"
        )
    _remember(value)
    return value


def _remember(secret: str) -> None:
    if len(secret) < _SHORTEST_SECRET:
        return
    with _lock:
        _known[secret] = None
        while len(_known) > _MOST_KNOWN:
            del _known[next(iter(_known))]


def mask(text: str) -> str:
    """The text without any of the keys in use, and without what looks like one."""
    for secret in tuple(_known):
        if secret in text:
            text = text.replace(secret, _MASK)
    return _LOOKS_SECRET.sub(_MASK, text)


class _MaskingFilter(logging.Filter):
    """Masks keys in the records of the SDK and of its HTTP client."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrites the record; never drops it."""
        text = record.getMessage()
        # What a request adds to the URL may be private; so may a prompt be that stands in it.
        masked = _HEADER.sub(rf"\1\2{_MASK}\3", _QUERY.sub(rf"\1?{_MASK}", mask(text)))
        if masked != text:
            record.msg, record.args = masked, ()
        if record.exc_info and record.exc_info[1] is not None and not record.exc_text:
            record.exc_text = mask(logging.Formatter().formatException(record.exc_info))
        return True


_FILTER = _MaskingFilter()


def mask_logs() -> None:
    """Makes the loggers of the SDK and of its HTTP client mask keys. To be called after their import."""
    # A logger's filter does not see its children's records, so each one gets it.
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in _LOGGERS]
    for name in {*_LOGGERS, *_LATE_LOGGERS, *names}:
        logger = logging.getLogger(name)
        if _FILTER not in logger.filters:
            logger.addFilter(_FILTER)
