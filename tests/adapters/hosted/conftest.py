from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from adapters.hosted import HostedAdapter, create
from router.adapter import AdapterSettings, Call
from router.models import HostedModel
from router.request import ChatRequest
from router.testing.server import LoopbackServer

Make = Callable[..., HostedAdapter]


def call(*, timeout: float | None = 5.0, **fields: object) -> Call:
    """A call with one message, unless `messages` says otherwise."""
    fields.setdefault("messages", [{"role": "user", "content": "Hi"}])
    return Call(request=ChatRequest(**fields), timeout=timeout)  # type: ignore[arg-type]  # the tests' own shorthand


async def text_of(adapter: HostedAdapter, asked: Call | None = None) -> str:
    """The whole text of a stream."""
    parts = []
    async for chunk in adapter.stream(asked or call()):
        parts += [choice.delta.content or "" for choice in chunk.choices]
    return "".join(parts)


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as running:
        yield running


@pytest.fixture
async def make(server: LoopbackServer) -> AsyncIterator[Make]:
    """Makes adapters of the server's models and closes them after the test."""
    made: list[HostedAdapter] = []

    def build(*, settings: AdapterSettings | None = None, **fields: object) -> HostedAdapter:
        fields.setdefault("base_url", server.base_url)
        made.append(create(HostedModel.parse({"name": "m", **fields}), settings or AdapterSettings()))
        return made[-1]

    yield build
    for adapter in made:
        await adapter.aclose()
