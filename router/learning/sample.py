"""What one finished attempt showed of its model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Sample"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one finished attempt showed.

    Attributes:
        task: The request's task.
        counted_tokens: Prompt tokens by our count.
        prompt_tokens: As reported; None if the backend reported none.
        cached_tokens: Of these, found cached.
        completion_tokens: As reported, of all choices; None if the backend reported none.
        max_tokens: What would have cut one choice off.
        choices: Answers asked for.
        ttft: Seconds to the first token without loading and queue; None for an answer in one piece.
        duration: Seconds to the end without loading and queue.
        beside: Other calls of this router that the model was at work on meanwhile, on average.
        beside_first: The same until the first token; None: as `beside`.
        at: When it ended, in seconds on the router's clock.
    """

    task: str | None
    counted_tokens: int
    prompt_tokens: int | None
    completion_tokens: int | None
    ttft: float | None
    duration: float
    cached_tokens: int = 0
    max_tokens: int | None = None
    choices: int = 1
    beside: float = 0.0
    beside_first: float | None = None
    at: float = 0.0

    @property
    def company_first(self) -> float:
        """Other calls at work until the first token, on average."""
        return self.beside if self.beside_first is None else self.beside_first

    def slowed_by(self, slowdown: Callable[[float], tuple[float, float]]) -> tuple[float, float]:
        """How many times as long as alone it took, to its first token and after it, by its company."""
        return slowdown(self.company_first)[0], slowdown(self.beside)[1]
