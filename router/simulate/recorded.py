"""Traffic that really was: replayed from a ledger."""

from __future__ import annotations

import heapq
import math
import random
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from router.config import RoutingOptions
from router.declared import Declared
from router.errors import ConfigurationError
from router.request import ChatRequest
from router.simulate.demand import Demand, Dialogue, Fate, Kind
from router.simulate.processes import Positive
from router.values import Count

if TYPE_CHECKING:
    from router.ledger import DecisionRow

__all__ = ["Recorded"]

#: Decisions are recorded when they end; so many are looked at to bring them into the order of their arrival.
OUT_OF_ORDER = 10_000
#: Kinds of request that are remembered; the next one empties the table.
MOST_KINDS = 4_096
#: Conversations that are remembered, the newest.
MOST_DIALOGUES = 10_000


class Recorded(Declared):
    """The requests that a ledger recorded: when they came, their tasks, prompts, limits and conversations.

    An answer is taken to be as long as the one that was really given, times a backend's verbosity; a request
    that was not answered, as long as was expected. A ledger records neither deadlines nor the least quality
    that a request asked for: `options` gives them, by task.

    Attributes:
        path: The ledger's file. It is read while the simulation runs.
        since: Unix time before which decisions are left out; None: none are.
        limit: How many, the newest; None: all.
        pace: How many times faster than recorded they arrive.
        options: What requests of a task ask of the router; under `""` those without a task.
    """

    path: Path
    since: float | None = Field(default=None, allow_inf_nan=False)
    limit: Count | None = None
    pace: Positive = 1.0
    options: Mapping[str, RoutingOptions] = Field(default_factory=dict)

    if TYPE_CHECKING:  # what may be passed; pydantic turns it into what is declared above

        def __init__(
            self,
            *,
            path: str | Path,
            since: float | None = None,
            limit: int | None = None,
            pace: float = 1.0,
            options: Mapping[str, RoutingOptions | Mapping[str, object]] = ...,
        ) -> None: ...

    @property
    def endless(self) -> bool:
        """As `Demands`."""
        return False

    def demands(self, seed: str) -> Iterator[Demand]:
        """The requests, by the time of their arrival.

        Raises:
            ConfigurationError: if the file is no ledger.
        """
        rng = random.Random(f"{seed}/demands")  # noqa: S311 - a simulation is no secret
        makers = _Makers(self.options, self._spread())
        began, now = None, 0.0
        for number, (at, row) in enumerate(_in_order(self._rows())):
            began = at if began is None else began
            now = max((at - began) / self.pace, now)
            yield makers.demand(number, now, row, rng)

    def _rows(self) -> Iterator[DecisionRow]:
        from router.ledger import Ledger

        if not self.path.is_file():
            raise ConfigurationError(f"path = {str(self.path)!r}: there is no such ledger", field="path")
        ledger = Ledger(self.path)
        try:
            yield from ledger.decisions(self.limit, self.since)
        finally:
            ledger.close()

    def _spread(self) -> Mapping[str | None, tuple[float, float]]:
        """Mean output tokens by task, and the standard deviation of their logarithm."""
        sums: dict[str | None, list[float]] = {}
        for row in self._rows():
            length = _length(row)
            found = sums.setdefault(row.task, [0.0, 0.0, 0.0, 0.0])
            for place, value in enumerate((1.0, length, math.log(length), math.log(length) ** 2)):
                found[place] += value
        return {
            task: (total / count, math.sqrt(max(squares / count - (logs / count) ** 2, 0.0)))
            for task, (count, total, logs, squares) in sums.items()
        }


class _Makers:
    """Makes demands of rows; what requests have in common is made once."""

    def __init__(
        self, options: Mapping[str, RoutingOptions], spread: Mapping[str | None, tuple[float, float]]
    ) -> None:
        self._options = options
        self._spread = spread
        self._kinds: dict[object, Kind] = {}
        self._dialogues: OrderedDict[str, Dialogue] = OrderedDict()

    def demand(self, number: int, at: float, row: DecisionRow, rng: random.Random) -> Demand:
        """One request with its fate."""
        expected, _ = self._spread.get(row.task, (_length(row), 0.0))
        fate = Fate(_length(row), rng.gauss(0.0, 1.0), rng.random(), rng.random())
        tokens = max(row.prompt_tokens, 1)
        said = None if row.session is None else self._dialogue(number, row.session).prompt(tokens)
        return Demand(number, at, self._kind(row), tokens, expected, fate, row.session, said)

    def _dialogue(self, number: int, session: str) -> Dialogue:
        found = self._dialogues.get(session)
        if found is None:
            found = self._dialogues[session] = Dialogue(number, session)
            if len(self._dialogues) > MOST_DIALOGUES:
                self._dialogues.popitem(last=False)
        self._dialogues.move_to_end(session)
        return found

    def _kind(self, row: DecisionRow) -> Kind:
        key = (row.task, row.language, row.sensitivity, row.max_output_tokens, row.stream, row.needs)
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= MOST_KINDS:
                self._kinds.clear()
            kind = self._kinds[key] = self._made(row)
        return kind

    def _made(self, row: DecisionRow) -> Kind:
        asked = self._options.get(row.task or "", RoutingOptions())
        own = {
            "task": row.task,
            "language": row.language,
            "privacy": "private" if row.sensitivity == "private" else asked.privacy,
        }
        limit = row.max_output_tokens
        return Kind(
            options=asked.model_copy(update=own),
            request=ChatRequest(
                messages=(), params={} if limit is None else {"max_tokens": limit}, stream=row.stream
            ),
            sigma=self._spread.get(row.task, (0.0, 0.0))[1],
            needs=row.needs,
        )


def _length(row: DecisionRow) -> float:
    """Output tokens of the answer; as many as were expected if there was none."""
    answered = (
        float(attempt.completion_tokens)
        for attempt in row.attempts
        if attempt.outcome == "succeeded" and attempt.completion_tokens
    )
    return next(answered, max(row.expected_output_tokens, 1.0))


def _in_order(rows: Iterable[DecisionRow]) -> Iterator[tuple[float, DecisionRow]]:
    """Rows by the time of their arrival, as far as a bounded look ahead shows it."""
    ahead: list[tuple[float, int, DecisionRow]] = []
    for number, row in enumerate(rows):
        heapq.heappush(ahead, (row.at, number, row))
        if len(ahead) > OUT_OF_ORDER:
            at, _, first = heapq.heappop(ahead)
            yield at, first
    while ahead:
        at, _, first = heapq.heappop(ahead)
        yield at, first
