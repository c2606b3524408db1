"""Answers from real models: the same text always, exact figures, and an end when it is asked for."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from adapters.local import LocalAdapter
from adapters.local.files import load_settings
from adapters.local.hearing import Hearing
from adapters.local.native import NativeModel
from adapters.local.reading import Reader
from adapters.local.templates import ChatTemplate
from router.adapter import Call
from router.errors import ContextWindowExceededError, ModelConnectionError, ModelHTTPError
from router.models import LocalModel
from router.testing import check_adapter
from tests.adapters.local.conftest import Make, Tiny
from tests.adapters.local.kit import asking, eventually, until
from tests.gguf_files import Architecture, write_gguf

pytestmark = pytest.mark.gguf

QUESTIONS = [f"Question {number}: what is {number} and the dog?" for number in range(8)]


async def text(adapter: LocalAdapter, call: Call) -> str:
    completion = await adapter.complete(call)
    return completion.choices[0].message.content or ""


async def streamed(adapter: LocalAdapter, call: Call) -> list[ChatCompletionChunk]:
    return [chunk async for chunk in adapter.stream(call)]


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma3"])
async def test_every_architecture_answers_with_openai_types(
    tiny: Tiny, make: Make, architecture: Architecture
) -> None:
    adapter = make(tiny(architecture))
    completion = await adapter.complete(asking(max_tokens=8, seed=1))
    assert isinstance(completion, ChatCompletion)
    assert completion.choices[0].message.content
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage
    assert completion.usage.completion_tokens == 8


async def test_the_adapter_keeps_the_contract(tiny: Tiny, make: Make) -> None:
    await check_adapter(lambda: make(tiny("qwen3")))


async def test_eight_tasks_and_three_threads_get_the_text_that_each_gets_alone(
    tiny: Tiny, make: Make
) -> None:
    adapter = make(tiny("qwen3"), threads=1)  # one row is rounded as several are
    calls = [asking(question, temperature=0, max_tokens=24) for question in QUESTIONS]
    alone = [await text(adapter, call) for call in calls]
    assert len(set(alone)) > 4
    found: dict[int, list[str]] = {}

    def in_own_loop(place: int) -> None:
        async def ask() -> list[str]:
            return await asyncio.gather(*(text(adapter, call) for call in calls))

        found[place] = asyncio.run(ask())

    threads = [threading.Thread(target=in_own_loop, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    together = await asyncio.gather(*(text(adapter, call) for call in calls))
    await eventually(lambda: not any(thread.is_alive() for thread in threads))
    assert [together, *found.values()] == [alone] * 4


async def test_smollm_answers_alike_alone_and_in_company(smollm: Path, make: Make) -> None:
    adapter = make(smollm, n_ctx=1024, threads=1)
    calls = [asking(question, temperature=0, max_tokens=10) for question in QUESTIONS[:3]]
    alone = [await text(adapter, call) for call in calls]
    assert await asyncio.gather(*(text(adapter, call) for call in calls)) == alone


async def test_a_prompt_longer_than_one_step_gives_the_same_text_twice(tiny: Tiny, make: Make) -> None:
    adapter = make(tiny("qwen2"))
    call = asking("the quick brown fox " * 150, temperature=0, max_tokens=8)
    assert await text(adapter, call) == await text(adapter, call)


async def test_usage_is_what_the_tokenizer_counts(tiny: Tiny, make: Make) -> None:
    adapter = make(tiny("qwen3"))
    completion = await adapter.complete(asking("Hello dog", temperature=0, max_tokens=12))
    model = LocalModel("counter", path=tiny("qwen3"))
    native = NativeModel(load_settings(model))
    try:
        template = ChatTemplate(native.metadata()["tokenizer.chat_template"], model="counter")
        prompt = await template.render(
            {
                "messages": [{"role": "user", "content": "Hello dog"}],
                "tools": None,
                "add_generation_prompt": True,
            }
        )
        assert completion.usage
        assert completion.usage.prompt_tokens == len(native.tokenize(prompt))
    finally:
        native.close()
    assert completion.usage.completion_tokens == 12
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + 12


async def test_llama_gets_its_begin_token_once(tiny: Tiny, make: Make) -> None:
    """The template writes it, the vocabulary asks for it: one is right."""
    native = NativeModel(load_settings(LocalModel("counter", path=tiny("llama"))))
    try:
        with_it = native.tokenize("<|begin_of_text|>hello")
        assert with_it == native.tokenize("hello")
        assert with_it.count(native.bos) == 1
    finally:
        native.close()


async def test_a_stream_says_what_complete_says_and_ends_with_usage(tiny: Tiny, make: Make) -> None:
    adapter = make(tiny("qwen3"))
    call = asking("the cat", temperature=0, max_tokens=20)
    completion = await adapter.complete(call)
    chunks = await streamed(adapter, call)
    message = completion.choices[0].message
    content = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert content == message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] == "length"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage
    assert completion.usage
    assert chunks[-1].usage.total_tokens == completion.usage.total_tokens
    assert chunks[-1].usage.completion_tokens == 20
    assert len({chunk.id for chunk in chunks}) == 1


async def test_seeds_repeat_and_differ(tiny: Tiny, make: Make) -> None:
    adapter = make(tiny("qwen3"))
    first, again, other = [await text(adapter, asking(seed=seed, max_tokens=16)) for seed in (1, 1, 2)]
    assert first == again != other
    unseeded = [await text(adapter, asking(max_tokens=16)) for _ in range(2)]
    assert unseeded[0] != unseeded[1]


async def test_the_files_own_sampling_advice_is_the_default(tmp_path: Path, make: Make) -> None:
    advised = make(write_gguf(tmp_path / "cold.gguf", metadata={"general.sampling.temp": 0.0}))
    assert await text(advised, asking(max_tokens=16)) == await text(
        advised, asking(temperature=0, max_tokens=16)
    )


async def test_logit_bias_and_penalties_change_the_answer(tiny: Tiny, make: Make) -> None:
    adapter = make(tiny("qwen3"))
    plain = await adapter.complete(asking(temperature=0, max_tokens=40))
    wanted = 65  # a byte token: its letter is in the vocabulary's order
    biased = await text(adapter, asking(temperature=0, max_tokens=6, logit_bias={str(wanted): 100}))
    assert len(set(biased)) == 1
    assert biased != plain.choices[0].message.content
    punished = await text(
        adapter, asking(temperature=0, max_tokens=6, logit_bias={str(wanted): 30}, frequency_penalty=100)
    )
    assert len(set(punished)) > 1


@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_a_bias_for_a_token_that_is_none_is_refused_and_the_engine_goes_on(
    tiny: Tiny, make: Make, isolation: str
) -> None:
    path = tiny("qwen3")
    native = NativeModel(load_settings(LocalModel("m", path=path)))
    count = native.n_vocab
    native.close()
    adapter = make(path, n_ctx=1024, isolation=isolation)
    running = asyncio.create_task(adapter.complete(asking("Tell me more", max_tokens=200)))
    for token in (count, 10**12):
        with pytest.raises(ModelHTTPError, match=f"logit_bias.{token}: no such token") as caught:
            await adapter.complete(asking(logit_bias={"5": 1, str(token): -100}, max_tokens=4))
        error = caught.value
        assert (error.status_code, error.code, error.model) == (400, "invalid_value", "tiny")
    assert (await adapter.complete(asking(logit_bias={str(count - 1): -100}, max_tokens=4))).usage
    assert (await running).usage


async def test_a_prompt_over_the_window_is_refused_with_both_figures(tiny: Tiny, make: Make) -> None:
    adapter = make(tiny("qwen3"), n_ctx=256)
    with pytest.raises(ContextWindowExceededError) as caught:
        await adapter.complete(asking("the lazy dog " * 300))
    assert caught.value.window == 256
    assert caught.value.tokens
    assert caught.value.tokens > 256
    with pytest.raises(ContextWindowExceededError):
        await adapter.complete(asking("short", max_tokens=250))
    assert (await adapter.complete(asking("short", max_tokens=3))).usage


async def test_without_a_limit_the_window_is_the_limit(tiny: Tiny, make: Make) -> None:
    adapter = make(tiny("qwen3"), n_ctx=256)
    completion = await adapter.complete(asking(temperature=0, logit_bias={"65": 100}))
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage
    assert completion.usage.total_tokens == 256


async def test_cancelling_stops_at_the_next_token(tiny: Tiny, make: Make) -> None:
    adapter = make(tiny("qwen3"))
    chunks = adapter.stream(asking(temperature=0, logit_bias={"65": 100}))
    seen = [await anext(chunks) for _ in range(3)]
    assert seen
    await chunks.aclose()
    await eventually(lambda: adapter.load().running == 0)
    task = asyncio.create_task(adapter.complete(asking(temperature=0, logit_bias={"65": 100})))
    await eventually(lambda: adapter.load().running > 0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: adapter.load().running == 0)
    assert (await adapter.complete(asking(max_tokens=2))).usage


async def test_a_cancelled_job_leaves_the_queue(tiny: Tiny, make: Make) -> None:
    adapter = make(tiny("qwen3"), max_parallel=1)
    running = asyncio.create_task(adapter.complete(asking(temperature=0, logit_bias={"65": 100})))
    await eventually(lambda: adapter.load().running > 0)
    waiting = asyncio.create_task(adapter.complete(asking()))
    await eventually(lambda: adapter.load().waiting > 0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert adapter.load().waiting == 0
    running.cancel()
    await asyncio.wait([running])


async def test_too_long_a_prompt_fails_at_once_while_another_chat_runs(tiny: Tiny, make: Make) -> None:
    adapter = make(tiny("qwen3"))
    running = asyncio.create_task(adapter.complete(asking(temperature=0, logit_bias={"65": 100})))
    await eventually(lambda: adapter.load().running > 0)
    with pytest.raises(ContextWindowExceededError):
        await adapter.complete(asking("the lazy dog " * 1500))
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])


async def test_a_full_queue_refuses_and_says_so(
    tiny: Tiny, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.local.batching.worker.MOST_WAITING", 2)
    adapter = make(tiny("qwen3"), max_parallel=1)
    endless = [asyncio.create_task(adapter.complete(asking(temperature=0, logit_bias={"65": 100})))]
    await eventually(lambda: adapter.load().running > 0)
    endless += [asyncio.create_task(adapter.complete(asking())) for _ in range(2)]
    await eventually(lambda: adapter.load().full)
    with pytest.raises(ModelHTTPError) as caught:
        await adapter.complete(asking())
    assert (caught.value.status_code, caught.value.code) == (503, "queue_full")
    for task in endless:
        task.cancel()
    await asyncio.wait(endless)


async def test_closing_fails_what_runs_and_waits(tiny: Tiny, make: Make) -> None:
    adapter = make(tiny("qwen3"), max_parallel=1)
    tasks = [
        asyncio.create_task(adapter.complete(asking(temperature=0, logit_bias={"65": 100}))) for _ in range(3)
    ]
    await eventually(lambda: adapter.load().running > 0 and adapter.load().waiting == 2)
    await adapter.aclose()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, ModelConnectionError) for outcome in outcomes)
    assert len({id(outcome) for outcome in outcomes}) == 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("router-local")]
    with pytest.raises(ModelConnectionError):
        await adapter.complete(asking())


async def test_dropping_an_adapter_ends_its_thread(tiny: Tiny, make: Make) -> None:
    from adapters.local import create
    from router.adapter import AdapterSettings

    adapter = create(LocalModel("dropped", path=tiny("qwen3")), AdapterSettings())
    await adapter.complete(asking(max_tokens=2))
    del adapter
    await asyncio.to_thread(
        until, lambda: not [one for one in threading.enumerate() if one.name == "router-local-dropped"]
    )


async def test_a_loop_that_closes_under_its_answer_gives_the_job_up() -> None:
    given_up: list[bool] = []

    async def listen() -> Hearing:
        return Hearing(Reader(), lambda: given_up.append(True), asyncio.Event())

    hearing = await asyncio.to_thread(asyncio.run, listen())
    hearing.piece(b"nobody hears this")
    assert given_up == [True]


async def test_two_models_take_turns_and_both_answer_as_if_alone(tiny: Tiny, make: Make) -> None:
    adapters = [make(tiny(name), threads=1) for name in ("qwen3", "llama")]
    call = asking("the dog", temperature=0, max_tokens=20)
    for adapter in adapters:
        await text(adapter, call)  # from now on what comes before the answer is held, and rounded as it was
    alone = [await text(adapter, call) for adapter in adapters]
    together = await asyncio.gather(*(text(adapter, call) for adapter in adapters for _ in range(3)))
    assert together == [alone[0]] * 3 + [alone[1]] * 3


async def test_started_is_told_on_the_loop_when_the_prefill_begins(tiny: Tiny, make: Make) -> None:
    adapter = make(tiny("qwen3"))
    heard: list[tuple[threading.Thread, int]] = []
    call = asking(max_tokens=2)
    told = Call(
        request=call.request,
        started=lambda: heard.append((threading.current_thread(), adapter.load().waiting)),
    )
    await adapter.complete(told)
    assert heard == [(threading.current_thread(), 0)]


async def test_smollm_ends_its_turn_and_writes_json_when_it_must(smollm: Path, make: Make) -> None:
    adapter = make(smollm, n_ctx=1024)
    schema = {
        "type": "object",
        "properties": {"capital": {"type": "string", "maxLength": 20}},
        "required": ["capital"],
        "additionalProperties": False,
    }
    completion = await adapter.complete(
        asking(
            "What is the capital of France? Answer as JSON.",
            temperature=0,
            max_tokens=60,
            response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
        )
    )
    assert completion.choices[0].finish_reason == "stop"
    assert isinstance(json.loads(completion.choices[0].message.content or "")["capital"], str)


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"top_logprobs": 2}, "invalid_value"),
        ({"verbosity": "low"}, "unsupported"),
        ({"stop": 5}, "invalid_value"),
        ({"temperature": -1}, "invalid_value"),
        ({"max_tokens": 0}, "invalid_value"),
        ({"response_format": {"type": "yaml"}}, "invalid_value"),
        ({"response_format": {"type": "json_object", "schema": {"not": {}}}}, "invalid_schema"),
    ],
)
async def test_what_cannot_be_done_is_refused_and_not_dropped(
    tiny: Tiny, make: Make, params: dict[str, Any], code: str
) -> None:
    with pytest.raises(ModelHTTPError) as caught:
        await make(tiny("qwen3")).complete(asking(**params))
    assert (caught.value.status_code, caught.value.code) == (400, code)


async def test_images_are_refused(tiny: Tiny, make: Make) -> None:
    parts = [{"type": "text", "text": "what"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    with pytest.raises(ModelHTTPError) as caught:
        await make(tiny("qwen3")).complete(asking(messages=[{"role": "user", "content": parts}]))
    assert caught.value.code == "unsupported_content"
