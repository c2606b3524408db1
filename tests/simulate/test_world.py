"""Small worlds come out as worked out by hand."""

from __future__ import annotations

import statistics
from typing import Any

import pytest

from router import LocalModel, Policy, Recovery, RoutingOptions
from router.simulate import (
    AtOnce,
    Backend,
    Conversation,
    Drift,
    Outages,
    Poisson,
    PromptCache,
    Regular,
    run,
)
from router.simulate.suite import Scenario, suite
from router.simulate.world import World
from tests.simulate.making import PATIENT, backend, hosted, mixed, simulated, task, three, workload


def test_cost_and_time_of_a_quiet_host_are_those_of_its_declaration() -> None:
    report = simulated(backend("a", 2.0, 8.0), policy=Policy(value_of_time=0.001, explore=0.0))
    assert report.answered == report.requests == 10
    assert report.cost == pytest.approx(10 * (1000 * 2 + 100 * 8) / 1e6)
    assert report.latency.mean == pytest.approx(0.5 + 100 / 100)
    assert report.latency.p99 == pytest.approx(1.5, rel=0.01)
    assert report.objective == pytest.approx(0.0028 + 0.001 * 1.5)
    assert report.attempts == 1.0
    assert report.shares == {"a": 1.0}
    assert report.seconds == pytest.approx(90 + 1.5)


def test_a_stream_shows_its_first_token_before_its_end() -> None:
    report = simulated(work=workload(task(stream=True)))
    assert report.ttft.mean == pytest.approx(0.5, abs=1e-5)
    assert report.latency.mean == pytest.approx(1.5)


def test_an_answer_in_one_piece_has_its_first_token_at_its_end() -> None:
    assert simulated().ttft.mean == pytest.approx(1.5)


def test_reading_a_prompt_takes_its_time_and_is_counted_as_the_host_counts() -> None:
    report = simulated(backend("a", 10.0, 0.0, prefill=500.0, token_ratio=1.5))
    assert report.latency.mean == pytest.approx(0.5 + 1500 / 500 + 1.0)
    assert report.mean_cost == pytest.approx(1500 * 10 / 1e6)


def test_the_callers_limit_and_the_hosts_verbosity_bound_the_answer() -> None:
    wordy = simulated(backend("a", 0.0, 10.0, verbosity=3.0))
    assert wordy.mean_cost == pytest.approx(300 * 10 / 1e6)
    limited = simulated(backend("a", 0.0, 10.0, verbosity=3.0), work=workload(task(max_tokens=120)))
    assert limited.mean_cost == pytest.approx(120 * 10 / 1e6)


def test_one_place_serves_in_the_order_of_arrival() -> None:
    report = simulated(backend(slots=1), work=workload(arrivals=AtOnce(), requests=4), recovery=PATIENT)
    assert report.latency.mean == pytest.approx(statistics.fmean((1.5, 3.0, 4.5, 6.0)))
    assert report.seconds == pytest.approx(6.0)


def test_two_places_serve_two_at_once() -> None:
    report = simulated(backend(slots=2), work=workload(arrivals=AtOnce(), requests=4), recovery=PATIENT)
    assert report.latency.mean == pytest.approx(statistics.fmean((1.5, 1.5, 3.0, 3.0)))


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_waiting_before_one_place_is_that_of_queueing_theory(load: float) -> None:
    """M/D/1, Pollaczek and Khinchine: the mean wait is load × service ÷ (2 × (1 − load))."""
    service = 1.5
    work = workload(arrivals=Poisson(rate=load / service), requests=10_000)
    report = simulated(backend(slots=1), work=work, recovery=PATIENT)
    expected = service + load * service / (2 * (1 - load))
    assert report.latency.mean == pytest.approx(expected, rel=0.08)


def test_a_latency_that_drifts_is_felt() -> None:
    slower = backend(latency_over_time=(Drift(factor=2.0, start=45.0),))
    report = simulated(slower)
    assert report.latency.mean == pytest.approx(statistics.fmean([1.5] * 5 + [3.0] * 5))


def test_noise_changes_no_mean() -> None:
    report = simulated(backend(noise=0.6), work=workload(requests=8_000))
    assert report.latency.mean == pytest.approx(1.5, rel=0.03)
    assert report.latency.p95 > 2.5


def test_log_normal_lengths_have_the_mean_that_was_declared() -> None:
    report = simulated(backend("a", 0.0, 1e4), work=workload(task(output_sigma=0.8), requests=8_000))
    assert report.mean_cost == pytest.approx(1.0, rel=0.04)


def test_a_host_that_fails_costs_time_but_no_answer() -> None:
    flaky = backend("flaky", 0.1, 0.1, failure=1.0, failure_after=0.25)
    report = simulated(flaky, backend("sound"), recovery=Recovery(failure_threshold=1000))
    assert report.answered == report.requests
    assert report.shares["sound"] == 1.0
    assert report.latency.mean <= 1.75 + 1e-9
    assert report.attempts > 1.0


