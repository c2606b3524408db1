"""The only place that imports the openai SDK. Loaded on a worker thread, at the first call."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import AsyncGenerator
from functools import lru_cache
from traceback import clear_frames
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2
import openai
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from adapters.hosted.credentials import Credentials, mask, mask_logs
from adapters.hosted.dialect import Outgoing, check_sendable
from adapters.hosted.failures import error_in_answer, http_error, shortened
from adapters.hosted.guard import EVENT_STREAM, Guard
from router.errors import ModelConnectionError, ModelError, ModelProtocolError, ModelTimeoutError
from router.failures import UNSENT

__all__ = ["Client", "tls"]

_CONNECT_SECONDS = 10.0
_POOL = httpx2.Limits(max_connections=1024, max_keepalive_connections=256, keepalive_expiry=30.0)
_PATH = "/chat/completions"
#: Failures before there was a connection.
_NOT_CONNECTED = (httpx2.ConnectError, httpx2.ProxyError)
_HEADERS: dict[str, str | openai.Omit] = {
    "Accept": "application/json",
    "Content-Type": "application/json",
    "User-Agent": f"multimodel-router openai-python/{openai.__version__}",
}

mask_logs()


@lru_cache(maxsize=1)
def tls() -> ssl.SSLContext:
    """The TLS settings of all hosted models: certificates are verified. Slow at first, then shared."""
    return httpx2.create_ssl_context()


class _SDK(openai.AsyncOpenAI):
    """The SDK's client, with nothing of the environment in its headers.

    `OPENAI_API_KEY`, `OPENAI_ORG_ID`, `OPENAI_PROJECT_ID` and `OPENAI_CUSTOM_HEADERS` are meant for OpenAI;
    the SDK would send them to any host.
    """

    @property
    def default_headers(self) -> dict[str, str | openai.Omit]:
        """The headers of every request; those of the model and its key are added by the guard."""
        return _HEADERS


class Client:
    """Talks to one model from one event loop.

    Args:
        name: The model's name, for errors.
        base_url: The API's root.
        private: Whether to pass by the environment's proxies, which are other machines.
        max_bytes: The most bytes of one answer.
        credentials: Gives the headers that authorise a request.

    Raises:
        ModelConnectionError: if the environment names a proxy that cannot be used.
    """

    def __init__(
        self, *, name: str, base_url: str, private: bool, max_bytes: int, credentials: Credentials
    ) -> None:
        self._name = name
        transport = _transport(name, base_url, private=private)
        guard = Guard(transport, model=name, max_bytes=max_bytes, credentials=credentials.headers)
        self._http = httpx2.AsyncClient(
            transport=guard,
            trust_env=False,
            follow_redirects=False,
            headers={"accept-encoding": "gzip, deflate"},
        )
        # The placeholder is never sent: the guard takes it off.
        self._sdk = _SDK(
            api_key="unsent", base_url=base_url, max_retries=0, http_client=self._http, webhook_secret=""
        )

    async def complete(self, out: Outgoing) -> ChatCompletion:
        """Answers in one piece.

        Raises:
            InvalidRequestError: if the request cannot be written as JSON.
            ModelError: whatever else goes wrong. The answer's shape is not checked yet.
        """
        options = _options(out, out.headers)
        try:
            # Not `chat.completions.create`: it would walk through all the messages to change nothing.
            answer: object = await self._sdk.post(
                _PATH, cast_to=ChatCompletion, body=out.body, options=options
            )
        except ModelError as error:
            clear_frames(error.__traceback__)  # see `_clean`
            raise
        except Exception as error:  # noqa: BLE001 - the SDK builds objects from unchecked JSON: it may raise anything
            check_sendable(out, error)
            raise self._translated(error, out.seconds) from _clean(error)
        if not isinstance(answer, ChatCompletion):
            raise ModelProtocolError(
                f"the answer is no completion but {_described(answer)}", model=self._name
            )
        return answer

    async def stream(self, out: Outgoing) -> AsyncGenerator[ChatCompletionChunk, None]:
        """Answers in chunks. Closing the generator closes the connection.

        Raises:
            InvalidRequestError: if the request cannot be written as JSON.
            ModelError: whatever else goes wrong. The chunks' shape is not checked yet.
        """
        options = _options(out, {**out.headers, "Accept": EVENT_STREAM, "Accept-Encoding": "identity"})
        try:
            stream = await self._sdk.post(
                _PATH,
                cast_to=ChatCompletionChunk,
                body=out.body,
                options=options,
                stream=True,
                stream_cls=openai.AsyncStream[ChatCompletionChunk],
            )
            async with _ended(stream):
                async for chunk in stream:
                    yield chunk
        except ModelError as error:
            clear_frames(error.__traceback__)  # see `_clean`
            raise
        except Exception as error:  # noqa: BLE001 - as above
            check_sendable(out, error)
            raise self._translated(error, out.seconds) from _clean(error)

    async def aclose(self) -> None:
        """Closes all connections. May be called twice."""
        await self._http.aclose()

    def _translated(self, error: Exception, timeout: float | None) -> ModelError:
        """The one place where the SDK's errors become ours."""
        if isinstance(error, openai.APITimeoutError):
            told = "" if timeout is None else f" within {timeout:g} s"
            return ModelTimeoutError(f"no answer{told} ({_cause(error)})", model=self._name, timeout=timeout)
        if isinstance(error, openai.APIStatusError):
            return http_error(error.status_code, error.response.headers, error.body, model=self._name)
        if isinstance(error, openai.APIConnectionError):
            return self._broken(error)
        if isinstance(error, openai.APIError):
            return error_in_answer(error.body or error.message, model=self._name)
        if self._http.is_closed:
            return ModelConnectionError("the adapter was closed", model=self._name, code=UNSENT)
        return ModelProtocolError(
            f"the answer cannot be read ({type(error).__name__}: {shortened(str(error))})", model=self._name
        )

    def _broken(self, error: openai.APIConnectionError) -> ModelError:
        if isinstance(error.__cause__, httpx2.LocalProtocolError | httpx2.UnsupportedProtocol):
            return ModelProtocolError(
                f"the request cannot be sent ({_cause(error)})", model=self._name, code=UNSENT
            )
        code = UNSENT if isinstance(error.__cause__, _NOT_CONNECTED) else None
        return ModelConnectionError(
            f"no connection, or it broke ({_cause(error)})", model=self._name, code=code
        )


