"""What each model would cost and how long it would take, for one request. Pure.

Expected cost = prompt tokens × input price + forecast output tokens × output price + fee, by the tier that
the prompt falls into; a local model costs its seconds × its hourly price. Expected latency = wait (load,
queue, rate limit) + prefill of this prompt + forecast output ÷ speed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from router.decision import Features
from router.fleet import Fleet
from router.objective import Breach, Estimate

__all__ = ["Situation", "estimate"]

#: Output tokens that must fit behind the prompt when the caller sets no limit.
LEAST_OUTPUT_TOKENS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """How things stand right now, by the models' places.

    Attributes:
        waits: Seconds before a model begins: loading, its queue, a rate limit.
        shut: Models that health has set aside, with the reason.
        budget_left: USD that a model may still cost; only models that a budget holds for.
    """

    waits: Mapping[int, float] = field(default_factory=dict)
    shut: Mapping[int, str] = field(default_factory=dict)
    budget_left: Mapping[int, float] = field(default_factory=dict)


def estimate(
    fleet: Fleet,
    features: Features,
    places: Iterable[int],
    now: Situation,
    *,
    estimates: dict[int, Estimate],
    reasons: dict[int, Breach],
) -> None:
    """Estimates the models at `places`; what the request does not fit into gets a reason instead.

    The hot loop of a decision: everything that it reads is a local name, and a model costs one tuple.
    """
    learned = fleet.learned
    ratio, frame = learned.ratio, learned.frame
    base, per_in, per_out = learned.base, learned.per_in, learned.per_out
    spread, samples, outputs = learned.spread, learned.samples, learned.outputs(features.task)
    window, bounded, tiered = fleet.window, fleet.max_output, fleet.tiered
    price_in, price_out, fee, per_second = fleet.price_in, fleet.price_out, fleet.fee, fleet.per_second
    tokens, limit, waits = features.prompt_tokens, features.max_output_tokens, now.waits
    choices = features.choices
    cap = math.inf if limit is None else limit
    room = LEAST_OUTPUT_TOKENS if limit is None else limit
    for place in places:
        tokens_in = frame[place] + tokens * ratio[place]
        if tokens_in + room > window[place]:
            reasons[place] = ("context", tokens_in + room, window[place])
            continue
        if limit is not None and place in bounded and limit > bounded[place]:
            reasons[place] = ("max_output", limit, bounded[place])
            continue
        tokens_out = outputs[place]
        if tokens_out > cap:  # noqa: PLR1730 - min() would cost a call per model
            tokens_out = cap
        wait = waits.get(place, 0.0) if waits else 0.0
        first = base[place] + tokens_in * per_in[place]
        work = first + tokens_out * per_out[place]
        if place in tiered:
            cost = _tiered_cost(fleet, place, tokens_in, tokens_out * choices)
        else:
            cost = fee[place] + tokens_in * price_in[place] + tokens_out * choices * price_out[place]
        cost += work * per_second[place]
        estimates[place] = Estimate(
            cost, wait + first, wait + work, spread[place], tokens_in, tokens_out, wait, samples[place]
        )


def _tiered_cost(fleet: Fleet, place: int, tokens_in: float, tokens_out: float) -> float:
    """USD by the tier of the prompt, which prices the whole request."""
    price = fleet.profiles[place].price
    tier = price.at(tokens_in) if price else None
    if price is None or tier is None:
        return math.nan
    return price.per_request + (tokens_in * tier.input + tokens_out * tier.output) / 1e6
