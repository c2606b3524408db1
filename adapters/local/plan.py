"""Reads what a request asks of a local model, before any model is loaded for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from adapters.local.engine import Sampling
from adapters.local.tools import Tool
from router.errors import ModelHTTPError
from router.request import ChatRequest

__all__ = ["NOT_ASKED", "Plan", "plan", "refuse"]

#: Fields that change nothing about the answer of a model in this process.
_WITHOUT_EFFECT = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
    }
)
#: Fields that are read here.
_READ = frozenset(
    {
        *("temperature", "top_p", "stop", "seed", "max_tokens", "max_completion_tokens", "n", "tools"),
        *("frequency_penalty", "presence_penalty", "logit_bias", "response_format", "tool_choice"),
        *("parallel_tool_calls", "logprobs", "top_logprobs", "modalities", "reasoning_effort"),
    }
)
#: Fields of `extra_body`, by the names that vLLM, DashScope and llama.cpp's server gave them.
_EXTRAS = frozenset({"chat_template_kwargs", "enable_thinking", "top_k", "min_p", "repetition_penalty"})
_MOST_STOPS = 64
_MOST_LOGPROBS = 20
#: Efforts, and whether a model that can only be told to think or not is told to.
_EFFORTS = {
    "none": False,
    "minimal": False,
    "low": True,
    "medium": True,
    "high": True,
    "xhigh": True,
    "max": True,
}

NOT_ASKED = object()
"""No schema was asked for (None could be one that somebody wrote)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a request asks for, in the adapter's own terms.

    Attributes:
        sampling: How tokens are drawn.
        max_tokens: The most tokens to generate; None if the caller set no limit.
        stops: Texts that end the answer.
        definitions: The tools as the caller wrote them; empty if none may be called.
        tools: The same, read.
        forced: The tools of which one must be called; empty if none must.
        several: Whether several tools may be called at once.
        logprobs: How many alternatives each token of the content comes with; None: no probabilities.
        thinking: Whether the caller wants the model to think; None: that is the model's own matter.
        effort: How much, by OpenAI's words; None: the caller did not say.
        schema: What a JSON answer must conform to; `NOT_ASKED` if it need not be JSON.
        template_kwargs: Variables for the chat template.
    """

    sampling: Sampling
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()
    definitions: tuple[object, ...] = ()
    tools: tuple[Tool, ...] = ()
    forced: tuple[Tool, ...] = ()
    several: bool = True
    logprobs: int | None = None
    thinking: bool | None = None
    effort: str | None = None
    schema: object = NOT_ASKED
    template_kwargs: Mapping[str, object] = field(default_factory=dict)

    @property
    def constrained(self) -> bool:
        """Whether the answer's form is forced."""
        return bool(self.forced) or self.schema is not NOT_ASKED


def refuse(model: str, message: str, code: str = "unsupported") -> NoReturn:
    """Raises what an API answers to a request that it cannot serve."""
    raise ModelHTTPError(message, model=model, status_code=400, code=code)


def plan(request: ChatRequest, model: str) -> Plan:
    """Reads a request.

    Raises:
        ModelHTTPError: 400, if it asks for what a local model cannot do, or for nonsense.
    """
    params = request.params
    for name in params:
        if name not in _READ and name not in _WITHOUT_EFFECT:
            refuse(model, f"a local model does not know {name!r}")
    for name in request.extra_body:
        if name not in _EXTRAS:
            refuse(model, f"a local model does not know {name!r} in extra_body")
    if params.get("modalities") not in (None, ["text"]):
        refuse(model, "a local model answers in text only")
    kwargs = _template_kwargs(request.extra_body, model)
    thinking, effort = _thinking(params, kwargs, model)
    return _with_tools(
        Plan(
            sampling=_sampling(params, request.extra_body, model),
            max_tokens=_most_tokens(request, model),
            stops=_stops(params.get("stop"), model),
            schema=_schema(params.get("response_format"), model),
            logprobs=_logprobs(params, model),
            thinking=thinking,
            effort=effort,
            template_kwargs=kwargs,
        ),
        params,
        model,
    )


def _sampling(params: Mapping[str, object], extras: Mapping[str, object], model: str) -> Sampling:
    top_k = _number(extras, "top_k", model)
    seed = _number(params, "seed", model)
    return Sampling(
        temperature=_number(params, "temperature", model, least=0),
        top_p=_number(params, "top_p", model, least=0),
        top_k=None if top_k is None else int(top_k),
        min_p=_number(extras, "min_p", model, least=0),
        repetition_penalty=_number(extras, "repetition_penalty", model, least=0) or 1.0,
        frequency_penalty=_number(params, "frequency_penalty", model) or 0.0,
        presence_penalty=_number(params, "presence_penalty", model) or 0.0,
        logit_bias=_biases(params, model),
        seed=None if seed is None else int(seed),
    )


def _number(
    params: Mapping[str, object], name: str, model: str, *, least: float | None = None
) -> float | None:
    value = params.get(name)
    if value is None:
        return None
    usable = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1 << 64
    if not usable or (least is not None and value < least):  # type: ignore[operator]  # a number by now
        refuse(model, f"{name} = {value!r} is out of range", "invalid_value")
    return value  # type: ignore[return-value]  # a number by now


