"""Simulates a router's traffic: what it would cost, how long it would take, which model would get what.

The real policy, health, limits, retries and learning run on a simulated clock; the backends are made up::

    from router import HostedModel, LocalModel, Policy, Price
    from router.simulate import Backend, Poisson, Task, Workload, run

    own = LocalModel("own", path="own.gguf", usd_per_hour=0.4)
    small = HostedModel("small", base_url="http://small.invalid/v1", price=Price(input=0.1, output=0.3))
    large = HostedModel("large", base_url="http://large.invalid/v1", price=Price(input=2, output=8))
    report = run(
        Workload(tasks=[Task(name="chat")], arrivals=Poisson(rate=2.0), requests=10_000),
        [
            Backend(model=own, ttft=0.05, decode=120, slots=2, load=8),
            Backend(model=small, ttft=0.3, decode=80),
            Backend(model=large, ttft=0.6, decode=50),
        ],
        Policy(value_of_time=0.001),
    )
    print(report)

Models, prices and the policy are those that a `Router` would be given; a model's file or key need not be
there. How a backend behaves is the truth that the router has to find out: seconds, tokens per second,
requests per second. `Recorded` asks what a ledger recorded, `compare` runs other choosers on the same
requests. It calls nothing, opens no socket and loads no model; one seed gives one report.

::

    workload, recorded   what is asked          demand      one request and its fate
    arrivals             when                   processes   what changes over time
    backends             declared behaviour     truth       behaviour at a moment
    hosts                queues and outages     passage     the way of one request
    choosers, knowing    who orders             world       time, and everything together
    tally, report        what came of it        comparing   several choosers, several seeds
    suite                named scenarios
"""

from __future__ import annotations

from router.simulate.arrivals import Arrivals, AtOnce, Poisson, Regular
from router.simulate.backends import Backend, PromptCache
from router.simulate.choosers import BASELINES, CHOOSERS
from router.simulate.comparing import Comparison, compare
from router.simulate.demand import Demands
from router.simulate.histogram import Percentiles
from router.simulate.processes import Bursts, Diurnal, Drift, Outages, Process, Steady
from router.simulate.recorded import Recorded
from router.simulate.report import Report, side_by_side
from router.simulate.suite import Scenario, suite
from router.simulate.workload import Conversation, Task, Workload
from router.simulate.world import run

__all__ = [
    "BASELINES",
    "CHOOSERS",
    "Arrivals",
    "AtOnce",
    "Backend",
    "Bursts",
    "Comparison",
    "Conversation",
    "Demands",
    "Diurnal",
    "Drift",
    "Outages",
    "Percentiles",
    "Poisson",
    "Process",
    "PromptCache",
    "Recorded",
    "Regular",
    "Report",
    "Scenario",
    "Steady",
    "Task",
    "Workload",
    "compare",
    "run",
    "side_by_side",
    "suite",
]
