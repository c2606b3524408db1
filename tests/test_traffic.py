"""What is under way at each model: counted from its start to its end, whatever order things are told in."""

from __future__ import annotations

import math
import random
import threading
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

from router.traffic import LEAST_LEFT, MOST_WORK, Flow, Ticket, Traffic


class TestCounts:
    def test_a_model_without_attempts_is_not_listed(self) -> None:
        traffic = Traffic()
        assert traffic.flows == {}
        traffic.end(traffic.start("a", 1.0, 0.0))
        assert traffic.flows == {}

    def test_an_attempt_counts_from_its_start(self) -> None:
        traffic = Traffic()
        ticket = traffic.start("a", 2.0, 5.0)
        flow = traffic.flows["a"]
        assert (flow.count, flow.running, flow.waiting, flow.since) == (1, 0, 2.0, 5.0)
        traffic.begin(ticket, 6.0)
        assert (flow.count, flow.running, flow.waiting, flow.since) == (1, 1, 0.0, 5.0)
        assert (ticket.begun_at, ticket.ahead) == (6.0, 0)

    def test_models_are_counted_apart(self) -> None:
        traffic = Traffic()
        traffic.start("a", 1.0, 0.0)
        traffic.start("b", 1.0, 0.0)
        traffic.start("b", 1.0, 0.0)
        assert {name: flow.count for name, flow in traffic.flows.items()} == {"a": 1, "b": 2}

    def test_an_attempt_knows_how_many_its_backend_was_at_work_on(self) -> None:
        traffic = Traffic()
        tickets = [traffic.start("a", 1.0, 0.0) for _ in range(4)]
        for ticket in tickets[:3]:
            traffic.begin(ticket, 1.0)
        traffic.end(tickets[0])
        traffic.begin(tickets[3], 2.0)
        assert [ticket.ahead for ticket in tickets] == [0, 1, 2, 2]

    def test_a_run_that_was_broken_begins_anew(self) -> None:
        traffic = Traffic()
        traffic.end(traffic.start("a", 1.0, 1.0))
        traffic.start("a", 1.0, 7.0)
        assert traffic.flows["a"].since == 7.0

    def test_a_run_lasts_as_long_as_somebody_is_there(self) -> None:
        traffic = Traffic()
        first = traffic.start("a", 1.0, 1.0)
        traffic.start("a", 1.0, 2.0)
        traffic.end(first)
        assert traffic.flows["a"].since == 1.0


class TestToldOddly:
    def test_a_beginning_told_twice_counts_once(self) -> None:
        traffic = Traffic()
        ticket = traffic.start("a", 1.0, 0.0)
        traffic.begin(ticket, 1.0)
        traffic.begin(ticket, 9.0)
        assert (traffic.flows["a"].count, ticket.begun_at, ticket.ahead) == (1, 1.0, 0)

    @pytest.mark.parametrize("begun", [True, False])
    def test_an_end_told_twice_counts_once(self, begun: bool) -> None:
        traffic = Traffic()
        ticket, other = traffic.start("a", 1.0, 0.0), traffic.start("a", 3.0, 0.0)
        if begun:
            traffic.begin(ticket, 0.0)
        traffic.end(ticket)
        traffic.end(ticket)
        assert (traffic.flows["a"].count, traffic.flows["a"].waiting) == (1, 3.0)
        traffic.end(other)
        traffic.end(other)
        assert traffic.flows == {}

    def test_a_beginning_after_the_end_counts_for_nothing(self) -> None:
        traffic = Traffic()
        ticket = traffic.start("a", 1.0, 0.0)
        traffic.start("a", 3.0, 0.0)
        traffic.end(ticket)
        traffic.begin(ticket, 1.0)
        assert (traffic.flows["a"].count, traffic.flows["a"].running) == (1, 0)
        assert traffic.flows["a"].left(1.0) == 3.0

    def test_what_was_never_started_changes_nothing(self) -> None:
        traffic, stranger = Traffic(), Ticket("a", 1.0)
        traffic.begin(stranger, 0.0)
        traffic.end(stranger)
        assert traffic.flows == {}
        traffic.start("a", 2.0, 0.0)
        traffic.begin(stranger, 0.0)
        traffic.end(stranger)
        assert (traffic.flows["a"].count, traffic.flows["a"].waiting) == (1, 2.0)

    def test_a_childs_traffic_knows_nothing_of_its_parents(self) -> None:
        traffic = Traffic()
        parents = traffic.start("a", 1.0, 0.0)
        traffic.after_fork()
        assert traffic.flows == {}
        traffic.start("a", 2.0, 0.0)
        traffic.end(parents)
        assert (traffic.flows["a"].count, traffic.flows["a"].waiting) == (1, 2.0)