@contextlib.asynccontextmanager
async def _ended(stream: openai.AsyncStream[ChatCompletionChunk]) -> AsyncGenerator[None, None]:
    """Closes a stream, and lets its generators come to their ends.

    The SDK's stream refers to itself. One that is left in the middle is the garbage collector's, which works
    on any thread, and complains there if it comes upon a generator that this one's loop is just closing.
    """
    try:
        yield
    finally:
        await stream.close()
        with contextlib.suppress(Exception):  # it was closed, and may say so
            async for _ in stream:
                pass


def _options(out: Outgoing, headers: dict[str, str]) -> openai.RequestOptions:
    seconds = out.seconds
    connect = _CONNECT_SECONDS if seconds is None else min(seconds, _CONNECT_SECONDS)
    return {"headers": headers, "params": out.query, "timeout": httpx2.Timeout(seconds, connect=connect)}


def _transport(name: str, base_url: str, *, private: bool) -> httpx2.AsyncHTTPTransport:
    made, problem = _made(base_url, private=private)
    if made is None:
        # Without its text and without a cause, from a frame without it: a proxy's URL may hold a password.
        raise ModelConnectionError(
            f"the environment's proxy cannot be used ({problem}); a SOCKS proxy needs socksio", model=name
        )
    return made


def _made(base_url: str, *, private: bool) -> tuple[httpx2.AsyncHTTPTransport | None, str]:
    """The transport, or why there is none."""
    try:
        proxy = None if private else _proxy_for(base_url)
        return httpx2.AsyncHTTPTransport(verify=tls(), limits=_POOL, proxy=proxy), ""
    except (ImportError, ValueError, httpx2.InvalidURL) as error:
        return None, type(error).__name__


def _proxy_for(base_url: str) -> str | None:
    """The proxy that the environment names for a host; None to go straight."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _cause(error: Exception) -> str:
    """What is behind one of the SDK's errors, in a few words."""
    behind = error.__cause__ or error
    return shortened(f"{type(behind).__name__}: {behind}".removesuffix(": "))


def _clean(error: Exception) -> Exception | None:
    """The error as a cause that may be shown: without keys, which some hosts repeat in their messages.

    And without what its frames held: generators in the middle of an answer, as in `_ended`.
    """
    clear_frames(error.__traceback__)
    if isinstance(error, UnicodeEncodeError):
        return None  # it holds the whole text that it could not encode
    error.args = tuple(mask(part) if isinstance(part, str) else part for part in error.args)
    if isinstance(error, openai.APIError):
        error.message = mask(error.message)
        told = json.dumps(error.body, ensure_ascii=False, default=str)
        if mask(told) != told:
            error.body = error.param = error.code = error.type = None
    return error


def _described(answer: object) -> str:
    if isinstance(answer, str):
        start = answer.lstrip()[:1]
        return "nothing" if not start else "a web page" if start == "<" else "text"
    return "null" if answer is None else type(answer).__name__
