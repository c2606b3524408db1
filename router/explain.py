"""A decision as a text for people."""

from __future__ import annotations

import math
from collections.abc import Mapping

from router.decision import Attempt, Candidate, Decision
from router.remedies import remedies

__all__ = ["explain"]

#: Names in one line of a note.
MOST_NAMES = 8
#: Candidates whose figures are taken apart.
MOST_TAKEN_APART = 4
#: Parts of an estimate in the order of their happening, with how they are called.
_MONEY = {
    "prompt USD": "prompt",
    "cached USD": "cached prompt",
    "answer USD": "answer",
    "fee USD": "fee",
    "computing USD": "computing",
}
_TIME = {
    "load s": "loading",
    "queue s": "in its queue",
    "rate limit s": "for its rate limit",
    "prefill s": "to the first token",
    "decode s": "decoding",
    "failures s": "for failures",
}
#: Less than this is not told in digits.
LEAST_SECONDS = 0.0005
#: How reasons begin that are the request's own choice and say nothing of the model.
_LEFT_OUT = ("pinned:", "not listed:")
_HEAD = (
    "model",
    "cost",
    "first token",
    "answer",
    "likely within",
    "quality",
    "utility",
    "tokens",
    "known from",
)
_AFTER = {"succeeded": "in", "running": "for"}


