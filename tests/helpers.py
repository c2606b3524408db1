"""What several tests share."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from openai.types.chat import ChatCompletionUserMessageParam

from router import AsyncRouter, Model, Policy, Price, RouterConfig
from router.testing import ManualClock, ScriptedModel, Step

T = TypeVar("T")

HELLO: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "Hello, who are you?"}]


def scripted(name: str, *script: Any, usd: float = 1.0, **fields: Any) -> ScriptedModel:
    """A scripted model that costs `usd` per million tokens, in and out."""
    return ScriptedModel(name, script=script or ("Hello!",), price=Price(input=usd, output=usd), **fields)


def router_of(*models: Model, clock: ManualClock | None = None, **fields: Any) -> AsyncRouter:
    """An AsyncRouter that explores nothing unless told to."""
    fields.setdefault("policy", Policy(explore=0))
    return AsyncRouter.from_config(RouterConfig(models=models, **fields), clock=clock)


def run_on(clock: ManualClock, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs a coroutine on a loop whose time is the clock's: waiting takes no time."""
    loop = clock.event_loop()
    try:
        return loop.run_until_complete(make())
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


__all__ = ["HELLO", "Step", "router_of", "run_on", "scripted"]
