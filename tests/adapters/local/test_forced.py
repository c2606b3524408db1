"""Forced answers: what a grammar promises holds, and what cuts it off leaves no text that looks like an answer."""

from __future__ import annotations

import asyncio
import json
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from adapters.local.adapter import LocalAdapter
from adapters.local.engine import Finish, Job, Sampling
from adapters.local.files import load_settings
from adapters.local.json_text import object_end
from adapters.local.native import NativeModel
from adapters.local.sampling import GrammarError, Grammars, Sampler, recommended
from router.errors import ModelError, ModelHTTPError, ModelProtocolError
from router.models import LocalModel
from tests.adapters.local.batching.kit import Heard, engine_of
from tests.adapters.local.conftest import Make, Tiny
from tests.adapters.local.kit import ScriptedEngine, asking, calls_of, weather_tool
from tests.gguf_files import Architecture, write_gguf
from tests.gguf_templates import DEEPSEEK_R1, GPT_OSS, LLAMA3, QWEN3

TOOLS = [weather_tool(), weather_tool("get_forecast")]
ARCHITECTURES: tuple[Architecture, ...] = ("llama", "qwen2", "qwen3", "gemma3")


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Line(Strict):
    sku: Annotated[str, StringConstraints(pattern="^[A-Z]{3}-[0-9]{4}$")]
    count: Annotated[int, Field(ge=1, le=99)]
    price: Annotated[float, Field(ge=0, le=1000)]


class Order(Strict):
    """Every length is bounded."""

    customer: Annotated[str, StringConstraints(min_length=1, max_length=24)]
    kind: Literal["new", "used", 'ü "quoted" 🙂']
    placed: Annotated[date, Field(strict=False)]
    urgent: bool
    note: Annotated[str, StringConstraints(max_length=12)] | None
    lines: Annotated[list[Line], Field(min_length=1, max_length=3)]
    tags: Annotated[list[Annotated[str, StringConstraints(max_length=6)]], Field(max_length=2)] = []


FORM = {"type": "json_schema", "json_schema": {"name": "order", "schema": Order.model_json_schema()}}


@pytest.mark.gguf
@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
async def test_25_of_25_answers_of_random_weights_fit_their_schema_eight_at_once(
    tiny: Tiny, make: Make, architecture: Architecture, temperature: float
) -> None:
    """4 architectures, 2 temperatures: 200 of 200."""
    adapter = make(tiny(architecture), threads=1)
    turns = asyncio.Semaphore(8)

    async def one(number: int) -> None:
        # Each asks something else, so that greedy answers differ, too.
        async with turns:
            call = asking(
                f"Order {number}: {'dog ' * (number % 7)}",
                response_format=FORM,
                temperature=temperature,
                seed=number,
            )
            completion = await adapter.complete(call)
        (choice,) = completion.choices
        assert choice.finish_reason == "stop"
        Order.model_validate_json(choice.message.content or "")

    await asyncio.gather(*map(one, range(25)))


# Cut off


class CutOff(ScriptedEngine):
    """Says its pieces, and could have gone on."""

    def _answer(self, job: Job) -> None:
        job.listener.started(7)
        finish: Finish = "length" if all(map(job.listener.piece, self.pieces)) else "stop"
        job.listener.finished(finish, len(self.pieces))


def cut_off(said: str, template: str) -> LocalAdapter:
    engine = CutOff([said[place : place + 3] for place in range(0, len(said), 3)], template=template)
    return LocalAdapter(LocalModel("m", path=Path("m.gguf")), engine)


def bar(text: str) -> str:
    return text.replace("<|", "<\N{FULLWIDTH VERTICAL LINE}").replace("|>", "\N{FULLWIDTH VERTICAL LINE}>")


ARGUMENTS = '{"city": "Zürich \\"x\\"", "days": 2}'
FAMILIES: dict[str, tuple[str, str, str]] = {
    "qwen3": (QWEN3, '<tool_call>\n{"name": "get_weather", "arguments": ', "}\n</tool_call>"),
    "llama3": (LLAMA3, '{"name": "get_weather", "parameters": ', "}"),
    "gpt-oss": (GPT_OSS, "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>", ""),
    "deepseek": (
        DEEPSEEK_R1,
        bar("<|tool▁calls▁begin|><|tool▁call▁begin|>function<|tool▁sep|>get_weather\n```json\n"),
        bar("\n```<|tool▁call▁end|><|tool▁calls▁end|>"),
    ),
}


