"""Tool calls: forced by a grammar, read from what the model says, streamed as OpenAI streams them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adapters.local.adapter import LocalAdapter
from adapters.local.tools import SECTION_HEAD
from router.adapter import Call
from router.errors import ModelHTTPError
from router.models import LocalModel
from tests.adapters.local.conftest import Make, Tiny
from tests.adapters.local.kit import ScriptedEngine, asking, calls_of, until, weather_tool
from tests.gguf_files import Architecture
from tests.gguf_templates import LLAMA3, QWEN3

TOOLS = [weather_tool(), weather_tool("get_forecast")]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}\n</tool_call>'


def scripted(*pieces: str | bytes, template: str | None = QWEN3) -> tuple[LocalAdapter, ScriptedEngine]:
    engine = ScriptedEngine(pieces, template=template)
    return LocalAdapter(LocalModel("m", path=Path("m.gguf")), engine), engine


def check_arguments(text: str) -> None:
    arguments = json.loads(text)
    assert 1 <= len(arguments["city"]) <= 20
    assert 1 <= arguments["days"] <= 14
    assert arguments.get("unit", "celsius") in ("celsius", "fahrenheit")
    assert set(arguments) <= {"city", "days", "unit"}


@pytest.mark.gguf
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
async def test_a_required_call_is_made_and_fits_its_schema(
    tiny: Tiny, make: Make, architecture: Architecture
) -> None:
    adapter = make(tiny(architecture))
    named = {"type": "function", "function": {"name": "get_forecast"}}
    ids = set()
    for seed in range(5):
        for choice in ("required", named):
            completion = await adapter.complete(asking(tools=TOOLS, tool_choice=choice, seed=seed))
            message = completion.choices[0].message
            assert completion.choices[0].finish_reason == "tool_calls"
            assert message.content is None
            assert message.tool_calls
            for call in message.tool_calls:
                assert call.type == "function"
                check_arguments(call.function.arguments)
                ids.add(call.id)
                if choice is named:
                    assert call.function.name == "get_forecast"
            if choice is named:
                assert len(message.tool_calls) == 1
    assert len(ids) >= 10
    assert all(name.startswith("call_") for name in ids)


@pytest.mark.gguf
async def test_parallel_calls_can_be_forbidden(tiny: Tiny, make: Make) -> None:
    adapter = make(tiny("qwen2"))
    for seed in range(8):
        call = asking(tools=TOOLS, tool_choice="required", parallel_tool_calls=False, seed=seed)
        assert len((await adapter.complete(call)).choices[0].message.tool_calls or ()) == 1


@pytest.mark.gguf
async def test_a_stream_of_a_forced_call_carries_the_call_and_no_content(tiny: Tiny, make: Make) -> None:
    adapter = make(tiny("qwen3"))
    chunks = [chunk async for chunk in adapter.stream(asking(tools=TOOLS, tool_choice="required", seed=3))]
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    calls = [call for delta in deltas for call in delta.tool_calls or ()]
    assert [call.index for call in calls] == list(range(len(calls)))
    for call in calls:
        assert call.function
        check_arguments(call.function.arguments or "")
    assert not any(delta.content for delta in deltas)
    assert chunks[-2].choices[0].finish_reason == "tool_calls"


@pytest.mark.gguf
async def test_a_json_answer_beside_tools_is_one_or_the_other(tiny: Tiny, make: Make) -> None:
    adapter = make(tiny("qwen3"))
    schema = {
        "type": "object",
        "properties": {"a": {"enum": [1, 2]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    for seed in range(8):
        completion = await adapter.complete(asking(tools=TOOLS, response_format=form, seed=seed))
        for _, arguments in calls_of(completion):
            check_arguments(arguments)
        if not calls_of(completion):
            assert json.loads(completion.choices[0].message.content or "")["a"] in (1, 2)


async def test_text_before_a_call_is_content_and_thoughts_are_apart() -> None:
    adapter, engine = scripted(
        "<think>", "\nhm\n</thi", "nk>\n\nOne ", "moment", "\n<tool", CALL.removeprefix("<tool")
    )
    completion = await adapter.complete(asking(tools=TOOLS))
    message = completion.choices[0].message
    assert message.content == "One moment"
    assert message.model_extra == {"reasoning_content": "hm"}
    assert [name for name, _ in calls_of(completion)] == ["get_weather"]
    assert '"get_forecast"' in engine.jobs[0].prompt


async def test_streamed_deltas_are_openais() -> None:
    adapter, _ = scripted("<think>hm</think>", "Sure. ", CALL, "\n", CALL)
    chunks = [chunk async for chunk in adapter.stream(asking(tools=TOOLS, stream=True))]
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == "Sure."
    assert "".join((delta.model_extra or {}).get("reasoning_content", "") for delta in deltas) == "hm"
    calls = [call for delta in deltas for call in delta.tool_calls or ()]
    assert [(call.index, call.type) for call in calls] == [(0, "function"), (1, "function")]
    assert len({call.id for call in calls}) == 2
    assert [delta.role for delta in deltas] == ["assistant"] + [None] * (len(deltas) - 1)
    assert chunks[-2].choices[0].finish_reason == "tool_calls"


async def test_a_malformed_call_is_handed_on_as_content() -> None:
    adapter, _ = scripted("<tool_call>{not json</tool_call>")
    completion = await adapter.complete(asking(tools=TOOLS))
    assert completion.choices[0].message.content == "<tool_call>{not json</tool_call>"
    assert completion.choices[0].finish_reason == "stop"


async def test_tool_choice_none_hides_the_tools_and_reads_no_call() -> None:
    adapter, engine = scripted(CALL)
    message = (await adapter.complete(asking(tools=TOOLS, tool_choice="none"))).choices[0].message
    assert message.content == CALL
    assert not message.tool_calls
    assert "get_weather" not in engine.jobs[0].prompt


async def test_generation_ends_after_the_one_call_that_is_allowed() -> None:
    adapter, engine = scripted(CALL, CALL, CALL)
    completion = await adapter.complete(asking(tools=TOOLS, parallel_tool_calls=False))
    assert len(completion.choices[0].message.tool_calls or ()) == 1
    assert engine.told == 1


async def test_llamas_calls_are_read() -> None:
    adapter, engine = scripted('{"name": "get_weather", ', '"parameters": {"city": "Rome"}}', template=LLAMA3)
    completion = await adapter.complete(asking(tools=TOOLS))
    assert [json.loads(arguments) for _, arguments in calls_of(completion)] == [{"city": "Rome"}]
    assert "Environment: ipython" in engine.jobs[0].prompt


async def test_a_template_without_tools_gets_them_in_the_system_message() -> None:
    adapter, engine = scripted(CALL, template=None)
    completion = await adapter.complete(asking(tools=TOOLS))
    assert completion.choices[0].finish_reason == "tool_calls"
    assert engine.jobs[0].prompt.startswith(f"<|im_start|>system\n{SECTION_HEAD}")


async def test_a_forced_form_switches_thinking_off() -> None:
    adapter, engine = scripted("{}")
    await adapter.complete(asking(response_format={"type": "json_object"}))
    await adapter.complete(asking())
    assert engine.jobs[0].prompt.endswith("<think>\n\n</think>\n\n")
    assert engine.jobs[1].prompt.endswith("assistant\n")


async def test_template_variables_can_be_given() -> None:
    adapter, engine = scripted("x")
    await adapter.complete(asking(extra={"chat_template_kwargs": {"enable_thinking": False}}))
    assert engine.jobs[0].prompt.endswith("</think>\n\n")


async def test_thoughts_that_the_template_opened_are_thoughts() -> None:
    adapter, _ = scripted("so ", "be it</think>yes", template="{{ '</think>' if false }}<think>\n")
    message = (await adapter.complete(asking())).choices[0].message
    assert (message.content, message.model_extra) == ("yes", {"reasoning_content": "so be it"})


async def test_stop_strings_stop_the_engine_and_do_not_show() -> None:
    adapter, engine = scripted("one ", "ST", "OP", " two", " three")
    completion = await adapter.complete(asking(stop=["STOP"]))
    assert completion.choices[0].message.content == "one "
    assert completion.choices[0].finish_reason == "stop"
    assert engine.told == 3


async def test_a_split_emoji_is_streamed_whole() -> None:
    adapter, _ = scripted(*[bytes([byte]) for byte in "a🙂b".encode()])
    chunks = [chunk async for chunk in adapter.stream(asking())]
    content = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "".join(piece or "" for piece in content) == "a🙂b"
    assert not any("\ufffd" in (piece or "") for piece in content)


async def test_a_slow_reader_gets_pieces_together() -> None:
    adapter, engine = scripted(*["x"] * 200)
    stream = adapter.stream(asking())
    first = await anext(stream)
    until(lambda: engine.told == 200)  # the loop stands still meanwhile
    rest = [chunk async for chunk in stream]
    content = (first.choices[0].delta.content or "") + "".join(
        chunk.choices[0].delta.content or "" for chunk in rest if chunk.choices
    )
    assert content == "x" * 200
    assert len(rest) < 100


async def test_closing_a_stream_cancels_its_job() -> None:
    adapter, engine = scripted(*["x"] * 5)
    stream = adapter.stream(asking())
    await anext(stream)
    await stream.aclose()
    assert engine.cancelled == engine.jobs


@pytest.mark.parametrize(
    "params",
    [
        {"tools": [{"type": "custom", "custom": {"name": "x"}}]},
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "none_of_them"}}},
        {"tool_choice": "required"},
        {
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}],
            "tool_choice": "required",
        },
    ],
)
async def test_calls_that_cannot_be_forced_are_refused(params: dict[str, Any]) -> None:
    adapter, _ = scripted("x")
    with pytest.raises(ModelHTTPError) as caught:
        await adapter.complete(asking(**params))
    assert caught.value.status_code == 400


async def test_objects_equal_what_openais_own_validation_builds(recwarn: pytest.WarningsRecorder) -> None:
    from openai.types.chat import ChatCompletion, ChatCompletionChunk

    adapter, _ = scripted("<think>a</think>b", CALL)
    call: Call = asking(tools=TOOLS)
    completion = await adapter.complete(call)
    assert ChatCompletion.model_validate(completion.model_dump()).model_dump() == completion.model_dump()
    assert ChatCompletion.model_validate_json(completion.to_json()).to_dict() == completion.to_dict()
    assert completion.model_copy(deep=True) == completion
    assert repr(completion)
    async for chunk in adapter.stream(call):
        assert ChatCompletionChunk.model_validate(chunk.model_dump()).model_dump() == chunk.model_dump()
        assert ChatCompletionChunk.model_validate_json(chunk.to_json()).to_dict() == chunk.to_dict()
    assert not recwarn.list
