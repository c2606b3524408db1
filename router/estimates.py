"""What each model would cost and how long it would take, for one request. Pure.

Expected cost = prompt tokens × input price (the cached part at its own) + forecast output tokens × output
price + fee, by the tier that the prompt falls into; a local model costs its seconds × its hourly price.
Expected latency = wait (load, queue, rate limit) + prefill of this prompt, less its cached part + forecast
output ÷ speed, slowed down by what is under way there, + what failures cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from router.decision import Features
from router.fleet import Fleet
from router.learning.lognormal import capped, capped_spread
from router.objective import Breach, Estimate

__all__ = ["Situation", "cost_within", "estimate", "price_parts"]

#: How wrong the forecast of a length may be before there was an answer: the standard deviation of its log.
LENGTH_DOUBT = 0.7
#: Output tokens that must fit behind the prompt when the caller sets no limit.
LEAST_OUTPUT_TOKENS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """How things stand right now, by the models' places. What is not listed is 0, or nothing.

    Attributes:
        at: Seconds on the router's clock.
        waits: Seconds before a model begins: loading, its queue and a rate limit.
        loads: Of these, seconds to load it.
        limits: Of these, seconds until a rate limit lets the request go.
        slowdowns: How many times as long a model takes because of what it has under way: to the first token,
            and from there to the end.
        cached: The share of the prompt's tokens that a model is expected to have cached.
        shut: Models that health has set aside, with the reason.
        soft: Of these, those that may be asked all the same when all others failed ...
        ripe: ... and those that may be probed when none is.
        silent: Models that are asked and show no sign of life, in words.
        full: Models whose queue takes no more, with the seconds until there is room, about.
        budget_left: USD that a model may still cost; only models that a budget holds for.
    """

    at: float = 0.0
    waits: Mapping[int, float] = field(default_factory=dict)
    loads: Mapping[int, float] = field(default_factory=dict)
    limits: Mapping[int, float] = field(default_factory=dict)
    slowdowns: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    cached: Mapping[int, float] = field(default_factory=dict)
    shut: Mapping[int, str] = field(default_factory=dict)
    soft: frozenset[int] = frozenset()
    ripe: frozenset[int] = frozenset()
    silent: Mapping[int, str] = field(default_factory=dict)
    full: Mapping[int, float] = field(default_factory=dict)
    budget_left: Mapping[int, float] = field(default_factory=dict)


def estimate(  # noqa: C901, PLR0915 - one loop: a call more per model would show in a decision's time
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
    spread, first_spread, tail, first_tail = (
        learned.spread,
        learned.first_spread,
        learned.tail,
        learned.first_tail,
    )
    failing, lost, samples = learned.failing, learned.lost, learned.samples
    outputs = learned.forecasts.outputs(features.task)
    out_mean, out_spread, sloped = outputs.mean, outputs.spread, outputs.sloped
    window, bounded, tiered = fleet.window, fleet.max_output, fleet.tiered
    price_in, price_out, fee, per_second = fleet.price_in, fleet.price_out, fleet.fee, fleet.per_second
    saved = fleet.cached_saving
    tokens, limit, choices = features.prompt_tokens, features.max_output_tokens, features.choices
    waits, slowdowns, cached = now.waits, now.slowdowns, now.cached
    room = LEAST_OUTPUT_TOKENS if limit is None else limit
    cap = math.inf if limit is None else float(limit)
    cut: tuple[float, float, float, float] = (-1.0, 0.0, 0.0, 0.0)
    for place in places:
        tokens_in = frame[place] + tokens * ratio[place]
        if tokens_in + room > window[place]:
            reasons[place] = ("context", tokens_in + room, window[place])
            continue
        if limit is not None and place in bounded and limit > bounded[place]:
            reasons[place] = ("max_output", limit, bounded[place])
            continue
        tokens_out, scatter = out_mean[place], out_spread[place]
        if sloped and place in sloped:
            tokens_out = sloped[place].at(tokens_in)
        most = cap
        if place in bounded:
            most = min(cap, bounded[place])
            tokens_out = min(tokens_out, most)
        if limit is not None:
            if tokens_out != cut[0] or scatter != cut[1]:  # models that nothing is known of are alike
                cut = (
                    tokens_out,
                    scatter,
                    capped(tokens_out, scatter, limit),
                    capped_spread(tokens_out, scatter, limit),
                )
            tokens_out, scatter = cut[2], cut[3]
        if not scatter:
            scatter = LENGTH_DOUBT
        kept = tokens_in * cached[place] if place in cached else 0.0
        first = base[place] + (tokens_in - kept) * per_in[place]
        work = first + tokens_out * per_out[place]
        if place in slowdowns:
            slower_first, slower = slowdowns[place]
            first *= slower_first
            work = first + tokens_out * per_out[place] * slower
        if place in tiered:
            cost = _tiered_cost(fleet, place, tokens_in, kept, tokens_out * choices)
        else:
            cost = fee[place] + tokens_in * price_in[place] + tokens_out * choices * price_out[place]
            if kept:
                cost -= kept * saved[place]
        cost += work * per_second[place]
        wait = waits.get(place, 0.0) if waits else 0.0
        estimates[place] = Estimate(
            cost,
            wait + first,
            wait + work + lost[place],
            tokens_in,
            kept,
            tokens_out,
            scatter,
            most,
            wait,
            lost[place],
            failing[place],
            spread[place],
            first_spread[place],
            tail[place],
            first_tail[place],
            samples[place],
        )


def _tiered_cost(fleet: Fleet, place: int, tokens_in: float, cached: float, tokens_out: float) -> float:
    """USD by the tier of the prompt, which prices the whole request."""
    price = fleet.profiles[place].price
    tier = price.at(tokens_in) if price else None
    if price is None or tier is None:
        return math.nan
    saving = 0.0 if tier.cached_input is None else cached * (tier.input - tier.cached_input)
    return price.per_request + (tokens_in * tier.input - saving + tokens_out * tier.output) / 1e6


def price_parts(fleet: Fleet, place: int, features: Features, found: Estimate) -> dict[str, float]:
    """What the cost is made of, in USD: the prompt, its cached part, the answer, the fee, computing."""
    price, per_second = fleet.profiles[place].price, fleet.per_second[place]
    if price is None:
        return {"computing USD": found.work * per_second} if per_second else {}
    tier = price.at(found.tokens_in)
    if tier is None:
        return {}
    cached_price = tier.input if tier.cached_input is None else tier.cached_input
    return {
        "prompt USD": (found.tokens_in - found.cached) * tier.input / 1e6,
        "cached USD": found.cached * cached_price / 1e6,
        "answer USD": found.tokens_out * features.choices * tier.output / 1e6,
        "fee USD": price.per_request,
    }


def cost_within(fleet: Fleet, place: int, features: Features, found: Estimate, probability: float) -> float:
    """USD that are not exceeded with a probability: what varies is the answer's length."""
    price, per_second = fleet.profiles[place].price, fleet.per_second[place]
    if price is None:
        return found.cost + max(found.work_within(probability) - found.work, 0.0) * per_second
    tier = price.at(found.tokens_in)
    if tier is None:
        return math.nan
    more = max(found.tokens_within(probability) - found.tokens_out, 0.0) * features.choices
    return found.cost + more * tier.output / 1e6
