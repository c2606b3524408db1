"""Decisions as rows: how they are written.

Encoding runs on the writer's thread. A text that a request brought (its messages, its answer, the words of
an error that may quote them) is kept only where the caller and the request's privacy allow it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import secrets
from decimal import Decimal
from typing import TYPE_CHECKING

from router.ledger.money import clean

if TYPE_CHECKING:
    import sqlite3

    from router.decision import Attempt, Candidate, Decision, Features
    from router.errors import ModelError
    from router.ledger.records import Exchange

__all__ = [
    "INSERT_ATTEMPT",
    "INSERT_DECISION",
    "attempt_money",
    "attempt_rows",
    "decision_row",
    "text_row",
    "to_decimal",
    "trim",
]

#: Decisions kept in memory when there is no file.
MOST_IN_MEMORY = 10_000
#: Candidates of one decision that are kept, best first.
MOST_CANDIDATES = 32
#: Characters of an error's text that are kept.
MOST_ERROR = 300
#: Error codes are words; a "code" with other characters in it could be anything.
_CODE = re.compile(r"[\w.:-]{1,64}", re.ASCII)

_DECISION = (
    "n, id, at, task, session, language, tags, model, reason, notes, prompt_tokens, expected_output_tokens, "
    "max_output_tokens, needs, sensitivity, stream, ranking, ranking_more, cost, choices"
)
_ATTEMPT = (
    "decision, n, model, outcome, ttft, duration, prompt_tokens, completion_tokens, cached_tokens, "
    "cost, cost_source, error, hedge, waited, outstanding"
)


def _insert(table: str, columns: str) -> str:
    """By name: a newer process may add columns to a file that this one goes on writing to."""
    places = ", ".join("?" for _ in columns.split(","))
    return f"INSERT OR REPLACE INTO {table} ({columns}) VALUES ({places})"  # noqa: S608 - names of ours


#: Take what `decision_row` and `attempt_rows` give.
INSERT_DECISION = _insert("decisions", _DECISION)
INSERT_ATTEMPT = _insert("attempts", _ATTEMPT)

#: Kept nowhere: whoever has the file cannot try names.
_SESSION_KEY = secrets.token_bytes(32)
#: Conversations of this process that were written down by their names.
_open_sessions: dict[str, None] = {}
MOST_OPEN_SESSIONS = 10_000

_json = json.JSONEncoder(separators=(",", ":")).encode


def decision_row(n: int, decision: Decision) -> tuple[object, ...]:
    """What `INSERT_DECISION` takes."""
    features = decision.features
    ranking, more = decision.leading(MOST_CANDIDATES)
    tags, notes, needs = decision.tags, decision.notes, features.needs
    return (
        n,
        clean(decision.id),
        decision.at,
        _text(features.task),
        _session(features),
        _text(features.language),
        _json(dict(tags)) if tags else "{}",
        _text(decision.model),
        clean(decision.reason),
        _json(notes) if notes else "[]",
        features.prompt_tokens,
        features.expected_output_tokens,
        features.max_output_tokens,
        _json(sorted(needs)) if needs else "[]",
        features.sensitivity,
        features.stream,
        _json([_candidate(candidate) for candidate in ranking]),
        more,
        _money(decision.cost),
        features.choices,
    )


def attempt_rows(n: int, decision: Decision) -> list[tuple[object, ...]]:
    """What `INSERT_ATTEMPT` takes, for each attempt."""
    private = decision.features.sensitivity == "private"
    return [
        (
            n,
            place,
            clean(attempt.model),
            attempt.outcome,
            attempt.ttft,
            attempt.duration,
            attempt.prompt_tokens,
            attempt.completion_tokens,
            attempt.cached_tokens,
            _money(attempt.cost),
            attempt.cost_source,
            _error(attempt.error, private=private) if attempt.error is not None else None,
            attempt.hedge,
            attempt.waited,
            attempt.outstanding,
        )
        for place, attempt in enumerate(decision.attempts)
    ]


def text_row(n: int, exchange: Exchange) -> tuple[object, ...]:
    """The columns of `texts`."""
    return n, _json([dict(message) for message in exchange.messages]), _text(exchange.answer)


def to_decimal(text: str | None) -> Decimal | None:
    """Money as it was written."""
    return None if text is None else Decimal(text)


def _candidate(candidate: Candidate) -> tuple[object, ...]:
    return (
        candidate.model,
        _finite(candidate.cost),
        _finite(candidate.ttft),
        _finite(candidate.latency),
        _finite(candidate.quality),
        _finite(candidate.utility),
        candidate.rejected_because,
    )


def _session(features: Features) -> str | None:
    """The conversation's name; of a private one something that stands for it while this process lives.

    A name may be a person's. The rows of one conversation still belong together, for whoever replays them;
    a conversation that was not private until now is known by its name already.
    """
    name = _text(features.session)
    if name is None or name in _open_sessions:
        return name
    if features.sensitivity == "private":
        return f"private-{hashlib.blake2b(name.encode(), key=_SESSION_KEY, digest_size=12).hexdigest()}"
    _open_sessions[name] = None
    if len(_open_sessions) > MOST_OPEN_SESSIONS:
        _open_sessions.clear()
    return name


def _finite(number: float | None) -> float | None:
    """JSON has no infinity and no NaN."""
    return number if number is None or math.isfinite(number) else None


def _text(text: str | None) -> str | None:
    return None if text is None else clean(text)


def _money(usd: Decimal | None) -> str | None:
    return None if usd is None or not usd.is_finite() else format(usd, "f")


def _error(error: ModelError, *, private: bool) -> str:
    """What went wrong, by the error's type; with its words only if they cannot quote a private prompt."""
    kind = type(error).__name__
    if not private:
        return clean(f"{kind}: {error}"[:MOST_ERROR])
    status, code = getattr(error, "status_code", None), getattr(error, "code", None)
    parts = [kind]
    if isinstance(status, int):
        parts.append(str(status))
    if isinstance(code, str) and _CODE.fullmatch(code):
        parts.append(code)
    return " ".join(parts)


def attempt_money(attempt: Attempt) -> Decimal | None:
    """What an attempt cost, if it can be booked."""
    cost = attempt.cost
    return cost if cost is not None and cost.is_finite() and cost > 0 else None


def trim(connection: sqlite3.Connection, last: int) -> None:
    """Drops all but the newest decisions, up to number `last`, where there is no file."""
    oldest = last - MOST_IN_MEMORY
    if oldest > 0:
        connection.execute("DELETE FROM decisions WHERE n <= ?", (oldest,))
        connection.execute("DELETE FROM attempts WHERE decision <= ?", (oldest,))
        connection.execute("DELETE FROM texts WHERE decision <= ?", (oldest,))
    connection.execute("DELETE FROM feedback WHERE n <= (SELECT max(n) FROM feedback) - ?", (MOST_IN_MEMORY,))