def test_breakers_spare_most_requests_a_host_that_is_out() -> None:
    for kind in ("refuses", "silent"):
        out = backend("out", 0.1, 0.1, outages=Outages.parse({"kind": kind, "at": [(0.0, 1e6)]}))
        report = simulated(
            out,
            backend("sound"),
            work=workload(every=1.0, requests=400),
            recovery=Recovery(attempt_timeout=5, cooldown=60),
        )
        assert report.answered == report.requests, kind
        assert report.attempts < 1.1, kind


def test_a_hedge_answers_for_a_host_that_has_fallen_silent() -> None:
    hole = backend("hole", 0.1, 0.1, outages=Outages(kind="silent", at=((45.0, 1000.0),)))
    report = simulated(
        hole,
        backend("sound"),
        policy=Policy(hedge=True, explore=0.0),
        recovery=Recovery(attempt_timeout=60, retry_share=1.0),
    )
    assert report.answered == report.requests
    assert report.attempts > 1.0
    assert report.latency.p99 < 10.0


def test_when_all_hosts_are_out_every_request_is_told_so_and_none_hangs() -> None:
    out = Outages(kind="silent", at=((0.0, 1e6),))
    report = simulated(
        backend("a", outages=out), backend("b", outages=out), recovery=Recovery(attempt_timeout=5)
    )
    assert report.answered == 0
    assert sum(report.lost.values()) == report.requests
    assert report.objective > 0


def test_what_a_black_hole_swallows_in_the_middle_is_answered_by_another() -> None:
    hole = backend("hole", 0.1, 0.1, outages=Outages(kind="silent", at=((31.0, 5.0),)))
    report = simulated(hole, backend("sound"), recovery=Recovery(attempt_timeout=10))
    assert report.answered == report.requests
    assert report.latency.p99 <= 10 + 1.5, "and given up before its time-out, if it is known well enough"


def test_a_stream_that_breaks_is_lost_and_said_to_be() -> None:
    breaking = backend(failure=1.0, failure_after=0.9)
    report = simulated(breaking, work=workload(task(stream=True), requests=2))
    assert report.lost == {"interrupted": 2}


def test_a_stream_that_falls_silent_is_given_up_at_last() -> None:
    silent = backend(outages=Outages(kind="silent", at=((1.0, 1000.0),)))
    report = simulated(
        silent, work=workload(task(stream=True), requests=1), recovery=Recovery(ttft_timeout=7)
    )
    assert report.lost == {"interrupted": 1}
    assert report.seconds == pytest.approx(1.5 + 7)


@pytest.mark.parametrize("stream", [False, True])
def test_after_its_deadline_a_request_gets_nothing(stream: bool) -> None:
    late = task(stream=stream, options=RoutingOptions(deadline=1.2))
    report = simulated(work=workload(late))
    assert report.lost == {"deadline": 10}
    assert report.in_time == 0.0
    assert report.seconds == pytest.approx(90 + 1.2)


def test_a_deadline_that_is_kept_counts_as_in_time() -> None:
    report = simulated(work=workload(task(options=RoutingOptions(deadline=1.6))))
    assert report.in_time == 1.0


def test_what_waits_in_a_queue_is_taken_out_at_its_deadline() -> None:
    hurried = task(options=RoutingOptions(deadline=2.0))
    work = workload(hurried, arrivals=AtOnce(), requests=3)
    report = simulated(backend(slots=1), work=work, recovery=PATIENT)
    assert report.answered == 1
    assert report.seconds == pytest.approx(2.0)


def test_a_request_that_no_model_may_take_is_refused_and_costs_as_the_dearest() -> None:
    asked = task(options=RoutingOptions(min_quality=0.9))
    report = simulated(backend(), work=workload(asked), policy=Policy(value_of_time=0.001))
    assert report.lost == {"not eligible": 10}
    assert report.cost == 0
    assert report.objective == pytest.approx(0.0011 + 0.001 * 1.5)


def test_quality_is_weighed_in_the_objective() -> None:
    good = Backend.parse({**dict(backend("a")), "model": hosted("a", quality=0.9)})
    report = simulated(good, policy=Policy(value_of_time=0.0, value_of_quality=0.01))
    assert report.objective == pytest.approx(0.0011 - 0.009)


def test_a_rate_limit_that_the_model_declares_is_kept() -> None:
    limited = Backend.parse({**dict(backend()), "model": hosted("a", rpm=6)})
    report = simulated(limited, work=workload(every=1.0, requests=12))
    assert report.answered == 12
    assert report.seconds > 60


