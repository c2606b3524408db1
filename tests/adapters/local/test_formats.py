"""Every family's own way to write thoughts, content and calls, wherever the pieces are cut."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.local.adapter import LocalAdapter
from adapters.local.formats import DeepSeek, Harmony, HarmonyReader, Hermes, Llama
from adapters.local.reading import THINK, AnswerReader, Part, Reader
from adapters.local.stopping import Stopping
from adapters.local.text import Characters
from adapters.local.tools import Tool, ToolFormat
from router.errors import ModelHTTPError
from router.models import LocalModel
from tests.adapters.local.conftest import Make
from tests.adapters.local.kit import ScriptedEngine, asking, calls_of, weather_tool
from tests.gguf_files import write_gguf
from tests.gguf_templates import DEEPSEEK_R1, GEMMA2, GEMMA3, GPT_OSS, LLAMA3, LLAMA4, QWEN2, QWEN3

DEFINITIONS = [weather_tool(), weather_tool("get_forecast")]
SCHEMA = DEFINITIONS[0]["function"]["parameters"]
TOOLS = [Tool("get_weather", SCHEMA), Tool("get_forecast", SCHEMA)]
ZURICH = {"city": "Zürich 🏔", "days": 2}
ROME = {"city": "Ro}m</tool_call>e", "days": 3}


def deepseek(text: str) -> str:
    """DeepSeek's tokens have bars that are not ASCII's."""
    return text.replace("<|", "<\N{FULLWIDTH VERTICAL LINE}").replace("|>", "\N{FULLWIDTH VERTICAL LINE}>")


def hermes(name: str, arguments: dict[str, Any]) -> str:
    return (
        f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments}, ensure_ascii=False)}\n</tool_call>"
    )


def llama(name: str, arguments: dict[str, Any]) -> str:
    return json.dumps({"name": name, "parameters": arguments}, ensure_ascii=False)


def fenced(name: str, arguments: dict[str, Any]) -> str:
    body = json.dumps(arguments, ensure_ascii=False)
    return deepseek(f"<|tool▁call▁begin|>function<|tool▁sep|>{name}\n```json\n{body}\n```<|tool▁call▁end|>")


def channel(header: str, body: str, end: str = "<|end|><|start|>assistant") -> str:
    return f"<|channel|>{header}<|message|>{body}{end}"


@dataclass(frozen=True)
class Case:
    """What a model says, and what a caller gets."""

    name: str
    template: str | None
    said: str
    content: str = ""
    reasoning: str = ""
    calls: Sequence[tuple[str, dict[str, Any]]] = ()
    params: dict[str, Any] = field(default_factory=lambda: {"tools": DEFINITIONS})


BOTH = (("get_weather", ZURICH), ("get_forecast", ROME))
WEATHER = (("get_weather", ZURICH),)
CASES = [
    Case(
        "qwen3 thinks, speaks, calls twice, speaks",
        QWEN3,
        f"<think>\nHm, <tool?\n\nWell.\n</think>\n\nOne moment. <1s>\n{hermes(*BOTH[0])}\n{hermes(*BOTH[1])}\nDone.\n",
        "One moment. <1s>\n\n\nDone.\n",
        "Hm, <tool?\n\nWell.",
        BOTH,
    ),
    Case("qwen3 with an empty thought", QWEN3, "<think>\n\n</think>\n\nYes.", "Yes.", params={}),
    Case("qwen3 without a thought", QWEN3, "Yes <think>.", "Yes <think>.", params={}),
    Case("qwen3 never closes", QWEN3, "<think>\nfor </thin ever", "", "for </thin ever", params={}),
    Case("qwen2 calls at once", QWEN2, hermes(*BOTH[0]), calls=WEATHER),
    Case("qwen2 begins a call and stops", QWEN2, 'Hm <tool_call>\n{"name":', 'Hm <tool_call>\n{"name":'),
    Case(
        "qwen2 calls what nobody offered",
        QWEN2,
        hermes("rm", {"x": 1}) + " ok",
        hermes("rm", {"x": 1}) + " ok",
    ),
    Case(
        "qwen coder writes xml",
        QWEN2.replace("{{- '}\\n</tool_call>' }}", "{{- '}\\n</tool_call>' }}{# <function= #}"),
        "On it.\n<function=get_weather>\n<parameter=city>\nZürich 🏔\n</parameter>\n<parameter=days>\n2\n"
        "</parameter>\n</function>\n",
        "On it.",
        calls=WEATHER,
    ),
    Case(
        "glm writes keys and values",
        QWEN2,
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Zürich 🏔</arg_value>\n<arg_key>days</arg_key>"
        "\n<arg_value>2</arg_value>\n</tool_call>",
        calls=WEATHER,
    ),
    Case("llama calls bare", LLAMA3, llama(*BOTH[0]), calls=WEATHER),
    Case("llama calls tagged", LLAMA3, f"<|python_tag|>{llama(*BOTH[0])}; {llama(*BOTH[1])}", calls=BOTH),
    Case("llama speaks after a call", LLAMA3, f"{llama(*BOTH[0])} and so on", "and so on", calls=WEATHER),
    Case("llama answers in JSON", LLAMA3, '{"name": "Bob", "age": 3}', '{"name": "Bob", "age": 3}'),
    Case("llama lists", LLAMA3, "[1] is [get", "[1] is [get"),
    Case(
        "llama 3.2 calls in Python",
        LLAMA3,
        "[get_weather(city='Zürich 🏔', days=2), get_forecast(city=\"Ro}m</tool_call>e\", days=3)]",
        calls=BOTH,
    ),
    Case(
        "llama 4 calls in Python",
        LLAMA4,
        '<|python_start|>[get_weather(city="Zürich 🏔", days=2)]<|python_end|><|eot|>',
        calls=WEATHER,
    ),
    Case(
        "llama 4 speaks and calls",
        LLAMA4,
        f"<|python_start|>I look.<|python_end|>{llama(*BOTH[0])}{llama(*BOTH[1])}<|eom|>",
        "I look.",
        calls=BOTH,
    ),
    Case("gemma calls in our syntax", GEMMA2, f"Sure.\n{hermes(*BOTH[0])}", "Sure.", calls=WEATHER),
    Case("gemma 3 speaks", GEMMA3, " Hello.\n", " Hello.\n", params={}),
    Case(
        "deepseek thinks on and calls twice",
        DEEPSEEK_R1,
        "I must.\n</think>\n\nWait.\n"
        + deepseek("<|tool▁calls▁begin|>")
        + fenced(*BOTH[0])
        + "\n"
        + fenced(*BOTH[1])
        + deepseek("<|tool▁calls▁end|>"),
        "Wait.",
        "I must.",
        BOTH,
    ),
    Case(
        "deepseek repeats the opening mark, and a distil spells its tokens",
        DEEPSEEK_R1,
        "<think>\nhm</think>"
        + deepseek(
            '<|tool_calls_begin|><|tool_call_begin|>get_weather<|tool_sep|>{"city": "Zürich 🏔", "days": 2}'
            "<|tool_call_end|><|tool_calls_end|>"
        ),
        "",
        "hm",
        WEATHER,
    ),
    Case("deepseek never closes", DEEPSEEK_R1, "on and on", "", "on and on", params={}),
    Case(
        "gpt-oss thinks and answers",
        GPT_OSS,
        channel("analysis", "Let me <see>.") + channel("final", " Hi <|you|>!\n", "<|return|>"),
        " Hi <|you|>!\n",
        "Let me <see>.",
        params={},
    ),
    Case(
        "gpt-oss announces and calls",
        GPT_OSS,
        channel("analysis", "Hm.")
        + channel("commentary", "I look.")
        + channel(
            "commentary to=functions.get_weather <|constrain|>json",
            json.dumps(ZURICH, ensure_ascii=False),
            "<|call|>",
        ),
        "I look.",
        "Hm.",
        WEATHER,
    ),
    Case(
        "gpt-oss names the tool before the channel",
        GPT_OSS,
        channel("analysis", "Hm.")
        + f" to=functions.get_weather<|channel|>commentary json<|message|>{json.dumps(ZURICH)}",
        "",
        "Hm.",
        WEATHER,
    ),
    Case(
        "gpt-oss calls what nobody offered",
        GPT_OSS,
        channel("commentary to=functions.rm json", '{"x": 1}', "<|call|>"),
        '{"x": 1}',
    ),
    Case("gpt-oss forgets its channels", GPT_OSS, "Just text.", "Just text.", params={}),
    Case("a file without template thinks", None, "<think>hm</think>\nYes.", "Yes.", "hm", params={}),
    Case("a file without template", None, f"Hi.\n{hermes(*BOTH[0])}<|im_end|>\nuser", "Hi.", calls=WEATHER),
]


def scripted(
    pieces: Sequence[str | bytes], template: str | None, **options: Any
) -> tuple[LocalAdapter, ScriptedEngine]:
    engine = ScriptedEngine(pieces, template=template)
    return LocalAdapter(LocalModel("m", path=Path("m.gguf"), **options), engine), engine


async def streamed(adapter: LocalAdapter, **params: Any) -> tuple[str, str, list[tuple[str, str]]]:
    content = reasoning = ""
    calls: list[list[str]] = []
    async for chunk in adapter.stream(asking(stream=True, **params)):
        for choice in chunk.choices:
            content += choice.delta.content or ""
            piece = (choice.delta.model_extra or {}).get("reasoning_content", "")
            assert isinstance(piece, str)
            reasoning += piece
            for delta in choice.delta.tool_calls or ():
                assert delta.function
                if delta.id:
                    assert delta.index == len(calls)
                    calls.append([delta.function.name or "", delta.function.arguments or ""])
                else:
                    assert delta.index == len(calls) - 1
                    calls[-1][1] += delta.function.arguments or ""
    return content, reasoning, [(name, arguments) for name, arguments in calls]


def read_calls(calls: Sequence[tuple[str, str]]) -> list[tuple[str, Any]]:
    return [(name, json.loads(arguments)) for name, arguments in calls]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_each_family_is_read_in_one_piece_and_in_a_stream(case: Case) -> None:
    adapter, _ = scripted([case.said], case.template)
    completion = await adapter.complete(asking(**case.params))
    message = completion.choices[0].message
    assert (message.content or "", (message.model_extra or {}).get("reasoning_content", "")) == (
        case.content,
        case.reasoning,
    )
    assert read_calls(calls_of(completion)) == list(case.calls)
    assert completion.choices[0].finish_reason == ("tool_calls" if case.calls else "stop")
    for pieces in ([*case.said], [bytes([byte]) for byte in case.said.encode()]):
        adapter, _ = scripted(pieces, case.template)
        content, reasoning, calls = await streamed(adapter, **case.params)
        assert (content, reasoning) == (case.content, case.reasoning)
        assert read_calls(calls) == list(case.calls)


async def reader_of(case: Case, *, stream: bool) -> AnswerReader:
    from adapters.local.plan import plan
    from adapters.local.prompting import prepared

    engine = ScriptedEngine([], template=case.template)
    request = asking(stream=stream, **case.params).request
    model = LocalModel("m", path=Path("m.gguf"))
    return (await prepared(request, plan(request, "m"), engine.facts, model)).reader()


def put_together(parts: Sequence[Part]) -> tuple[str, str, list[tuple[str, str]]]:
    texts = {"content": "", "reasoning": ""}
    calls: list[tuple[str, str]] = []
    for part in parts:
        if part.call is not None:
            calls.append((part.call.name, part.call.arguments))
        elif part.kind == "arguments":
            calls[-1] = (calls[-1][0], calls[-1][1] + part.text)
        else:
            assert part.text
            texts[part.kind] += part.text
    return texts["content"], texts["reasoning"], calls


def read(reader: AnswerReader, pieces: Sequence[bytes]) -> tuple[str, str, list[tuple[str, str]]]:
    characters = Characters()
    parts: list[Part] = []
    for piece in pieces:
        parts += reader.feed(characters.feed(piece))
        assert not any("\ufffd" in part.text for part in parts)
        if reader.done:
            break
    return put_together([*parts, *reader.end()])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_no_border_between_two_pieces_changes_what_is_read(case: Case) -> None:
    data = case.said.encode()
    fresh = await reader_of(case, stream=False)
    for border in range(len(data) + 1):
        content, reasoning, calls = read(deepcopy(fresh), [data[:border], data[border:]])
        assert (content, reasoning, read_calls(calls)) == (case.content, case.reasoning, list(case.calls))


FORMS: list[tuple[ToolFormat, str, str]] = [
    (Hermes(TOOLS), hermes(*BOTH[0]), hermes(*BOTH[1])),
    (Llama(TOOLS), llama(*BOTH[0]), "; " + llama(*BOTH[1])),
    (DeepSeek(TOOLS), fenced(*BOTH[0]), fenced(*BOTH[1])),
]


@pytest.mark.parametrize(("form", "first", "second"), FORMS, ids=["hermes", "llama", "deepseek"])
@given(live=st.sampled_from([None, 0, 1, 9, 40]), sizes=st.lists(st.integers(1, 9), max_size=80))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_calls_read_alike_whole_and_as_they_come(
    form: ToolFormat, first: str, second: str, live: int | None, sizes: list[int]
) -> None:
    data = (first + second).encode()
    pieces, place = [], 0
    for size in sizes:
        pieces.append(data[place : place + size])
        place += size
    reader = Reader(thoughts=THINK, tools=form, live=live)
    content, _, calls = read(reader, [*pieces, data[place:]])
    assert content == ""
    assert read_calls(calls) == list(BOTH)


@given(live=st.sampled_from([None, 0, 1, 9, 40]), sizes=st.lists(st.integers(1, 9), max_size=80))
def test_channels_read_alike_whole_and_as_they_come(live: int | None, sizes: list[int]) -> None:
    said = channel("analysis", "hm") + channel(
        "commentary to=functions.get_weather <|constrain|>json", json.dumps(ZURICH), "<|call|>"
    )
    data = said.encode()
    pieces, place = [], 0
    for size in sizes:
        pieces.append(data[place : place + size])
        place += size
    content, reasoning, calls = read(HarmonyReader(Harmony(TOOLS), live=live), [*pieces, data[place:]])
    assert (content, reasoning, read_calls(calls)) == ("", "hm", list(WEATHER))


@given(st.text(max_size=60), st.lists(st.integers(1, 5), max_size=40))
def test_text_without_marks_comes_through_every_reader_unchanged(text: str, sizes: list[int]) -> None:
    data = f"A{text.replace('<', '').replace('{', '').replace('[', '')}Z".encode("utf-8", "replace")
    pieces, place = [], 0
    for size in sizes:
        pieces.append(data[place : place + size])
        place += size
    pieces.append(data[place:])
    for form in (None, Hermes(TOOLS), Llama(TOOLS), DeepSeek(TOOLS)):
        reader: AnswerReader = Stopping(Reader(thoughts=THINK, tools=form), ["<|never|>"])
        assert read(reader, pieces)[0] == data.decode()
    final = [b"<|channel|>final<|message|>", *pieces]
    assert read(HarmonyReader(Harmony([])), final)[0] == data.decode()


SOUP = [
    *THINK,
    *(
        "<tool_call>",
        "</tool_call>",
        "<function=get_weather>",
        "<parameter=city>",
        "</parameter>",
        "</function>",
    ),
    *("<arg_key>", "</arg_key>", "<|python_tag|>", "<|python_start|>", "<|python_end|>", "get_weather", "("),
    *(
        "[get_weather(city=",
        "'",
        ")",
        "]",
        ".call(",
        "```json",
        "```",
        "; ",
        "\n",
        " ",
        "\\",
        r"\ud83d",
        "é🙂",
    ),
    *(
        '{"name": "get_weather", "arguments": ',
        '{"name": "get_weather", "parameters": ',
        '{"city": "',
        '"',
        "}",
        "{",
    ),
    *(
        "<|start|>",
        "<|channel|>",
        "<|message|>",
        "<|end|>",
        "<|call|>",
        "<|constrain|>json",
        "analysis",
        "final",
    ),
    *(
        "commentary to=functions.get_weather",
        "assistant",
        "1e999",
        "NaN",
        "null",
        "[",
        ",",
        ":",
        "STOP",
        "<",
        "|",
    ),
    *map(
        deepseek, ("<|tool▁calls▁begin|>", "<|tool▁call▁begin|>", "<|tool▁sep|>", "<|tool▁call▁end|>", "<|")
    ),
]


@given(
    st.lists(st.sampled_from(SOUP), max_size=30),
    st.lists(st.integers(1, 7), max_size=60),
    st.sampled_from([None, 0, 5]),
    st.sampled_from([None, 1]),
)
@settings(max_examples=300)
def test_no_soup_of_marks_breaks_a_reader_or_makes_a_call_that_is_none(
    words: list[str], sizes: list[int], live: int | None, most: int | None
) -> None:
    text = "".join(words)
    for form in (None, Hermes(TOOLS, xml=True), Llama(TOOLS), DeepSeek(TOOLS), Harmony(TOOLS)):
        reader: AnswerReader
        if isinstance(form, Harmony):
            reader = HarmonyReader(form, most_calls=most, live=live)
        else:
            reader = Reader(thoughts=THINK, tools=form, most_calls=most, live=live)
        stopping, place, parts = Stopping(reader, ["STOP"]), 0, []
        for size in [*sizes, len(text)]:
            parts += stopping.feed(text[place : place + size])
            place += size
        content, _, calls = put_together([*parts, *stopping.end()])
        assert "STOP" not in content
        assert all(name == "get_weather" for name, _ in calls)
        assert most is None or len(calls) <= most
        if live is None:
            assert all(isinstance(json.loads(arguments), dict) for _, arguments in calls)


async def test_a_long_call_is_streamed_before_it_is_complete() -> None:
    arguments = {"city": "x" * 2000, "days": 1}
    said = hermes("get_weather", arguments) + "\nDone."
    adapter, _ = scripted([*said], QWEN3)
    reader = await reader_of(Case("", QWEN3, ""), stream=True)
    early = [part for letter in said[:600] for part in reader.feed(letter)]
    assert early[0].call is not None
    assert sum(part.kind == "arguments" for part in early) > 100
    content, _, calls = await streamed(adapter, tools=DEFINITIONS)
    assert (content, read_calls(calls)) == ("Done.", [("get_weather", arguments)])
    assert not any(
        part.kind == "arguments" for part in (await reader_of(Case("", QWEN3, ""), stream=False)).feed(said)
    )


async def test_deltas_of_arguments_are_what_openais_own_validation_builds() -> None:
    from openai.types.chat import ChatCompletionChunk

    adapter, _ = scripted([*hermes("get_weather", {"city": "x" * 400, "days": 1})], QWEN3)
    chunks = [chunk async for chunk in adapter.stream(asking(tools=DEFINITIONS, stream=True))]
    calls = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    assert [call.id is None for call in calls] == [False] + [True] * (len(calls) - 1)
    assert len(calls) > 1
    for chunk in chunks:
        assert ChatCompletionChunk.model_validate(chunk.model_dump()).model_dump() == chunk.model_dump()
        assert ChatCompletionChunk.model_validate_json(chunk.to_json()).to_dict() == chunk.to_dict()


async def test_a_short_malformed_call_is_text_in_a_stream_too() -> None:
    said = '<tool_call>\n{"name": "get_weather", "arguments": {"city": oops}}\n</tool_call> sorry'
    adapter, _ = scripted([*said], QWEN3)
    assert await streamed(adapter, tools=DEFINITIONS) == (said, "", [])


async def test_a_long_call_that_breaks_off_ends_where_it_broke() -> None:
    said = f'<tool_call>\n{{"name": "get_weather", "arguments": {{"city": "{"x" * 400}", <oops>'
    adapter, _ = scripted([*said], QWEN3)
    content, _, calls = await streamed(adapter, tools=DEFINITIONS)
    assert content == "<oops>"
    assert [name for name, _ in calls] == ["get_weather"]
    assert calls[0][1].rstrip() == f'{{"city": "{"x" * 400}",'


async def test_line_breaks_inside_strings_are_mended() -> None:
    said = (
        '<tool_call>{"name": "get_weather", "arguments": {"city": "'
        + "a\n" * 200
        + '", "days": 1}}</tool_call>'
    )
    for stream in (False, True):
        reader = await reader_of(Case("", QWEN3, ""), stream=stream)
        calls = put_together([*[part for letter in said for part in reader.feed(letter)], *reader.end()])[2]
        assert read_calls(calls) == [("get_weather", {"city": "a\n" * 200, "days": 1})]


@pytest.mark.parametrize(
    "arguments",
    ['{"city": NaN}', '{"city": 1e999}', "[1]", '"city"', '{"city": }', "{" * 5000, '{"a":' * 5000],
)
async def test_arguments_that_are_no_json_object_make_no_call(arguments: str) -> None:
    said = f'<tool_call>{{"name": "get_weather", "arguments": {arguments}}}</tool_call>'
    adapter, _ = scripted([said], QWEN3)
    completion = await adapter.complete(asking(tools=DEFINITIONS))
    assert completion.choices[0].message.content == said


@pytest.mark.parametrize(
    "said",
    [
        "[get_weather(__import__('os').system('true'))]",
        "[get_weather(city=open('x'))]",
        "[get_weather('Paris')]",
        "[get_weather(city='a' 'b', days=1 + 1)]",
        "[get_weather(city=b'x')]",
        "[get_weather(**{'city': 'x'})]",
        "[get_weather(city='x'",
        "[get_weather(city=" + "(" * 5000 + ")" * 5000 + ")]",
        "[get_weather(city='x') or 1]",
    ],
)
async def test_python_that_is_more_than_a_call_of_literals_is_text(said: str) -> None:
    adapter, _ = scripted([said], LLAMA4)
    completion = await adapter.complete(asking(tools=DEFINITIONS))
    assert calls_of(completion) == [] or said.startswith("[get_weather(**")
    assert calls_of(completion) or completion.choices[0].message.content == said


async def test_half_a_surrogate_pair_in_a_call_can_still_be_sent() -> None:
    adapter, _ = scripted(
        [r'<tool_call>{"name": "get_weather", "arguments": {"city": "\ud83d"}}</tool_call>'], QWEN3
    )
    completion = await adapter.complete(asking(tools=DEFINITIONS))
    assert r"\ud83d" in completion.model_dump_json()
    assert completion.choices[0].message.tool_calls


async def test_stop_strings_end_content_and_not_thoughts_or_calls() -> None:
    said = f"<think>\na\n\nb</think>\n\nOne.{hermes('get_weather', {'city': 'a' + chr(10) * 2, 'days': 1})} Two STOP"
    adapter, engine = scripted([*said, " three", " four"], QWEN3)
    completion = await adapter.complete(asking(tools=DEFINITIONS, stop=["\n\n", "STOP"]))
    message = completion.choices[0].message
    assert message.content == "One. Two "
    assert message.model_extra == {"reasoning_content": "a\n\nb"}
    assert len(calls_of(completion)) == 1
    assert engine.told == len(said)


@pytest.mark.parametrize(
    ("template", "choice", "begins"),
    [
        (QWEN3, "required", '"<tool_call>'),
        (LLAMA3, "required", "call-"),
        (LLAMA4, {"type": "function", "function": {"name": "get_forecast"}}, "call-"),
        (GEMMA3, "required", '"<tool_call>'),
        (DEEPSEEK_R1, "required", deepseek('"<|tool▁calls▁begin|>"')),
        (GPT_OSS, "required", '("<|channel|>commentary to=functions.get_weather'),
    ],
)
async def test_a_forced_call_is_forced_in_the_familys_own_syntax(
    template: str, choice: Any, begins: str
) -> None:
    adapter, engine = scripted(["x"], template)
    await adapter.complete(asking(tools=DEFINITIONS, tool_choice=choice))
    grammar = engine.jobs[0].grammar or ""
    assert grammar.startswith(f"root ::= {begins}")
    if choice != "required":
        assert "get_weather" not in grammar


async def test_json_of_a_model_with_channels_is_forced_in_the_final_one() -> None:
    adapter, engine = scripted(['<|channel|>final<|message|>{"a": 1}'], GPT_OSS)
    completion = await adapter.complete(asking(response_format={"type": "json_object"}))
    assert completion.choices[0].message.content == '{"a": 1}'
    assert (engine.jobs[0].grammar or "").startswith('root ::= "<|channel|>final<|message|>" ')


@pytest.mark.parametrize(
    "extra", [{"enable_thinking": False}, {"chat_template_kwargs": {"enable_thinking": False}}]
)
@pytest.mark.parametrize(
    "template",
    [
        QWEN3,
        DEEPSEEK_R1,
        QWEN3.replace("{{- '<|im_start|>assistant\\n' }}", "{{- '<|im_start|>assistant\\n<think>\\n' }}"),
    ],
)
async def test_thinking_can_be_switched_off(template: str, extra: dict[str, Any]) -> None:
    adapter, engine = scripted(["Yes."], template)
    completion = await adapter.complete(asking(extra=extra))
    assert engine.jobs[0].prompt.rstrip().endswith("</think>")
    assert completion.choices[0].message.content == "Yes."
    assert not completion.choices[0].message.model_extra


async def test_enable_thinking_is_a_switch() -> None:
    adapter, _ = scripted(["x"], QWEN3)
    with pytest.raises(ModelHTTPError) as caught:
        await adapter.complete(asking(extra={"enable_thinking": "no"}))
    assert (caught.value.status_code, caught.value.code) == (400, "invalid_value")


async def test_a_file_without_template_is_asked_in_chatml_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = ScriptedEngine(["Yes.", "<|im_", "end|>", "never"])
    adapter = LocalAdapter(LocalModel("bare", path=Path("m.gguf")), engine)
    completion = await adapter.complete(asking())
    await adapter.complete(asking())
    assert [record.name for record in caplog.records if "ChatML" in record.message] == ["router.local"]
    assert completion.choices[0].message.content == "Yes."
    assert engine.jobs[0].prompt == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert engine.told == 3


HARMONY_TOKENS = (
    *("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>"),
)
DEEPSEEK_TOKENS = tuple(
    deepseek(f"<|{name}|>")
    for name in ("tool▁calls▁begin", "tool▁calls▁end", "tool▁call▁begin", "tool▁call▁end", "tool▁sep")
)
LLAMA4_TOKENS = ("<|header_start|>", "<|header_end|>", "<|eot|>", "<|python_start|>", "<|python_end|>")


@pytest.mark.gguf
@pytest.mark.parametrize(
    ("template", "control"),
    [(GPT_OSS, HARMONY_TOKENS), (DEEPSEEK_R1, DEEPSEEK_TOKENS), (LLAMA4, LLAMA4_TOKENS), (GEMMA3, ())],
    ids=["gpt-oss", "deepseek", "llama4", "gemma3"],
)
async def test_a_real_vocabulary_and_grammar_lead_to_valid_calls_and_json(
    tmp_path: Path, make: Make, template: str, control: tuple[str, ...]
) -> None:
    path = write_gguf(tmp_path / "family.gguf", "llama", template=template, control=control)
    adapter = make(path, threads=1)
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "maxLength": 8}},
        "required": ["a"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    for seed in range(3):
        completion = await adapter.complete(asking(tools=DEFINITIONS, tool_choice="required", seed=seed))
        assert completion.choices[0].finish_reason == "tool_calls"
        assert completion.choices[0].message.content is None
        content, reasoning, calls = await streamed(
            adapter, tools=DEFINITIONS, tool_choice="required", seed=seed
        )
        assert (content, reasoning) == ("", "")
        for _, arguments in [*calls, *calls_of(completion)]:
            values = json.loads(arguments)
            assert set(values) <= {"city", "days", "unit"}
            assert 1 <= values["days"] <= 14
        answer = await adapter.complete(asking(response_format=form, seed=seed))
        assert len(json.loads(answer.choices[0].message.content or "")["a"]) <= 8


@pytest.mark.gguf
async def test_control_tokens_of_channels_reach_the_reader_and_not_the_user(
    tmp_path: Path, make: Make
) -> None:
    path = write_gguf(tmp_path / "channels.gguf", "llama", template=GPT_OSS, control=HARMONY_TOKENS)
    adapter = make(path, threads=1)
    for seed in range(3):
        completion = await adapter.complete(asking(seed=seed, max_tokens=60))
        message = completion.choices[0].message
        said = (message.content or "") + (message.model_extra or {}).get("reasoning_content", "")
        assert said
        assert not any(mark in said for mark in ("<|end|>", "<|start|>"))
