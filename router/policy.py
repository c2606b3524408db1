"""What to choose a model by: constraints that must hold, and an objective to minimise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, Self, TypedDict, Unpack

from pydantic import Field, StrictBool

from router.decision import Candidate
from router.declared import Declared
from router.values import Money, Number, Privacy, Probability, Seconds, Weight

__all__ = ["Policy"]


class Constraints(TypedDict, total=False):
    """What must hold of a choice, whatever it is sorted by; see `Policy`."""

    min_quality: float | None
    max_cost: float | None
    max_latency: float | None
    max_ttft: float | None
    privacy: Privacy
    on_infeasible: Literal["raise", "relax"]
    confidence: float
    hedge: bool


class Policy(Declared):
    """Constraints that must hold, and an objective to minimise.

    The objective is `cost + value_of_time × latency − value_of_quality × quality`, in USD.

    Attributes:
        value_of_time: USD that a second of waiting costs.
        value_of_quality: USD that a good answer is worth over a bad one.
        min_quality: The least probability of a good answer; unknown quality fails it.
        max_cost: USD per request.
        max_latency: Seconds to the end of the answer, kept with probability `confidence`.
        max_ttft: Seconds to the first token, kept with probability `confidence`.
        privacy: "private" admits local models and hosted ones declared private, and nothing else.
        hedge: Start a second attempt on the next candidate when the first is late.
        on_infeasible: "relax" gives up max_latency, max_ttft, min_quality, max_cost, in that order, when no
            model meets them all, and says so; never privacy, capability, context or budget.
        explore: The share of requests that may go to an eligible model that little is known of.
        confidence: The probability with which times are to be kept.
        utility: A pure callable from a candidate to a number to maximise, instead of the objective.
        rank_by: Set by `cheapest`, `fastest` and `best`.
    """

    value_of_time: Weight = 0.001
    value_of_quality: Weight = 0.0
    min_quality: Probability | None = None
    max_cost: Money | None = None
    max_latency: Seconds | None = None
    max_ttft: Seconds | None = None
    privacy: Privacy = "any"
    hedge: StrictBool = False
    on_infeasible: Literal["raise", "relax"] = "raise"
    explore: Annotated[float, Number, Field(ge=0, le=0.5)] = 0.02
    confidence: Annotated[float, Number, Field(ge=0.5, lt=1)] = 0.95
    utility: Callable[[Candidate], float] | None = None
    rank_by: Literal["objective", "cheapest", "fastest", "best"] = "objective"

    @classmethod
    def cheapest(cls, **constraints: Unpack[Constraints]) -> Self:
        """Sorts by cost, then latency. Explores nothing. Takes the constraints of a policy."""
        return cls.parse({"rank_by": "cheapest", "explore": 0.0, **constraints})

    @classmethod
    def fastest(cls, **constraints: Unpack[Constraints]) -> Self:
        """Sorts by latency, then cost. Explores nothing. Takes the constraints of a policy."""
        return cls.parse({"rank_by": "fastest", "explore": 0.0, **constraints})

    @classmethod
    def best(cls, **constraints: Unpack[Constraints]) -> Self:
        """Sorts by quality, then cost. Explores nothing. Takes the constraints of a policy."""
        return cls.parse({"rank_by": "best", "explore": 0.0, **constraints})
