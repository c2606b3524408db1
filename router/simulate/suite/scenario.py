"""What a scenario is, and hosts that several of them share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from router.config import Policy, Recovery
from router.models import HostedModel, Price
from router.simulate.backends import Backend
from router.simulate.workload import Task, Workload

__all__ = ["CHAT", "Scenario", "ScenarioKind", "four_hosts", "host"]

ScenarioKind = Literal[
    "steady", "drifting", "diurnal", "bursts", "outages", "flood", "deadline", "conversations"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A workload on backends under a policy.

    Attributes:
        name: What it is called.
        kind: What it is an example of.
        about: One sentence for people.
    """

    name: str
    kind: ScenarioKind
    about: str
    workload: Workload
    backends: tuple[Backend, ...]
    policy: Policy = field(default_factory=lambda: Policy(value_of_time=0.001))
    recovery: Recovery = field(default_factory=lambda: Recovery(attempt_timeout=60, ttft_timeout=20))


def host(
    name: str,
    price: tuple[float, float],
    quality: float | Mapping[str, float] = 0.8,
    *,
    cached: float | None = None,
    **behaviour: object,
) -> Backend:
    """A hosted model at USD per million tokens in and out, `cached` for cached ones, and how it behaves."""
    model = _hosted(name, price, quality, cached)
    return Backend.parse({"model": model, **behaviour})


def _hosted(
    name: str,
    price: tuple[float, float],
    quality: float | Mapping[str, float] = 0.8,
    cached: float | None = None,
) -> HostedModel:
    return HostedModel(
        name,
        base_url=f"https://{name}.invalid/v1",
        price=Price(input=price[0], output=price[1], cached_input=cached),
        quality=quality,
    )


def four_hosts(
    *, swift_price: tuple[float, float] = (1.8, 6.0), **changed: Mapping[str, object]
) -> tuple[Backend, ...]:
    """Four hosts with a trade-off between price and speed; what is different about one, by its name."""
    usual: tuple[tuple[str, tuple[float, float], dict[str, object]], ...] = (
        ("thrifty", (0.1, 0.3), {"ttft": 0.8, "decode": 40}),
        ("balanced", (0.4, 1.2), {"ttft": 0.4, "decode": 100}),
        ("swift", swift_price, {"ttft": 0.2, "decode": 240}),
        ("premium", (3.0, 15.0), {"ttft": 0.9, "decode": 70}),
    )
    return tuple(
        Backend.parse({"model": _hosted(name, price), **behaviour, **changed.get(name, {})})
        for name, price, behaviour in usual
    )


CHAT = (
    Task(name="short", share=50, prompt_tokens=600, output_tokens=60),
    Task(name="long", share=30, prompt_tokens=1_500, output_tokens=350, stream=True),
    Task(name="read", share=20, prompt_tokens=6_000, output_tokens=80),
)
