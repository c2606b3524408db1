"""openai's own types with the decision behind them. Imports openai: only loaded with the first answer."""

from __future__ import annotations

from typing import Self

from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.completion_usage import CompletionTokensDetails, PromptTokensDetails
from pydantic import PrivateAttr

from router.decision import Decision
from router.usage import Usage

__all__ = ["RoutedCompletion", "is_visible", "usage_object"]


class RoutedCompletion(ChatCompletion):
    """openai's `ChatCompletion`, and the decision that led to it.

    `routing` is not a field: `model_dump_json()` gives what openai's clients expect.
    """

    _routing: Decision = PrivateAttr()

    @property
    def routing(self) -> Decision:
        """How the request was routed."""
        return self._routing

    @classmethod
    def of(cls, completion: ChatCompletion, decision: Decision) -> Self:
        """The same completion with a decision. Shares its parts; nothing is validated or copied twice."""
        routed = cls.__new__(cls)
        for slot in ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__"):
            object.__setattr__(routed, slot, getattr(completion, slot))
        private = {**(completion.__pydantic_private__ or {}), "_routing": decision}
        object.__setattr__(routed, "__pydantic_private__", private)
        return routed


def is_visible(chunk: ChatCompletionChunk) -> bool:
    """Whether a chunk shows the user something: content, reasoning, a tool call, a refusal."""
    for choice in chunk.choices:
        delta = choice.delta
        if not delta:  # openai's types promise one; hosts leave it out
            continue
        if delta.content or delta.tool_calls or delta.refusal or delta.function_call:
            return True
        extra = delta.model_extra
        if extra and any(extra.get(name) for name in ("reasoning_content", "reasoning", "audio")):
            return True
    return False


def usage_object(usage: Usage) -> CompletionUsage:
    """Tokens as openai's own type."""
    return CompletionUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=usage.cached_tokens),
        completion_tokens_details=CompletionTokensDetails(reasoning_tokens=usage.reasoning_tokens),
    )
