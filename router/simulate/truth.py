"""How a backend really behaves at a moment: what an attempt takes, and what is to be expected of one."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from router.learning.lognormal import below, capped, z_of
from router.profile import Profile
from router.simulate.backends import Backend
from router.simulate.demand import MOST_TOKENS, Demand, Fate
from router.simulate.processes import joined

__all__ = ["Expected", "Service", "Truth", "dollars"]

#: The middles of twenty equally likely slices of the standard normal distribution.
_MIDDLES = tuple(z_of((place + 0.5) / 20) for place in range(20))


class Service(NamedTuple):
    """What serving one attempt takes, from when the backend begins. Seconds and tokens.

    `fails_after` is None if it ends well.
    """

    ttft: float
    total: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    fails_after: float | None


@dataclass(frozen=True, slots=True)
class Expected:
    """What is to be expected of an attempt that begins now, by the true distributions.

    Attributes:
        cost: Mean USD.
        first: Mean seconds to the first token, without a wait.
        latency: Mean seconds to the end, without a wait.
        per_token: Mean seconds per output token.
        length: Mean output tokens before the limit.
        failure: The probability that it fails.
    """

    cost: float
    first: float
    latency: float
    per_token: float
    length: float
    failure: float


class Truth:
    """One backend's true behaviour in one world.

    Attributes:
        backend: Its declaration.
        profile: What is known of its model.
        max_output: The most output tokens of one answer.
    """

    def __init__(self, backend: Backend, seed: str) -> None:
        self.backend = backend
        self.profile = backend.profile()
        self.max_output = float(self.profile.max_output or MOST_TOKENS)
        seed = f"{seed}/{backend.name}"
        self._latency = joined(backend.latency_over_time, f"{seed}/latency")
        self._output = joined(backend.output_over_time, f"{seed}/output")
        self._failure = joined(backend.failure_over_time, f"{seed}/failure")
        outages = backend.outages
        self._out = outages.path(f"{seed}/outages") if outages.at or outages.every else None
        self._cached: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def out(self, now: float) -> str | None:
        """The kind of outage that it is in now; None if it is not."""
        return self.backend.outages.kind if self._out is not None and self._out(now) else None

    def serve(self, demand: Demand, fate: Fate, now: float) -> Service:
        """What an attempt takes that the backend begins with now."""
        backend = self.backend
        prompt = max(round(demand.prompt_tokens * backend.token_ratio), 1)
        cached = min(self._found(demand, fate, now), prompt)
        completion = max(min(round(fate.length * self._verbosity(now)), self._limit(demand)), 1)
        pace = self._pace(now)
        if backend.noise:
            pace *= math.exp(backend.noise * (fate.noise - 0.5 * backend.noise))
        ttft = (backend.ttft + (prompt - cached) / backend.prefill) * pace
        total = ttft + completion / backend.decode * pace
        fails = fate.luck < self._failing(now)
        return Service(
            ttft, total, prompt, cached, int(completion), min(backend.failure_after, total) if fails else None
        )

    def keep(self, session: str | None, prompt_tokens: int, now: float) -> None:
        """A prompt was read: the backend's cache holds it for a while."""
        cache = self.backend.cache
        if cache is None or session is None:
            return
        self._cached[session] = (now + cache.seconds, prompt_tokens)
        self._cached.move_to_end(session)
        while self._cached and next(iter(self._cached.values()))[0] <= now:
            self._cached.popitem(last=False)

    def _found(self, demand: Demand, fate: Fate, now: float) -> int:
        """Tokens of the prompt that the cache holds for this attempt."""
        cache = self.backend.cache
        if cache is None or demand.session is None or fate.cache_luck >= cache.hit:
            return 0
        return self._held(demand.session, now)

    def _held(self, session: str, now: float) -> int:
        until, tokens = self._cached.get(session, (0.0, 0))
        return tokens if now < until else 0

    def _limit(self, demand: Demand) -> float:
        limit = demand.kind.max_tokens
        return self.max_output if limit is None else min(limit, self.max_output)

    def _pace(self, now: float) -> float:
        return 1.0 if self._latency is None else self._latency(now)

    def _verbosity(self, now: float) -> float:
        verbosity = self.backend.verbosity
        return verbosity if self._output is None else verbosity * self._output(now)

    def _failing(self, now: float) -> float:
        rate = self.backend.failure
        return rate if self._failure is None else min(rate * self._failure(now), 1.0)

    def expected(self, demand: Demand, now: float) -> Expected:
        """What is to be expected of an attempt that begins now, before chance has decided anything."""
        backend = self.backend
        prompt = max(demand.prompt_tokens * backend.token_ratio, 1.0)
        cached = 0.0
        if backend.cache is not None and demand.session is not None:
            cached = backend.cache.hit * min(self._held(demand.session, now), prompt)
        length = demand.expected * self._verbosity(now)
        tokens = capped(length, demand.kind.sigma, self._limit(demand))
        pace = self._pace(now)
        first = (backend.ttft + (prompt - cached) / backend.prefill) * pace
        latency = first + tokens / backend.decode * pace
        cost = dollars(self.profile, prompt, cached, tokens, latency)
        return Expected(cost, first, latency, pace / backend.decode, length, self._failing(now))

    def in_time(self, demand: Demand, found: Expected, left: float) -> float:
        """The true probability that an attempt that begins now is answered within `left` seconds.

        An answer takes noise × (first + tokens × per_token): the sum over the middles of equally likely
        lengths of the noise's distribution function.
        """
        if left <= 0:
            return 0.0
        sigma, noise, limit = demand.kind.sigma, self.backend.noise, self._limit(demand)
        kept = 0.0
        for z in _MIDDLES:
            tokens = min(found.length * math.exp(sigma * (z - 0.5 * sigma)), limit)
            ratio = left / (found.first + tokens * found.per_token)
            kept += below(math.log(ratio) / noise + 0.5 * noise) if noise else float(ratio >= 1.0)
        return kept / len(_MIDDLES) * (1.0 - found.failure)


def dollars(profile: Profile, prompt: float, cached: float, completion: float, seconds: float) -> float:
    """USD of an answer, `cached` of the prompt's tokens among them; NaN if the price is unknown."""
    price = profile.price
    if price is None:
        return math.nan if profile.usd_per_hour is None else profile.usd_per_hour * seconds / 3600
    tier = price.at(prompt)
    if tier is None:
        return math.nan
    reading = tier.input if tier.cached_input is None else tier.cached_input
    tokens = (prompt - cached) * tier.input + cached * reading + completion * tier.output
    return tokens / 1e6 + price.per_request
