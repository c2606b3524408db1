"""What the newest attempts came to: a router that starts learns from it before it has seen anything itself.

Only facts that predictions stand on: no text, no session, nothing of what was asked or answered.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import sqlite3

__all__ = ["PastAttempt", "recent", "recent_of_each"]

#: Attempts that are looked at beyond those asked for, to pass over the ones that tell nothing. However large
#: the file and however long a limit refused everything, reading ends there.
PASSED_OVER = 20_000
#: More attempts than these are never asked for.
MOST = 1_000_000

# Backwards along the primary key of attempts, each with its decision by its own. CROSS JOIN: SQLite must not
# choose to walk the decisions instead, of which any number may have had no attempt at all.
_QUERY = """
SELECT d.at, d.task, d.prompt_tokens, d.max_output_tokens, d.choices, d.stream,
    a.model, a.outcome, a.ttft, a.duration, a.waited, a.outstanding,
    a.prompt_tokens, a.completion_tokens, a.cached_tokens, a.cost_source, a.error, a.hedge,
    a.decision, a.n
FROM attempts a CROSS JOIN decisions d ON d.n = a.decision
WHERE {which}
    AND (a.outcome IN ('succeeded', 'failed') OR a.outcome = 'cancelled' AND a.duration IS NOT NULL)
    {since}
ORDER BY a.decision DESC, a.n DESC LIMIT :most
"""
_OLDEST = "coalesce((SELECT decision FROM attempts ORDER BY decision DESC LIMIT 1 OFFSET :looked), 0)"
# The index of the times tells how far back to go: clocks are set back, so that the first decision that is too
# old need not be the end. NULL if none is new enough, and then there is no row.
_OLDEST_SINCE = (
    "(SELECT min(n) FROM (SELECT n FROM decisions WHERE at >= :since ORDER BY at DESC LIMIT :looked))"
)
_ANY_TIME = _QUERY.format(which=f"a.decision >= {_OLDEST}", since="")
_SINCE = _QUERY.format(which=f"a.decision >= max({_OLDEST}, {_OLDEST_SINCE})", since="AND d.at >= :since")
# Backwards along the index of the models, which ends with the primary key.
_OF_A_MODEL = _QUERY.format(which="a.model = :model", since="")


@dataclass(frozen=True, slots=True, kw_only=True)
class PastAttempt:
    """One attempt that is over, with what its request looked like beforehand.

    Numbers are finite and not negative, whatever the file holds; unknown is None.

    Attributes:
        model: The model's name; it need not be one of today's.
        task: The request's task, if it had one.
        at: Unix time of the decision, in seconds. Attempts come in the order they were recorded in: times
            may go back, since clocks do.
        counted_tokens: Prompt tokens by our own count, for a model of token ratio 1.
        max_output_tokens: The caller's limit for each answer; None if there was none.
        choices: How many answers were asked for.
        stream: Whether the answer was streamed.
        outcome: What became of it; `cancelled` only if it is known how long it ran.
        ttft: Seconds from its start to its first visible token; None if there was none.
        duration: Seconds it took; of a cancelled one: it would have taken longer.
        waited: Seconds from its start until the backend began to work on it.
        outstanding: The router's other calls of this model that the backend was at work on meanwhile.
        prompt_tokens: As `cost_source` says: reported by the backend, or estimated by us.
        completion_tokens: Likewise.
        cached_tokens: Likewise; a part of the prompt tokens.
        cost_source: "usage" if the backend reported the tokens, "estimate" if not; None if nothing is known.
        error: The kind of error it failed with (`ModelTimeoutError`); None if it did not fail.
        hedge: Whether it was started beside another one.
    """

    model: str
    task: str | None
    at: float
    counted_tokens: int
    max_output_tokens: int | None
    choices: int
    stream: bool
    outcome: Literal["succeeded", "failed", "cancelled"]
    ttft: float | None
    duration: float | None
    waited: float | None
    outstanding: int | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    cost_source: Literal["usage", "estimate"] | None
    error: str | None
    hedge: bool


def recent(connection: sqlite3.Connection, most: int, since: float | None) -> tuple[PastAttempt, ...]:
    """The newest attempts that are over, `most` of them at most, oldest first.

    Raises:
        sqlite3.Error: if the file cannot be read.
    """
    most = min(most, MOST)
    if most <= 0:
        return ()
    limits: dict[str, float | None] = {"most": most, "looked": most + PASSED_OVER, "since": since}
    rows = connection.execute(_ANY_TIME if since is None else _SINCE, limits).fetchall()
    found = [_past_attempt(row) for row in reversed(rows)]
    return tuple(attempt for attempt in found if attempt is not None)


def recent_of_each(
    connection: sqlite3.Connection, models: Iterable[str], most: int
) -> tuple[PastAttempt, ...]:
    """The newest attempts of each model that are over, `most` of each at most, oldest first.

    Raises:
        sqlite3.Error: if the file cannot be read.
    """
    rows: list[tuple[Any, ...]] = []
    for model in models:
        rows += connection.execute(_OF_A_MODEL, {"model": model, "most": most})
    rows.sort(key=lambda row: row[-2:])
    return tuple(attempt for row in rows if (attempt := _past_attempt(row)) is not None)


def _past_attempt(row: tuple[Any, ...]) -> PastAttempt | None:
    """A row as an attempt; None if it makes no sense.

    SQLite holds any value in any column, and a file is not only written by us.
    """
    at, task, counted, limit, choices, stream, model, outcome = row[:8]
    ttft, duration, waited, outstanding, prompt, completion, cached, cost_source, error, hedge = row[8:18]
    counted = _count(counted)
    if not isinstance(at, float) or not math.isfinite(at) or counted is None or not isinstance(model, str):
        return None
    return PastAttempt(
        model=model,
        task=task if isinstance(task, str) else None,
        at=at,
        counted_tokens=counted,
        max_output_tokens=_count(limit),
        choices=_count(choices) or 1,
        stream=bool(stream),
        outcome=outcome,
        ttft=_seconds(ttft),
        duration=_seconds(duration),
        waited=_seconds(waited),
        outstanding=_count(outstanding),
        prompt_tokens=_count(prompt),
        completion_tokens=_count(completion),
        cached_tokens=_count(cached),
        cost_source=cost_source if cost_source in ("usage", "estimate") else None,
        error=_kind(error),
        hedge=bool(hedge),
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def _seconds(value: object) -> float | None:
    return value if isinstance(value, float) and 0 <= value < math.inf else None


def _kind(error: object) -> str | None:
    """The first word of an error as it was recorded: `ModelHTTPError 400 x`, `ModelTimeoutError: late`."""
    return error.partition(":")[0].partition(" ")[0] or None if isinstance(error, str) else None
