"""Reads the features off a request: what a decision stands on. Pure but for the token counter's own cache."""

from __future__ import annotations

from collections.abc import Mapping

from router.request import ChatRequest

__all__ = ["needs_of"]

#: Fields whose mere presence is a need, and the capability they need.
_NEEDED_BY_FIELD: dict[str, str] = {
    "functions": "functions",
    "parallel_tool_calls": "parallel_tool_calls",
    "logprobs": "logprobs",
    "top_logprobs": "logprobs",
    "seed": "seed",
    "frequency_penalty": "penalties",
    "presence_penalty": "penalties",
    "logit_bias": "logit_bias",
    "prediction": "prediction",
    "web_search_options": "web_search",
    "audio": "audio",
    "verbosity": "extras",
    "moderation": "extras",
}

#: Fields that need nothing when they are off (`logprobs=False`, a penalty of 0).
_OFF_WHEN_FALSY = frozenset(
    {"functions", "logprobs", "top_logprobs", "frequency_penalty", "presence_penalty", "logit_bias"}
)

_NEEDED_BY_PART: dict[str, str] = {"image_url": "vision", "input_audio": "audio", "file": "files"}

#: Fields of no OpenAI API that llama.cpp, vLLM and our own engine take.
_SAMPLER_EXTRAS = frozenset(
    {"top_k", "min_p", "repetition_penalty", "chat_template_kwargs", "enable_thinking"}
)

_NONE: frozenset[str] = frozenset()


def needs_of(request: ChatRequest) -> frozenset[str]:
    """The capabilities that a request needs (words of `router.capabilities`)."""
    found: set[str] = set()
    for name, value in request.params.items():
        if name in _SPECIAL:
            found.update(_SPECIAL[name](value))
        elif name in _NEEDED_BY_FIELD and not (name in _OFF_WHEN_FALSY and not value):
            found.add(_NEEDED_BY_FIELD[name])
    if request.extra_headers or request.extra_query or not _SAMPLER_EXTRAS.issuperset(request.extra_body):
        found.add("extras")
    elif request.extra_body:
        found.add("sampler_extras")
    for message in request.messages:
        content = message.get("content")
        if content is not None and not isinstance(content, str):
            found.update(_part_needs(content))
    return frozenset(found) if found else _NONE


def _part_needs(content: object) -> set[str]:
    needs = set()
    for part in content if isinstance(content, list | tuple) else ():
        need = _NEEDED_BY_PART.get(part["type"])
        if need is not None:
            needs.add(need)
    return needs


def _tools(value: object) -> set[str]:
    if not isinstance(value, list) or not value:
        return set()
    custom = any(isinstance(tool, Mapping) and tool.get("type") == "custom" for tool in value)
    return {"tools", "custom_tools"} if custom else {"tools"}


def _tool_choice(value: object) -> set[str]:
    """Of `tool_choice` and of its forerunner `function_call`."""
    return set() if value in ("auto", "none") else {"tool_choice"}


def _response_format(value: object) -> set[str]:
    kind = value.get("type") if isinstance(value, Mapping) else None
    return {kind} if kind in ("json_object", "json_schema") else set()


def _n(value: object) -> set[str]:
    return {"n>1"} if isinstance(value, int) and value > 1 else set()


def _modalities(value: object) -> set[str]:
    return {"audio"} if isinstance(value, list) and "audio" in value else set()


def _effort(value: object) -> set[str]:
    return {"no_reasoning" if value == "none" else "reasoning_effort"}


def _sampling(value: object) -> set[str]:
    return set() if value == 1 else {"sampling"}


_SPECIAL = {
    "reasoning_effort": _effort,
    "temperature": _sampling,
    "top_p": _sampling,
    "tools": _tools,
    "tool_choice": _tool_choice,
    "function_call": _tool_choice,
    "response_format": _response_format,
    "n": _n,
    "modalities": _modalities,
}
