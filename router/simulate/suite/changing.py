"""Scenarios in which backends change."""

from __future__ import annotations

from router.config import Policy
from router.simulate.arrivals import Poisson
from router.simulate.processes import Diurnal, Drift
from router.simulate.suite.scenario import CHAT, Scenario, four_hosts
from router.simulate.workload import Workload

__all__ = ["answers_grow", "day_and_night", "host_slows_down", "slow_and_back", "slow_under_a_limit"]


def host_slows_down(requests: int) -> Scenario:
    """A latency that grows slowly."""
    rate = 4.0
    span = requests / rate
    return Scenario(
        name="host slows down",
        kind="drifting",
        about="the best host's latency doubles over a third of the run",
        workload=Workload(tasks=CHAT, arrivals=Poisson(rate=rate), requests=requests),
        backends=four_hosts(
            balanced={"latency_over_time": [Drift(factor=2.5, start=span / 3, over=span / 3)]}
        ),
    )


def answers_grow(requests: int) -> Scenario:
    """Prices stay, answers do not."""
    rate = 4.0
    span = requests / rate
    return Scenario(
        name="answers grow",
        kind="drifting",
        about="the best host keeps its prices while its answers get three times as long",
        workload=Workload(tasks=CHAT, arrivals=Poisson(rate=rate), requests=requests),
        backends=four_hosts(
            balanced={"output_over_time": [Drift(factor=3.0, start=span / 4, over=span / 3)]}
        ),
    )


def slow_and_back(requests: int) -> Scenario:
    """A latency that jumps, and back."""
    rate = 4.0
    span = requests / rate
    return Scenario(
        name="slow and back",
        kind="drifting",
        about="the best host becomes six times slower within seconds, and recovers later",
        workload=Workload(tasks=CHAT, arrivals=Poisson(rate=rate), requests=requests),
        backends=four_hosts(
            balanced={
                "latency_over_time": [
                    Drift(factor=6.0, start=span * 0.3, over=20),
                    Drift(factor=1 / 6, start=span * 0.5, over=20),
                ]
            }
        ),
    )


def slow_under_a_limit(requests: int) -> Scenario:
    """A spell of slowness that must not shut a model out for longer than it lasts."""
    rate = 4.0
    return Scenario(
        name="slow under a limit",
        kind="drifting",
        about="the best host is six times slower for a minute, under a policy with max_latency=6",
        workload=Workload(tasks=CHAT[:1], arrivals=Poisson(rate=rate), requests=requests),
        backends=four_hosts(
            balanced={
                "latency_over_time": [
                    Drift(factor=6.0, start=requests / rate * 0.3, over=1),
                    Drift(factor=1 / 6, start=requests / rate * 0.3 + 60, over=1),
                ]
            }
        ),
        policy=Policy(value_of_time=0.001, max_latency=6.0),
    )


def day_and_night(requests: int) -> Scenario:
    """What goes up and down."""
    rate = 4.0
    day = requests / rate / 3
    return Scenario(
        name="day and night",
        kind="diurnal",
        about="three days; traffic and two hosts' latencies go up and down, at different hours",
        workload=Workload(
            tasks=CHAT,
            arrivals=Poisson(rate=rate, over_time=(Diurnal(amplitude=0.7, period=day),)),
            requests=requests,
        ),
        backends=four_hosts(
            balanced={"latency_over_time": [Diurnal(amplitude=0.6, period=day)]},
            swift={"latency_over_time": [Diurnal(amplitude=0.5, period=day, peak=day / 2)]},
        ),
    )
