"""What a router that starts takes from its ledger, and what it leaves."""

from __future__ import annotations

from typing import Any

import pytest

from router import HostedModel, LocalModel, Price
from router.adapter import AdapterSettings
from router.fleet import Fleet
from router.ledger import PastAttempt
from router.remembering import MOST_EACH, remember

NOW, WALL = 1_000.0, 1_800_000_000.0


def past(model: str = "host", *, ago: float = 60.0, **fields: Any) -> PastAttempt:
    """An answer of 100 tokens in 2 s."""
    usual: dict[str, Any] = {
        "task": "chat",
        "at": WALL - ago,
        "counted_tokens": 200,
        "max_output_tokens": None,
        "choices": 1,
        "stream": False,
        "outcome": "succeeded",
        "ttft": None,
        "duration": 2.0,
        "waited": 0.0,
        "outstanding": 0,
        "prompt_tokens": 200,
        "completion_tokens": 100,
        "cached_tokens": 0,
        "cost_source": "usage",
        "error": None,
        "hedge": False,
    }
    return PastAttempt(model=model, **{**usual, **fields})


def fleet_after(*attempts: PastAttempt) -> Fleet:
    """A host at place 0 and an engine of this machine at place 1, which remember the attempts."""
    host = HostedModel("host", base_url="http://host.invalid/v1", price=Price(input=1, output=1))
    fleet = Fleet((host, LocalModel("engine", path="engine.gguf")), AdapterSettings())
    remember(fleet, attempts, now=NOW, wall=WALL)
    return fleet


def test_an_answer_of_an_earlier_run_counts_as_one() -> None:
    fleet = fleet_after(past(), past("engine"), past("gone"))
    assert fleet.learned.samples == [1, 1]


def test_a_failure_of_hours_ago_counts_less_than_one_of_just_now() -> None:
    broken: dict[str, Any] = {"outcome": "failed", "error": "ModelConnectionError", "duration": 0.5}
    fresh = fleet_after(past(ago=1.0, **broken)).learned
    old = fleet_after(past(ago=3_600.0, **broken)).learned
    for learned in (fresh, old):
        learned.refresh(NOW)
    assert fresh.failing[0] > 0.0
    assert old.failing[0] < 0.01 * fresh.failing[0]


def test_a_failure_that_was_the_requests_own_fault_blames_nobody() -> None:
    learned = fleet_after(past(outcome="failed", error="ContextWindowExceededError")).learned
    assert learned.failing[0] == 0.0


@pytest.mark.parametrize(("model", "place", "samples"), [("host", 0, 1), ("engine", 1, 0)])
def test_an_engine_whose_queue_is_not_known_teaches_no_speed(model: str, place: int, samples: int) -> None:
    assert fleet_after(past(model, waited=None)).learned.samples[place] == samples


def test_the_time_in_the_queue_is_no_part_of_an_engines_speed() -> None:
    queued = fleet_after(past("engine", duration=62.0, waited=60.0)).learned
    alone = fleet_after(past("engine")).learned
    assert queued.service[1] == pytest.approx(alone.service[1])


def test_of_each_model_and_task_the_newest_count() -> None:
    old = [past(completion_tokens=5_000) for _ in range(MOST_EACH)]
    new = [past(completion_tokens=50) for _ in range(MOST_EACH)]
    learned = fleet_after(*old, *new).learned
    assert learned.samples[0] == MOST_EACH
    assert learned.forecasts.outputs("chat").mean[0] == pytest.approx(50.0, rel=0.01)


def test_tokens_that_nobody_reported_teach_no_length() -> None:
    learned = fleet_after(past(completion_tokens=5_000, cost_source="estimate")).learned
    assert learned.forecasts.outputs("chat").seen == {}
    assert learned.samples[0] == 1


def test_a_clock_that_was_set_back_makes_no_future() -> None:
    broken = past(ago=-7_200.0, outcome="failed", error="ModelConnectionError", duration=0.5)
    learned = fleet_after(broken).learned
    before = learned.failing[0]
    learned.refresh(NOW + 3_600.0)
    assert learned.failing[0] < 0.01 * before
