"""Real models that share a budget: they come when they are asked, and leave for each other."""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from adapters.local import LocalAdapter, create
from adapters.local.batching.loaded import Loaded
from adapters.local.residency import RESIDENCY, predict
from adapters.local.weights import WEIGHTS
from router import AsyncRouter
from router.adapter import AdapterSettings
from router.errors import ModelError, ModelHTTPError, ModelLoadError
from router.models import LocalModel
from tests.adapters.local.batching.kit import engine_of, job_of
from tests.adapters.local.conftest import Tiny
from tests.adapters.local.kit import asking, eventually, until
from tests.gguf_files import write_gguf
from tests.helpers import run_script

pytestmark = pytest.mark.gguf

#: Tokens that take even a tiny model a while.
LONG = 16_384
ENDLESS: dict[str, Any] = {"logit_bias": {"65": 100}, "temperature": 0}


def bytes_of(path: Path, **options: Any) -> int:
    """What one model takes with all the cells that it would like."""
    model = LocalModel("m", path=path, **options)
    need = predict(model, model.max_parallel)
    return need.weights + need.own(need.window + need.extra)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Callable[..., list[LocalAdapter]]]:
    """Builds models of different files in a budget for some of them."""
    made: list[LocalAdapter] = []

    def build(count: int, fit: float, n_ctx: int = 256, **options: Any) -> list[LocalAdapter]:
        options = {"max_parallel": 2, "threads": 1, "n_ctx": n_ctx, **options}
        paths = [write_gguf(tmp_path / f"{place}.gguf", seed=place, quantised=True) for place in range(count)]
        settings = AdapterSettings(local_memory=int(fit * bytes_of(paths[0], n_ctx=n_ctx, max_parallel=2)))
        for place, path in enumerate(paths):
            made.append(create(LocalModel(f"m{place}", path=path, **options), settings))
        return made

    yield build
    for adapter in made:
        await adapter.aclose()


async def text(adapter: LocalAdapter, prompt: str = "the cat", most: int = 6) -> str:
    completion = await adapter.complete(asking(prompt, max_tokens=most, temperature=0))
    return completion.choices[0].message.content or ""


def here(adapters: list[LocalAdapter]) -> list[bool]:
    return [adapter.load().resident for adapter in adapters]


async def test_an_idle_model_leaves_for_another_and_says_the_same_when_it_is_back(house: Any) -> None:
    first, second, third = models = house(3, 2.2)
    texts = [await text(model) for model in (first, second)]
    for model in (first, second):  # they take as long to load, then
        model._engine._worker._place._account.load_seconds = 1.0
    assert here(models) == [True, True, False]
    await text(second)
    texts.append(await text(third))
    assert here(models) == [False, True, True]
    assert [await text(model) for model in models] == texts
    assert RESIDENCY.held() <= (RESIDENCY.limit() or 0)


async def test_what_was_kept_is_computed_again_after_a_model_was_away(house: Any) -> None:
    first, second = house(2, 1.2)
    prompt = "the quick brown fox jumps over the lazy dog and the cat sat on the mat"

    async def cached() -> int:
        completion = await first.complete(asking(prompt, max_tokens=2))
        assert completion.usage is not None
        details = completion.usage.prompt_tokens_details
        return (details.cached_tokens or 0) if details is not None else 0

    assert [await cached(), await cached() > 0] == [0, True]
    await text(second)
    assert here([first, second]) == [False, True]
    assert [await cached(), await cached() > 0] == [0, True]


async def test_a_model_that_serves_stays_and_the_other_one_waits_for_it(house: Any) -> None:
    first, second = house(2, 1.2, LONG)
    stream = first.stream(asking(max_tokens=LONG - 100, **ENDLESS))
    await anext(stream)
    waiting = asyncio.create_task(text(second))
    for _ in range(5):
        await anext(stream)
    assert here([first, second]) == [True, False]
    assert not waiting.done()
    await stream.aclose()
    assert await asyncio.wait_for(waiting, 30) is not None
    assert here([first, second]) == [False, True]


async def test_it_waits_for_so_long_only(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RESIDENCY, "_patience", 0.3)
    first, second = house(2, 1.2, LONG)
    stream = first.stream(asking(max_tokens=LONG - 100, **ENDLESS))
    await anext(stream)
    with pytest.raises(ModelHTTPError, match=r"'m0' .* \(at work\)") as caught:
        await text(second)
    assert caught.value.code == "queue_full"
    await anext(stream)
    await stream.aclose()


async def test_whoever_comes_late_is_not_refused_with_those_who_waited_long(
    house: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RESIDENCY, "_patience", 1.0)
    first, second = house(2, 1.2, LONG)
    stream = first.stream(asking(max_tokens=LONG - 100, **ENDLESS))
    await anext(stream)
    early = asyncio.create_task(text(second))
    await eventually(lambda: RESIDENCY._waiting == 1)
    await asyncio.sleep(0.5)
    late = asyncio.create_task(text(second))
    with pytest.raises(ModelHTTPError, match="at work"):
        await early
    await stream.aclose()
    assert await late is not None


