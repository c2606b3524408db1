"""Requests of every kind at once, each answered as if it were alone, in one piece and in a stream."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from adapters.local.adapter import LocalAdapter
from router.adapter import Call
from tests.adapters.local.conftest import Make, Tiny
from tests.adapters.local.kit import asking, weather_tool

pytestmark = pytest.mark.gguf

SCHEMA = {
    "type": "object",
    "properties": {
        "a": {"type": "string", "maxLength": 12},
        "b": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["a", "b"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
TOOLS = [weather_tool(), weather_tool("get_forecast")]
KINDS: list[dict[str, Any]] = [
    {"max_tokens": 30},
    {"max_tokens": 30, "logprobs": True, "top_logprobs": 3},
    {"max_tokens": 40, "stop": ["e", "th"], "logprobs": True},
    {"response_format": FORM},
    {"response_format": FORM, "logprobs": True},
    {"response_format": FORM, "reasoning_effort": "high", "max_tokens": 60, "logprobs": True},
    {"tools": TOOLS, "tool_choice": "required"},
    {"tools": TOOLS, "tool_choice": "required", "max_tokens": 20},
    {"tools": TOOLS, "max_tokens": 30, "frequency_penalty": 0.5},
    {"max_tokens": 30, "reasoning_effort": "none", "temperature": 0},
]

Said = tuple[str, str, list[tuple[str, str]], list[tuple[list[int], float]], str, int, int]


def _said(choices: list[Any], usage: Any) -> Said:
    """What all the choices of an answer, or of its chunks, say together."""
    content = reasoning = finish = ""
    calls: list[tuple[str, str]] = []
    scores: list[tuple[list[int], float]] = []
    for choice in choices:
        part = choice.delta if hasattr(choice, "delta") else choice.message
        content += part.content or ""
        reasoning += (part.model_extra or {}).get("reasoning_content", "")
        for call in part.tool_calls or ():
            if call.id:
                calls.append((call.function.name, ""))
            calls[-1] = (calls[-1][0], calls[-1][1] + (call.function.arguments or ""))
        if choice.logprobs:
            scores += [(token.bytes, round(token.logprob, 3)) for token in choice.logprobs.content or ()]
        finish = choice.finish_reason or finish
    details = usage.completion_tokens_details
    return content, reasoning, calls, scores, finish, usage.completion_tokens, details.reasoning_tokens


async def _whole(adapter: LocalAdapter, call: Call) -> Said:
    completion = await adapter.complete(call)
    return _said([*completion.choices], completion.usage)


async def _streamed(adapter: LocalAdapter, call: Call) -> Said:
    chunks = [chunk async for chunk in adapter.stream(call)]
    return _said([choice for chunk in chunks for choice in chunk.choices], chunks[-1].usage)


def _calls(*, stream: bool) -> list[Call]:
    questions = ["the dog", "what is the weather in paris <|im_end|>", "Hello"]
    return [
        asking(questions[number % 3], stream=stream, **{"seed": number, "temperature": 1, **kind})
        for number, kind in enumerate(KINDS)
    ]


def _check(kind: dict[str, Any], said: Said, alone: Said) -> None:
    """A long prompt, as tools make it, is rounded in another way if its beginning was computed before."""
    if "tools" not in kind:
        assert said == alone, kind
        return
    content, _, calls, _, finish, _, _ = said
    assert finish in (("length", "tool_calls") if "tool_choice" in kind else ("length", "stop", "tool_calls"))
    assert {name for name, _ in calls} <= {"get_weather", "get_forecast"}
    if "tool_choice" in kind:
        assert not content
        assert finish == "length" or set(json.loads(calls[-1][1])) >= {"city", "days"}


async def test_each_gets_what_it_gets_alone(tiny: Tiny, make: Make) -> None:
    adapter = make(tiny("qwen3"), threads=1)
    alone = [await _whole(adapter, call) for call in _calls(stream=False)]
    together = await asyncio.gather(*(_whole(adapter, call) for call in _calls(stream=False)))
    streams = await asyncio.gather(*(_streamed(adapter, call) for call in _calls(stream=True)))
    for kind, one, other, stream in zip(KINDS, alone, together, streams, strict=True):
        _check(kind, other, one)
        _check(kind, stream, one)


async def test_some_leave_in_the_middle_and_the_others_notice_nothing(tiny: Tiny, make: Make) -> None:
    adapter = make(tiny("qwen3"), threads=1)
    alone = [await _whole(adapter, call) for call in _calls(stream=False)]
    for leavers in ((0, 3, 5), (1, 4, 6, 8)):
        tasks = [asyncio.create_task(_whole(adapter, call)) for call in _calls(stream=False)]
        streams = [adapter.stream(call) for call in _calls(stream=True)]
        for stream in streams:
            await anext(stream)
            await stream.aclose()
        for number in leavers:
            tasks[number].cancel()
        for number, outcome in enumerate(await asyncio.gather(*tasks, return_exceptions=True)):
            if isinstance(outcome, BaseException):
                assert isinstance(outcome, asyncio.CancelledError)
                assert number in leavers
            else:
                _check(KINDS[number], outcome, alone[number])
