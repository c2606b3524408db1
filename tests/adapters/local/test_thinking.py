"""Thoughts: how much of them is asked for, what they cost, and what they leave of a forced answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adapters.local.adapter import LocalAdapter
from adapters.local.engine import Prelude, Sampling
from adapters.local.files import load_settings
from adapters.local.native import NativeModel
from adapters.local.sampling import Grammars, Sampler, recommended
from router.errors import ModelHTTPError
from router.models import LocalModel
from tests.adapters.local.conftest import Make, Tiny
from tests.adapters.local.kit import ScriptedEngine, asking, calls_of, weather_tool
from tests.gguf_files import write_gguf
from tests.gguf_templates import DEEPSEEK_R1, GPT_OSS, QWEN2, QWEN3

TOOLS = [weather_tool()]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}\n</tool_call>'
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string", "maxLength": 6}, "b": {"enum": [1, 22]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
SWITCHED_ON = [
    {"reasoning_effort": "low"},
    {"reasoning_effort": "high"},
    {"extra": {"enable_thinking": True}},
]


def scripted(*pieces: str, template: str | None = QWEN3) -> tuple[LocalAdapter, ScriptedEngine]:
    engine = ScriptedEngine(pieces, template=template)
    return LocalAdapter(LocalModel("m", path=Path("m.gguf")), engine), engine


def reasoning_of(message: Any) -> str:
    return str((message.model_extra or {}).get("reasoning_content", ""))


# Usage


@pytest.mark.parametrize(
    ("said", "template", "expected"),
    [
        (["<think>", "\n", "hm", "\n", "</think>", "\n\n", "Yes"], QWEN3, 5),
        (["<", "think", ">", "hm", "</", "think>", "Yes", "."], QWEN3, 6),
        (["hm", "</think>", "Yes"], DEEPSEEK_R1, 2),
        (["<think>", "hm"], QWEN3, 2),
        (["Yes", ".", "<think>"], QWEN3, 0),
        (["<|channel|>", "analysis", "<|message|>", "hm", "<|end|>"], GPT_OSS, 5),
        (["<|channel|>", "final", "<|message|>", "Yes"], GPT_OSS, 0),
        (["a", "b"], QWEN2, 0),
    ],
)
async def test_reasoning_is_counted_with_its_marks(said: list[str], template: str, expected: int) -> None:
    adapter, _ = scripted(*said, template=template)
    usages = [(await adapter.complete(asking())).usage]
    usages += [chunk.usage async for chunk in adapter.stream(asking(stream=True)) if chunk.usage]
    for usage in usages:
        assert usage
        assert usage.completion_tokens_details
        assert usage.completion_tokens_details.reasoning_tokens == expected
        assert usage.completion_tokens == len(said)
    assert len(usages) == 2


# Effort


@pytest.mark.parametrize(
    ("effort", "switch"),
    [("none", False), ("minimal", False), ("low", True), ("medium", True), ("high", True)],
)
async def test_an_effort_is_a_switch_where_the_template_has_no_more(effort: str, switch: bool) -> None:
    adapter, engine = scripted("x", template="{{- enable_thinking }}" + QWEN3)
    await adapter.complete(asking(reasoning_effort=effort))
    assert engine.jobs[0].prompt.startswith(str(switch))


@pytest.mark.parametrize(
    ("effort", "said"),
    [("minimal", "low"), ("low", "low"), ("medium", "medium"), ("high", "high"), ("xhigh", "high")],
)
async def test_gpt_oss_is_told_the_effort_itself(effort: str, said: str) -> None:
    adapter, engine = scripted("<|channel|>final<|message|>x", template=GPT_OSS)
    await adapter.complete(asking(reasoning_effort=effort))
    assert f"Reasoning: {said}\n" in engine.jobs[0].prompt


async def test_thoughts_that_the_template_cannot_switch_off_are_closed_before_they_begin() -> None:
    for template in (DEEPSEEK_R1, DEEPSEEK_R1.replace("<think>\\n", "")):
        adapter, engine = scripted("x", template=template)
        await adapter.complete(asking(reasoning_effort="none"))
        assert engine.jobs[0].prompt.endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize(
    ("template", "params", "code"),
    [
        (QWEN2, {"reasoning_effort": "high"}, "unsupported"),
        (None, {"reasoning_effort": "low"}, "unsupported"),
        (GPT_OSS, {"reasoning_effort": "none"}, "unsupported"),
        (GPT_OSS, {"extra": {"enable_thinking": False}}, "unsupported"),
        (QWEN3, {"reasoning_effort": "none", "extra": {"enable_thinking": True}}, "invalid_value"),
        (
            GPT_OSS,
            {"reasoning_effort": "low", "extra": {"chat_template_kwargs": {"reasoning_effort": "high"}}},
            "invalid_value",
        ),
        (QWEN3, {"reasoning_effort": "enormous"}, "invalid_value"),
    ],
)
async def test_an_effort_that_cannot_be_made_is_refused(
    template: str | None, params: dict[str, Any], code: str
) -> None:
    adapter, engine = scripted("x", template=template)
    with pytest.raises(ModelHTTPError) as caught:
        await adapter.complete(asking(**params))
    assert (caught.value.status_code, caught.value.code) == (400, code)
    assert not engine.jobs


async def test_no_effort_is_what_a_model_that_never_thinks_makes() -> None:
    adapter, engine = scripted("x", template=QWEN2)
    for effort in ("none", "minimal"):
        await adapter.complete(asking(reasoning_effort=effort))
    assert [job.prompt.endswith("assistant\n") for job in engine.jobs] == [True, True]


# Forced answers


@pytest.mark.parametrize("params", SWITCHED_ON)
async def test_thoughts_come_before_a_forced_answer_if_they_are_asked_for(params: dict[str, Any]) -> None:
    adapter, engine = scripted("let me", " see\n</think>", "\n\n", '{"a": "x", "b": 1}')
    completion = await adapter.complete(asking(response_format=FORM, **params))
    assert engine.jobs[0].prompt.endswith("assistant\n<think>\n")
    assert engine.jobs[0].prelude == Prelude("</think>")
    message = completion.choices[0].message
    assert (reasoning_of(message), message.content) == ("let me see", '{"a": "x", "b": 1}')
    assert completion.usage
    assert completion.usage.completion_tokens_details
    assert completion.usage.completion_tokens_details.reasoning_tokens == 2


@pytest.mark.parametrize("params", [{}, {"reasoning_effort": "none"}, {"extra": {"enable_thinking": False}}])
async def test_else_a_forced_answer_has_none(params: dict[str, Any]) -> None:
    adapter, engine = scripted('{"a": "x", "b": 1}')
    await adapter.complete(asking(response_format=FORM, **params))
    assert engine.jobs[0].prompt.endswith("</think>\n\n")
    assert engine.jobs[0].prelude is None


async def test_a_model_that_cannot_think_is_forced_at_once() -> None:
    adapter, engine = scripted('{"a": "x", "b": 1}', template=QWEN2)
    await adapter.complete(asking(response_format=FORM, extra={"enable_thinking": True}))
    assert engine.jobs[0].prelude is None


async def test_channels_think_before_a_forced_call() -> None:
    header = "<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
    adapter, engine = scripted("hm", "<|end|>", header, '{"city": "Rome", "days": 1}', template=GPT_OSS)
    completion = await adapter.complete(asking(tools=TOOLS, tool_choice="required", reasoning_effort="low"))
    (job,) = engine.jobs
    assert job.prompt.endswith("<|start|>assistant<|channel|>analysis<|message|>")
    assert job.prelude
    assert job.prelude.closing == "<|end|>"
    assert (job.grammar or "").startswith('root ::= "<|start|>assistant" (')
    assert reasoning_of(completion.choices[0].message) == "hm"
    assert [name for name, _ in calls_of(completion)] == ["get_weather"]


@pytest.mark.gguf
@pytest.mark.parametrize("choice", ["schema", "tool"])
async def test_a_real_grammar_holds_from_the_end_of_the_thoughts_on(
    tiny: Tiny, make: Make, choice: str
) -> None:
    adapter = make(tiny("qwen3"), threads=1)
    closing = await _token(adapter, "</think>")
    params: dict[str, Any] = {"response_format": FORM}
    if choice == "tool":
        params = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
    finished = 0
    for seed in range(12):
        # A nudge: random weights would think for long.
        call = asking(
            **params, reasoning_effort="high", seed=seed, logit_bias={str(closing): 9}, max_tokens=400
        )
        completion = await adapter.complete(call)
        message = completion.choices[0].message
        assert completion.usage
        details = completion.usage.completion_tokens_details
        assert details
        assert 0 < (details.reasoning_tokens or 0) <= completion.usage.completion_tokens
        if completion.choices[0].finish_reason == "length":
            assert not message.content or message.content.startswith("{")
            continue
        finished += 1
        text = message.content if choice == "schema" else calls_of(completion)[0][1]
        values = json.loads(text or "")
        assert set(values) <= {"a", "b"} if choice == "schema" else values["days"] in range(1, 15)
    assert finished > 3


async def _token(adapter: LocalAdapter, text: str) -> int:
    native = NativeModel(load_settings(adapter._model))
    *_, token = native.tokenize(text)
    native.close()
    return token


@pytest.mark.gguf
async def test_thoughts_that_use_all_tokens_up_are_given_as_far_as_they_go(tiny: Tiny, make: Make) -> None:
    adapter = make(tiny("qwen3"), threads=1)
    closing = await _token(adapter, "</think>")
    call = asking(
        response_format=FORM, reasoning_effort="low", logit_bias={str(closing): -100}, max_tokens=20
    )
    completion = await adapter.complete(call)
    choice = completion.choices[0]
    assert choice.finish_reason == "length"
    assert choice.message.content == ""
    assert reasoning_of(choice.message)
    assert completion.usage
    assert completion.usage.completion_tokens_details
    assert completion.usage.completion_tokens_details.reasoning_tokens == 20


@pytest.mark.gguf
async def test_a_turn_that_would_end_in_the_thoughts_ends_only_these(tiny: Tiny, make: Make) -> None:
    adapter = make(tiny("qwen3"), threads=1)
    closing, end = await _token(adapter, "</think>"), await _token(adapter, "<|im_end|>")
    biases = {str(closing): -100, str(end): 9}
    for seed in range(4):
        call = asking(
            response_format=FORM, reasoning_effort="low", seed=seed, logit_bias=biases, max_tokens=300
        )
        choice = (await adapter.complete(call)).choices[0]
        assert choice.finish_reason == "stop"
        assert json.loads(choice.message.content or "")["b"] in (1, 22)


@pytest.mark.gguf
async def test_channels_of_a_real_vocabulary_end_in_a_forced_answer(tmp_path: Path, make: Make) -> None:
    control = (
        "<|start|>",
        "<|end|>",
        "<|message|>",
        "<|channel|>",
        "<|constrain|>",
        "<|return|>",
        "<|call|>",
    )
    adapter = make(write_gguf(tmp_path / "m.gguf", "llama", template=GPT_OSS, control=control), threads=1)
    end = await _token(adapter, "<|end|>")
    finished = 0
    for seed in range(6):
        call = asking(
            response_format=FORM, reasoning_effort="low", seed=seed, logit_bias={str(end): 12}, max_tokens=300
        )
        completion = await adapter.complete(call)
        if completion.choices[0].finish_reason == "stop":
            finished += 1
            assert json.loads(completion.choices[0].message.content or "")["b"] in (1, 22)
            assert "<|" not in reasoning_of(completion.choices[0].message)
    assert finished > 2


@pytest.mark.gguf
async def test_a_process_thinks_first_as_a_thread_does(tiny: Tiny, make: Make) -> None:
    answers = []
    for isolation in ("thread", "process"):
        adapter = make(tiny("qwen3"), threads=1, isolation=isolation)
        closing = await _token(adapter, "</think>")
        call = asking(
            response_format=FORM, reasoning_effort="low", seed=1, logit_bias={str(closing): 9}, max_tokens=200
        )
        completion = await adapter.complete(call)
        answers.append((completion.choices[0], completion.usage))
        await adapter.aclose()
    assert answers[0] == answers[1]


@pytest.mark.gguf
def test_a_prelude_has_no_control_tokens_and_lets_nothing_follow_its_closing_but_space(tiny: Tiny) -> None:
    native = NativeModel(load_settings(LocalModel("m", path=tiny("qwen3"))))
    grammars = Grammars()
    prelude = Prelude("at", frozenset({"s"}))
    sampling = recommended(Sampling(temperature=0), {})
    sampler = Sampler(native, sampling, 'root ::= "x"', prelude=prelude, grammars=grammars)
    thoughts = sampler._thoughts
    assert thoughts
    for text, taken in [("<|im_start|>", False), ("s", False), ("a", True), ("at", True)]:
        (token,) = native.tokenize(text)
        assert (thoughts.takes(token) is not None) == taken
    (token,) = native.tokenize("a")
    assert not thoughts.note(token)
    followed = [
        native.piece(token, special=True)
        for token in range(native.n_vocab)
        if native.piece(token, special=True).startswith(b"t") and thoughts.takes(token) is not None
    ]
    assert b"t" in followed
    assert all(not piece[1:].strip() for piece in followed)
    sampler.close()
    grammars.close()
    native.close()