def explain(decision: Decision) -> str:
    """The choice, what it stands on, every candidate's figures, every rejection, every attempt."""
    lines = [f"{decision.model or 'no model'}: {decision.reason}"]
    lines += [f"  {note}" for note in decision.notes]
    lines.append("  request: " + _features(decision))
    eligible = [candidate for candidate in decision.ranking if candidate.rejected_because is None]
    if eligible:
        lines += ["  eligible, best first:", *_indented(_table(eligible))]
    rejected = [candidate for candidate in decision.ranking if candidate.rejected_because is not None]
    if eligible:
        lines += ["  what that is made of:", *_indented(_made_of(eligible))]
    if rejected:
        lines += ["  not eligible:", *_indented(_rejections(rejected))]
    if noted := _notes(eligible):
        lines += ["  to note:", *_indented(noted)]
    if not eligible and (ways_out := remedies(c.rejected_because or "" for c in rejected)):
        lines += ["  what helps:", *_indented(ways_out)]
    if decision.attempts:
        lines += ["  attempts:", *_indented(_attempts(decision.attempts))]
        lines.append(f"  cost: {_usd(None if decision.cost is None else float(decision.cost))}")
    return "\n".join(lines)


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


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
    rows = [_HEAD, *(_row(candidate) for candidate in candidates)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    return [_line(row, widths) for row in rows]


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    """One row: words to the left, figures to the right, so that digits stand under digits."""
    outer = (0, len(cells) - 1)
    padded = [
        cell.ljust(width) if column in outer else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(padded).rstrip()


def _made_of(candidates: list[Candidate]) -> list[str]:
    """Where the leading candidates' figures come from: a line of money and one of time for each."""
    lines = []
    width = max(len(candidate.model) for candidate in candidates[:MOST_TAKEN_APART])
    for candidate in candidates[:MOST_TAKEN_APART]:
        lines.append(f"{candidate.model:<{width}}  {_usd(candidate.cost)}{_sum_of_money(candidate)}")
        lines.append(f"{'':<{width}}  {_seconds(candidate.latency)}{_sum_of_time(candidate)}")
    if (more := len(candidates) - MOST_TAKEN_APART) > 0:
        lines.append(f"and {more} more: see decision.ranking[...].parts")
    return lines


def _sum_of_money(candidate: Candidate) -> str:
    parts = candidate.parts
    terms = [f"{_plain(parts[name])} {word}" for name, word in _MONEY.items() if parts.get(name)]
    said = f" = {' + '.join(terms)}" if terms else ""
    if candidate.cost and candidate.cost_p95 is not None:
        said += f"; {_percent(parts)} likely below {_usd(candidate.cost_p95)}"
    return said


def _sum_of_time(candidate: Candidate) -> str:
    parts = candidate.parts
    terms = [
        f"{_seconds(parts[name])} {word}"
        for name, word in _TIME.items()
        if parts.get(name, 0.0) >= LEAST_SECONDS
    ]
    said = f" = {' + '.join(terms)}" if terms else ""
    if slower := parts.get("slowdown"):
        said += f", {slower:.2f} × as long as alone, for what is under way there"
    within = f"first token {_seconds(candidate.ttft_p95)}, answer {_seconds(candidate.latency_p95)}"
    return f"{said}; {_percent(parts)} likely within: {within}"


def _percent(parts: Mapping[str, float]) -> str:
    return f"{parts.get('confidence', 0.95) * 100:.4g} %"


def _tokens(parts: Mapping[str, float]) -> str:
    cached = parts.get("tokens cached", 0.0)
    known = f" ({cached:.0f} cached)" if cached >= 1 else ""
    return f"{parts.get('tokens in', 0):.0f} in{known}, {parts.get('tokens out', 0):.0f} out"


def _row(candidate: Candidate) -> tuple[str, ...]:
    parts = candidate.parts
    seen = int(parts.get("answers seen", 0))
    return (
        candidate.model,
        _usd(candidate.cost),
        _seconds(candidate.ttft),
        _seconds(candidate.latency),
        _seconds(candidate.latency_p95),
        "unknown" if candidate.quality is None else f"{candidate.quality:.2f}",
        "unknown" if candidate.utility is None else _plain(candidate.utility),
        _tokens(parts),
        f"{seen} answer{'s' if seen > 1 else ''}" if seen else "its profile",
    )


def _rejections(rejected: list[Candidate]) -> list[str]:
    """A line for each, as declared; the many that the request itself left out share one."""
    shared: dict[str, list[str]] = {}
    for candidate in rejected:
        because = candidate.rejected_because or ""
        if because.startswith(_LEFT_OUT):
            shared.setdefault(because, []).append(candidate.model)
    rows = [(_listing(names), because) for because, names in shared.items()]
    rows += [(c.model, c.rejected_because or "") for c in rejected if c.rejected_because not in shared]
    width = max((len(name) for name, because in rows if because not in shared), default=0)
    return [f"{name:<{width}}  {because}" for name, because in rows]


def _notes(candidates: list[Candidate]) -> list[str]:
    """What was assumed, once, with the models that it was assumed of."""
    noted: dict[str, list[str]] = {}
    for candidate in candidates:
        for note in candidate.notes:
            noted.setdefault(note, []).append(candidate.model)
    return [f"{note} ({_listing(names)})" for note, names in noted.items()]


def _listing(names: list[str]) -> str:
    few = names[:MOST_NAMES]
    rest = len(names) - len(few)
    return ", ".join(few) + (f" and {rest} more" if rest else "")


def _attempts(attempts: tuple[Attempt, ...]) -> list[str]:
    width = max(len(attempt.model) for attempt in attempts)
    return [f"{attempt.model:<{width}}  {_attempt(attempt)}" for attempt in attempts]


def _attempt(attempt: Attempt) -> str:
    took = (
        ""
        if attempt.duration is None
        else f" {_AFTER.get(attempt.outcome, 'after')} {_seconds(attempt.duration)}"
    )
    parts = [f"{attempt.outcome}{took}{' (a hedge)' if attempt.hedge else ''}"]
    if attempt.ttft is not None:
        parts.append(f"first token after {_seconds(attempt.ttft)}")
    if attempt.prompt_tokens is not None and attempt.completion_tokens is not None:
        parts.append(f"{attempt.prompt_tokens} tokens in, {attempt.completion_tokens} out")
    if attempt.cost is not None and (attempt.cost or attempt.outcome == "succeeded"):
        source = " (estimated)" if attempt.cost_source == "estimate" and attempt.cost else ""
        parts.append(f"{_usd(float(attempt.cost))}{source}")
    if attempt.error is not None:
        parts.append(f"{type(attempt.error).__name__}: {attempt.error}")
    return ", ".join(parts)


def _usd(usd: float | None) -> str:
    return "unknown" if usd is None else f"{_plain(usd)} USD"


def _plain(value: float) -> str:
    """Plain digits, never an exponent: three that count, whatever the size."""
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}"
    digits = max(2, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    if 0 < seconds < LEAST_SECONDS:
        return "< 1 ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