def engine(**behaviour: Any) -> Backend:
    """A model of this machine; its file is not there, and nobody looks for it."""
    model = LocalModel("engine", path="nowhere.gguf", usd_per_hour=3.6)
    usual = {"ttft": 0.5, "prefill": 1e9, "decode": 100.0, "noise": 0.0, "slots": 1}
    return Backend.parse({"model": model, **usual, **behaviour})


def test_a_local_model_loads_once_and_costs_its_seconds() -> None:
    report = simulated(engine(load=4.0))
    assert report.answered == report.requests
    assert report.latency.mean == pytest.approx(1.5 + 4.0 / 10)
    assert report.mean_cost == pytest.approx(0.001 * 1.5)


def test_a_preloaded_model_begins_at_once() -> None:
    model = LocalModel("engine", path="nowhere.gguf", preload=True)
    assert simulated(engine(load=4.0, model=model)).latency.p99 == pytest.approx(1.5, rel=0.01)


def test_the_queue_of_an_engine_sends_the_next_request_elsewhere() -> None:
    work = workload(arrivals=AtOnce(at=100.0, before=Regular(every=10.0)), requests=16)
    report = simulated(engine(), backend("host", 5.0, 5.0), work=work)
    assert report.shares["engine"] > 0.6
    assert report.shares["host"] > 0.1


def test_a_conversation_grows_and_its_cached_beginning_costs_less() -> None:
    talk = task(conversation=Conversation(turns=8.0, think=5.0, added=50.0))
    work = workload(talk, requests=400)
    plain = simulated(backend("a", 10.0, 0.0), work=work)
    assert plain.mean_cost > 1000 * 10 / 1e6 * 1.3
    model = hosted("a", price={"input": 10.0, "output": 0.0, "cached_input": 1.0})
    keeping = Backend.parse({**dict(backend()), "model": model, "cache": PromptCache()})
    assert simulated(keeping, work=work).mean_cost < 0.5 * plain.mean_cost


def test_the_router_stays_where_a_conversations_prompt_is_cached() -> None:
    talk = task(prompt_tokens=20_000.0, conversation=Conversation(turns=10.0, think=5.0))
    price = {"input": 1.0, "output": 1.0, "cached_input": 0.1}
    alike = [
        Backend.parse({"model": hosted(name, price=price), "cache": PromptCache(), "noise": 0.3})
        for name in ("a", "b", "c")
    ]
    router, anybody = (
        simulated(*alike, work=workload(talk, requests=300), chooser=chooser)
        for chooser in ("router", "random")
    )
    assert router.cost < 0.8 * anybody.cost


def test_the_same_seed_gives_the_same_report_and_another_one_another() -> None:
    reports = [run(mixed(), three(failure=0.05), seed=seed) for seed in (3, 3, 4)]
    assert reports[0] == reports[1]
    assert reports[0] != reports[2]


def test_a_simulation_leaves_pythons_own_random_numbers_alone() -> None:
    import random

    random.seed(11)
    expected = [random.random() for _ in range(3)]
    random.seed(11)
    found = [random.random()]
    run(mixed(50), three(failure=0.2))
    found += [random.random(), random.random()]
    assert found == expected


def test_nothing_is_kept_of_requests_that_are_over() -> None:
    import gc

    from router.live import LiveAttempt
    from router.simulate.passage import Passage

    world = World(three(failure=0.05), Policy(), Recovery(), "1", "router")
    most = []

    def count(_number: int) -> None:
        gc.collect()
        kinds = [type(thing) for thing in gc.get_objects()]
        most.append(kinds.count(Passage) + kinds.count(LiveAttempt))

    work = mixed(20_000, rate=0.5)
    world.run(work.demands("1"), float("inf"), count)
    assert len(most) == 2
    assert max(most) < 60
    gc.collect()
    assert not any(isinstance(thing, Passage) for thing in gc.get_objects())
    assert all(not host.running and not host.waiting for host in world.hosts)
    assert not world.core.traffic.flows


def test_until_ends_the_arrivals_and_not_what_is_under_way() -> None:
    report = simulated(work=workload(requests=1000), until=45.0)
    assert report.requests == report.answered == 5
    assert report.seconds == pytest.approx(41.5)


def test_progress_is_told_every_ten_thousand_requests() -> None:
    told: list[int] = []
    run(workload(every=0.1, requests=10_500), (backend(),), progress=told.append)
    assert told == [10_000]


@pytest.mark.parametrize("scenario", suite(requests=150).values(), ids=lambda scenario: scenario.name)
def test_every_scenario_of_the_suite_runs_to_its_end(scenario: Scenario) -> None:
    report = run(scenario.workload, scenario.backends, scenario.policy, recovery=scenario.recovery)
    assert report.requests == 150
    assert report.answered + sum(report.lost.values()) == 150
    assert report.answered >= 140
    printed = str(report)
    assert "latency, p95" in printed
    assert "nan" not in printed
