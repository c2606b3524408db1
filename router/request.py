"""A chat request after validation: what the features are read off and what adapters are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["ChatRequest", "JSONObject"]

JSONObject = Mapping[str, object]
"""A JSON object, as parsed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """An OpenAI-shaped chat completion request, checked, without the fields that only routing needs.

    Nothing of it may be changed: all attempts share it.

    Attributes:
        messages: OpenAI-shaped messages; plain dicts, at least one.
        params: The other fields the caller set (`temperature`, `tools`, ...), by OpenAI's names, never
            `model`, `messages`, `stream` or `stream_options`; fields set to None are left out.
        stream: Whether the caller wants a stream.
        include_usage: Whether the caller asked for the usage chunk of a stream.
        extra_headers: Headers to add to an HTTP request (never credentials).
        extra_query: Query parameters to add to an HTTP request.
        extra_body: Fields that OpenAI's API does not know, to add to an HTTP request's body.
    """

    messages: Sequence[JSONObject]
    params: JSONObject = field(default_factory=dict)
    stream: bool = False
    include_usage: bool = False
    extra_headers: Mapping[str, str] = field(default_factory=dict)
    extra_query: JSONObject = field(default_factory=dict)
    extra_body: JSONObject = field(default_factory=dict)

    @property
    def max_tokens(self) -> int | None:
        """The most tokens the answer may take, by either of its two names; None if not limited."""
        limit = self.params.get("max_completion_tokens", self.params.get("max_tokens"))
        return limit if isinstance(limit, int) else None

    @property
    def choices(self) -> int:
        """How many answers are asked for."""
        n = self.params.get("n", 1)
        return n if isinstance(n, int) else 1
