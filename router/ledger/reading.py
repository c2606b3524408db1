"""Reads the ledger: decisions for replay, sums for reports. Every query is short and takes no lock."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, TypeAlias

from router.ledger.books import SETTLED
from router.ledger.money import hour_of, to_units, to_usd
from router.ledger.records import AttemptRow, CandidateRow, DecisionRow, Exchange
from router.ledger.rows import to_decimal

__all__ = ["PAGE", "GroupBy", "Total", "newest", "page", "spent", "totals"]

#: Decisions read at once.
PAGE = 500

GroupBy: TypeAlias = Literal["model", "task"]

_FOREVER = 1e300


@dataclass(slots=True)
class Total:
    """What a group of attempts came to.

    Attributes:
        attempts: How many.
        succeeded: How many of them answered.
        prompt_tokens: Reported or estimated tokens, summed over the attempts where they are known.
        completion_tokens: Likewise.
        cost: USD, summed over the attempts where it is known.
        unpriced: Attempts whose cost is unknown.
    """

    attempts: int = 0
    succeeded: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: Decimal = Decimal(0)
    unpriced: int = 0


def spent(
    connection: sqlite3.Connection, since: float | None, until: float | None, by: GroupBy | None
) -> dict[str, Decimal]:
    """USD booked, by model or task; under `""` if not grouped, and for requests without a task."""
    column = {"model": "model", "task": "task", None: "''"}[by]
    first = 0 if since is None else hour_of(since)
    after = hour_of(_FOREVER) + 1 if until is None else -(-until // 3600)
    rows = connection.execute(
        f"SELECT {column}, usd FROM money WHERE owner = ? AND hour >= ? AND hour < ?",  # noqa: S608 - from a table
        (SETTLED, first, after),
    )
    sums: dict[str, int] = {}
    for name, usd in rows:
        sums[name] = sums.get(name, 0) + to_units(Decimal(usd))
    return {name: to_usd(units) for name, units in sorted(sums.items())}


def totals(
    connection: sqlite3.Connection, since: float | None, until: float | None, by: GroupBy | None
) -> dict[str, Total]:
    """Attempts of the recorded decisions, by their model or their task; under `""` as in `spent`."""
    column = {"model": "a.model", "task": "coalesce(d.task, '')", None: "''"}[by]
    rows = connection.execute(
        f"SELECT {column}, a.outcome, a.prompt_tokens, a.completion_tokens, a.cost "  # noqa: S608 - from a table
        "FROM decisions d JOIN attempts a ON a.decision = d.n WHERE d.at >= ? AND d.at < ?",
        (-_FOREVER if since is None else since, _FOREVER if until is None else until),
    )
    sums: dict[str, Total] = {}
    units: dict[str, int] = {}
    for name, outcome, prompt_tokens, completion_tokens, cost in rows:
        total = sums.setdefault(name, Total())
        total.attempts += 1
        total.succeeded += outcome == "succeeded"
        total.prompt_tokens += prompt_tokens or 0
        total.completion_tokens += completion_tokens or 0
        total.unpriced += cost is None
        units[name] = units.get(name, 0) + (0 if cost is None else to_units(Decimal(cost)))
    for name, total in sums.items():
        total.cost = to_usd(units[name])
    return dict(sorted(sums.items()))


def newest(connection: sqlite3.Connection, limit: int, since: float | None) -> int:
    """The place before the oldest of the newest `limit` decisions."""
    row = connection.execute(
        "SELECT n FROM decisions WHERE at >= ? ORDER BY n DESC LIMIT 1 OFFSET ?",
        (-_FOREVER if since is None else since, limit),
    ).fetchone()
    return row[0] if row else 0


def page(connection: sqlite3.Connection, after: int, since: float | None) -> list[tuple[int, DecisionRow]]:
    """The next decisions behind a place, in the order they were recorded, each with its own place."""
    rows = connection.execute(
        "SELECT n, id, at, task, session, language, tags, model, reason, notes, prompt_tokens, "
        "expected_output_tokens, max_output_tokens, needs, sensitivity, stream, ranking, ranking_more, cost, "
        "choices, (SELECT score FROM feedback WHERE decision_id = id ORDER BY feedback.n DESC LIMIT 1), "
        "messages, answer FROM decisions LEFT JOIN texts ON texts.decision = n "
        "WHERE n > ? AND at >= ? ORDER BY n LIMIT ?",
        (after, -_FOREVER if since is None else since, PAGE),
    ).fetchall()
    if not rows:
        return []
    attempts = _attempts(connection, rows[0][0], rows[-1][0])
    return [(row[0], _decision(row, tuple(attempts.get(row[0], ())))) for row in rows]


def _attempts(connection: sqlite3.Connection, first: int, last: int) -> dict[int, list[AttemptRow]]:
    found: dict[int, list[AttemptRow]] = {}
    for row in connection.execute(
        "SELECT decision, model, outcome, ttft, duration, prompt_tokens, completion_tokens, cached_tokens, "
        "cost, cost_source, error, hedge, waited, outstanding "
        "FROM attempts WHERE decision BETWEEN ? AND ? ORDER BY decision, n",
        (first, last),
    ):
        n, model, outcome, ttft, duration, prompt, completion, cached, cost, cost_source, error = row[:11]
        hedge, waited, outstanding = row[11:]
        found.setdefault(n, []).append(
            AttemptRow(
                model=model,
                outcome=outcome,
                ttft=ttft,
                duration=duration,
                prompt_tokens=prompt,
                completion_tokens=completion,
                cached_tokens=cached,
                cost=to_decimal(cost),
                cost_source=cost_source,
                error=error,
                hedge=bool(hedge),
                waited=waited,
                outstanding=outstanding,
            )
        )
    return found


def _decision(row: tuple[Any, ...], attempts: tuple[AttemptRow, ...]) -> DecisionRow:
    _, id_, at, task, session, language, tags, model, reason, notes = row[:10]
    prompt_tokens, expected, most, needs, sensitivity, stream, ranking, more, cost = row[10:19]
    choices, score, messages, answer = row[19:]
    return DecisionRow(
        id=id_,
        at=at,
        task=task,
        session=session,
        language=language,
        tags=json.loads(tags),
        model=model,
        reason=reason,
        notes=tuple(json.loads(notes)),
        prompt_tokens=prompt_tokens,
        expected_output_tokens=expected,
        max_output_tokens=most,
        needs=frozenset(json.loads(needs)),
        sensitivity=sensitivity,
        stream=bool(stream),
        choices=choices,
        ranking=tuple(CandidateRow(*candidate) for candidate in json.loads(ranking)),
        ranking_more=more,
        cost=to_decimal(cost),
        score=score,
        attempts=attempts,
        exchange=None if messages is None else Exchange(json.loads(messages), answer),
    )
