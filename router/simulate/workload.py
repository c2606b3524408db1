"""A synthetic workload: tasks, their tokens, their conversations, and when they arrive."""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, SerializeAsAny, StrictBool, field_validator, model_validator

from router.capabilities import CAPABILITIES
from router.config import RoutingOptions
from router.declared import Declared
from router.errors import ConfigurationError, nearest
from router.request import ChatRequest
from router.simulate.arrivals import Arrivals
from router.simulate.demand import MOST_TOKENS, Demand, Dialogue, Fate, Kind, log_normal
from router.simulate.processes import NotNegative, Positive, Sigma
from router.values import Count, Number

__all__ = ["Conversation", "Task", "Workload"]

#: A conversation of more turns is a mistake.
MOST_TURNS = 10_000

Tokens = Annotated[float, Number, Field(gt=0, le=MOST_TOKENS)]


class Conversation(Declared):
    """How requests go on: each turn's prompt holds all that was said before.

    Attributes:
        turns: Mean number of requests of a conversation (geometric); the first arrives by the workload's
            arrivals, the others follow.
        think: Mean seconds between a request and the next (exponential), answering included.
        added: Mean tokens of the user's next message.
    """

    turns: Annotated[float, Number, Field(ge=1, le=MOST_TURNS)] = 4.0
    think: Positive = 30.0
    added: NotNegative = 60.0


class Task(Declared):
    """Requests of one kind.

    Attributes:
        name: The task that the router is told.
        share: Its weight among the tasks.
        prompt_tokens: Mean tokens of a prompt.
        prompt_sigma: Standard deviation of the logarithm of that; prompts are log-normal.
        output_tokens: Mean tokens of an answer by a backend of verbosity 1.
        output_sigma: Standard deviation of the logarithm of that; answers are log-normal.
        output_grows: How answers grow with prompts: mean length ∝ (prompt ÷ mean prompt) to this power.
        max_tokens: The caller's limit; None: not limited.
        stream: Whether answers are streamed.
        needs: Capabilities that the requests need (words of `router.capabilities`).
        options: What else they ask of the router: deadline, min_quality, privacy, ...
        conversation: How they go on; None: each stands alone.
    """

    name: str = Field(min_length=1)
    share: NotNegative = 1.0
    prompt_tokens: Tokens = 400.0
    prompt_sigma: Sigma = 0.6
    output_tokens: Tokens = 150.0
    output_sigma: Sigma = 0.5
    output_grows: Annotated[float, Number, Field(ge=0, le=2)] = 0.0
    max_tokens: Count | None = None
    stream: StrictBool = False
    needs: frozenset[str] = frozenset()
    options: RoutingOptions = Field(default_factory=RoutingOptions)
    conversation: Conversation | None = None

    if TYPE_CHECKING:  # what may be passed; pydantic turns it into what is declared above

        def __init__(
            self,
            *,
            name: str,
            share: float = 1.0,
            prompt_tokens: float = 400.0,
            prompt_sigma: float = 0.6,
            output_tokens: float = 150.0,
            output_sigma: float = 0.5,
            output_grows: float = 0.0,
            max_tokens: int | None = None,
            stream: bool = False,
            needs: Collection[str] = frozenset(),
            options: RoutingOptions | Mapping[str, object] = ...,
            conversation: Conversation | None = None,
        ) -> None: ...

    @field_validator("needs")
    @classmethod
    def _needs_exist(cls, needs: frozenset[str]) -> frozenset[str]:
        for word in sorted(needs):
            if word not in CAPABILITIES:
                raise ValueError(f"no capability is called {word!r}{nearest(word, CAPABILITIES)}")
        return needs

    def kind(self) -> Kind:
        """What its requests share."""
        params = {} if self.max_tokens is None else {"max_tokens": self.max_tokens}
        return Kind(
            options=self.options.model_copy(update={"task": self.name}),
            request=ChatRequest(messages=(), params=params, stream=self.stream),
            sigma=self.output_sigma,
            needs=self.needs,
        )


