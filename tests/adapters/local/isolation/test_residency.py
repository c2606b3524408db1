"""Engines in processes of their own are in the app's books, too."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from adapters.local import LocalAdapter, create
from adapters.local.isolation.life import Life
from adapters.local.isolation.messages import Setup
from adapters.local.residency import RESIDENCY, predict
from router.adapter import AdapterSettings
from router.errors import ModelHTTPError, ModelLoadError
from router.models import LocalModel
from tests.adapters.local.conftest import Tiny
from tests.adapters.local.isolation.conftest import engine_of
from tests.adapters.local.kit import asking, eventually

pytestmark = [
    pytest.mark.gguf,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are another matter on this system"),
]

Build = Callable[..., LocalAdapter]


@pytest.fixture
async def build(tiny: Tiny) -> AsyncIterator[Build]:
    """Builds adapters of one tiny model that may take so many megabytes together."""
    made: list[LocalAdapter] = []

    def adapter(name: str, *, megabytes: int, isolation: str = "process", **options: Any) -> LocalAdapter:
        fields = {"n_ctx": 256, "max_parallel": 1, "threads": 1, **options}
        model = LocalModel.parse({"name": name, "path": tiny("qwen3"), "isolation": isolation, **fields})
        made.append(create(model, AdapterSettings(local_memory=megabytes << 20)))
        return made[-1]

    yield adapter
    for one in made:
        await one.aclose()


async def text(adapter: LocalAdapter) -> str:
    completion = await adapter.complete(asking("the cat", max_tokens=4, temperature=0))
    return completion.choices[0].message.content or ""


async def test_a_process_leaves_for_a_thread_and_a_thread_for_a_process(build: Build) -> None:
    process, thread = build("p", megabytes=110), build("t", megabytes=110, isolation="thread", n_ctx=30_000)
    said = await text(process)
    pid = engine_of(process).pid
    assert pid is not None
    await text(thread)
    assert not process.load().resident
    assert engine_of(process).pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)  # it left its memory before the other one took it
    assert await text(process) == said
    assert (thread.load().resident, process.load().resident) == (False, True)


async def test_a_process_that_can_never_fit_is_not_even_started(build: Build) -> None:
    adapter = build("p", megabytes=20)
    with pytest.raises(ModelLoadError, match=r"'p' needs .* local_memory"):
        await text(adapter)
    assert engine_of(adapter).pid is None
    assert RESIDENCY.held() == 0


async def test_whoever_comes_late_is_not_refused_with_those_who_waited_long(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RESIDENCY, "_patience", 1.0)
    process, thread = build("p", megabytes=110), build("t", megabytes=110, isolation="thread", n_ctx=30_000)
    stream = thread.stream(asking("the cat", max_tokens=29_000, temperature=0, logit_bias={65: 100}))
    await anext(stream)
    early = asyncio.create_task(text(process))
    await eventually(lambda: RESIDENCY._waiting == 1)
    await asyncio.sleep(0.5)
    late = asyncio.create_task(text(process))
    with pytest.raises(ModelHTTPError, match="at work"):
        await early
    await stream.aclose()
    assert await late is not None


async def test_an_idle_process_ends_after_its_time_and_another_one_answers(build: Build) -> None:
    adapter = build("p", megabytes=500, idle_ttl=0.3)
    said = await text(adapter)
    await eventually(lambda: engine_of(adapter).pid is None)
    assert not adapter.load().resident
    await eventually(lambda: RESIDENCY.held() == 0)
    assert await text(adapter) == said


async def test_an_idle_process_ends_even_if_its_last_request_was_cancelled(build: Build) -> None:
    adapter = build("p", megabytes=500, idle_ttl=0.3)
    await text(adapter)
    call = asking("the cat", temperature=0, logit_bias={65: 100})  # it would never end
    stream = adapter.stream(call)
    await anext(stream)
    await stream.aclose()
    await eventually(lambda: engine_of(adapter).pid is None)


async def test_a_process_says_how_many_slots_it_will_have_before_it_is_there(build: Build) -> None:
    assert build("p", megabytes=500, max_parallel=3).load().slots == 3


async def test_a_process_whose_first_request_is_cancelled_while_it_starts_is_ended(build: Build) -> None:
    adapter = build("p", megabytes=500)
    task = asyncio.create_task(text(adapter))
    await eventually(lambda: RESIDENCY.held() > 0)
    task.cancel()
    await eventually(lambda: RESIDENCY.held() == 0)
    assert engine_of(adapter).pid is None
    assert await text(adapter) is not None


async def test_requests_go_on_while_a_process_comes_and_goes(build: Build) -> None:
    """Two in room for one, each asked by several: all are answered, whoever has to wait."""
    adapters = [build(name, megabytes=120) for name in ("a", "b")]
    expected = [await text(adapter) for adapter in adapters]

    async def ask(place: int) -> str:
        await asyncio.sleep(0.1 * place)
        return await text(adapters[place % 2])

    assert await asyncio.gather(*(ask(place) for place in range(6))) == expected * 3


def test_a_process_is_told_how_much_it_may_take_and_counts_for_itself(tiny: Tiny) -> None:
    entered: list[Any] = []

    class Place:
        def enter(self, need: Any, wanted: Callable[[], bool]) -> int:
            entered.append(need)
            return 777

        def entered(self, seconds: float, fixed: int | None) -> None: ...

        def left(self) -> None:
            entered.append("left")

        def used(self) -> None: ...

        def changed(self) -> None: ...

        def close(self) -> None: ...

    model = LocalModel("m", path=Path(tiny("qwen3")), n_ctx=256, isolation="process")
    life = Life(model, Place(), lambda: True)
    setup = life.begin()
    assert isinstance(setup, Setup)
    assert setup.cells == 777
    alone = predict(model, 8)
    assert entered[0].source != alone.source
    assert entered[0].fixed > alone.fixed
    life.over()
    assert entered[1:] == ["left"]
