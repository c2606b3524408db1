"""Choosers are compared on the same fate, and knowing everything beats them all."""

from __future__ import annotations

import pytest

from router import Policy, Recovery, RoutingOptions
from router.simulate import BASELINES, CHOOSERS, Drift, Outages, compare, run
from router.simulate.hosts import Job
from router.simulate.world import World
from tests.simulate.making import backend, mixed, simulated, task, three, workload


def test_all_choosers_are_given_the_same_requests_with_the_same_fate() -> None:
    work = mixed(200)
    one, other = list(work.demands("7")), list(work.demands("7"))
    for first, second in zip(one, other, strict=True):
        assert (first.at, first.prompt_tokens, first.first) == (second.at, second.prompt_tokens, second.first)
        assert first.fate(2, "7") == second.fate(2, "7")
        assert first.fate(1, "7") != first.fate(2, "7")


def test_a_request_takes_as_long_whoever_sends_it() -> None:
    """With one backend there is nothing to choose, so all choosers end up with one and the same report."""
    only = three()[:1]
    reports = [run(mixed(200), only, seed=5, chooser=chooser) for chooser in CHOOSERS]
    for report in reports[1:]:
        assert (report.cost, report.latency, report.ttft) == (
            reports[0].cost,
            reports[0].latency,
            reports[0].ttft,
        )


def test_what_a_backend_does_does_not_depend_on_the_others() -> None:
    demand = next(mixed().demands("1"))
    served = []
    for backends in (three(), three()[1:]):
        world = World(backends, Policy(), Recovery(), "1", "random")
        (host,) = (host for host in world.hosts if host.truth.backend.name == "middle")
        served.append(host.truth.serve(demand, demand.fate(0, "1"), 0.0))
    assert served[0] == served[1]


def test_knowing_everything_is_no_worse_than_anybody() -> None:
    changing = (*three()[:2], three(latency_over_time=(Drift(factor=4.0, start=60.0, over=30.0),))[2])
    found = compare(mixed(800), changing, Policy(value_of_time=0.001), seeds=(1, 2))
    for chooser in ("router", *BASELINES):
        assert found.regret(chooser) > -0.02, chooser
    assert "objective above the all-knowing chooser's: router" in str(found)


def test_knowing_everything_counts_the_queue() -> None:
    from router.simulate import AtOnce

    work = workload(arrivals=AtOnce(), requests=6)
    cheap, dear = backend("cheap", 1.0, 1.0, slots=1), backend("dear", 1.1, 1.1, slots=1)
    report = simulated(cheap, dear, work=work, chooser="all-knowing")
    assert report.shares == {"cheap": 0.5, "dear": 0.5}


def test_knowing_everything_avoids_a_host_that_is_out() -> None:
    out = backend("out", 0.1, 0.1, outages=Outages(kind="silent", at=((0.0, 1e6),)))
    report = simulated(out, backend("sound"), chooser="all-knowing")
    assert report.shares["sound"] == 1.0
    assert report.attempts == 1.0


def test_knowing_everything_puts_a_deadline_first() -> None:
    hurried = task(output_sigma=0.5, options=RoutingOptions(deadline=2.0))
    slow, fast = backend("slow", 0.1, 0.1, decode=70.0), backend("fast", 5.0, 5.0, decode=400.0)
    report = simulated(slow, fast, work=workload(hurried, requests=200), chooser="all-knowing")
    assert (
        report.shares["fast"] >= 0.99
    )  # while nothing is measured, the deadline is shared with the next one
    assert report.in_time == 1.0


def test_knowing_everything_is_as_sure_of_a_deadline_as_the_policy_asks() -> None:
    hurried = task(options=RoutingOptions(deadline=1.6))  # in time with a probability of two thirds
    work = workload(hurried, requests=100)
    hosts = backend("cheap", 0.1, 0.1, noise=0.2), backend("dear", 5.0, 5.0, decode=400.0)
    for confidence, name in ((0.5, "cheap"), (0.95, "dear")):
        policy = Policy(value_of_time=0.0, confidence=confidence, explore=0.0)
        report = simulated(*hosts, work=work, policy=policy, chooser="all-knowing", seed=1)
        assert report.in_time == 1.0
        # Whoever asks the cheap one first leaves it at the last moment at which the dear one can make it.
        assert ("cheap" if report.attempts > 1.5 else "dear") == name


def test_the_probability_to_be_in_time_is_the_true_one() -> None:
    hurried = task(output_sigma=0.6, max_tokens=400, options=RoutingOptions(deadline=2.0))
    world = World((backend(noise=0.3),), Policy(), Recovery(), "1", "all-knowing")
    truth = world.hosts[0].truth
    demands = list(workload(hurried, requests=8000).demands("1"))
    took = [truth.serve(demand, demand.first, 0.0).total for demand in demands]
    found = truth.expected(demands[0], 0.0)
    in_time = truth.in_time(demands[0], found, 2.0)
    assert in_time == pytest.approx(sum(time <= 2.0 for time in took) / len(took), abs=0.015)
    assert found.latency == pytest.approx(sum(took) / len(took), rel=0.02)


def test_round_robin_goes_round() -> None:
    hosts = (backend("a"), backend("b"), backend("c"))
    report = simulated(*hosts, work=workload(requests=9), chooser="round robin")
    assert set(report.shares.values()) == {1 / 3}
    assert report.switches == 1.0


def test_cheapest_goes_by_the_list_price_alone() -> None:
    report = simulated(backend("dear", 1.0, 9.0), backend("cheap", 3.0, 4.0), chooser="cheapest")
    assert report.shares["cheap"] == 1.0


def test_least_busy_spreads_what_arrives_at_once() -> None:
    from router.simulate import AtOnce

    work = workload(arrivals=AtOnce(), requests=30)
    report = simulated(backend("a"), backend("b"), backend("c"), work=work, chooser="least busy")
    assert report.shares == {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}


def test_lowest_latency_tries_the_unseen_and_then_stays_with_the_fastest() -> None:
    hosts = (backend("slow", decode=20.0), backend("fast", 9.0, 9.0), backend("slower", decode=10.0))
    report = simulated(*hosts, work=workload(every=20.0, requests=30), chooser="lowest latency")
    assert report.shares == {"slow": 1 / 30, "fast": 28 / 30, "slower": 1 / 30}


def test_only_the_router_explores() -> None:
    policy = Policy(explore=0.5)
    assert run(mixed(200), three(), policy).explored > 0
    assert run(mixed(200), three(), policy, chooser="random").explored == 0


def test_a_job_that_was_cancelled_frees_its_place_for_the_next() -> None:
    class Caller:
        told: tuple[str, ...] = ()

        def begun(self, job: Job) -> None:
            self.told += (f"begun {job.number}",)

        def visible(self, job: Job) -> None:
            raise AssertionError

        def finished(self, job: Job) -> None:
            self.told += (f"finished {job.number}",)

        def failed(self, job: Job, error: Exception) -> None:
            raise AssertionError(error)

        silent = visible

    world = World((backend(slots=1),), Policy(), Recovery(), "1", "router")
    (host,), caller = world.hosts, Caller()
    demand = next(workload().demands("1"))
    jobs = [Job(caller, number, demand, demand.first) for number in range(3)]
    for job in jobs:
        host.submit(job)
    assert (len(host.running), host.waiting) == (1, 2)
    host.cancel(jobs[1])
    host.cancel(jobs[0])
    assert (len(host.running), host.waiting) == (1, 0)
    world.run(iter(()), float("inf"))
    assert caller.told[-1] == "finished 2"
    assert host.queued_seconds == 0.0
