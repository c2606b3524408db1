"""A decision as a text for people."""

from __future__ import annotations

import math

from router.decision import Attempt, Candidate, Decision

__all__ = ["explain"]


#: Names in one line of a note.
MOST_NAMES = 8


def explain(decision: Decision) -> str:
    """The choice, what it stands on, every candidate's figures, every rejection, every attempt."""
    lines = [f"{decision.model or 'no model'}: {decision.reason}"]
    lines += [f"  {note}" for note in decision.notes]
    lines.append("  request: " + _features(decision))
    eligible = [candidate for candidate in decision.ranking if candidate.rejected_because is None]
    rejected = [candidate for candidate in decision.ranking if candidate.rejected_because is not None]
    if eligible:
        lines += _table(eligible)
    if rejected:
        width = max(len(candidate.model) for candidate in rejected)
        lines.append("  not eligible:")
        lines += [f"    {candidate.model:<{width}}  {candidate.rejected_because}" for candidate in rejected]
    if decision.attempts:
        lines.append("  attempts:")
        lines += [f"    {_attempt(attempt)}" for attempt in decision.attempts]
        lines.append(f"  cost: {_usd(None if decision.cost is None else float(decision.cost))}")
    return "\n".join(lines)


def _features(decision: Decision) -> str:
    features = decision.features
    parts = [f"{features.prompt_tokens} tokens in"]
    parts.append(f"task {features.task}" if features.task else "no task named")
    if features.max_output_tokens is not None:
        parts.append(f"at most {features.max_output_tokens} tokens out")
    if features.needs:
        parts.append("needs " + ", ".join(sorted(features.needs)))
    if features.language:
        parts.append(f"language {features.language}")
    if features.sensitivity == "private":
        parts.append("private")
    return ", ".join(parts)


def _table(candidates: list[Candidate]) -> list[str]:
    head = ("model", "cost", "first token", "answer", "likely within", "quality", "utility", "from")
    rows = [head, *(_row(candidate) for candidate in candidates)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = []
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)]
        lines.append("    " + "  ".join(cells).rstrip())
    return ["  eligible, best first:", *lines, *_notes(candidates)]


def _row(candidate: Candidate) -> tuple[str, ...]:
    seen = int(candidate.parts.get("answers seen", 0))
    tokens = f"{candidate.parts.get('tokens in', 0):.0f} in, {candidate.parts.get('tokens out', 0):.0f} out"
    return (
        candidate.model,
        _usd(candidate.cost),
        _seconds(candidate.ttft),
        _seconds(candidate.latency),
        _seconds(candidate.latency_p95),
        "unknown" if candidate.quality is None else f"{candidate.quality:.2f}",
        "unknown" if candidate.utility is None else f"{candidate.utility:.4g}",
        f"{tokens}; {f'{seen} answers seen' if seen else 'its profile'}",
    )


def _notes(candidates: list[Candidate]) -> list[str]:
    """What was assumed, once, with the models that it was assumed of."""
    noted: dict[str, list[str]] = {}
    for candidate in candidates:
        for note in candidate.notes:
            noted.setdefault(note, []).append(candidate.model)
    return [f"    {note} ({_listing(names)})" for note, names in noted.items()]


def _listing(names: list[str]) -> str:
    few = names[:MOST_NAMES]
    rest = len(names) - len(few)
    return ", ".join(few) + (f" and {rest} more" if rest else "")


def _attempt(attempt: Attempt) -> str:
    parts = [f"{attempt.model} {attempt.outcome}"]
    if attempt.duration is not None:
        parts.append(f"in {_seconds(attempt.duration)}")
    if attempt.ttft is not None:
        parts.append(f"first token after {_seconds(attempt.ttft)}")
    if attempt.prompt_tokens is not None and attempt.completion_tokens is not None:
        parts.append(f"{attempt.prompt_tokens} + {attempt.completion_tokens} tokens")
    if attempt.cost is not None:
        source = " (estimated)" if attempt.cost_source == "estimate" and attempt.cost else ""
        parts.append(f"{_usd(float(attempt.cost))}{source}")
    if attempt.error is not None:
        parts.append(f"{type(attempt.error).__name__}: {attempt.error}")
    return ", ".join(parts)


def _usd(usd: float | None) -> str:
    if usd is None:
        return "unknown"
    if usd == 0:
        return "0 USD"
    # Plain digits, never an exponent: three that count, whatever the size.
    digits = max(2, 2 - math.floor(math.log10(abs(usd))))
    return f"{usd:.{digits}f} USD"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
