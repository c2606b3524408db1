"""The adapter itself: it puts the parts together and holds the contract of `router.adapter`."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from adapters.hosted.answers import StreamCheck, check_completion
from adapters.hosted.clients import Clients
from adapters.hosted.credentials import Credentials
from adapters.hosted.dialect import outgoing
from adapters.hosted.seam import Seam
from router.adapter import AdapterSettings, Call, Load
from router.catalogue.providers import provider_of
from router.errors import ModelConnectionError, ModelHTTPError, ModelTimeoutError
from router.models import HostedModel

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion, ChatCompletionChunk

    from adapters.hosted.sdk import Client

__all__ = ["HostedAdapter"]

_HOSTED = Load()


class HostedAdapter:
    """Talks to one hosted model. See `router.adapter.Adapter` for what the methods promise."""

    def __init__(self, model: HostedModel, settings: AdapterSettings) -> None:
        self._model = model
        self._settings = settings
        self._provider = provider_of(model)
        self._credentials = Credentials(model, self._provider)
        self._clients: Clients[Client] = Clients(self._build)

    def __repr__(self) -> str:
        return f"<HostedAdapter {self._model.name!r}>"

    async def complete(self, call: Call) -> ChatCompletion:
        """Answers in one piece.

        Raises:
            ModelError: whatever goes wrong.
        """
        client = await self._client()
        out = outgoing(call, self._model, self._provider, stream=False)
        call.started()
        answer = await client.complete(out)
        check_completion(answer, self._model.name, call.request.choices)
        return answer

    async def stream(self, call: Call) -> AsyncGenerator[ChatCompletionChunk, None]:
        """Answers in chunks, as the SDK parsed them; the usage chunk is asked for and handed on.

        Raises:
            ModelError: whatever goes wrong, before the first chunk or later.
        """
        if call.prefix and self._provider.prefix is None:
            raise ModelHTTPError(
                "the host is not known to go on with an answer that was begun",
                model=self._model.name,
                status_code=400,
                code="unsupported",
            )
        client = await self._client()
        out = outgoing(call, self._model, self._provider, stream=True)
        call.started()
        chunks = client.stream(out)
        check = StreamCheck(
            self._model.name,
            asked=None if "n" in call.request.extra_body else call.request.choices,
            begun=bool(call.prefix),
        )
        see = check.see
        seam = Seam(call.prefix, self._model.name) if call.prefix else None
        try:
            async for chunk in chunks:
                if see(chunk):
                    if seam is not None:
                        seam.close(chunk)
                    yield chunk
        except (ModelConnectionError, ModelTimeoutError):
            # The answer is whole; only the host's farewell is missing.
            if not check.whole:
                raise
        finally:
            await chunks.aclose()
        check.end()

    def load(self) -> Load:
        """A hosted model is always there; the router itself counts what it has outstanding."""
        return _HOSTED

    async def aclose(self) -> None:
        """Closes the connections of this loop, and has other loops close theirs. May be called twice."""
        await self._clients.aclose()

    async def _client(self) -> Client:
        client = self._clients.here()
        if client is None:
            if self._clients.closed:
                raise ModelConnectionError("the adapter was closed", model=self._model.name)
            # Importing the SDK and reading the CA certificates would stall the loop for half a second.
            try:
                await asyncio.to_thread(_warm_up)
            except OSError as error:
                raise ModelConnectionError(
                    f"TLS cannot be set up ({type(error).__name__}: {error})", model=self._model.name
                ) from error
            client = await self._clients.make()
        return client

    def _build(self) -> Client:
        from adapters.hosted.sdk import Client

        return Client(
            name=self._model.name,
            base_url=self._model.base_url or self._provider.base_url,
            private=self._model.private,
            max_bytes=self._settings.max_response_bytes,
            credentials=self._credentials,
        )


def _warm_up() -> None:
    importlib.import_module("adapters.hosted.sdk").tls()
