"""Nothing of an answer is left to the garbage collector, which may come on any thread."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from types import AsyncGeneratorType

import pytest

from router import AsyncRouter, RouterError
from router.testing import LoopbackServer, Reply
from router.testing.replies import Fault
from router.testing.server import Script
from tests.helpers import HELLO
from tests.test_hosted_end_to_end import FAULTS, limits_of, pair

pytestmark = pytest.mark.usefixtures("no_network")

#: Lives as long as its event loop.
KEEPER = "Clients._keep"


def begun() -> list[str]:
    """Generators that are in the middle of something and wait for nobody."""
    found = [one for one in gc.get_objects() if isinstance(one, AsyncGeneratorType)]
    return [one.__qualname__ for one in found if one.ag_frame is not None and not one.ag_running]


@pytest.mark.parametrize("way", ["whole", "stream", "left"])
@pytest.mark.parametrize("fault", [None, *FAULTS])
async def test_however_an_answer_ends_its_generators_do(fault: Fault | None, way: str) -> None:
    models: dict[str, Script] = {
        "first": Reply(text="from the first " * 40, fault=fault),
        "second": "from the second",
    }
    with LoopbackServer(models=models) as server:
        async with pair(server, recovery=limits_of(fault)) as router:
            gc.collect()
            before = begun()
            gc.disable()
            try:
                with contextlib.suppress(RouterError):
                    await ask(router, way)
                for _ in range(20):
                    await asyncio.sleep(0)
                left = begun()
            finally:
                gc.enable()
    for one in before:
        if one in left:
            left.remove(one)
    assert [one for one in left if one != KEEPER] == []


async def ask(router: AsyncRouter, way: str) -> None:
    if way == "whole":
        await router.chat.completions.create(messages=HELLO)
        return
    stream = await router.chat.completions.create(messages=HELLO, stream=True)
    async for _ in stream:
        if way == "left":
            break
    await stream.close()
