"""Scenarios in which nothing changes."""

from __future__ import annotations

from router.config import Policy, RoutingOptions
from router.models import LocalModel
from router.simulate.arrivals import Poisson
from router.simulate.backends import Backend
from router.simulate.suite.scenario import Scenario, host
from router.simulate.workload import Task, Workload

__all__ = ["kimi_migration", "local_and_hosted", "support_mix"]


def support_mix(requests: int) -> Scenario:
    """As Airbnb tells it: more than ten models, mostly small and cheap; the premium ones where needed."""
    return Scenario(
        name="support mix",
        kind="steady",
        about="ten models, mostly small and cheap; each task goes where it is good enough",
        workload=Workload(tasks=_support_tasks(), arrivals=Poisson(rate=5), requests=requests),
        backends=_support_models(),
    )


def _support_models() -> tuple[Backend, ...]:
    def quality(classify: float, answer: float, refund: float, translate: float) -> dict[str, float]:
        return {"classify": classify, "answer": answer, "refund": refund, "translate": translate}

    return (
        host("qwen-4b", (0.03, 0.10), quality(0.84, 0.62, 0.30, 0.71), ttft=0.60, decode=60),
        host("qwen-8b", (0.06, 0.18), quality(0.88, 0.72, 0.42, 0.79), ttft=0.25, decode=130, noise=0.3),
        host("qwen-14b", (0.09, 0.28), quality(0.90, 0.82, 0.55, 0.83), ttft=0.45, decode=45, verbosity=0.9),
        host("qwen-30b-a3b", (0.12, 0.45), quality(0.92, 0.84, 0.66, 0.86), ttft=0.4, decode=120),
        host("qwen-72b", (0.35, 0.75), quality(0.94, 0.87, 0.74, 0.90), ttft=0.6, decode=45),
        host("qwen-235b", (0.25, 1.10), quality(0.95, 0.90, 0.86, 0.91), ttft=0.9, decode=38, verbosity=1.2),
        host("llama-70b", (0.70, 0.95), quality(0.93, 0.85, 0.70, 0.72), ttft=0.25, decode=260, noise=0.15),
        host("gpt-mini", (0.45, 1.80), quality(0.93, 0.86, 0.87, 0.88), ttft=0.5, decode=95),
        host("premium-a", (2.5, 10.0), quality(0.97, 0.95, 0.93, 0.95), ttft=0.8, decode=75),
        host("premium-b", (3.0, 15.0), quality(0.97, 0.95, 0.95, 0.94), ttft=1.1, decode=65, noise=0.3),
    )


def _support_tasks() -> tuple[Task, ...]:
    return (
        Task(
            name="classify",
            share=35,
            prompt_tokens=350,
            output_tokens=8,
            output_sigma=0.3,
            options=RoutingOptions(min_quality=0.8),
        ),
        Task(
            name="answer",
            share=40,
            prompt_tokens=1_200,
            output_tokens=180,
            options=RoutingOptions(min_quality=0.8),
            stream=True,
        ),
        Task(
            name="refund",
            share=15,
            prompt_tokens=2_600,
            output_tokens=420,
            output_sigma=0.7,
            options=RoutingOptions(min_quality=0.85),
        ),
        Task(
            name="translate",
            share=10,
            prompt_tokens=300,
            output_tokens=260,
            output_grows=1.0,
            output_sigma=0.15,
            options=RoutingOptions(min_quality=0.75),
        ),
    )


def kimi_migration(requests: int) -> Scenario:
    """As Chamath Palihapitiya tells it: the same work, on hosts that are way cheaper."""
    backends = (
        host("incumbent-a", (3.0, 15.0), 0.93, ttft=0.9, decode=80),
        host("incumbent-b", (2.0, 8.0), 0.92, ttft=0.5, decode=110),
        host("kimi-official", (0.60, 2.50), 0.91, ttft=0.9, decode=40, verbosity=0.95),
        host("kimi-turbo", (1.15, 8.00), 0.91, ttft=0.5, decode=200, verbosity=0.95),
        host("kimi-thrifty", (0.38, 1.55), 0.90, ttft=1.4, decode=22, noise=0.35, verbosity=0.95),
        host(
            "kimi-swift", (1.00, 3.00), 0.90, ttft=0.25, decode=150, noise=0.3, prefill=30_000, verbosity=0.95
        ),
    )
    tasks = (
        Task(name="extract", share=50, prompt_tokens=3_500, output_tokens=110),
        Task(name="classify", share=30, prompt_tokens=700, output_tokens=6, output_sigma=0.3),
        Task(
            name="reason", share=20, prompt_tokens=900, output_tokens=800, output_sigma=0.8, max_tokens=4_000
        ),
    )
    return Scenario(
        name="kimi migration",
        kind="steady",
        about="two dear incumbents and four hosts of one open model",
        workload=Workload(tasks=tasks, arrivals=Poisson(rate=3), requests=requests),
        backends=backends,
        policy=Policy(value_of_time=0.0005, min_quality=0.85),
    )


def local_and_hosted(requests: int) -> Scenario:
    """A model of this machine beside hosts: free of tokens, but with a queue."""
    engine = LocalModel("qwen3-4b", path="qwen3-4b.gguf", usd_per_hour=0.25, quality=0.75, preload=True)
    backends = (
        Backend(model=engine, ttft=0.03, prefill=2_500, decode=80, slots=2, load=6.0, noise=0.05),
        host("hosted-small", (0.15, 0.60), ttft=0.4, decode=75),
        host("hosted-fast", (1.60, 6.00), ttft=0.3, decode=190, slots=24),
        host("hosted-large", (2.0, 8.0), 0.93, ttft=0.7, decode=90),
    )
    tasks = (
        Task(name="chat", share=70, prompt_tokens=500, output_tokens=140, stream=True),
        Task(name="summarise", share=30, prompt_tokens=4_000, output_tokens=220, output_sigma=0.4),
    )
    return Scenario(
        name="local and hosted",
        kind="steady",
        about="a small engine of two places with a queue, beside three hosts; more work than it can take",
        workload=Workload(tasks=tasks, arrivals=Poisson(rate=1.5), requests=requests),
        backends=backends,
    )
