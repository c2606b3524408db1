"""What an attempt really cost, from its usage and the model's prices. Booked money is `Decimal`."""

from __future__ import annotations

import math
from decimal import Decimal

from router.objective import Estimate
from router.profile import Profile
from router.usage import Usage

__all__ = ["booked_cost", "reserved_cost"]

_MILLION = Decimal(1_000_000)
#: Booked money is kept to the billionth of a dollar.
_QUANTUM = Decimal("0.000000001")


def booked_cost(profile: Profile, usage: Usage, seconds: float) -> Decimal | None:
    """USD of an answer; None if the model's price is unknown. `seconds`: how long it computed."""
    if profile.price is None:
        if profile.usd_per_hour is None:
            return None
        return _exact(Decimal(str(profile.usd_per_hour)) * Decimal(str(max(seconds, 0.0))) / 3600)
    tier = profile.price.at(usage.prompt_tokens)
    if tier is None:
        return None
    cached_price = tier.input if tier.cached_input is None else tier.cached_input
    fresh = usage.prompt_tokens - usage.cached_tokens
    total = (
        fresh * Decimal(str(tier.input))
        + usage.cached_tokens * Decimal(str(cached_price))
        + usage.completion_tokens * Decimal(str(tier.output))
    ) / _MILLION
    return _exact(total + Decimal(str(profile.price.per_request)))


def reserved_cost(profile: Profile, found: Estimate, max_tokens: int | None) -> Decimal:
    """USD to set aside before a call: the prompt, and the most it may answer.

    Without a limit on the answer, four times the forecast is set aside, as far as the model can answer.
    """
    most = float(max_tokens) if max_tokens is not None else max(4 * found.tokens_out, 256.0)
    if max_tokens is None and profile.max_output is not None:
        most = min(most, profile.max_output)
    # A count of ours can be below the provider's; what is set aside must not be.
    prompt = math.ceil(found.tokens_in * 1.02) + 8
    usage = Usage(prompt_tokens=prompt, completion_tokens=math.ceil(most))
    return booked_cost(profile, usage, (found.latency - found.wait) * 2) or Decimal(0)


def _exact(usd: Decimal) -> Decimal:
    return usd.quantize(_QUANTUM)
