"""OpenAI's objects, built without validation.

What they are made of is our own and right by construction; validating it again would cost more than the
rest of the adapter. Dumps and reprs are what the openai SDK's own objects give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage
from openai.types.chat.chat_completion import Choice, ChoiceLogprobs
from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice
from openai.types.chat.chat_completion_chunk import (
    ChoiceDelta,
    ChoiceDeltaToolCall,
    ChoiceDeltaToolCallFunction,
)
from openai.types.chat.chat_completion_chunk import ChoiceLogprobs as ChunkLogprobs
from openai.types.chat.chat_completion_message_function_tool_call import (
    ChatCompletionMessageFunctionToolCall,
    Function,
)
from openai.types.chat.chat_completion_token_logprob import ChatCompletionTokenLogprob, TopLogprob
from openai.types.completion_usage import CompletionTokensDetails, PromptTokensDetails
from pydantic import BaseModel

from adapters.local.tools import ToolCall
from adapters.local.tracing import Scored

__all__ = ["ChatObjects", "usage_of"]

T = TypeVar("T", bound=BaseModel)


def _defaults(kind: type[BaseModel]) -> dict[str, Any]:
    return {name: field.default for name, field in kind.model_fields.items() if not field.is_required()}


_DEFAULTS: dict[type[BaseModel], dict[str, Any]] = {}


def _build(kind: type[T], values: dict[str, Any], extra: dict[str, Any] | None = None) -> T:
    defaults = _DEFAULTS.get(kind)
    if defaults is None:
        defaults = _DEFAULTS[kind] = _defaults(kind)
    built = kind.__new__(kind)
    object.__setattr__(built, "__dict__", {**defaults, **values})
    object.__setattr__(built, "__pydantic_fields_set__", {*values, *(extra or ())})
    object.__setattr__(built, "__pydantic_extra__", extra or {})
    object.__setattr__(built, "__pydantic_private__", None)
    return built


def usage_of(
    prompt_tokens: int, completion_tokens: int, *, cached_tokens: int = 0, reasoning_tokens: int = 0
) -> CompletionUsage:
    """Tokens of prompt (so many of them computed before) and answer (so many of them reasoning).

    The end-of-turn token is not counted.
    """
    return _build(
        CompletionUsage,
        {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": _build(PromptTokensDetails, {"cached_tokens": cached_tokens}),
            "completion_tokens_details": _build(
                CompletionTokensDetails, {"reasoning_tokens": reasoning_tokens}
            ),
        },
    )


def _logprobs(scores: Sequence[Scored]) -> ChoiceLogprobs:
    tokens = []
    for one in scores:
        top = [_build(TopLogprob, _token(data, logprob)) for data, logprob in one.score.top]
        values = {**_token(one.data, one.score.logprob), "top_logprobs": top}
        tokens.append(_build(ChatCompletionTokenLogprob, values))
    return _build(ChoiceLogprobs, {"content": tokens, "refusal": None})


def _chunk_logprobs(scores: Sequence[Scored]) -> ChunkLogprobs:
    whole = _logprobs(scores)
    return _build(ChunkLogprobs, {"content": whole.content, "refusal": None})


def _token(data: bytes, logprob: float) -> dict[str, Any]:
    """A token as OpenAI shows it; one that is no text by itself is spelt out."""
    return {"token": data.decode("utf-8", "backslashreplace"), "bytes": [*data], "logprob": logprob}


class ChatObjects:
    """Builds the objects of one answer."""

    def __init__(self, *, id: str, created: int, model: str) -> None:  # noqa: A002 - OpenAI's name
        self._head: Mapping[str, Any] = {"id": id, "created": created, "model": model}

    def completion(self, choices: list[Choice], usage: CompletionUsage) -> ChatCompletion:
        """The whole answer."""
        return _build(
            ChatCompletion, {**self._head, "object": "chat.completion", "choices": choices, "usage": usage}
        )

    def choice(
        self,
        index: int,
        *,
        content: str,
        reasoning: str,
        calls: list[tuple[str, ToolCall]],
        finish: str,
        scores: Sequence[Scored] | None = None,
    ) -> Choice:
        """One choice; `calls` come with their ids, `scores` are None if they were not asked for."""
        values: dict[str, Any] = {"role": "assistant", "content": None if calls and not content else content}
        if calls:
            values["tool_calls"] = [
                _build(
                    ChatCompletionMessageFunctionToolCall,
                    {
                        "id": name,
                        "type": "function",
                        "function": _build(Function, {"name": call.name, "arguments": call.arguments}),
                    },
                )
                for name, call in calls
            ]
        extra = {"reasoning_content": reasoning} if reasoning else None
        message = _build(ChatCompletionMessage, values, extra)
        logprobs = None if scores is None else _logprobs(scores)
        return _build(
            Choice, {"index": index, "finish_reason": finish, "message": message, "logprobs": logprobs}
        )

    def text(
        self, choice: int, kind: str, text: str, *, first: bool, scores: Sequence[Scored] = ()
    ) -> ChatCompletionChunk:
        """A piece of a choice's content, or of its reasoning."""
        values: dict[str, Any] = {"role": "assistant"} if first else {}
        if kind == "reasoning":
            return self._chunk(choice, _build(ChoiceDelta, values, {"reasoning_content": text}))
        return self._chunk(choice, _build(ChoiceDelta, {**values, "content": text}), scores=scores)

    def call(
        self,
        choice: int,
        id: str,  # noqa: A002 - OpenAI's name
        index: int,
        call: ToolCall,
        *,
        first: bool,
    ) -> ChatCompletionChunk:
        """A tool call: a whole one, or the beginning of one whose arguments follow."""
        delta = _build(
            ChoiceDeltaToolCall,
            {
                "index": index,
                "id": id,
                "type": "function",
                "function": _build(
                    ChoiceDeltaToolCallFunction, {"name": call.name, "arguments": call.arguments}
                ),
            },
        )
        values: dict[str, Any] = {"role": "assistant"} if first else {}
        return self._chunk(choice, _build(ChoiceDelta, {**values, "tool_calls": [delta]}))

    def arguments(self, choice: int, index: int, text: str) -> ChatCompletionChunk:
        """More of the arguments of a call that has begun."""
        function = _build(ChoiceDeltaToolCallFunction, {"arguments": text})
        delta = _build(ChoiceDeltaToolCall, {"index": index, "function": function})
        return self._chunk(choice, _build(ChoiceDelta, {"tool_calls": [delta]}))

    def finish(
        self, choice: int, reason: str, *, first: bool, scores: Sequence[Scored] = ()
    ) -> ChatCompletionChunk:
        """The last chunk of a choice."""
        delta = _build(ChoiceDelta, {"role": "assistant", "content": ""} if first else {})
        return self._chunk(choice, delta, reason, scores=scores)

    def usage(self, usage: CompletionUsage) -> ChatCompletionChunk:
        """The last chunk of all: no choice, only the tokens."""
        return _build(
            ChatCompletionChunk,
            {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage},
        )

    def _chunk(
        self, index: int, delta: ChoiceDelta, finish: str | None = None, *, scores: Sequence[Scored] = ()
    ) -> ChatCompletionChunk:
        logprobs = _chunk_logprobs(scores) if scores else None
        values = {"index": index, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
        choice = _build(ChunkChoice, values)
        return _build(
            ChatCompletionChunk, {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        )
