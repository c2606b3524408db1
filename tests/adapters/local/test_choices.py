"""Several answers to one request: `n`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from adapters.local import LocalAdapter
from adapters.local.engine import Job
from router import LocalModel, Router
from router.errors import ModelError, OverloadedError
from tests.adapters.local.conftest import Make, Tiny
from tests.adapters.local.kit import ScriptedEngine, asking, weather_tool

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
#: Enough of a Qwen template to say that its models write calls in this way.
HERMES = "{% for m in messages %}{{ m.content }}{% endfor %}{{ tools }}<tool_call></tool_call>"


def scripted(pieces: list[bytes | str], **options: Any) -> tuple[LocalAdapter, ScriptedEngine]:
    engine = ScriptedEngine(pieces, **options)
    return LocalAdapter(LocalModel("m", path=Path("m.gguf")), engine), engine


async def test_each_choice_is_the_answer_of_its_own_seed(smollm: Path, make: Make) -> None:
    adapter = make(smollm)
    asked: dict[str, Any] = {"temperature": 1.0, "max_tokens": 12}
    alone = [await adapter.complete(asking(**asked, seed=seed)) for seed in (7, 8, 9)]
    together = await adapter.complete(asking(**asked, seed=7, n=3))
    texts = [one.choices[0].message.content for one in alone]
    assert [choice.message.content for choice in together.choices] == texts
    assert len(set(texts)) == 3
    assert [choice.index for choice in together.choices] == [0, 1, 2]
    took, single = together.usage, [one.usage for one in alone if one.usage]
    assert took is not None
    assert took.prompt_tokens == single[0].prompt_tokens
    assert took.completion_tokens == sum(one.completion_tokens for one in single)


async def test_without_a_seed_choices_differ_and_greedy_ones_do_not(smollm: Path, make: Make) -> None:
    adapter = make(smollm)
    drawn = await adapter.complete(asking("Tell a story.", temperature=1.5, max_tokens=16, n=4))
    assert len({choice.message.content for choice in drawn.choices}) > 1
    greedy = await adapter.complete(asking("Tell a story.", temperature=0, max_tokens=16, n=4))
    assert len({choice.message.content for choice in greedy.choices}) == 1


async def test_a_stream_tells_of_which_choice_each_chunk_is(smollm: Path, make: Make) -> None:
    adapter = make(smollm)
    asked: dict[str, Any] = {"temperature": 1.0, "max_tokens": 12, "seed": 3, "n": 3}
    whole = await adapter.complete(asking(**asked))
    chunks = [chunk async for chunk in adapter.stream(asking(**asked, stream=True))]
    texts, ends = ["", "", ""], []
    for chunk in chunks[:-1]:
        (choice,) = chunk.choices
        if not texts[choice.index] and choice.delta.content:
            assert choice.delta.role == "assistant"
        texts[choice.index] += choice.delta.content or ""
        ends += [choice.index] if choice.finish_reason else []
    assert texts == [choice.message.content for choice in whole.choices]
    assert sorted(ends) == [0, 1, 2]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1


async def test_every_choice_has_its_calls() -> None:
    adapter, _ = scripted([CALL], template=HERMES)
    completion = await adapter.complete(asking(n=2, tools=[weather_tool()]))
    calls = [call for choice in completion.choices for call in choice.message.tool_calls or []]
    assert [choice.finish_reason for choice in completion.choices] == ["tool_calls"] * 2
    assert len({call.id for call in calls}) == len(calls) == 2


async def test_who_stops_listening_stops_all_choices() -> None:
    adapter, engine = scripted(["a", "b", "c"])
    engine.pause = lambda: time.sleep(0.05)
    stream = adapter.stream(asking(n=3, stream=True))
    await anext(stream)
    await stream.aclose()
    assert sorted(map(id, engine.cancelled)) == sorted(map(id, engine.jobs))
    assert len(engine.jobs) == 3


class Picky(ScriptedEngine):
    """Takes so many jobs, and no more."""

    room = 2

    def submit(self, job: Job) -> None:
        if len(self.jobs) >= self.room:
            raise OverloadedError("the queue is full")
        super().submit(job)


async def test_if_one_choice_finds_no_room_none_is_computed() -> None:
    engine = Picky(["a"] * 50)
    engine.pause = lambda: time.sleep(0.01)
    adapter = LocalAdapter(LocalModel("m", path=Path("m.gguf")), engine)
    with pytest.raises(OverloadedError):
        await adapter.complete(asking(n=3))
    assert engine.cancelled == engine.jobs
    assert len(engine.jobs) == 2


class Failing(ScriptedEngine):
    """Its second job fails."""

    def _answer(self, job: Job) -> None:
        if job is self.jobs[0]:
            super()._answer(job)
        else:
            job.listener.failed(ModelError("broke off", model="m"))


async def test_if_one_choice_fails_the_others_stop() -> None:
    engine = Failing(["a"] * 50)
    engine.pause = lambda: time.sleep(0.01)
    adapter = LocalAdapter(LocalModel("m", path=Path("m.gguf")), engine)
    with pytest.raises(ModelError, match="broke off"):
        await adapter.complete(asking(n=2))
    assert engine.cancelled == engine.jobs[:1]


def test_a_router_gives_several_choices_of_a_local_model(tiny: Tiny) -> None:
    asked: Any = {"messages": [{"role": "user", "content": "the dog"}], "max_tokens": 4, "temperature": 0}
    with Router([LocalModel("tiny", path=tiny("qwen3"))]) as llm:
        completion = llm.chat.completions.create(**asked, n=2)
        chunks = list(llm.chat.completions.create(**asked, n=2, stream=True))
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1}
