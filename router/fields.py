"""The fields of a chat completion request, as openai's `chat.completions.create` takes them, with checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, Required, TypedDict

from router.errors import InvalidRequestError, nearest, shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from openai import NotGiven, Omit
    from openai.types import ReasoningEffort
    from openai.types.chat import (
        ChatCompletionAudioParam,
        ChatCompletionMessage,
        ChatCompletionMessageParam,
        ChatCompletionPredictionContentParam,
        ChatCompletionStreamOptionsParam,
        ChatCompletionToolChoiceOptionParam,
        ChatCompletionToolUnionParam,
        completion_create_params,
    )

    from router.options import RoutingOptions

__all__ = ["CHECKS", "TRANSPORT_FIELDS", "CompletionFields"]

TRANSPORT_FIELDS = frozenset({"extra_headers", "extra_query", "extra_body", "timeout"})


class CompletionFields(TypedDict, total=False):
    """What `create` and `route` take, besides `stream`. OpenAI's names, types and meanings.

    `model` is "auto" or the name of a declared model; `timeout` is another name of the deadline, in seconds.
    """

    messages: Required[Iterable[ChatCompletionMessageParam | ChatCompletionMessage]]
    model: str
    routing: RoutingOptions | Mapping[str, object] | None
    audio: ChatCompletionAudioParam | Omit | None
    frequency_penalty: float | Omit | None
    function_call: completion_create_params.FunctionCall | Omit
    functions: Iterable[completion_create_params.Function] | Omit
    logit_bias: Mapping[str, int] | Omit | None
    logprobs: bool | Omit | None
    max_completion_tokens: int | Omit | None
    max_tokens: int | Omit | None
    metadata: Mapping[str, str] | Omit | None
    modalities: list[Literal["text", "audio"]] | Omit | None
    moderation: completion_create_params.Moderation | Omit | None
    n: int | Omit | None
    parallel_tool_calls: bool | Omit
    prediction: ChatCompletionPredictionContentParam | Omit | None
    presence_penalty: float | Omit | None
    prompt_cache_key: str | Omit | None
    prompt_cache_options: completion_create_params.PromptCacheOptions | Omit
    prompt_cache_retention: Literal["in_memory", "24h"] | Omit | None
    reasoning_effort: ReasoningEffort | Omit | None
    response_format: completion_create_params.ResponseFormat | Omit
    safety_identifier: str | Omit | None
    seed: int | Omit | None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | Omit | None
    stop: str | list[str] | Omit | None
    store: bool | Omit | None
    stream_options: ChatCompletionStreamOptionsParam | Omit | None
    temperature: float | Omit | None
    tool_choice: ChatCompletionToolChoiceOptionParam | Omit
    tools: Iterable[ChatCompletionToolUnionParam] | Omit
    top_logprobs: int | Omit | None
    top_p: float | Omit | None
    user: str | Omit
    verbosity: Literal["low", "medium", "high"] | Omit | None
    web_search_options: completion_create_params.WebSearchOptions | Omit
    extra_headers: Mapping[str, str] | None
    extra_query: Mapping[str, object] | None
    extra_body: Mapping[str, object] | None
    timeout: float | NotGiven | None


Check = Callable[[str, object], object]


def _wrong(name: str, value: object, wanted: str) -> InvalidRequestError:
    text = shown(value)
    return InvalidRequestError(f"{name} = {text}: {wanted}", field=name, value=text)


def _number(low: float, high: float) -> Check:
    def check(name: str, value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise _wrong(name, value, f"a number from {low:g} to {high:g}")
        return value

    return check


def _integer(low: int, high: int) -> Check:
    wanted = f"a whole number from {low} to {high}" if high < 2**31 else f"a whole number, at least {low}"

    def check(name: str, value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _wrong(name, value, wanted)
        return value

    return check


def _switch(name: str, value: object) -> object:
    if not isinstance(value, bool):
        raise _wrong(name, value, "true or false")
    return value


def _choice(*choices: str) -> Check:
    def check(name: str, value: object) -> object:
        if value not in choices:
            raise _wrong(name, value, f"no such choice{nearest(value, choices)}")
        return value

    return check


def _text(name: str, value: object) -> object:
    if not isinstance(value, str):
        raise _wrong(name, value, "text is needed")
    return value


def _object(name: str, value: object) -> Mapping[object, object]:
    if not isinstance(value, Mapping):
        raise _wrong(name, value, "a mapping is needed")
    return value


def _stop(name: str, value: object) -> object:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text for text in texts):
        raise _wrong(name, value, "text or a list of texts is needed, none of them empty")
    return value if isinstance(value, str) else list(texts)


def _modalities(name: str, value: object) -> object:
    if not isinstance(value, list | tuple):
        raise _wrong(name, value, "a list of text and audio is needed")
    for place, modality in enumerate(value):
        _choice("text", "audio")(f"{name}.{place}", modality)
    return list(value)


def _metadata(name: str, value: object) -> object:
    labels = _object(name, value)
    for key, label in labels.items():
        if not isinstance(key, str) or not isinstance(label, str):
            raise _wrong(f"{name}.{shown(key)}", label, "labels are texts")
    return labels


def _logit_bias(name: str, value: object) -> object:
    biases = _object(name, value)
    for token, bias in biases.items():
        if not str(token).isdecimal():
            raise _wrong(f"{name}.{shown(token)}", bias, "the number of a token is needed")
        _number(-100, 100)(f"{name}.{str(token)[:20]}", bias)
    return biases


def _functions(name: str, value: object) -> object:
    functions = list(value) if not isinstance(value, str | Mapping) and hasattr(value, "__iter__") else None
    if functions is None or not all(isinstance(function, Mapping) for function in functions):
        raise _wrong(name, value, "a list of function definitions is needed")
    return functions


def _tools(name: str, value: object) -> object:
    tools = list(value) if not isinstance(value, str | Mapping) and hasattr(value, "__iter__") else None
    if tools is None:
        raise _wrong(name, value, "a list of tools is needed")
    for place, tool in enumerate(tools):
        where = f"{name}.{place}"
        kind = tool.get("type") if isinstance(tool, Mapping) else None
        if kind not in ("function", "custom"):
            raise _wrong(f"{where}.type", kind, f"no such type{nearest(kind, ('function', 'custom'))}")
        body = tool.get(kind)
        if not isinstance(body, Mapping) or not isinstance(body.get("name"), str) or not body["name"]:
            raise _wrong(f"{where}.{kind}.name", body, "a mapping with a name is needed")
    return tools


def _tool_choice(name: str, value: object) -> object:
    if isinstance(value, Mapping):
        return value
    return _choice("none", "auto", "required")(name, value)


def _response_format(name: str, value: object) -> object:
    kind = value.get("type") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping):
        raise _wrong(
            name, value, "a mapping with a type is needed (for a pydantic class, give its JSON schema)"
        )
    kinds = ("text", "json_object", "json_schema")
    if kind not in kinds:
        raise _wrong(f"{name}.type", kind, f"no such format{nearest(kind, kinds)}")
    if kind == "json_schema":
        body = value.get("json_schema")
        if not isinstance(body, Mapping) or not isinstance(body.get("schema"), Mapping):
            raise _wrong(f"{name}.json_schema.schema", body, "a JSON schema is needed")
    return value


MOST_TOKENS = 2**31 - 1

CHECKS: dict[str, Check] = {
    "audio": _object,
    "frequency_penalty": _number(-2, 2),
    "function_call": lambda name, value: value if isinstance(value, Mapping) else _text(name, value),
    "functions": _functions,
    "logit_bias": _logit_bias,
    "logprobs": _switch,
    "max_completion_tokens": _integer(1, MOST_TOKENS),
    "max_tokens": _integer(1, MOST_TOKENS),
    "metadata": _metadata,
    "modalities": _modalities,
    "moderation": _object,
    "n": _integer(1, 128),
    "parallel_tool_calls": _switch,
    "prediction": _object,
    "presence_penalty": _number(-2, 2),
    "prompt_cache_key": _text,
    "prompt_cache_options": _object,
    "prompt_cache_retention": _choice("in_memory", "24h"),
    "reasoning_effort": _choice("none", "minimal", "low", "medium", "high", "xhigh", "max"),
    "response_format": _response_format,
    "safety_identifier": _text,
    "seed": _integer(-(2**63), 2**63 - 1),
    "service_tier": _choice("auto", "default", "flex", "scale", "priority", "fast"),
    "stop": _stop,
    "store": _switch,
    "temperature": _number(0, 2),
    "tool_choice": _tool_choice,
    "tools": _tools,
    "top_logprobs": _integer(0, 20),
    "top_p": _number(0, 1),
    "user": _text,
    "verbosity": _choice("low", "medium", "high"),
    "web_search_options": _object,
}
"""Every field that goes to a model as it is, with its check."""
