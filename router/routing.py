"""One request with the decision that was made for it, before and while it is carried out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from router.decision import Attempt, Decision, Features
from router.fleet import Fleet
from router.objective import Estimate, Rules
from router.options import RoutingOptions
from router.policy import Policy
from router.prefixes import Prompt
from router.ranked import Ranked
from router.request import ChatRequest

__all__ = ["Routing"]


@dataclass(slots=True, kw_only=True)
class Routing:
    """One request with the decision made for it, and what its driver needs."""

    id: str
    at: float
    request: ChatRequest
    options: RoutingOptions
    fleet: Fleet
    features: Features
    ranked: Ranked
    rules: Rules
    began_at: float
    deadline_at: float
    prompt: Prompt | None = None
    notes: tuple[str, ...] = ()
    tried: set[int] = field(default_factory=set)  # places of the candidates that were asked, or waited for
    attempts_before: int = 0  # of the same request, before this routing of it

    @property
    def order(self) -> Sequence[int]:
        """Places of the candidates, best first."""
        return self.ranked.order

    def estimate(self, place: int) -> Estimate:
        """The estimate of a candidate."""
        return self.ranked.estimates[place]

    def key(self, attempt: int) -> str:
        """What the ledger calls the money set aside for an attempt."""
        return f"{self.id}/{self.attempts_before + attempt}"

    def decision(self, *, model: str | None, attempts: tuple[Attempt, ...] = ()) -> Decision:
        """A snapshot. Without a model, the best candidate is named."""
        best = self.ranked.names[0] if self.order else None
        costs = [attempt.cost for attempt in attempts]
        cost = None if not costs or None in costs else sum((c for c in costs if c is not None), Decimal(0))
        return Decision(
            id=self.id,
            model=model or best,
            attempts=attempts,
            cost=cost,
            features=self.features,
            reason=self._reason(model, best),
            notes=self.notes,
            at=self.at,
            tags=self.options.tags,
            _ranking=self.ranked,
        )

    def _reason(self, model: str | None, best: str | None) -> str:
        reason = _reason(self.ranked, explored=any(note.startswith("explored") for note in self.notes))
        if model in (None, best):
            return reason
        return f"took over from {best}, which was first: {reason}"


def _reason(ranked: Ranked, *, explored: bool) -> str:
    total, eligible = len(ranked.fleet.names), len(ranked.order)
    if not eligible:
        return f"none of {total} models is eligible" if total > 1 else "the only model is not eligible"
    if ranked.rules.pinned is not None:
        return "the request names this model"
    if eligible == 1:
        return f"the only eligible one of {total}" if total > 1 else "the only model"
    among = f"among {eligible} eligible of {total}"
    return f"tried to learn about it, {among}" if explored else f"{_aim(ranked.rules.policy)}, {among}"


def _aim(policy: Policy) -> str:
    """What the policy looks for; terms of the objective that weigh nothing are left out."""
    if policy.utility is not None:
        return "highest utility by the policy's own function"
    if policy.rank_by != "objective":
        return {
            "cheapest": "lowest expected cost",
            "fastest": "lowest expected latency",
            "best": "highest expected quality",
        }[policy.rank_by]
    time = f" + {policy.value_of_time:g} USD/s × latency" if policy.value_of_time else ""
    quality = f" − {policy.value_of_quality:g} USD × quality" if policy.value_of_quality else ""
    return f"lowest cost{time}{quality}"
