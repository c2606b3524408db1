"""The transport between the SDK and the network: it authorises what goes out and guards what comes in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic
from urllib.parse import urlsplit

import httpx2

from adapters.hosted.bodies import Body, ErrorBody, EventBody, Limits
from adapters.hosted.credentials import mask
from adapters.hosted.inflate import known_encoding
from router.errors import ModelProtocolError

__all__ = ["EVENT_STREAM", "Guard"]

EVENT_STREAM = "text/event-stream"
_ENDLESS = float("inf")
#: Reasoning models think for minutes, and hosts send comments meanwhile; not for longer than this.
_IDLE_SECONDS = 300.0


class Guard(httpx2.AsyncBaseTransport):
    """Wraps the transport that reaches the host.

    Keys are added here, on the last step, and taken off again: the requests that the SDK's errors and
    logs know have none.

    Args:
        inner: The transport that reaches the host.
        model: The model's name, for errors.
        max_bytes: The most bytes of one answer, packed or unpacked.
        credentials: Gives the headers that authorise a request.
    """

    def __init__(
        self,
        inner: httpx2.AsyncBaseTransport,
        *,
        model: str,
        max_bytes: int,
        credentials: Callable[[], Mapping[str, str]],
    ) -> None:
        self._inner = inner
        self._model = model
        self._max_bytes = max_bytes
        self._credentials = credentials

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends a request and gives its guarded response.

        Raises:
            ModelError: if there is no key, or if the response is none that can be used.
        """
        timeouts: Mapping[str, float | None] = request.extensions.get("timeout", {})
        limits = self._limits(timeouts.get("read"))
        headers = request.headers
        streams = headers.get("accept") == EVENT_STREAM
        authorising = self._authorise(headers)
        try:
            response = await self._inner.handle_async_request(request)
        finally:
            for name in authorising:
                headers.pop(name, None)
        try:
            self._check(response)
            self._wrap(response, limits, streams=streams)
        except BaseException:
            await response.aclose()
            raise
        return response

    def _authorise(self, headers: httpx2.Headers) -> list[str]:
        """Adds the headers that authorise a request; their names.

        Not their values: error trackers send the variables of every frame of a failure along.
        """
        authorising = self._credentials()
        headers.pop("authorization", None)
        for name, value in authorising.items():
            headers[name] = value
        return list(authorising)

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._inner.aclose()

    def _limits(self, seconds: float | None) -> Limits:
        return Limits(
            model=self._model,
            max_bytes=self._max_bytes,
            seconds=seconds,
            deadline=_ENDLESS if seconds is None else monotonic() + seconds,
            idle=_IDLE_SECONDS if seconds is None else min(seconds, _IDLE_SECONDS),
        )

    def _check(self, response: httpx2.Response) -> None:
        if 300 <= response.status_code < 400:  # noqa: PLR2004 - HTTP's redirects
            host = urlsplit(mask(response.headers.get("location", ""))).hostname
            raise ModelProtocolError(
                f"the host redirects (HTTP {response.status_code}) to {host or 'another path of its own'}; "
                "redirects are refused, since they would carry the prompt along",
                model=self._model,
            )
        told = response.headers.get("content-length", "")
        if told.isdigit() and int(told) > self._max_bytes and response.is_success:
            raise ModelProtocolError(
                f"the answer is larger than {self._max_bytes} bytes: it announces {told}", model=self._model
            )

    def _wrap(self, response: httpx2.Response, limits: Limits, *, streams: bool) -> None:
        """Puts the guarded body in the place of the raw one."""
        raw, headers = response.stream, response.headers
        assert isinstance(raw, httpx2.AsyncByteStream)  # noqa: S101 - what an async transport gives
        packed = known_encoding(headers.get("content-encoding"))
        if packed is False and response.is_success:
            told = mask(headers["content-encoding"])[:40]
            raise ModelProtocolError(
                f"the answer is packed as {told!r}, which was not asked for", model=self._model
            )
        if packed is not None:
            # Unpacked here, within the limits: httpx2 must not try again.
            del headers["content-encoding"]
            headers.pop("content-length", None)
        if not response.is_success:
            response.stream = ErrorBody(raw, limits, packed=bool(packed))
        elif streams:
            content_type = headers.get("content-type", "")
            response.stream = EventBody(raw, limits, packed=bool(packed), content_type=content_type)
        else:
            response.stream = Body(raw, limits, packed=bool(packed))