class TestWorkLeft:
    def test_what_waits_is_all_left_and_what_runs_is_worked_off(self) -> None:
        traffic = Traffic()
        running = traffic.start("a", 10.0, 0.0)
        traffic.start("a", 4.0, 0.0)
        flow = traffic.flows["a"]
        assert flow.left(3.0) == 14.0
        traffic.begin(running, 3.0)
        assert flow.left(3.0) == 14.0
        assert flow.left(8.0) == 9.0

    def test_what_is_overdue_is_nearly_done(self) -> None:
        traffic = Traffic()
        traffic.begin(traffic.start("a", 10.0, 0.0), 0.0)
        assert traffic.flows["a"].left(1e9) == pytest.approx(LEAST_LEFT * 10.0)

    def test_a_clock_that_jumps_back_adds_no_work(self) -> None:
        traffic = Traffic()
        traffic.begin(traffic.start("a", 10.0, 100.0), 100.0)
        assert traffic.flows["a"].left(-1e308) == 10.0

    @pytest.mark.parametrize("work", [-1.0, -math.inf, math.nan])
    def test_work_that_cannot_be_is_none(self, work: float) -> None:
        traffic = Traffic()
        traffic.start("a", work, 0.0)
        assert traffic.flows["a"].left(0.0) == 0.0

    def test_endless_work_leaves_no_trace_when_it_is_over(self) -> None:
        traffic = Traffic()
        endless = traffic.start("a", math.inf, 0.0)
        traffic.start("a", 2.0, 0.0)
        assert traffic.flows["a"].left(0.0) == pytest.approx(MOST_WORK)
        traffic.end(endless)
        assert traffic.flows["a"].left(0.0) == pytest.approx(2.0)

    def test_the_sums_of_a_hundred_thousand_attempts_do_not_drift(self) -> None:
        traffic, chance = Traffic(), random.Random(1)
        kept = traffic.start("a", 0.3, 0.0)  # so that the flow never ends
        under_way: list[Ticket] = []
        for turn in range(100_000):
            under_way.append(traffic.start("a", chance.lognormvariate(0, 2), turn))
            if len(under_way) > 20:
                ticket = under_way.pop(chance.randrange(20))
                if chance.random() < 0.5:
                    traffic.begin(ticket, turn)
                traffic.end(ticket)
        left = 0.3 + sum(ticket.work for ticket in under_way)
        assert traffic.flows["a"].left(0.0) == pytest.approx(left, rel=1e-6)
        for ticket in under_way:
            traffic.end(ticket)
        traffic.begin(kept, 0.0)
        assert traffic.flows["a"].waiting == 0.0


