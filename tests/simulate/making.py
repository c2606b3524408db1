"""Small worlds whose figures can be worked out by hand."""

from __future__ import annotations

from typing import Any

from router import HostedModel, Policy, Price, Recovery
from router.simulate import Arrivals, Backend, Poisson, Regular, Report, Task, Workload, run

PATIENT = Recovery(attempt_timeout=1e6, ttft_timeout=1e6)


def hosted(name: str, usd_in: float = 1.0, usd_out: float = 1.0, **fields: Any) -> HostedModel:
    """A hosted model at USD per million tokens."""
    fields.setdefault("price", Price(input=usd_in, output=usd_out))
    return HostedModel(name, base_url=f"http://{name}.invalid/v1", **fields)


def backend(name: str = "a", usd_in: float = 1.0, usd_out: float = 1.0, **behaviour: Any) -> Backend:
    """A backend without noise: 0.5 s to the first token, nothing for the prompt, 100 tokens a second."""
    usual = {"ttft": 0.5, "prefill": 1e9, "decode": 100.0, "noise": 0.0}
    return Backend.parse({"model": hosted(name, usd_in, usd_out), **usual, **behaviour})


def task(name: str = "chat", **fields: Any) -> Task:
    """Requests that are all alike: 1,000 tokens in, 100 out."""
    usual = {"prompt_tokens": 1000.0, "prompt_sigma": 0.0, "output_tokens": 100.0, "output_sigma": 0.0}
    return Task.parse({"name": name, **usual, **fields})


def workload(
    *tasks: Task, every: float = 10.0, requests: int = 10, arrivals: Arrivals | None = None
) -> Workload:
    """Requests in equal distances, unless they arrive otherwise."""
    return Workload(tasks=tasks or (task(),), arrivals=arrivals or Regular(every=every), requests=requests)


def simulated(*backends: Backend, work: Workload | None = None, **fields: Any) -> Report:
    """A run without exploration, unless a policy is given."""
    fields.setdefault("policy", Policy(explore=0.0))
    return run(work or workload(), backends or (backend(),), **fields)


def mixed(requests: int = 600, rate: float = 2.0) -> Workload:
    """Two tasks with everything random."""
    return Workload(
        tasks=(Task(name="short", output_tokens=40.0), Task(name="long", output_tokens=400.0, stream=True)),
        arrivals=Poisson(rate=rate),
        requests=requests,
    )


def three(**fields: Any) -> tuple[Backend, ...]:
    """A slow cheap backend, one in between, a fast dear one; with noise."""
    return (
        Backend.parse({"model": hosted("thrifty", 0.1, 0.3), "ttft": 0.9, "decode": 40.0, **fields}),
        Backend.parse({"model": hosted("middle", 0.4, 1.2), "ttft": 0.4, "decode": 100.0, **fields}),
        Backend.parse({"model": hosted("swift", 1.8, 6.0), "ttft": 0.2, "decode": 240.0, **fields}),
    )