class Workload(Declared):
    """A synthetic workload. It is made request by request, so that its length costs no memory.

    Attributes:
        tasks: What is asked.
        arrivals: When.
        requests: How many in all; None: as many as arrive until the run's `until`.
    """

    tasks: tuple[Task, ...] = Field(min_length=1)
    arrivals: SerializeAsAny[Arrivals]
    requests: Count | None = 10_000

    if TYPE_CHECKING:  # what may be passed; pydantic turns it into what is declared above

        def __init__(
            self, *, tasks: Sequence[Task], arrivals: Arrivals, requests: int | None = 10_000
        ) -> None: ...

    @model_validator(mode="after")
    def _something_is_asked(self) -> Self:
        if not any(task.share for task in self.tasks):
            raise ConfigurationError("Workload: the shares of all tasks are 0", field="tasks.0.share")
        names = [task.name for task in self.tasks]
        for place, name in enumerate(names):
            if name in names[:place]:
                raise ConfigurationError(
                    f"Workload: two tasks are called {name!r}", field=f"tasks.{place}.name", value=repr(name)
                )
        return self

    @property
    def endless(self) -> bool:
        """As `Demands`."""
        return self.requests is None

    def demands(self, seed: str) -> Iterator[Demand]:
        """As `Demands`."""
        source = _Source(self, seed)
        number = 0
        while self.requests is None or number < self.requests:
            demand = source.next(number)
            if demand is None:
                return
            yield demand
            number += 1


@dataclass(slots=True)
class _Talk:
    """A conversation that goes on: its task, the tokens said so far."""

    task: int
    context: float
    dialogue: Dialogue


class _Source:
    """Draws one request after the other: whichever is first, a new one or the next turn of an old one."""

    def __init__(self, workload: Workload, seed: str) -> None:
        self._tasks = workload.tasks
        self._kinds = [task.kind() for task in workload.tasks]
        self._shares = list(accumulate(task.share for task in workload.tasks))
        self._times = workload.arrivals.times(f"{seed}/arrivals")
        self._fresh_at = next(self._times, math.inf)
        self._rng = random.Random(f"{seed}/demands")  # noqa: S311 - a simulation is no secret
        self._going: list[tuple[float, int, _Talk]] = []

    def next(self, number: int) -> Demand | None:
        """The next request to arrive; None if none ever does."""
        if self._going and self._going[0][0] < self._fresh_at:
            at, _, talk = heapq.heappop(self._going)
            return self._turn(number, at, talk)
        at = self._fresh_at
        if at == math.inf:
            return None
        self._fresh_at = next(self._times, math.inf)
        place = min(bisect(self._shares, self._rng.random() * self._shares[-1]), len(self._shares) - 1)
        task = self._tasks[place]
        prompt = log_normal(task.prompt_tokens, task.prompt_sigma, self._rng.gauss(0.0, 1.0))
        if task.conversation is None:
            return self._demand(number, at, place, prompt, None)
        return self._said(number, at, _Talk(place, prompt, Dialogue(number, f"conversation-{number}")))

    def _turn(self, number: int, at: float, talk: _Talk) -> Demand:
        talks = self._tasks[talk.task].conversation
        added = talks.added if talks is not None else 0.0
        talk.context += log_normal(added, 0.5, self._rng.gauss(0.0, 1.0))
        return self._said(number, at, talk)

    def _said(self, number: int, at: float, talk: _Talk) -> Demand:
        """A turn; draws whether and when the conversation goes on."""
        demand = self._demand(number, at, talk.task, talk.context, talk.dialogue)
        talks = self._tasks[talk.task].conversation
        if talks is not None and self._rng.random() >= 1 / talks.turns:
            talk.context = min(talk.context + demand.first.length, MOST_TOKENS)
            at = demand.at + self._rng.expovariate(1 / talks.think)
            heapq.heappush(self._going, (at, demand.number, talk))
        return demand

    def _demand(self, number: int, at: float, place: int, prompt: float, dialogue: Dialogue | None) -> Demand:
        task, kind, rng = self._tasks[place], self._kinds[place], self._rng
        prompt = min(prompt, MOST_TOKENS)
        expected = task.output_tokens
        if task.output_grows:
            expected = min(expected * (prompt / task.prompt_tokens) ** task.output_grows, MOST_TOKENS)
        length = log_normal(expected, task.output_sigma, rng.gauss(0.0, 1.0))
        fate = Fate(length, rng.gauss(0.0, 1.0), rng.random(), rng.random())
        tokens = max(round(prompt), 1)
        if dialogue is None:
            return Demand(number, at, kind, tokens, expected, fate)
        said = dialogue.prompt(tokens)
        return Demand(number, at, kind, tokens, expected, fate, dialogue.session, said)
