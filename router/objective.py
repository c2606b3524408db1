"""The policy's arithmetic: what a model's estimate is worth, and which constraints it breaks. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

from router.config import Policy

__all__ = [
    "RELAXED",
    "Breach",
    "Estimate",
    "Rules",
    "breaches",
    "code_of",
    "objective",
    "reason_of",
    "sort_key",
    "stretch_of",
    "worth",
]

RELAXED = ("max_latency", "max_ttft", "min_quality", "max_cost")
"""What `on_infeasible="relax"` gives up, in this order."""

Breach = tuple[str, float, float] | str
"""A broken constraint: its code with the value and the limit, or a text that begins with the code."""


_UNITS = {
    "budget": " USD left",
    "context": " tokens",
    "max_cost": " USD",
    "max_latency": " s",
    "max_output": " tokens",
    "max_ttft": " s",
}


class Estimate(NamedTuple):
    """What one model would do: USD (NaN if unknown), seconds, tokens.

    `ttft` and `latency` are means and include `wait`; `spread` is the standard deviation of the logarithm of
    what is left of them without it; `seen` counts the answers that this stands on.
    """

    cost: float
    ttft: float
    latency: float
    spread: float
    tokens_in: float
    tokens_out: float
    wait: float
    seen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The policy as it holds for one request, after its routing options.

    Attributes:
        deadline: Seconds left; models that are expected to miss it come last.
        pinned: The model that the request names; only what no model may break holds then.
    """

    policy: Policy
    min_quality: float | None = None
    max_cost: float | None = None
    max_latency: float | None = None
    max_ttft: float | None = None
    deadline: float | None = None
    private: bool = False
    models: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    pinned: str | None = None

    @property
    def has_constraints(self) -> bool:
        """Whether there is a constraint that a model's estimate could break."""
        return self.pinned is None and not (
            self.min_quality is self.max_cost is self.max_latency is self.max_ttft is None
        )

    @property
    def needs_price(self) -> bool:
        """Whether a model of unknown price must be left out: cost matters and nobody asked for it by name."""
        if self.pinned is not None:
            return False
        by = self.policy.rank_by
        return self.max_cost is not None or by in ("objective", "cheapest")


def objective(policy: Policy, found: Estimate, quality: float | None) -> float:
    """USD: `cost + value_of_time × latency − value_of_quality × quality`. Unknown quality counts as 0."""
    return found.cost + policy.value_of_time * found.latency - policy.value_of_quality * (quality or 0.0)


def sort_key(policy: Policy) -> Callable[[Estimate, float | None], float | tuple[float, float]]:
    """What to sort by, ascending, from an estimate and a quality. NaN costs sort last."""
    if policy.rank_by == "cheapest":
        return lambda found, _quality: (found.cost, found.latency)
    if policy.rank_by == "fastest":
        return lambda found, _quality: (found.latency, _last(found.cost))
    if policy.rank_by == "best":
        return lambda found, quality: (math.inf if quality is None else -quality, _last(found.cost))
    return lambda found, quality: _last(objective(policy, found, quality))


def worth(policy: Policy, found: Estimate, quality: float | None) -> float | None:
    """The negative of what the policy minimises first; None if it is unknown. Higher is better."""
    if policy.rank_by == "best":
        return quality
    if policy.rank_by == "fastest":
        return -found.latency
    value = found.cost if policy.rank_by == "cheapest" else objective(policy, found, quality)
    return None if math.isnan(value) else -value


def _last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def breaches(rules: Rules, found: Estimate, quality: float | None) -> tuple[Breach, ...]:
    """The constraints that a model breaks, in the order in which they are given up."""
    broken: list[Breach] = []
    if rules.max_latency is not None or rules.max_ttft is not None:
        factor = stretch_of(rules.policy, found)
        for code, limit, mean in (
            ("max_latency", rules.max_latency, found.latency),
            ("max_ttft", rules.max_ttft, found.ttft),
        ):
            late = found.wait + (mean - found.wait) * factor
            if limit is not None and late > limit:
                broken.append((code, late, limit))
    if rules.min_quality is not None:
        if quality is None:
            broken.append("min_quality: the model's quality is unknown")
        elif quality < rules.min_quality:
            broken.append(("min_quality", quality, rules.min_quality))
    if rules.max_cost is not None and found.cost > rules.max_cost:
        broken.append(("max_cost", found.cost, rules.max_cost))
    return tuple(broken)


def code_of(breach: Breach) -> str:
    """The stable code of a broken constraint."""
    return breach.partition(":")[0] if isinstance(breach, str) else breach[0]


def reason_of(breach: Breach) -> str:
    """A broken constraint as a text: its code, what it would be, what it may be."""
    if isinstance(breach, str):
        return breach
    code, value, limit = breach
    sign = "<" if code == "min_quality" else ">"
    return f"{code}: {_figure(value)} {sign} {_figure(limit)}{_UNITS.get(code, '')}"


def _figure(value: float) -> str:
    """A number in plain digits, never an exponent: six that count, and every digit of a whole number."""
    if not math.isfinite(value) or value == int(value):
        return f"{value:.0f}"
    digits = min(max(5 - math.floor(math.log10(abs(value))), 0), 18)
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def stretch_of(policy: Policy, found: Estimate) -> float:
    """How many times its mean a time may take, with the policy's confidence. Latencies are log-normal."""
    return math.exp(_quantile(policy.confidence) * found.spread)


_NORMAL = NormalDist()
_QUANTILES: dict[float, float] = {}


def _quantile(confidence: float) -> float:
    found = _QUANTILES.get(confidence)
    if found is None:
        found = _QUANTILES[confidence] = _NORMAL.inv_cdf(confidence)
    return found
