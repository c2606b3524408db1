"""Recognises, among the errors of many hosts, the one that says that the prompt is too long.

The texts are those of the hosts' own errors; each pattern names whose it is. A pattern's groups `tokens` and
`window` take the figures, where the text has them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["context_overflow"]

_CODES = frozenset(
    {
        "context_length_exceeded",  # OpenAI, Groq, Fireworks
        "context_window_exceeded",
        "exceed_context_size_error",  # llama-server
        "model_context_window_exceeded",  # Anthropic
        "1261",  # Z.ai: the prompt exceeds the maximum length
    }
)

_N = r"[\d,_]+"
_TOKENS = rf"(?P<tokens>{_N})"
_WINDOW = rf"(?P<window>{_N})"
_TEXTS = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        # OpenAI, DeepSeek, OpenRouter, vLLM
        rf"maximum context length is {_WINDOW} tokens.*?(?:requested|resulted in|has)(?: about)? {_TOKENS}",
        # vLLM
        rf"(?:passed|requested) {_TOKENS} input tokens.*?context length is only {_WINDOW}",
        rf"prompt \(length {_TOKENS}\) is longer than the maximum model length of {_WINDOW}",
        # OpenAI
        rf"input tokens exceed the configured limit of {_WINDOW}.*?resulted in {_TOKENS}",
        # Anthropic
        rf"prompt is too long:? {_TOKENS} tokens > {_WINDOW}",
        rf"exceed context limit: {_TOKENS} \+ {_N} > {_WINDOW}",
        # Fireworks
        rf"prompt is too long: {_TOKENS}, model maximum context length: {_WINDOW}",
        # llama-server
        rf"request \({_TOKENS} tokens\) exceeds the available context size \({_WINDOW}",
        # Moonshot
        rf"exceeded model token limit: {_WINDOW}(?: \(requested: {_TOKENS}\))?",
        # Mistral
        rf"prompt contains {_TOKENS} tokens.*?model with {_WINDOW} maximum context",
        # Google
        rf"input token count \(?{_TOKENS}\)? exceeds the maximum[^\d]*{_WINDOW}",
        # xAI
        rf"maximum prompt length is {_WINDOW} but the request contains {_TOKENS}",
        # Together
        rf"must be <= {_WINDOW}\. Given: {_TOKENS} `?inputs`? tokens",
        # LM Studio
        rf"keep the first {_TOKENS} tokens.*?context length of only {_WINDOW}",
        # DashScope
        rf"range of input length should be \[{_N}, ?{_WINDOW}\]",
        # Many, without figures; the last is Groq's
        r"exceeds? (?:the |this model's )?(?:available )?(?:maximum )?context (?:window|length|size)",
        r"context (?:window|length) (?:is |was )?exceeded",
        r"maximum context length",
        r"prompt (?:is too long|exceeds max length)",
        r"reduce the length of the messages",
    )
)
#: Limits per minute speak of tokens, too, but waiting cures them.
_RATE_LIMIT = re.compile(r"tokens per (?:minute|day|hour)|\bTPM\b|rate limit", re.IGNORECASE)
#: Statuses with which hosts refuse a prompt; 500 is llama-server's of old.
_STATUSES = frozenset({400, 413, 422, 500})


def context_overflow(
    status: int, code: str | None, text: str, error: Mapping[str, object]
) -> tuple[int | None, int | None] | None:
    """Whether an error says that the prompt is too long.

    Args:
        status: The HTTP status.
        code: The host's own code or type.
        text: The host's message.
        error: The error object, for hosts that give the figures apart.

    Returns:
        (prompt tokens, window), each None if not told; or None if it is another error.
    """
    told = code in _CODES
    if not told and (status not in _STATUSES or _RATE_LIMIT.search(text)):
        return None
    for pattern in _TEXTS:
        found = pattern.search(text)
        if found:
            figures = found.groupdict()
            return (
                _number(error.get("n_prompt_tokens", figures.get("tokens"))),
                _number(error.get("n_ctx", figures.get("window"))),
            )
    return (_number(error.get("n_prompt_tokens")), _number(error.get("n_ctx"))) if told else None


def _number(value: object) -> int | None:
    digits = re.sub(r"\D", "", str(value)) if isinstance(value, int | str) else ""
    return int(digits) if digits and len(digits) < 12 else None  # noqa: PLR2004 - more digits are no token count
