"""The policy's arithmetic: what a model's estimate is worth, and which constraints it breaks. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from router.learning.lognormal import quantile, sum_quantile, z_of
from router.policy import Policy

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
    "worth",
]

#: The most that a quantile is asked for: beyond it, no distribution is known well enough.
SUREST = 0.9995
#: From this probability on, what is kept with it is no less than the mean: of a very skewed distribution the
#: quantile may be.
EVEN = 0.9
#: Answers from which a model's figures are measured rather than its profile's.
MEASURED_AFTER = 3

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

    Attributes:
        cost: Mean USD.
        ttft: Mean seconds to the first token, `wait` included.
        latency: Mean seconds to the end, `wait` and `lost` included.
        tokens_in: Prompt tokens by the backend's count.
        cached: Of these, expected to be found cached.
        tokens_out: Mean tokens of one answer.
        scatter: Standard deviation of the logarithm of the answer's tokens.
        most_out: The most tokens of one answer, by the caller's limit or the model's own; may be infinite.
        wait: Seconds before the model begins.
        lost: Mean seconds that failures cost.
        failing: Probability that an attempt fails.
        spread: Standard deviation of log(seconds of work) of an answer whose tokens are known.
        first_spread: The same to the first token.
        tail: What the normal quantile is multiplied by, so that it holds for this model.
        first_tail: The same of the first token.
        seen: Answers that this stands on.
    """

    cost: float
    ttft: float
    latency: float
    tokens_in: float
    cached: float
    tokens_out: float
    scatter: float
    most_out: float
    wait: float
    lost: float = 0.0
    failing: float = 0.0
    spread: float = 0.0
    first_spread: float = 0.0
    tail: float = 1.0
    first_tail: float = 1.0
    seen: int = 0

    @property
    def first(self) -> float:
        """Mean seconds from the beginning to the first token."""
        return self.ttft - self.wait

    @property
    def work(self) -> float:
        """Mean seconds from the beginning to the end."""
        return self.latency - self.wait - self.lost

    @property
    def decode(self) -> float:
        """Mean seconds from the first token to the end."""
        return self.work - self.first

    def work_within(self, probability: float) -> float:
        """Seconds from the beginning to the end that are kept with a probability."""
        z = self._z(probability) * self.tail
        within = sum_quantile(((self.first, 0.0), (self.decode, self.scatter)), self.spread, z)
        if self.most_out < math.inf:  # an answer at its limit is as long as one can be
            longest = self.first + self.decode * self.most_out / max(self.tokens_out, 1e-9)
            within = min(within, quantile(longest, self.spread, z))
        return max(within, self.work) if probability >= EVEN else within

    def latency_within(self, probability: float) -> float:
        """Seconds to the end, wait included, that are kept with a probability."""
        return self.wait + self.work_within(probability)

    def first_within(self, probability: float) -> float:
        """Seconds from the beginning to the first token that are kept with a probability."""
        within = quantile(self.first, self.first_spread, self._z(probability) * self.first_tail)
        return max(within, self.first) if probability >= EVEN else within

    def ttft_within(self, probability: float) -> float:
        """Seconds to the first token, wait included, that are kept with a probability."""
        return self.wait + self.first_within(probability)

    def tokens_within(self, probability: float) -> float:
        """Output tokens of one answer that are not exceeded with a probability."""
        within = min(quantile(self.tokens_out, self.scatter, z_of(probability)), self.most_out)
        return max(within, self.tokens_out) if probability >= EVEN else within

    def _z(self, probability: float) -> float:
        """The normal quantile of what an answer may take if the model is to keep a time that often.

        An attempt that fails after a time that matters keeps none: the others must make up for it.
        """
        if not self.failing or not self.lost:
            return z_of(probability)
        seconds = self.lost * (1.0 - self.failing) / self.failing
        failing = self.failing * min(seconds / max(self.work, 1e-9), 1.0)
        return z_of(min(probability / max(1.0 - failing, 1e-3), SUREST))


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
    confidence = rules.policy.confidence
    if rules.max_latency is not None:
        late = found.latency_within(confidence)
        if late > rules.max_latency:
            broken.append(("max_latency", late, rules.max_latency))
    if rules.max_ttft is not None:
        late = found.ttft_within(confidence)
        if late > rules.max_ttft:
            broken.append(("max_ttft", late, rules.max_ttft))
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
