"""Tokens that an answer took, as a backend reports them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openai.types import CompletionUsage
    from openai.types.chat import ChatCompletionMessage
    from openai.types.chat.chat_completion_chunk import ChoiceDelta

__all__ = ["CHARACTERS_PER_TOKEN", "Usage", "characters_of", "judge_usage", "read_usage"]

#: More tokens than any model takes or gives in one call; a report above it is a mistake.
MOST_TOKENS = 50_000_000

#: The same for one call's answers: far beyond the longest that models give.
MOST_COMPLETION_TOKENS = 10_000_000
#: How far a report may go beyond what we know of a model: windows are rounded, and templates add to them.
TOLERANCE = 1.25
#: Tokens that a host may count for an answer beside its words.
FRAME_TOKENS = 64.0
#: A prompt for a model of unknown window may take so many times the tokens that we counted ...
MOST_TIMES_EXPECTED = 100.0
#: ... and so many more: pictures, sound and files, which we do not count.
MOST_UNCOUNTED = 200_000.0
#: Characters of an answer that cannot have taken no token; fewer may be a rounding or a frame.
LEAST_CHARACTERS = 40
#: Numbers below it are shown in full.
MOST_SHOWN = 10**15

#: Assumption for answers whose backend reports no usage: English, and OpenAI's rule of thumb.
CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer.

    `cached_tokens` is a part of `prompt_tokens`, `reasoning_tokens` of `completion_tokens`.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0


def judge_usage(
    reported: CompletionUsage | Usage | None,
    *,
    expected_prompt: float,
    window: float | None,
    most_output: float | None,
    characters: int,
    choices: int,
) -> tuple[Usage | None, str | None]:
    """The usage that a backend reported, if it can be true of this answer.

    What is doubted is only what cannot be: a true bill that was taken for an absurd one is booked too low.

    Args:
        reported: As it came, unchecked.
        expected_prompt: Prompt tokens by our own estimate.
        window: The model's context window in tokens; None if unknown.
        most_output: The most tokens that the model can answer with; None if unknown. Not the caller's limit:
            many hosts do not apply that to reasoning. Reasoning that is reported apart is not held to it.
        characters: Characters of the answer that were generated (`characters_of`), of all choices.
        choices: How many answers were asked for.

    Returns:
        The usage and None; or None and, in plain English, why the report is absurd; or None twice if nothing
        was reported. The reason quotes numbers only, never a text of the backend's.
    """
    usage, because = _read(reported)
    if usage is None:
        return None, because
    because = (
        _prompt_is_absurd(usage.prompt_tokens, expected_prompt, window)
        or _completion_is_absurd(usage, window, most_output, max(choices, 1), characters)
        or _silence_is_absurd(usage.completion_tokens, characters)
    )
    return (usage, None) if because is None else (None, because)


def read_usage(reported: CompletionUsage | None) -> Usage | None:
    """The usage that a backend reported; None if it reported none or one that no answer can have.

    That is: negative, not a whole number, larger than any context, no prompt at all, or more cached than
    prompt tokens. `judge_usage` knows more, once the answer is there.
    """
    usage, _ = _read(reported)
    if usage is None:
        return None
    most = max(usage.prompt_tokens, usage.completion_tokens, usage.reasoning_tokens)
    return usage if most <= MOST_TOKENS else None


def _read(reported: CompletionUsage | Usage | None) -> tuple[Usage | None, str | None]:
    """The four numbers if each is one, however large; else why not."""
    if reported is None:
        return None, None
    prompt, completion = (getattr(reported, name, None) for name in ("prompt_tokens", "completion_tokens"))
    if prompt is None and completion is None:
        # Hosts send an empty object for "unknown"; the SDK hands on whatever else stands in its place.
        return None, None if hasattr(reported, "prompt_tokens") else f"usage = {_shown(reported)}"
    details = getattr(reported, "completion_tokens_details", None)
    given = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "cached_tokens": _reported_cached(reported),
        "reasoning_tokens": getattr(details, "reasoning_tokens", None) or 0,
    }
    counts = {name: _whole(value) for name, value in given.items()}
    for name, count in counts.items():
        if count is None or (count == 0 and name == "prompt_tokens"):
            return None, f"{name} = {_shown(given[name])}"
    prompt, completion, cached, reasoning = (count or 0 for count in counts.values())
    if cached > prompt:
        return None, f"cached_tokens = {_shown(cached)} of {_shown(prompt)} prompt tokens"
    if reasoning and getattr(reported, "total_tokens", None) == prompt + completion + reasoning:
        completion += reasoning  # xAI counts, and bills, reasoning beside the completion, not in it
    return Usage(prompt, completion, cached, reasoning), None


def _whole(value: object) -> int | None:
    """A count of tokens; None for what is none: 12.0 is one, 12.5, "12", True and NaN are not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not value.is_integer():
        return None  # NaN and infinity, too
    return int(value) if value >= 0 else None