def _biases(params: Mapping[str, object], model: str) -> dict[int, float]:
    biases = {}
    for token, bias in _mapping(params, "logit_bias", model).items():
        if not str(token).isdecimal() or isinstance(bias, bool) or not isinstance(bias, int | float):
            refuse(model, f"logit_bias.{token} = {bias!r}: token ids and numbers are needed", "invalid_value")
        biases[int(token)] = float(bias)
    return biases


def _most_tokens(request: ChatRequest, model: str) -> int | None:
    limit = request.max_tokens
    if limit is not None and limit < 1:
        refuse(model, f"max_tokens = {limit}: at least 1 is needed", "invalid_value")
    return limit


def _stops(stop: object, model: str) -> tuple[str, ...]:
    stops = () if stop is None else (stop,) if isinstance(stop, str) else stop
    if not isinstance(stops, Sequence) or not all(isinstance(text, str) for text in stops):
        refuse(model, "stop: a text or a list of texts is needed", "invalid_value")
    if len(stops) > _MOST_STOPS:
        refuse(model, f"stop: {_MOST_STOPS} texts are the most", "invalid_value")
    return tuple(stops)


def _mapping(params: Mapping[str, object], name: str, model: str) -> Mapping[str, Any]:
    value = params.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        refuse(model, f"{name}: an object is needed", "invalid_value")
    return value


def _template_kwargs(extras: Mapping[str, object], model: str) -> Mapping[str, object]:
    given = _mapping(extras, "chat_template_kwargs", model)
    kwargs = {name: extras["enable_thinking"] for name in ("enable_thinking",) if name in extras} | {**given}
    thinking = kwargs.get("enable_thinking")
    if "enable_thinking" in kwargs and not isinstance(thinking, bool):
        refuse(model, f"enable_thinking = {thinking!r}: true or false is needed", "invalid_value")
    return kwargs


def _thinking(
    params: Mapping[str, object], kwargs: Mapping[str, object], model: str
) -> tuple[bool | None, str | None]:
    effort = params.get("reasoning_effort")
    switch = kwargs.get("enable_thinking")
    switch = switch if isinstance(switch, bool) else None
    if effort is None:
        return switch, None
    if not isinstance(effort, str) or effort not in _EFFORTS:
        refuse(model, f"reasoning_effort {effort!r} is none of {', '.join(_EFFORTS)}", "invalid_value")
    if switch not in (None, _EFFORTS[effort]) or kwargs.get("reasoning_effort", effort) != effort:
        refuse(model, f"reasoning_effort {effort!r} contradicts chat_template_kwargs", "invalid_value")
    return _EFFORTS[effort], effort


def _logprobs(params: Mapping[str, object], model: str) -> int | None:
    most = params.get("top_logprobs") or 0
    if not isinstance(most, int) or isinstance(most, bool) or not 0 <= most <= _MOST_LOGPROBS:
        refuse(model, f"top_logprobs = {most!r} is out of range (0 to {_MOST_LOGPROBS})", "invalid_value")
    if params.get("logprobs"):
        return most
    if most:
        refuse(model, "top_logprobs needs logprobs=True", "invalid_value")
    return None


def _schema(form: object, model: str) -> object:
    kind = form.get("type") if isinstance(form, Mapping) else form
    if form is None or kind == "text":
        return NOT_ASKED
    if kind == "json_object" and isinstance(form, Mapping):
        return form.get("schema", {"type": "object"})
    if kind == "json_schema" and isinstance(form, Mapping) and isinstance(form.get("json_schema"), Mapping):
        return form["json_schema"].get("schema", True)
    refuse(model, f"response_format {kind!r} is none of text, json_object, json_schema", "invalid_value")


def _with_tools(asked: Plan, params: Mapping[str, object], model: str) -> Plan:
    choice = params.get("tool_choice")
    definitions = params.get("tools") or ()
    if not isinstance(definitions, Sequence):
        refuse(model, "tools: a list is needed", "invalid_value")
    tools = tuple(_tool(definition, model) for definition in definitions)
    if not tools or choice == "none":
        if choice not in (None, "none", "auto"):
            refuse(model, "tool_choice asks for a tool, and there is none", "invalid_value")
        return asked
    forced = _forced(choice, tools, model)
    named = bool(forced) and choice != "required"
    several = params.get("parallel_tool_calls") is not False and not named
    return replace(asked, definitions=tuple(definitions), tools=tools, forced=forced, several=several)


def _tool(definition: object, model: str) -> Tool:
    function = definition.get("function") if isinstance(definition, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        refuse(model, "a local model knows tools of type 'function' only, with a name")
    return Tool(function["name"], function.get("parameters"))


def _forced(choice: object, tools: tuple[Tool, ...], model: str) -> tuple[Tool, ...]:
    if choice is None or choice == "auto":
        return ()
    if choice == "required":
        return tools
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    named = tuple(tool for tool in tools if tool.name == name)
    if not named:
        refuse(model, f"tool_choice {choice!r} names none of the tools", "invalid_value")
    return named
