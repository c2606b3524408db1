"""What a simulation found."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from router.simulate.histogram import Percentiles

__all__ = ["Report", "side_by_side"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a workload came to. `print` shows it as a table.

    Attributes:
        chooser: Who ordered the candidates.
        seed: Of all that was random.
        requests: How many arrived.
        answered: How many were answered.
        lost: How many were not, by the reason.
        cost: USD of all attempts; those of a model of unknown price count nothing.
        objective: Mean realised objective per request, in USD, by the policy's weights whatever it ranks by;
            a request without an answer costs as much as the dearest model would have.
        latency: Seconds from arrival to the end of the answer, of the answered.
        ttft: Seconds from arrival to the first token; to the end for an answer in one piece.
        shares: Each model's share of the answers.
        attempts: Mean attempts per request.
        in_time: Of the requests with a deadline, the share answered in time; None if none had one.
        switches: How often the first choice for a task differed from the one before it, as a share.
        explored: The share of requests that went to a little known model to learn about it.
        seconds: Simulated seconds from the beginning to the end of the last request.
        wall_seconds: Real seconds that the simulation took.
    """

    chooser: str
    seed: int
    requests: int
    answered: int
    lost: Mapping[str, int]
    cost: float
    objective: float
    latency: Percentiles
    ttft: Percentiles
    shares: Mapping[str, float]
    attempts: float
    in_time: float | None
    switches: float
    explored: float
    seconds: float
    wall_seconds: float = field(compare=False)

    @property
    def mean_cost(self) -> float:
        """USD per request."""
        return self.cost / self.requests if self.requests else 0.0

    def __str__(self) -> str:
        return side_by_side([self])


def side_by_side(reports: Sequence[Report]) -> str:
    """Reports as a table for people, one per column."""
    rows = [["", *(report.chooser for report in reports)]]
    for label, show in _ROWS:
        _add(rows, label, [show(report) for report in reports])
    reasons = sorted({reason for report in reports for reason in report.lost})
    for reason in reasons:
        lost = [report.lost.get(reason, 0) / max(report.requests, 1) for report in reports]
        _add(rows, f"  lost: {reason}", [percent(share) if share else "" for share in lost])
    names = dict.fromkeys(name for report in reports for name in report.shares)
    for name in names:
        shares = [report.shares.get(name, 0.0) for report in reports]
        _add(rows, f"  {name}", [percent(share) if share else "" for share in shares])
    return _aligned(rows)


def _add(rows: list[list[str]], label: str, cells: list[str]) -> None:
    if any(cells):
        rows.append([label, *cells])


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def percent(share: float) -> str:
    """A share for people; empty if there is none."""
    if math.isnan(share):
        return ""
    return f"{share:.2%}" if 0 < share < _SMALL else f"{share:.1%}"


def _seconds(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:.3g} s" if value < _LARGE else f"{value:,.0f} s"


def _usd(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:.4g} USD" if value < _LARGE else f"{value:,.2f} USD"


#: Shares below it need another digit; numbers above it need none, or thousands told apart.
_SMALL, _LARGE = 0.001, 100.0

_ROWS: tuple[tuple[str, Callable[[Report], str]], ...] = (
    ("requests", lambda report: f"{report.requests:,}"),
    ("answered", lambda report: percent(report.answered / report.requests if report.requests else math.nan)),
    ("in time", lambda report: "" if report.in_time is None else percent(report.in_time)),
    ("cost", lambda report: _usd(report.cost)),
    ("cost per 1,000", lambda report: _usd(1000 * report.mean_cost)),
    ("objective per 1,000", lambda report: _usd(1000 * report.objective)),
    ("latency, mean", lambda report: _seconds(report.latency.mean)),
    ("latency, p50", lambda report: _seconds(report.latency.p50)),
    ("latency, p95", lambda report: _seconds(report.latency.p95)),
    ("latency, p99", lambda report: _seconds(report.latency.p99)),
    ("first token, p50", lambda report: _seconds(report.ttft.p50)),
    ("first token, p95", lambda report: _seconds(report.ttft.p95)),
    ("attempts per request", lambda report: f"{report.attempts:.3f}"),
    ("switches", lambda report: percent(report.switches)),
    ("explored", lambda report: percent(report.explored) if report.explored else ""),
)
