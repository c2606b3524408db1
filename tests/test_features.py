"""What a request needs, and which models may take it for that."""

from __future__ import annotations

from typing import Any

import pytest

from router import HostedModel, NoEligibleModelError, Router
from router.capabilities import ASSUMED, CAPABILITIES, IMPLIED
from router.features import needs_of
from router.testing import ScriptedModel
from router.validation import parse_request

HELLO: Any = [{"role": "user", "content": "hi"}]
TOOL: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CUSTOM = {"type": "custom", "custom": {"name": "c"}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}


def message(**part: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": "see"}, part]}]


needing: dict[str, dict[str, Any]] = {
    "tools": {"tools": [TOOL]},
    "parallel_tool_calls": {"tools": [TOOL], "parallel_tool_calls": False},
    "tool_choice": {"tools": [TOOL], "tool_choice": "required"},
    "custom_tools": {"tools": [CUSTOM]},
    "functions": {"functions": [{"name": "f"}]},
    "json_object": {"response_format": {"type": "json_object"}},
    "json_schema": {"response_format": SCHEMA},
    "vision": {"messages": message(type="image_url", image_url={"url": "data:,"})},
    "audio": {"messages": message(type="input_audio", input_audio={"data": "", "format": "wav"})},
    "files": {"messages": message(type="file", file={"file_id": "f"})},
    "logprobs": {"logprobs": True},
    "sampling": {"temperature": 0.5},
    "n>1": {"n": 2},
    "seed": {"seed": 0},
    "penalties": {"presence_penalty": -0.5},
    "logit_bias": {"logit_bias": {"5": 1}},
    "reasoning_effort": {"reasoning_effort": "low"},
    "no_reasoning": {"reasoning_effort": "none"},
    "prediction": {"prediction": {"type": "content", "content": "x"}},
    "web_search": {"web_search_options": {}},
    "sampler_extras": {"extra_body": {"top_k": 5}},
    "extras": {"extra_body": {"vendor_flag": 5}},
}


def needs(**arguments: Any) -> frozenset[str]:
    return needs_of(parse_request({"messages": HELLO, **arguments}).request)


def test_every_capability_there_is_can_be_needed() -> None:
    assert set(needing) == set(CAPABILITIES)


@pytest.mark.parametrize("capability", sorted(set(needing) - ASSUMED))
def test_a_model_that_lacks_what_is_needed_is_rejected_with_the_word(capability: str) -> None:
    everything = frozenset(CAPABILITIES)
    everything -= {other for other, implied in IMPLIED.items() if implied == capability}
    models = [
        ScriptedModel("lacking", capabilities=everything - {capability}),
        ScriptedModel("able", capabilities=everything),
        ScriptedModel("unknown"),
    ]
    arguments = {"messages": HELLO, **needing[capability]}
    with Router(models) as router:
        decision = router.route(**arguments)
        assert capability in decision.features.needs
        found = {candidate.model: candidate for candidate in decision.ranking}
        assert found["lacking"].rejected_because == f"capability: {capability}"
        assert found["able"].rejected_because is None
        assert found["unknown"].rejected_because is None
        assert "capabilities: unknown" in found["unknown"].notes
        with pytest.raises(NoEligibleModelError) as caught:
            router.route(**arguments, model="lacking")
        assert caught.value.reasons["lacking"] == f"capability: {capability}"


def test_what_every_model_is_assumed_to_have_is_lacking_only_where_its_row_says_so() -> None:
    models = [
        HostedModel("fixed", provider="openai", model="gpt-5-mini", api_key=lambda: "none"),
        ScriptedModel("declared", capabilities=frozenset({"tools"})),
    ]
    with Router(models) as router:
        decision = router.route(messages=HELLO, temperature=0)
    reasons = {candidate.model: candidate.rejected_because for candidate in decision.ranking}
    assert reasons == {"declared": None, "fixed": "capability: sampling"}


def test_a_host_that_takes_any_extra_takes_the_samplers_too() -> None:
    with Router([ScriptedModel("any", capabilities=frozenset({"extras"}))]) as router:
        assert router.route(messages=HELLO, extra_body={"top_k": 5}).model == "any"


def test_all_that_is_lacking_is_told_in_one_reason() -> None:
    with Router([ScriptedModel("bare", capabilities=frozenset()), ScriptedModel("any")]) as router:
        decision = router.route(messages=HELLO, seed=1, tools=[TOOL], n=3)
    assert decision.ranking[-1].rejected_because == "capability: n>1, seed, tools"


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"temperature": 1, "top_p": 1.0, "stop": "x", "max_tokens": 5},
        {
            "user": "u",
            "metadata": {"a": "b"},
            "store": False,
            "service_tier": "auto",
            "safety_identifier": "x",
        },
        {"n": 1, "logprobs": False, "top_logprobs": 0, "frequency_penalty": 0, "presence_penalty": 0.0},
        {"tools": [], "functions": [], "logit_bias": {}},
        {"tool_choice": "auto"},
        {"tool_choice": "none"},
        {"function_call": "auto"},
        {"function_call": "none"},
        {"response_format": {"type": "text"}},
        {"modalities": ["text"]},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"extra_headers": {}, "extra_body": {}, "extra_query": {}},
        {"extra_body": {"routing": {"task": "x"}}},
    ],
)
def test_what_every_model_has_and_what_is_off_needs_nothing(arguments: dict[str, Any]) -> None:
    assert needs(**arguments) == frozenset()


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        ({"functions": [{"name": "f"}]}, {"functions"}),
        ({"functions": [{"name": "f"}], "function_call": {"name": "f"}}, {"functions", "tool_choice"}),
        ({"tools": [TOOL, CUSTOM]}, {"tools", "custom_tools"}),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
            {"tools", "tool_choice"},
        ),
        ({"modalities": ["text", "audio"]}, {"audio"}),
        ({"audio": {"voice": "x", "format": "wav"}}, {"audio"}),
        ({"top_logprobs": 3}, {"logprobs"}),
        ({"temperature": 0}, {"sampling"}),
        ({"top_p": 0.9}, {"sampling"}),
        ({"extra_headers": {"X-A": "1"}}, {"extras"}),
        ({"extra_query": {"a": "1"}}, {"extras"}),
        ({"verbosity": "low"}, {"extras"}),
        ({"reasoning_effort": "none"}, {"no_reasoning"}),
    ],
)
def test_further_fields_need_what_they_say(arguments: dict[str, Any], needed: set[str]) -> None:
    assert needs(**arguments) == needed