async def test_whoever_waits_for_room_and_is_cancelled_waits_no_longer(house: Any) -> None:
    first, second = house(2, 1.2, LONG)
    stream = first.stream(asking(max_tokens=LONG - 100, **ENDLESS))
    await anext(stream)
    waiting = asyncio.create_task(text(second))
    await eventually(lambda: RESIDENCY._waiting == 1)
    waiting.cancel()
    await eventually(lambda: RESIDENCY._waiting == 0)
    await stream.aclose()
    assert await text(second) is not None


async def test_closing_a_model_that_waits_for_room_ends_it_at_once(house: Any) -> None:
    first, second = house(2, 1.2, LONG)
    stream = first.stream(asking(max_tokens=LONG - 100, **ENDLESS))
    await anext(stream)
    waiting = asyncio.create_task(text(second))
    await eventually(lambda: RESIDENCY._waiting == 1)
    await second.aclose()
    assert second._engine.ended
    with pytest.raises(ModelError, match="closed"):
        await waiting
    await stream.aclose()


async def test_a_model_that_can_never_fit_is_refused_at_once_and_the_others_stay(house: Any) -> None:
    first, second = house(2, 1.2)
    await text(first)
    large = create(LocalModel("large", path=first._model.path, n_ctx=200_000, threads=1), AdapterSettings())
    try:
        with pytest.raises(ModelLoadError, match=r"'large' needs .* 200,000 tokens .* local_memory .* n_ctx"):
            await text(large)
        assert here([first, second]) == [True, False]
    finally:
        await large.aclose()


async def test_fewer_cells_than_it_would_like_are_enough(house: Any) -> None:
    (one,) = house(1, 0.999)
    assert await text(one) is not None
    cells = one._engine._worker._loaded.context.cells
    assert 256 <= cells < 2 * 256 + 256


async def test_an_idle_model_leaves_after_its_time_and_comes_back(house: Any) -> None:
    (one,) = house(1, 5, idle_ttl=0.2)
    before = await text(one)
    await eventually(lambda: not one.load().resident)
    await eventually(lambda: RESIDENCY.held() == 0)
    assert await text(one) == before
    stream = one.stream(asking(max_tokens=100, **ENDLESS))
    async for _ in stream:  # longer than its time, perhaps, but not idle
        assert one.load().resident