def _prompt_is_absurd(prompt: int, expected: float, window: float | None) -> str | None:
    if prompt > MOST_TOKENS or (window and prompt > TOLERANCE * window):
        most = f"fit into its context window of {window:.0f}" if window else "any model takes"
        return f"prompt_tokens = {_shown(prompt)}: more than {most}"
    # Pictures and sound take tokens that we do not count; max also turns a NaN into 0.
    if not window and prompt > MOST_TIMES_EXPECTED * max(0.0, expected) + MOST_UNCOUNTED:
        return f"prompt_tokens = {_shown(prompt)}: far more than the {max(0.0, expected):.0f} expected"
    return None


def _completion_is_absurd(
    usage: Usage, window: float | None, most_output: float | None, choices: int, characters: int
) -> str | None:
    completion, reasoning = usage.completion_tokens, usage.reasoning_tokens
    shown = f"completion_tokens = {_shown(completion)}: more than"
    asked = f" for {choices} answers" if choices > 1 else ""
    if window and completion > TOLERANCE * window * choices:
        return f"{shown} fit into its context window of {window:.0f}{asked}"
    # Some catalogues count an answer's limit without its reasoning, and some hosts add a frame to each.
    told = completion - reasoning if reasoning <= completion else completion
    if most_output and told > (TOLERANCE * most_output + FRAME_TOKENS) * choices:
        return f"{shown} the {most_output:.0f} that it can answer with{asked}"
    if completion > MOST_COMPLETION_TOKENS:
        return f"{shown} any model answers with"
    visible = characters / CHARACTERS_PER_TOKEN
    if told > MOST_TIMES_EXPECTED * visible + MOST_UNCOUNTED * choices:
        return f"{shown} an answer of {characters} characters can have taken"
    if reasoning > MOST_COMPLETION_TOKENS:
        return f"reasoning_tokens = {_shown(reasoning)} of {_shown(completion)} completion tokens"
    return None


def _silence_is_absurd(completion: int, characters: int) -> str | None:
    if completion == 0 and characters >= LEAST_CHARACTERS:
        return f"no completion tokens for an answer of {characters} characters"
    return None


_KINDS: dict[type, str] = {str: "a text", list: "a list", dict: "an object", type(None): "null"}


def _shown(value: object) -> str:
    """A reported value for a reason: numbers as they are, anything else by its kind."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) >= MOST_SHOWN:  # Python refuses to write out the longest
        return f"{'-' if value < 0 else ''}10^{int(abs(value).bit_length() * math.log10(2))} or so"
    if isinstance(value, int | float):
        return str(value)
    return _KINDS.get(type(value), "no number")


def _reported_cached(reported: CompletionUsage | Usage) -> object:
    """Cached prompt tokens where OpenAI, Moonshot or DeepSeek put them; 0 if nobody says."""
    details = getattr(reported, "prompt_tokens_details", None)
    return (
        getattr(details, "cached_tokens", None)
        or getattr(reported, "cached_tokens", None)
        or getattr(reported, "prompt_cache_hit_tokens", None)
        or 0
    )


def characters_of(part: ChatCompletionMessage | ChoiceDelta | None) -> int:
    """Characters of an answer, or of a piece of one, that were generated: text, reasoning, calls of tools."""
    if not part:  # openai's types promise one; hosts leave it out
        return 0
    count = len(part.content or "") + len(part.refusal or "")
    for call in part.tool_calls or ():
        function = getattr(call, "function", None)
        count += len(getattr(function, "name", None) or "") + len(getattr(function, "arguments", None) or "")
    extra = part.model_extra
    if extra:
        texts = (extra.get(name) for name in ("reasoning_content", "reasoning"))
        count += next((len(text) for text in texts if isinstance(text, str)), 0)
    return count
