"""Named scenarios to measure a policy on.

Prices, speeds, lengths and qualities are made up for the simulation, in the range of what hosts offered in
2025; they are no provider's figures. In none of them is the cheapest or the fastest model the best for all.
"""

from __future__ import annotations

from collections.abc import Mapping

from router.simulate.suite.changing import (
    answers_grow,
    day_and_night,
    host_slows_down,
    slow_and_back,
    slow_under_a_limit,
)
from router.simulate.suite.scenario import Scenario
from router.simulate.suite.steady import kimi_migration, local_and_hosted, support_mix
from router.simulate.suite.strained import bursts, conversations, deadline, flood, outages

__all__ = ["Scenario", "suite"]


def suite(*, requests: int = 10_000) -> Mapping[str, Scenario]:
    """The scenarios by name, each of so many requests. What changes does so at the same share of the run."""
    makers = (
        support_mix,
        kimi_migration,
        local_and_hosted,
        host_slows_down,
        answers_grow,
        slow_and_back,
        slow_under_a_limit,
        day_and_night,
        bursts,
        outages,
        flood,
        deadline,
        conversations,
    )
    return {scenario.name: scenario for scenario in (make(requests) for make in makers)}
