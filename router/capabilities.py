"""What a request can need and a model can lack.

A capability is a word; a request's needs and a model's capabilities are sets of them. What every chat model
has (text in, text out, `stop`, a token limit) is no capability.
"""

from __future__ import annotations

__all__ = ["ASSUMED", "CAPABILITIES", "IMPLIED", "lacking", "with_assumed"]

CAPABILITIES: dict[str, str] = {
    "tools": "tool definitions, and answers that call them",
    "parallel_tool_calls": "the parallel_tool_calls switch",
    "tool_choice": "tool_choice other than auto and none",
    "custom_tools": "tools that are not functions",
    "functions": "the fields functions and function_call, forerunners of tools",
    "json_object": "JSON mode",
    "json_schema": "answers held to a JSON schema",
    "vision": "images in messages",
    "audio": "audio in messages or answers",
    "files": "files in messages",
    "logprobs": "log probabilities",
    "n>1": "several choices",
    "sampling": "temperature and top_p other than 1",
    "seed": "a seed",
    "penalties": "frequency_penalty and presence_penalty",
    "logit_bias": "logit_bias",
    "reasoning_effort": "reasoning_effort",
    "no_reasoning": "reasoning_effort='none' (in reasoning_effort)",
    "prediction": "predicted outputs",
    "web_search": "web_search_options",
    "sampler_extras": "top_k, min_p, repetition_penalty, enable_thinking, chat_template_kwargs (in extras)",
    "extras": "extra_headers, extra_query, extra_body and fields only some hosts know",
}
"""Every capability, with what it stands for."""

ASSUMED = frozenset({"sampling"})
"""What a model has unless its row says otherwise: an app that declares capabilities need not name it."""

IMPLIED = {"extras": "sampler_extras", "reasoning_effort": "no_reasoning"}
"""What a model that has the one has, too: who takes any field takes these, who can be told how much to reason
can be told not to."""


def lacking(needs: frozenset[str], able: frozenset[str]) -> list[str]:
    """What a model that has these capabilities lacks for a request, in order."""
    missing = needs - able
    return sorted(missing - {IMPLIED[one] for one in able & IMPLIED.keys()}) if missing else []


def with_assumed(declared: frozenset[str] | None) -> frozenset[str] | None:
    """Declared capabilities with the assumed ones; None stays unknown."""
    return None if declared is None else declared | ASSUMED