async def test_a_model_that_left_has_its_load_in_the_estimates_again(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", quantised=True)
    model = LocalModel("m", path=path, n_ctx=256, threads=1, idle_ttl=0.2)
    async with AsyncRouter([model]) as router:
        messages: list[Any] = [{"role": "user", "content": "the cat"}]

        def latency() -> float:
            found = router.route(messages=messages, max_tokens=4).ranking[0].latency
            assert found is not None
            return found

        assert latency() > 0.2  # its file's profile says that loading takes so long at least
        await router.chat.completions.create(messages=messages, max_tokens=4)
        adapter = router._core.fleet.loaded_adapter(0)
        assert adapter is not None
        resident = latency() if adapter.load().resident else None
        await eventually(lambda: not adapter.load().resident)
        assert resident is None or latency() > resident


async def test_the_loading_of_one_model_stops_no_other(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a load takes: this one ends when the other model has answered."""
    first, second = house(2, 5)
    await text(first)
    loading, go = threading.Event(), threading.Event()
    init = Loaded.__init__

    def slowly(self: Loaded, *args: Any, **options: Any) -> None:
        loading.set()
        assert go.wait(60)
        init(self, *args, **options)

    monkeypatch.setattr(Loaded, "__init__", slowly)
    task = asyncio.create_task(text(second))
    await asyncio.to_thread(loading.wait, 20)
    for number in range(5):
        await text(first, f"the dog {number}")
    assert not task.done()
    go.set()
    await task


async def test_a_load_that_nobody_wants_is_given_up_and_done_when_somebody_does(
    house: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = house(1, 5)
    reached, go = threading.Event(), threading.Event()
    take = WEIGHTS.take

    def slowly(*args: Any) -> Any:
        reached.set()
        assert go.wait(60)
        return take(*args)

    monkeypatch.setattr(WEIGHTS, "take", slowly)
    task = asyncio.create_task(text(one))
    await asyncio.to_thread(reached.wait, 20)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    reached.clear()
    go.set()
    await eventually(lambda: RESIDENCY.held() == 0)
    assert not one.load().resident
    assert await text(one) is not None


async def test_a_file_that_is_replaced_while_its_model_is_away_is_not_mistaken_for_it(
    house: Any, tmp_path: Path
) -> None:
    first, second = house(2, 1.2)
    await text(first)
    await text(second)
    write_gguf(tmp_path / "0.gguf", "llama", quantised=True)
    with pytest.raises(ModelLoadError, match="replaced by another model"):
        await text(first)
    assert RESIDENCY.held() == 0 or here([first, second]) == [False, True]


def test_loading_and_leaving_again_and_again_takes_no_more_memory(smollm: Path) -> None:
    process, sizes = psutil.Process(), []
    for _ in range(20):
        engine = engine_of(smollm, n_ctx=64, max_parallel=1)
        job, heard = job_of("Hello", 1)
        engine.submit(job)
        assert heard.text is not None
        engine.close(wait=20)
        gc.collect()
        sizes.append(process.memory_info().rss)
    # Medians: what else this process allocates comes and goes.
    assert statistics.median(sizes[11:]) - statistics.median(sizes[2:11]) < 12 << 20
    assert RESIDENCY.held() == 0


def test_an_engine_that_nobody_holds_frees_everything(tiny: Tiny) -> None:
    engine = engine_of(tiny("qwen3"))
    job, heard = job_of("Hello", 1)
    engine.submit(job)
    assert heard.text is not None
    assert RESIDENCY.held() > 0
    del engine
    gc.collect()
    until(lambda: RESIDENCY.held() == 0)
    assert not WEIGHTS._shared


LEAVING = """
import asyncio, sys, threading
from pathlib import Path
from adapters.local import create
from adapters.local.residency import RESIDENCY
from router.adapter import AdapterSettings, Call
from router.models import LocalModel
from router.request import ChatRequest

def asking(**params):
    return Call(request=ChatRequest(messages=[{"role": "user", "content": "hi"}], params=params))

settings = AdapterSettings(local_memory=int(sys.argv[3]))
first, second = (
    create(LocalModel(name, path=Path(name), n_ctx=16384, max_parallel=1, threads=1), settings)
    for name in sys.argv[1:3]
)

async def main():
    stream = first.stream(asking(max_tokens=16000, temperature=0, logit_bias={"65": 100}))
    await anext(stream)
    sys.task = asyncio.create_task(second.complete(asking(max_tokens=2)))
    while not RESIDENCY._waiting:
        await asyncio.sleep(0.01)
    print("waits", RESIDENCY.held() > 0, flush=True)
    sys.stream = stream

asyncio.new_event_loop().run_until_complete(main())
"""


def test_a_process_ends_quietly_while_one_model_answers_and_another_waits_for_room(tmp_path: Path) -> None:
    paths = [write_gguf(tmp_path / f"{place}.gguf", seed=place, quantised=True) for place in range(2)]
    limit = int(1.3 * bytes_of(paths[0], n_ctx=16384, max_parallel=1))
    done = run_script(LEAVING, *map(str, paths), str(limit))
    assert done.stdout == "waits True\n"
    assert "Fatal" not in done.stderr
    assert "llama" not in done.stderr
    assert done.returncode == 0


async def one_of_many(chance: random.Random, adapter: LocalAdapter) -> str:
    kind = chance.random()
    if kind < 0.2:
        stream = adapter.stream(asking(max_tokens=30, **ENDLESS))
        async for _ in stream:
            if chance.random() < 0.2:
                break
        await stream.aclose()
        return "left"
    if kind < 0.4:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(text(adapter, most=20), chance.random() * 0.05)
        return "cancelled"
    await text(adapter, f"the dog {chance.randrange(5)}", chance.randrange(1, 8))
    return "answered"


async def test_four_models_in_room_for_two_answer_everybody(house: Any) -> None:
    chance = random.Random(11)
    models = house(4, 2.2)
    extra = create(models[3]._model.model_copy(update={"name": "closing"}), AdapterSettings())
    outcomes: list[object] = []

    async def user(adapters: list[LocalAdapter]) -> None:
        for _ in range(12):
            adapter = chance.choice(adapters)
            try:
                outcomes.append(await one_of_many(chance, adapter))
            except ModelError as error:
                outcomes.append(error)
            await asyncio.sleep(chance.random() * 0.01)

    async with asyncio.timeout(90), asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(user(models))
        closing = group.create_task(user([extra]))
        await asyncio.sleep(0.5)
        await extra.aclose()
        await closing
    refused = [outcome for outcome in outcomes if isinstance(outcome, ModelError)]
    assert len(outcomes) == 11 * 12
    assert outcomes.count("answered") > 40
    assert all("closed" in str(error) for error in refused)
    assert RESIDENCY.held() <= (RESIDENCY.limit() or 0)
    await eventually(lambda: RESIDENCY._waiting == 0)
    began = time.monotonic()
    for model in models:
        await model.aclose()
    assert time.monotonic() - began < 20
    assert RESIDENCY.held() == 0
    assert not WEIGHTS._shared