def joined(chunks: list[ChatCompletionChunk]) -> tuple[str, list[tuple[str, str]]]:
    """The content of a stream, and its calls."""
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    calls: list[tuple[str, str]] = []
    for call in (call for delta in deltas for call in delta.tool_calls or ()):
        assert call.function
        if call.id:
            calls.append((call.function.name or "", ""))
        name, arguments = calls[call.index]
        calls[call.index] = (name, arguments + (call.function.arguments or ""))
    return "".join(delta.content or "" for delta in deltas), calls


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_forced_call_that_is_cut_off_is_a_call_as_far_as_it_goes_and_never_content(
    family: str,
) -> None:
    template, head, end = FAMILIES[family]
    whole = head + ARGUMENTS + end
    for place in range(1, len(whole)):
        adapter = cut_off(whole[:place], template)
        completion = await adapter.complete(asking(tools=TOOLS, tool_choice="required"))
        (choice,) = completion.choices
        assert not choice.message.content
        shown = whole[len(head) : min(place, len(head) + len(ARGUMENTS))]
        over = object_end(shown, 0) is not None
        calls = calls_of(completion)
        if place > len(head):
            ((name, arguments),) = calls
            assert name == "get_weather"
            assert json.loads(arguments) == json.loads(shown) if over else arguments == shown
        else:
            assert not calls
        assert choice.finish_reason == "length"
        stream = adapter.stream(asking(tools=TOOLS, tool_choice="required", stream=True))
        chunks = [chunk async for chunk in stream]
        content, streamed = joined(chunks)
        assert not content
        assert [name for name, _ in streamed] == [name for name, _ in calls]
        assert all(shown.startswith(arguments) for _, arguments in streamed)
        assert chunks[-2].choices[0].finish_reason == "length"


async def test_a_second_forced_call_that_is_cut_off_takes_nothing_from_the_first() -> None:
    _, head, end = FAMILIES["qwen3"]
    first = head + ARGUMENTS + end + "\n"
    for rest, calls in [("<tool", 1), (head[:30], 1), (head + '{"city": "O', 2)]:
        completion = await cut_off(first + rest, QWEN3).complete(asking(tools=TOOLS, tool_choice="required"))
        assert len(calls_of(completion)) == calls
        assert json.loads(calls_of(completion)[0][1]) == json.loads(ARGUMENTS)
        assert not completion.choices[0].message.content


async def test_a_call_of_free_will_that_is_cut_off_is_a_call_too_and_text_stays_text() -> None:
    _, head, _ = FAMILIES["qwen3"]
    completion = await cut_off("Sure.\n" + head + '{"city": "O', QWEN3).complete(asking(tools=TOOLS))
    assert calls_of(completion) == [("get_weather", '{"city": "O')]
    assert completion.choices[0].message.content == "Sure."
    completion = await cut_off("Sure. <tool_call> is", QWEN3).complete(asking(tools=TOOLS))
    assert completion.choices[0].message.content == "Sure. <tool_call> is"


@pytest.mark.gguf
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
async def test_real_forced_calls_that_run_out_of_tokens_are_no_text(
    tiny: Tiny, make: Make, architecture: Architecture
) -> None:
    adapter = make(tiny(architecture), threads=1)
    for most in (1, 3, 8, 16, 24, 40):
        params: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required", "seed": most, "max_tokens": most}
        (choice,) = (await adapter.complete(asking(**params))).choices
        assert not choice.message.content
        chunks = [chunk async for chunk in adapter.stream(asking(stream=True, **params))]
        content, calls = joined(chunks)
        assert not content
        assert len(calls) == len(choice.message.tool_calls or ())
        assert chunks[-2].choices[0].finish_reason == choice.finish_reason


# What cannot be done


