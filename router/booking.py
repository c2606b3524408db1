"""What an attempt really cost, from its usage and the model's prices. Booked money is `Decimal`."""

from __future__ import annotations

import math
from decimal import Context, Decimal, localcontext

from router.objective import MEASURED_AFTER, Estimate
from router.profile import PriceTable, Profile, Tier
from router.usage import Usage

__all__ = ["booked_cost", "feared_cost", "generated_by", "reserved_cost"]

_MILLION = Decimal(1_000_000)
#: Booked money is kept to the billionth of a dollar.
_QUANTUM = Decimal("0.000000001")
#: Of an answer without a limit: how sure it must be that it stays below what is set aside; how many times as
#: long as forecast it may be at the least, and how many tokens: a forecast is learned from few answers.
SURE = 0.99
TIMES, LEAST_TOKENS = 4.0, 256.0
#: How sure it must be that an answer which nobody saw is not dearer than what a budget is charged for it.
FEARED = 0.9
#: Seconds before which no host writes the first token of an answer, and the tokens that the fastest then
#: write in a second (specialised hardware, 2026).
SILENT, FASTEST = 0.25, 2000.0
#: An app may have changed its thread's decimal context, which must not change a bill.
_CONTEXT = Context(prec=60)


def booked_cost(profile: Profile, usage: Usage, seconds: float) -> Decimal | None:
    """USD of an answer; None if the model's price is unknown. `seconds`: how long it computed."""
    price = profile.price
    if price is None:
        return _computing_cost(profile, seconds)
    tier = price.at(usage.prompt_tokens)
    return None if tier is None else _token_cost(price, tier, usage)


def _computing_cost(profile: Profile, seconds: float) -> Decimal | None:
    if profile.usd_per_hour is None:
        return None
    with localcontext(_CONTEXT):
        return _booked(_decimal(profile.usd_per_hour) * _decimal(max(seconds, 0.0)) / 3600)


def _token_cost(price: PriceTable, tier: Tier, usage: Usage) -> Decimal:
    cached_price = tier.input if tier.cached_input is None else tier.cached_input
    with localcontext(_CONTEXT):
        tokens = (
            (usage.prompt_tokens - usage.cached_tokens) * _decimal(tier.input)
            + usage.cached_tokens * _decimal(cached_price)
            + usage.completion_tokens * _decimal(tier.output)
        )
        return _booked(tokens / _MILLION + _decimal(price.per_request))


def _booked(usd: Decimal) -> Decimal:
    """To the billionth; nothing is plainly 0, not `0E-9`."""
    return usd.quantize(_QUANTUM) or Decimal(0)


def reserved_cost(profile: Profile, found: Estimate, max_tokens: int | None, *, choices: int = 1) -> Decimal:
    """USD to set aside before a call: the prompt, and the most it may answer.

    Without a limit on the answer, so many tokens are set aside as 99 % of such answers are taken to stay
    below, four times the mean at the least, as far as the model can answer. Nothing is set aside for a model
    of unknown price.
    """
    if max_tokens is not None:
        most = float(max_tokens)
    else:
        most = max(TIMES * found.tokens_out, found.tokens_within(SURE), LEAST_TOKENS)
    if max_tokens is None and profile.max_output is not None:
        most = min(most, profile.max_output)
    most *= choices
    # A count of ours can be below the provider's; what is set aside must not be.
    prompt = math.ceil(found.tokens_in * 1.02) + 8
    price = profile.price
    if price is None:
        longer = max(most / found.tokens_out, 1.0) if found.tokens_out > 0 else 1.0
        seconds = found.first + found.decode * longer
        return _computing_cost(profile, seconds * 2) or Decimal(0)
    usages = [Usage(prompt, math.ceil(most), cached) for cached in (0, prompt)]
    # A longer prompt or a cached one is not always the cheaper or the dearer one: the dearest case counts.
    costs = [
        _token_cost(price, tier, usage) for tier in price.tiers if tier.above <= prompt for usage in usages
    ]
    return max(costs, default=Decimal(0))


def feared_cost(
    profile: Profile, found: Estimate, reserved: Decimal, seconds: float, *, choices: int = 1
) -> Decimal:
    """USD that a budget is charged for an answer that nobody saw and a host may have written to its end.

    No more than nine in ten such answers cost, or all that was set aside if the forecast of their length
    stands on too few; and no more than the fastest host writes in so many seconds. A model that computes here
    sends no bill: nothing.
    """
    if profile.price is None:
        return Decimal(0)
    written = max(seconds - SILENT, 0.0) * FASTEST
    within = found.tokens_within(FEARED) if found.seen >= MEASURED_AFTER else math.inf
    tokens = math.ceil(min(within, written) * choices)
    usage = Usage(math.ceil(found.tokens_in), tokens)
    return min(booked_cost(profile, usage, 0.0) or Decimal(0), reserved)


def generated_by(found: Estimate, seconds: float) -> int:
    """Tokens that a model is likely to have generated so many seconds after it began.

    For an answer in one piece that was called off, such as the loser's of a hedge: it may have been all but
    there, and hosts bill what was generated.
    """
    decoding = seconds - found.first
    share = decoding / found.decode if found.decode > 0 else float(decoding > 0)
    return round(found.tokens_out * min(max(share, 0.0), 1.0))


def _decimal(value: float) -> Decimal:
    """A price as it was written: 0.1 is a tenth."""
    return Decimal(str(value))