class TestCompany:
    def test_of_two_that_come_together_each_has_the_other(self) -> None:
        traffic = Traffic()
        first, second = (traffic.start("a", 1.0, 0.0) for _ in range(2))
        traffic.begin(first, 0.0)
        traffic.begin(second, 0.0)
        assert (first.ahead, second.ahead) == (0, 1)
        assert traffic.company(first, 5.0) == traffic.company(second, 5.0) == pytest.approx(1.0)

    def test_it_is_an_average_over_the_time_at_work(self) -> None:
        traffic = Traffic()
        long, short = traffic.start("a", 1.0, 0.0), traffic.start("a", 1.0, 0.0)
        traffic.begin(long, 0.0)
        traffic.begin(short, 4.0)
        traffic.end(short, 6.0)
        assert traffic.company(long, 10.0) == pytest.approx(0.2)

    def test_who_waits_is_no_company(self) -> None:
        traffic = Traffic()
        running = traffic.start("a", 1.0, 0.0)
        waiting = traffic.start("a", 1.0, 0.0)
        traffic.begin(running, 0.0)
        assert traffic.company(running, 5.0) == 0.0
        assert traffic.company(waiting, 5.0) == 0.0

    def test_in_its_first_moment_it_is_who_was_there(self) -> None:
        traffic = Traffic()
        tickets = [traffic.start("a", 1.0, 0.0) for _ in range(3)]
        for ticket in tickets:
            traffic.begin(ticket, 1.0)
        assert [traffic.company(ticket, 1.0) for ticket in tickets] == [0, 1, 2]

    def test_one_that_is_over_or_unknown_has_none(self) -> None:
        traffic = Traffic()
        ticket = traffic.start("a", 1.0, 0.0)
        traffic.begin(ticket, 0.0)
        traffic.end(ticket, 1.0)
        assert traffic.company(ticket, 2.0) == 0.0

    @given(
        st.lists(st.tuples(st.floats(0.0, 10.0), st.floats(0.001, 10.0)), min_size=1, max_size=8),
    )
    def test_it_is_never_more_than_there_were_others(self, spans: list[tuple[float, float]]) -> None:
        traffic = Traffic()
        events = sorted(
            [(begun, 0, place) for place, (begun, _) in enumerate(spans)]
            + [(begun + lasts, 1, place) for place, (begun, lasts) in enumerate(spans)]
        )
        tickets = [traffic.start("a", 1.0, 0.0) for _ in spans]
        for now, ends, place in events:
            if not ends:
                traffic.begin(tickets[place], now)
                continue
            begun, lasts = spans[place]
            shared = sum(
                max(min(begun + lasts, other + more) - max(begun, other), 0.0)
                for number, (other, more) in enumerate(spans)
                if number != place
            )
            assert traffic.company(tickets[place], now) == pytest.approx(shared / lasts, abs=1e-6)
            traffic.end(tickets[place], now)


class TestSeats:
    def flow(self, *begun: float, waiting: int = 0) -> Flow:
        """Attempts of 10 s that began so many seconds ago, and others that wait."""
        traffic = Traffic()
        for ago in begun:
            traffic.begin(traffic.start("a", 10.0, 0.0), -ago)
        for _ in range(waiting):
            traffic.start("a", 10.0, 0.0)
        return traffic.flows["a"]

    def test_the_first_that_ends_makes_room(self) -> None:
        assert self.flow(1.0, 7.0, 4.0).seat_in(3, 0.0) == 3.0

    def test_who_waits_already_comes_first(self) -> None:
        assert self.flow(1.0, 7.0, 4.0, waiting=1).seat_in(3, 0.0) == 6.0
        assert self.flow(1.0, 7.0, 4.0, waiting=3).seat_in(3, 0.0) == 13.0

    def test_nobody_waits_where_there_are_slots(self) -> None:
        assert self.flow(1.0).seat_in(2, 0.0) == 0.0
        assert self.flow(waiting=1).seat_in(2, 0.0) == 0.0, "the model is being loaded"

    def test_who_came_before_is_slowed_down_by_those_who_came_after(self) -> None:
        """When the first of many was predicted, it was alone."""
        traffic = Traffic()
        for _ in range(2):
            traffic.begin(traffic.start("a", 10.0, 0.0, shared=8.0, slow=2.0), 0.0)
        flow = traffic.flows["a"]
        assert flow.seat_in(2, 1.0, 4.0) == 10.0 + 8.0 - 1.0
        assert flow.seat_in(2, 1.0, 2.0) == 9.0
        assert flow.seat_in(2, 1.0, 1.5) == 9.0, "what was feared is not taken back: it may come yet"
        traffic.start("a", 10.0, 0.0, shared=8.0, slow=2.0)
        assert flow.seat_in(1, 0.0, 4.0) >= 18.0

    @given(st.lists(st.floats(0.0, 20.0), max_size=12), st.integers(0, 40), st.integers(1, 8))
    def test_one_more_in_the_queue_never_shortens_it(
        self, begun: list[float], waiting: int, slots: int
    ) -> None:
        flow = self.flow(*begun[:slots], waiting=waiting + 1)
        before = self.flow(*begun[:slots], waiting=waiting).seat_in(slots, 0.0) if begun or waiting else 0.0
        assert 0.0 <= before <= flow.seat_in(slots, 0.0)


