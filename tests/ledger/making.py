"""Decisions to record, money to reserve, a wall clock to set, and real child processes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from concurrent.futures import Future
from decimal import Decimal
from pathlib import Path
from typing import Any

from router.decision import Attempt, Candidate, Decision, Features
from router.errors import ModelError
from router.ledger import Ledger, Refusal

NOON = 1_760_097_600.0  # 10 October 2025, UTC


class Wall:
    """A wall clock that stands until it is set."""

    def __init__(self, at: float = NOON) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


def candidate(model: str = "a", **fields: Any) -> Candidate:
    usual: dict[str, Any] = {"cost": 0.1, "ttft": 0.2, "latency": 0.3, "quality": 0.4, "utility": -0.1}
    return Candidate(model=model, **usual | fields)


def attempt(
    model: str = "a", cost: str | None = "0.001", error: ModelError | None = None, **fields: Any
) -> Attempt:
    usual: dict[str, Any] = {
        "outcome": "succeeded" if error is None else "failed",
        "ttft": 0.1,
        "duration": 0.5,
        "prompt_tokens": 11,
        "completion_tokens": 7,
        "cached_tokens": 3,
        "cost_source": "usage",
    }
    money = None if cost is None else Decimal(cost)
    return Attempt(model=model, cost=money, error=error, **usual | fields)


def decision(
    name: object = "d",
    *attempts: Attempt,
    ranking: tuple[Candidate, ...] = (),
    features: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Decision:
    given: dict[str, Any] = {"prompt_tokens": 10, "expected_output_tokens": 20.5, **(features or {})}
    usual: dict[str, Any] = {"model": "a", "cost": Decimal("0.001"), "reason": "the cheapest", "at": NOON}
    return Decision(
        id=str(name),
        attempts=attempts or (attempt(),),
        features=Features(**given),
        _ranking=ranking or (candidate(),),
        **usual | fields,
    )


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A real Python process that runs the code; `sys.argv[1:]` are the arguments."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(code: str, *arguments: object) -> str:
    """What such a process prints; it must end well."""
    with start(code, *arguments) as process:
        try:
            out, err = process.communicate(timeout=60)
        except BaseException:
            process.kill()
            raise
    assert process.returncode == 0, err
    return out


def wait_until(true: Any, seconds: float = 20.0) -> None:
    """Waits for what another thread or process does."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def reserve(ledger: Ledger, key: str, usd: str, model: str = "a", task: str | None = None) -> Refusal | None:
    answer: Future[Refusal | None] = Future()
    ledger.reserve(key, model, task, Decimal(usd), answer.set_result)
    return answer.result(20)


def settle(ledger: Ledger, key: str, usd: str | None) -> bool:
    answer: Future[bool] = Future()
    ledger.settle(key, None if usd is None else Decimal(usd), answer.set_result)
    return answer.result(20)
