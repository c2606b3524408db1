"""What a caller may ask: every wrong request is refused before any model is chosen, and says what is wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from router import ConfigurationError, InvalidRequestError, Router, RoutingOptions
from router.testing import ScriptedModel
from router.validation import ParsedRequest, parse_request

SECRET = "sk-planted-7f3a9c"
HELLO: Any = [{"role": "user", "content": "hi"}]
TOOL: Any = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


def parsed(**arguments: Any) -> ParsedRequest:
    return parse_request({"messages": HELLO, **arguments})


def refusal(**arguments: Any) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        parsed(**arguments)
    return caught.value


@pytest.fixture(scope="module")
def router() -> Iterator[Router]:
    with Router([ScriptedModel("alpha"), ScriptedModel("beta")]) as built:
        yield built


def test_a_wrong_request_is_a_value_error_too() -> None:
    with pytest.raises(ValueError, match="temperature"):
        parsed(temperature=3)


@pytest.mark.parametrize(
    ("name", "value", "shown", "meant"),
    [
        ("temprature", 1, "1", "temperature"),
        ("max_token", 5, "5", "max_tokens"),
        ("rooting", {"task": "x"}, "", "routing"),
        ("mesages", [], "", "messages"),
        ("stream_option", {}, "", "stream_options"),
    ],
)
def test_a_field_that_does_not_exist_is_refused_with_the_nearest(
    name: Any, value: Any, shown: str, meant: str
) -> None:
    error = refusal(**{name: value})
    assert (error.field, error.value) == (name, shown)
    assert repr(meant) in str(error)


wrong_types: dict[str, list[Any]] = {
    "audio": ["x", 1],
    "frequency_penalty": [True, "1", math.nan, math.inf, 2.1, -(10**400), [1]],
    "function_call": [1, []],
    "functions": ["f", {"name": "f"}, ["f"], 5],
    "logit_bias": [[], "x", 5],
    "logprobs": [1, "true"],
    "max_completion_tokens": [0, -1, 1.5, True, "5", 2**31],
    "max_tokens": [0, -1, 1.0, True, "5", 2**31],
    "metadata": [[], "x"],
    "modalities": ["text", 5, {"text": 1}],
    "moderation": ["x"],
    "n": [0, 129, True, 1.0, "2"],
    "parallel_tool_calls": [0, "yes"],
    "prediction": ["x", []],
    "presence_penalty": [3, "0"],
    "prompt_cache_key": [5],
    "prompt_cache_options": ["x"],
    "prompt_cache_retention": ["12h", 24],
    "reasoning_effort": ["hihg", 5, []],
    "response_format": ["json", dict, [], 5],
    "safety_identifier": [5],
    "seed": [1.5, True, "7", 2**63],
    "service_tier": ["cheap", 5],
    "stop": [5, [5], "", [""], {"a": 1}],
    "store": [1, "yes"],
    "temperature": [True, "0", math.nan, -0.1, 2.1, 10**400],
    "tool_choice": ["requird", 5],
    "tools": ["get_weather", TOOL, 5],
    "top_logprobs": [-1, 21, 1.0],
    "top_p": [1.1, "1", math.nan],
    "user": [5, ["x"]],
    "verbosity": ["hgih", 1],
    "web_search_options": ["x"],
    "stream": [1, "true"],
    "model": [5, ["alpha"]],
    "timeout": [0, -1, True, "5", math.nan, math.inf, [5]],
    "routing": ["fast", 5, [1]],
    "extra_headers": ["x", [("a", "b")]],
    "extra_query": ["x"],
    "extra_body": ["x"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in wrong_types.items() for value in values]
)
def test_a_value_of_the_wrong_kind_is_refused_and_named(name: Any, value: Any) -> None:
    error = refusal(**{name: value})
    assert error.field == name
    assert str(error).startswith(name)


@pytest.mark.parametrize(
    "name", ["temperature", "max_tokens", "seed", "verbosity", "user", "model", "timeout"]
)
def test_a_number_too_long_to_be_shown_is_refused_like_any_other(name: Any) -> None:
    assert refusal(**{name: 10**5000}).field == name


def test_every_field_of_a_request_has_a_wrong_value_above() -> None:
    from router.fields import CompletionFields

    assert set(CompletionFields.__annotations__) - set(wrong_types) == {"messages", "stream_options"}


def test_every_field_of_openais_client_is_known() -> None:
    import inspect

    from openai.resources.chat.completions import Completions

    from router.fields import CompletionFields

    openais = set(inspect.signature(Completions.create).parameters) - {"self"}
    assert openais - set(CompletionFields.__annotations__) == {"stream"}


@pytest.mark.parametrize("value", [5, 1.5, None, [], "x", {"type": "text"}])
def test_stream_options_without_a_stream_or_of_the_wrong_kind_are_refused(value: Any) -> None:
    if value is None:
        assert not parsed(stream_options=None).request.include_usage
    else:
        assert refusal(stream_options=value).field == "stream_options"


def test_a_misspelt_stream_option_is_named() -> None:
    error = refusal(stream=True, stream_options={"includ_usage": True})
    assert error.field == "stream_options.includ_usage"
    assert "'include_usage'" in str(error)
    assert parsed(stream=True, stream_options={"include_usage": True}).request.include_usage


@pytest.mark.parametrize(
    ("value", "field", "said"),
    [
        ([{"type": "functon", "function": {"name": "f"}}], "tools.0.type", "'function'"),
        ([TOOL, {"type": "function"}], "tools.1.function.name", "name"),
        ([{"type": "function", "function": {"name": ""}}], "tools.0.function.name", "name"),
        ([{"type": "function", "function": "f"}], "tools.0.function.name", "name"),
        (["f"], "tools.0.type", "no such type"),
        ([5], "tools.0.type", "no such type"),
    ],
)
def test_a_wrong_tool_is_named_by_its_place(value: Any, field: str, said: str) -> None:
    error = refusal(tools=value)
    assert error.field == field
    assert said in str(error)


def test_a_forced_tool_must_be_among_the_tools() -> None:
    named = {"type": "function", "function": {"name": "get_wether"}}
    error = refusal(tools=[TOOL], tool_choice=named)
    assert (error.field, error.value) == ("tool_choice.function.name", "'get_wether'")
    assert "'get_weather'" in str(error)
    assert refusal(tool_choice="required").field == "tool_choice"
    assert refusal(tools=[], tool_choice="required").field == "tool_choice"
    assert refusal(tools=[TOOL], tool_choice={"name": "get_weather"}).field == "tool_choice"
    right = {"type": "function", "function": {"name": "get_weather"}}
    assert parsed(tools=[TOOL], tool_choice=right).request.params["tool_choice"] == right
    assert parsed(tool_choice="auto").request.params["tool_choice"] == "auto"


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"type": "json"}, "response_format.type"),
        ({}, "response_format.type"),
        ({"type": []}, "response_format.type"),
        ({"type": "json_schema"}, "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "response_format.json_schema.schema"),
    ],
)
def test_a_wrong_response_format_is_named(value: Any, field: str) -> None:
    assert refusal(response_format=value).field == field


def test_labels_and_biases_are_checked_one_by_one() -> None:
    assert refusal(metadata={"a": 5}).field == "metadata.'a'"
    assert refusal(logit_bias={"hello": 1}).field == "logit_bias.'hello'"
    assert refusal(logit_bias={"50": 101}).field == "logit_bias.50"
    assert refusal(modalities=["text", "vidio"]).field == "modalities.1"
    assert parsed(logit_bias={"50": -100, 51: 3}, metadata={"a": "b"}, modalities=["text"]).request.params


# --- Messages --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "field", "value"),
    [
        ([], "messages", "[]"),
        ("hi", "messages", ""),
        (HELLO[0], "messages", ""),
        (5, "messages", ""),
        (["hi"], "messages.0", ""),
        ([None], "messages.0", ""),
        ([*HELLO, {"role": "usr", "content": "x"}], "messages.1.role", "'usr'"),
        ([{"content": "x"}], "messages.0.role", "None"),
        ([{"role": [], "content": "x"}], "messages.0.role", "[]"),
        ([{"role": "user"}], "messages.0.content", "None"),
        ([{"role": "user", "content": 5}], "messages.0.content", ""),
        ([{"role": "user", "content": []}], "messages.0.content", "[]"),
        ([{"role": "user", "content": ["hi"]}], "messages.0.content.0.type", "None"),
        ([{"role": "user", "content": [{"type": "txt", "text": "x"}]}], "messages.0.content.0.type", "'txt'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages.0.content.0.text", ""),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages.0.content.0.image_url", ""),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "messages.0.content.0.image_url.url", ""),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "http://x"}]}], "messages.0.content.0.image_url", ""),
        ([{"role": "tool", "content": "x"}], "messages.0.tool_call_id", ""),
    ],
)  # fmt: skip
def test_wrong_messages_are_refused_by_their_place(messages: Any, field: str, value: Any) -> None:
    error = refusal(messages=messages)
    assert (error.field, error.value) == (field, value)
    assert field in str(error)


def test_a_role_that_does_not_exist_is_answered_with_the_nearest() -> None:
    assert "'assistant'" in str(refusal(messages=[{"role": "asistant", "content": "x"}]))


def test_no_messages_at_all_are_refused() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_request({})
    assert caught.value.field == "messages"


def test_the_text_of_a_prompt_is_in_no_error() -> None:
    for wrong in (
        {"messages": f"{SECRET}"},
        {"messages": [SECRET]},
        {"messages": [{"role": "user", "content": [{"type": "text", "txt": SECRET}]}]},
        {"prompt": SECRET},
        {"input": [SECRET]},
    ):
        assert SECRET not in str(refusal(**wrong)) + repr(vars(refusal(**wrong)))


def test_an_answers_own_message_may_be_sent_back_as_history() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    completion = ChatCompletion.model_validate(
        {
            "id": "x", "object": "chat.completion", "created": 0, "model": "m",
            "choices": [{"index": 0, "finish_reason": "tool_calls", "logprobs": None, "message": message}],
        }
    )  # fmt: skip
    answer = {"role": "tool", "tool_call_id": "c", "content": "sunny"}
    messages = parsed(messages=[*HELLO, completion.choices[0].message, answer]).request.messages
    assert messages[1] == {"role": "assistant", "tool_calls": [call]}


def test_messages_may_come_from_a_generator() -> None:
    assert list(parsed(messages=(message for message in HELLO)).request.messages) == HELLO


# --- Not given -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nothing", [None, openai.omit, openai.NOT_GIVEN, openai.not_given])
@pytest.mark.parametrize("name", sorted(set(wrong_types) | {"stream_options"}))
def test_none_and_openais_sentinels_mean_not_given(nothing: object, name: Any) -> None:
    found = parsed(**{name: nothing})
    assert found == parsed()
    assert name not in found.request.params


def test_what_is_given_reaches_the_model_as_it_is() -> None:
    params = parsed(temperature=0, seed=0, top_p=1.0, stop=["a"], tools=[TOOL], n=2).request.params
    assert params == {"temperature": 0, "seed": 0, "top_p": 1.0, "stop": ["a"], "tools": [TOOL], "n": 2}


# --- Options ---------------------------------------------------------------------------------------------


def test_timeout_is_another_name_of_the_deadline() -> None:
    assert parsed(timeout=5).options.deadline == 5
    assert parsed(timeout=httpx2.Timeout(7)).options.deadline == 7
    assert parsed(timeout=5, routing={"deadline": 2}).options.deadline == 2
    assert parsed(timeout=5, routing=RoutingOptions(deadline=2)).options.deadline == 2
    assert parsed(timeout=5, routing={"task": "x"}).options == RoutingOptions(task="x", deadline=5)


def test_an_option_of_none_leaves_what_was_said_elsewhere() -> None:
    assert parsed(timeout=5, routing={"deadline": None, "exclude": None}).options.deadline == 5
    assert parsed(timeout=5, routing=RoutingOptions(deadline=None)).options.deadline == 5
    body = {"routing": {"task": "x"}}
    assert parsed(extra_body=body, routing=RoutingOptions(task=None)).options.task == "x"


def test_routing_wins_over_extra_body_which_is_stripped() -> None:
    body = {"routing": {"task": "a", "session": "s"}, "top_k": 5}
    found = parsed(extra_body=body, routing={"task": "b"})
    assert (found.options.task, found.options.session) == ("b", "s")
    assert found.request.extra_body == {"top_k": 5}
    assert body["routing"] == {"task": "a", "session": "s"}, "the caller's own dict is left alone"
    assert parsed(extra_body={"routing": RoutingOptions(task="c")}).options.task == "c"


@pytest.mark.parametrize(
    ("options", "field", "said"),
    [
        ({"deadlin": 1}, "routing.deadlin", "'deadline'"),
        ({"deadline": 0}, "routing.deadline", "greater"),
        ({"deadline": "soon"}, "routing.deadline", "number"),
        ({"min_quality": 2}, "routing.min_quality", "less"),
        ({"privacy": "secret"}, "routing.privacy", "private"),
        ({"models": "alpha"}, "routing.models", "tuple"),
        ({"models": []}, "routing.models", "at least 1"),
        ({"language": "Japanese"}, "routing.language", "ISO 639"),
        ({"tags": {"a": 1}}, "routing.tags.a", "string"),
        ({5: 1}, "routing", "text"),
    ],
)
def test_wrong_options_are_named(options: Any, field: str, said: str) -> None:
    for error in (refusal(routing=options), refusal(extra_body={"routing": options})):
        assert error.field == field
        assert said in str(error)


def test_options_built_wrong_are_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="'deadline'"):
        RoutingOptions(deadlin=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"model": "alpa"}, "model"),
        ({"routing": {"models": ["beta", "alpa"]}}, "routing.models"),
        ({"routing": {"exclude": ["alpa"]}}, "routing.exclude"),
    ],
)
def test_a_model_that_is_not_declared_is_refused_with_the_nearest(
    router: Router, arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequestError, match="'alpha'") as caught:
        router.route(messages=HELLO, **arguments)
    assert (caught.value.field, caught.value.value) == (field, "'alpa'")


# --- Credentials -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["api_key", "base_url", "organization", "project", "default_headers", "http_client"]
)
def test_no_argument_sets_credentials_or_a_host(name: Any) -> None:
    error = refusal(**{name: SECRET})
    assert (error.field, error.value) == (name, "")
    assert SECRET not in str(error)
    inside = refusal(extra_body={name: SECRET})
    assert inside.field == f"extra_body.{name}"
    assert SECRET not in str(inside)


@pytest.mark.parametrize(
    "name",
    ["Authorization", "authorization", "X-API-KEY", "api-key", "Host", "Cookie", "Proxy-Authorization",
     "x-goog-api-key", "OpenAI-Organization", "OpenAI-Project", "X-Auth-Token", " Authorization", "Authorization ",
     "X-Forwarded-Host"],
)  # fmt: skip
def test_no_header_sets_credentials_or_a_host(name: Any) -> None:
    error = refusal(extra_headers={name: SECRET})
    assert error.field == f"extra_headers.{name}"
    assert SECRET not in str(error) + repr(vars(error))


@pytest.mark.parametrize("name", ["api_key", "api-key", "key", "access_token"])
def test_no_query_parameter_sets_credentials(name: Any) -> None:
    error = refusal(extra_query={name: SECRET})
    assert error.field == f"extra_query.{name}"
    assert SECRET not in str(error)


@pytest.mark.parametrize(
    "headers",
    [{5: "x"}, {"X": 5}, {"X": None}, {"X": "a\r\nAuthorization: b"}, {"X\r\nY": "a"}, {"": "a"}, {"X Y": "a"},
     {"Content-Length": "5"}, {"Transfer-Encoding": "chunked"}, {"Content-Type": "text/html"}, {"X": "\N{SNOWMAN}"}],
)  # fmt: skip
def test_a_header_that_is_none_or_frames_the_message_is_refused(headers: Any) -> None:
    assert refusal(extra_headers=headers).field.startswith("extra_headers.")


def test_harmless_extras_pass() -> None:
    request = parsed(
        extra_headers={"X-Trace": "1", "anthropic-beta": "x"}, extra_query={"v": 1}, extra_body={"top_k": 5}
    ).request
    assert request.extra_headers == {"X-Trace": "1", "anthropic-beta": "x"}
    assert (request.extra_query, request.extra_body) == ({"v": 1}, {"top_k": 5})


@pytest.mark.parametrize(
    "name", ["model", "messages", "stream", "n", "max_tokens", "tools", "response_format"]
)
def test_the_body_cannot_say_behind_the_routers_back_what_an_argument_says(name: Any) -> None:
    error = refusal(extra_body={name: "x"})
    assert error.field == f"extra_body.{name}"
    assert f"{name}=" in str(error)


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(name=st.sampled_from(sorted({*wrong_types, "messages", "stream_options"})), value=json)
def test_whatever_a_field_holds_the_request_is_taken_or_refused_as_wrong(name: Any, value: Any) -> None:
    try:
        parse_request({"messages": HELLO, name: value})
    except InvalidRequestError as error:
        wrong = error
    else:
        return
    assert wrong.field