def churn(traffic: Traffic, seed: int) -> None:
    """Attempts of one thread that start, begin or not, and end."""
    chance = random.Random(seed)
    for turn in range(1500):
        ticket = traffic.start("ab"[turn % 2], chance.random(), turn)
        if chance.random() < 0.7:
            traffic.begin(ticket, turn)
        traffic.end(ticket)


def watch(traffic: Traffic, over: threading.Event, failures: list[BaseException]) -> None:
    """Reads without a lock, as a decision does."""
    try:
        while not over.is_set():
            for name in tuple(traffic.flows):
                flow = traffic.flows.get(name)
                assert flow is None or 0 <= flow.count <= 5
                assert flow is None or 0.0 <= flow.left(1e9) <= 5.0
    except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
        failures.append(error)


class TestThreads:
    def test_many_threads_lose_no_attempt_and_readers_see_sound_numbers(self) -> None:
        traffic, over, failures = Traffic(), threading.Event(), list[BaseException]()
        workers = [threading.Thread(target=churn, args=(traffic, seed)) for seed in range(4)]
        reader = threading.Thread(target=watch, args=(traffic, over, failures))
        reader.start()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(30)
        over.set()
        reader.join(10)
        assert not failures
        assert traffic.flows == {}


@dataclass
class Known:
    """An attempt as the model of the machine below has it."""

    work: float
    begun_at: float | None = None


class TrafficMachine(RuleBasedStateMachine):
    """Traffic beside a plain list of attempts, under any sequence of events."""

    tickets = Bundle("tickets")
    ended = Bundle("ended")

    def __init__(self) -> None:
        super().__init__()
        self.traffic = Traffic()
        self.known: dict[str, dict[Ticket, Known]] = {"a": {}, "b": {}}
        self.now = 0.0

    @rule(seconds=st.floats(-10.0, 1e6))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=tickets, name=st.sampled_from(["a", "b"]), work=st.floats(0.0, 1e6))
    def start(self, name: str, work: float) -> Ticket:
        ticket = self.traffic.start(name, work, self.now)
        self.known[name][ticket] = Known(work)
        return ticket

    @rule(ticket=tickets)
    def begin(self, ticket: Ticket) -> None:
        known = self.known[ticket.name][ticket]
        running = sum(one.begun_at is not None for one in self.known[ticket.name].values())
        first = known.begun_at is None
        if first:
            known.begun_at = self.now
        self.traffic.begin(ticket, self.now)
        assert ticket.begun_at == known.begun_at
        if first:
            assert ticket.ahead == running

    @rule(target=ended, ticket=consumes(tickets))
    def end(self, ticket: Ticket) -> Ticket:
        self.traffic.end(ticket)
        del self.known[ticket.name][ticket]
        return ticket

    @rule(ticket=ended)
    def tell_of_what_is_over(self, ticket: Ticket) -> None:
        self.traffic.begin(ticket, self.now)
        self.traffic.end(ticket)

    @invariant()
    def both_agree(self) -> None:
        assert set(self.traffic.flows) == {name for name, known in self.known.items() if known}
        for name, flow in self.traffic.flows.items():
            attempts = self.known[name].values()
            assert flow.count == len(attempts)
            assert flow.running == sum(one.begun_at is not None for one in attempts)
            left = sum(
                one.work
                if one.begun_at is None
                else max(one.work - max(self.now - one.begun_at, 0.0), LEAST_LEFT * one.work)
                for one in attempts
            )
            assert flow.left(self.now) == pytest.approx(left, rel=1e-9, abs=1e-6)


def test_whatever_is_told_in_whatever_order_the_books_agree_with_a_plain_list() -> None:
    run_state_machine_as_test(TrafficMachine, settings=settings(max_examples=60, stateful_step_count=40))
