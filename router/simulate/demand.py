"""What one simulated request asks and what fate has in store for it, whoever answers it."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from router.config import RoutingOptions
from router.prefixes import Prompt
from router.request import ChatRequest

__all__ = ["Demand", "Demands", "Dialogue", "Fate", "Kind", "log_normal"]

#: A prompt or an answer of more tokens is a mistake; chance gives no longer one.
MOST_TOKENS = 10_000_000
#: Marks of one conversation: its first and its newest ones.
MOST_CUTS = 64


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Kind:
    """What requests of one kind share.

    Attributes:
        options: Their task and what else they ask of the router.
        request: What stands for their messages: nothing, with their limits.
        sigma: Standard deviation of the logarithm of an answer's length.
        needs: Capabilities that they need.
    """

    options: RoutingOptions
    request: ChatRequest
    sigma: float
    needs: frozenset[str] = frozenset()
    task: str | None = field(init=False)
    max_tokens: int | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", self.options.task)
        object.__setattr__(self, "max_tokens", self.request.max_tokens)


@dataclass(frozen=True, slots=True)
class Fate:
    """What chance decides about one attempt. The first attempt's is drawn with the request.

    Attributes:
        length: Output tokens of an answer by a backend of verbosity 1, before any limit.
        noise: A standard normal draw for how fast the backend is.
        luck: Uniform in 0..1: below the failure rate, the attempt fails.
        cache_luck: Uniform in 0..1: below the cache's hit rate, a cached prefix is found.
    """

    length: float
    noise: float
    luck: float
    cache_luck: float


@dataclass(slots=True)
class Demand:
    """One request.

    Attributes:
        number: Its place in the workload, from 0.
        at: Seconds since the beginning.
        prompt_tokens: By our own count.
        expected: The mean of `Fate.length` for what can be known beforehand: its task and its prompt.
        first: The fate of its first attempt.
        session: The conversation it belongs to; None if it stands alone.
        prompt: Which prompts of that conversation it begins with; None if it stands alone.
    """

    number: int
    at: float
    kind: Kind
    prompt_tokens: int
    expected: float
    first: Fate
    session: str | None = None
    prompt: Prompt | None = None

    def fate(self, attempt: int, seed: str) -> Fate:
        """What chance decides about an attempt: the same for all choosers of one seed."""
        if attempt == 0:
            return self.first
        rng = random.Random(f"{seed}/again/{self.number}/{attempt}")  # noqa: S311 - a simulation is no secret
        length = log_normal(self.expected, self.kind.sigma, rng.gauss(0.0, 1.0))
        return Fate(length, rng.gauss(0.0, 1.0), rng.random(), rng.random())


class Dialogue:
    """What was said in a conversation so far, as the router's memory of prompts knows it: by marks, no text.

    Args:
        number: Tells it from all others of a run.
        session: What the router is told of it.
    """

    __slots__ = ("_cuts", "_number", "_tokens", "_turns", "session")

    def __init__(self, number: int, session: str) -> None:
        self.session = session
        self._number = number
        self._turns = 0
        self._cuts: tuple[int, ...] = ()
        self._tokens: tuple[int, ...] = ()

    def prompt(self, tokens: int) -> Prompt:
        """The next request's prompt, of so many tokens: it begins with the last one if it is as long."""
        if self._tokens and tokens < self._tokens[-1]:
            self._cuts = self._tokens = ()
        # The hash of whole numbers is the same in every process.
        self._cuts += (hash((self._number, self._turns)),)
        self._tokens += (tokens,)
        self._turns += 1
        if len(self._cuts) > MOST_CUTS:
            self._cuts = self._cuts[:1] + self._cuts[2:]
            self._tokens = self._tokens[:1] + self._tokens[2:]
        return Prompt(self._cuts, self._tokens, tokens)


@runtime_checkable
class Demands(Protocol):
    """What a simulation is asked: synthetic (`Workload`), recorded (`Recorded`), or an app's own."""

    @property
    def endless(self) -> bool:
        """Whether requests arrive for ever."""
        ...

    def demands(self, seed: str) -> Iterator[Demand]:
        """The requests, by the time of their arrival; made one by one."""
        ...


def log_normal(mean: float, sigma: float, z: float) -> float:
    """A log-normal number of this mean, from a standard normal draw."""
    return mean * math.exp(sigma * z - 0.5 * sigma * sigma) if sigma else mean