@pytest.mark.gguf
async def test_a_schema_that_nothing_meets_is_refused_and_the_engine_goes_on(tiny: Tiny, make: Make) -> None:
    adapter = make(tiny("qwen3"), threads=1)
    running = asyncio.create_task(adapter.complete(asking(response_format=FORM, seed=1)))
    impossible: list[Any] = [
        False,
        {"type": "object", "properties": {"a": False}, "required": ["a"]},
        {"type": "string", "minLength": 5, "maxLength": 2},
        {"type": "integer", "minimum": 5, "maximum": 2},
        {"enum": []},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"$ref": "#/$defs/nowhere"},
        {"type": "array", "minItems": 3, "maxItems": 1},
    ]
    for schema in impossible:
        with pytest.raises(ModelHTTPError) as caught:
            await adapter.complete(asking(response_format={"type": "json_object", "schema": schema}))
        assert (caught.value.status_code, caught.value.code) == (400, "invalid_schema")
    Order.model_validate_json((await running).choices[0].message.content or "")
    assert adapter.load().running == 0


@pytest.mark.gguf
def test_a_grammar_that_leads_nowhere_or_is_none_fails_its_job_alone(tiny: Tiny) -> None:
    engine = engine_of(tiny("qwen2"))
    errors: list[type[ModelError]] = []
    healthy = Heard()
    engine.submit(Job(prompt="Hi", listener=healthy, max_tokens=200))
    nowhere = 'root ::= "a" dead\ndead ::= [^\\U00000000-\\U0010FFFF]'
    for grammar in (nowhere, 'root ::= "a" undefined', "nonsense"):
        heard = Heard()
        engine.submit(Job(prompt="Hi", listener=heard, grammar=grammar, max_tokens=8))
        assert heard.over.wait(60)
        assert heard.error is not None
        errors.append(type(heard.error))
    assert errors == [ModelProtocolError, ModelHTTPError, ModelHTTPError]
    assert healthy.text
    engine.close()


# Compiled grammars


@pytest.mark.gguf
def test_a_grammar_is_compiled_once_and_each_answer_has_its_own_state(tiny: Tiny) -> None:
    native = NativeModel(load_settings(LocalModel("m", path=tiny("qwen3"))))
    grammars = Grammars()
    sampling = recommended(Sampling(temperature=0), {})
    grammar = 'root ::= "a" "b"'
    a, b = native.tokenize("a")[0], native.tokenize("b")[0]
    samplers = [Sampler(native, sampling, grammar, grammars=grammars) for _ in range(2)]
    for number, sampler in enumerate(samplers):
        assert sampler._admits(a)
        assert not sampler._admits(b)
        if number == 0:
            import llama_cpp.llama_cpp as c

            c.llama_sampler_accept(sampler._grammar, a)
            assert sampler._admits(b)
    assert len(grammars._kept) == 1
    samplers[0].close()
    assert samplers[1]._admits(a)
    samplers[1].close()
    grammars.close()
    native.close()


@pytest.mark.gguf
def test_few_compiled_grammars_are_kept_and_wrong_ones_not_at_all(tiny: Tiny) -> None:
    native = NativeModel(load_settings(LocalModel("m", path=tiny("qwen3"))))
    grammars = Grammars()
    sampling = recommended(Sampling(), {})
    for number in range(40):
        Sampler(native, sampling, f'root ::= "{number}"', grammars=grammars).close()
        Sampler(native, sampling, 'root ::= "0"', grammars=grammars).close()
    assert len(grammars._kept) == 16
    assert 'root ::= "0"' in grammars._kept
    with pytest.raises(GrammarError):
        Sampler(native, sampling, "nonsense", grammars=grammars)
    assert len(grammars._kept) <= 16
    grammars.close()
    assert not grammars._kept
    native.close()


@pytest.mark.gguf
async def test_the_same_schema_gives_the_same_answer_from_a_kept_grammar(tmp_path: Path, make: Make) -> None:
    adapter = make(write_gguf(tmp_path / "m.gguf", "qwen3", quantised=True), threads=1)
    answers = [(await adapter.complete(asking(response_format=FORM, seed=3))).choices[0] for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
