"""One chat that a model answers: a job with its tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

from adapters.local.batching.scheduler import Lane
from adapters.local.engine import Job
from adapters.local.sampling import Sampler

__all__ = ["Chat"]

#: Tokens of an answer that memory is set aside for. Longer ones make others wait, or start again, if need be.
_EXPECTED_ANSWER = 256


@dataclass(slots=True, eq=False)
class Chat(Lane):
    """A job with its tokens.

    Attributes:
        job: What to generate.
        prompt: Tokens of its prompt.
        most: The most tokens of its answer.
        sequence: Its place in the model's memory; None: it has none (yet, or it had to make room).
        noted: Tokens of it that others can share: what was computed, but for an answer that is not over.
        sampler: What draws its tokens; None until it begins.
    """

    job: Job = field(kw_only=True)
    prompt: int = field(kw_only=True)
    most: int = field(kw_only=True)
    sequence: int | None = None
    noted: int = 0
    sampler: Sampler | None = field(default=None, repr=False)

    @property
    def answered(self) -> int:
        """Tokens of its answer so far."""
        return len(self.tokens) - self.prompt

    def release(self) -> None:
        """Frees what draws its tokens: it is over. May be called twice."""
        if self.sampler is not None:
            self.sampler.close()
            self.sampler = None

    @property
    def claim(self) -> int:
        """Cells it is expected to take beside those it has."""
        return self.pending - self.shared + self.expected

    @property
    def expected(self) -> int:
        """Tokens that memory is set aside for beside those that are known."""
        return min(self.most - self.answered, _EXPECTED_ANSWER)
