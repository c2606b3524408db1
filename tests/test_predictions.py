"""What a decision predicts after what happened: right for this request, now, and never led astray by nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from router import (
    AllModelsFailedError,
    AsyncRouter,
    Candidate,
    Decision,
    ModelConnectionError,
    NoEligibleModelError,
    Policy,
    Price,
    Recovery,
    RoutedCompletion,
    Router,
)
from router.actions import Start
from router.core import Core
from router.deciding import choose
from router.exploring import explore
from router.learning import Sample
from router.live import begin, book, start
from router.testing import ManualClock, ScriptedModel, Step
from router.validation import parse_request
from tests.helpers import HELLO, router_of, run_on, scripted

SYSTEM = "You help guests of a holiday flat. " * 60
TALK: list[Any] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Is there a desk?"}]


def core_of(router: AsyncRouter) -> Core:
    """The part of a router that its faces share."""
    return router._core


def candidate(decision: Decision, model: str) -> Candidate:
    """One model of a ranking."""
    return next(one for one in decision.ranking if one.model == model)


def known(value: float | None) -> float:
    """A figure that must be known here."""
    assert value is not None
    return value


async def ask(router: AsyncRouter, times: int = 1, **request: Any) -> Decision:
    """Asks some times in a row, and returns the last decision."""
    for _ in range(times):
        completion: RoutedCompletion = await router.chat.completions.create(**{"messages": HELLO, **request})
    return completion.routing


# --- cost ------------------------------------------------------------------------------------------------


def test_the_forecast_follows_what_a_task_takes(manual_clock: ManualClock) -> None:
    short, long = Step(text="Yes.", completion_tokens=4), Step(text="Well...", completion_tokens=900)

    async def body() -> None:
        model = ScriptedModel("m", price=Price(input=0, output=1e6), script=[short, long] * 30)
        async with router_of(model, clock=manual_clock) as router:
            for _ in range(30):
                await ask(router, routing={"task": "classify"})
                await ask(router, routing={"task": "write"})
            told = {
                task: router.route(messages=HELLO, routing={"task": task}) for task in ("classify", "write")
            }
        assert known(told["classify"].ranking[0].cost) == pytest.approx(4, rel=0.1)
        assert known(told["write"].ranking[0].cost) == pytest.approx(900, rel=0.1)
        assert told["write"].features.expected_output_tokens == pytest.approx(900, rel=0.1)

    run_on(manual_clock, body)


def test_an_answers_limit_bounds_the_forecast_but_teaches_no_short_answers(manual_clock: ManualClock) -> None:
    async def body() -> None:
        cut = Step(text="On and on", completion_tokens=64, finish_reason="length")
        model = ScriptedModel("m", price=Price(input=0, output=1e6), script=[cut])
        async with router_of(model, clock=manual_clock) as router:
            await ask(router, 30, max_tokens=64)
            bound = router.route(messages=HELLO, max_tokens=64).ranking[0]
            free = router.route(messages=HELLO).ranking[0]
        assert known(bound.cost) == pytest.approx(64, rel=0.1)
        assert known(free.cost) > 64, "all that is known is that they would have been longer"
        assert known(bound.cost_p95) <= 64 * 1.01

    run_on(manual_clock, body)


@pytest.mark.parametrize("absurd", [0, -5, 10**9, 10**30])
def test_absurd_usage_is_replaced_flagged_and_teaches_nothing(absurd: int, manual_clock: ManualClock) -> None:
    async def body() -> None:
        lies = [
            Step(text="a text of more than forty characters, I think", prompt_tokens=absurd) for _ in "ab"
        ]
        true = Step(text="Hello!", prompt_tokens=12, completion_tokens=3)
        async with router_of(scripted("m", true, *lies, true), clock=manual_clock) as router:
            await ask(router)
            before = candidate(router.route(messages=HELLO), "m")
            lied = await ask(router, 2)
            after = candidate(router.route(messages=HELLO), "m")
        assert lied.attempts[0].cost_source == "estimate"
        assert any("usage: m reported prompt_tokens" in note for note in lied.notes), lied.notes
        assert f"{lied.explain()}".count("estimated instead") == 1
        assert after.parts["tokens in"] == before.parts["tokens in"]
        assert all(math.isfinite(value) for value in after.parts.values())

    run_on(manual_clock, body)


def test_the_ledger_never_falls_whatever_usage_says(manual_clock: ManualClock) -> None:
    draw = random.Random(7)
    counts = [0, -1, -(10**12), 10**9, 5, 100]

    async def body() -> None:
        steps = [
            Step(text="some words", prompt_tokens=draw.choice(counts), completion_tokens=draw.choice(counts))
            for _ in range(60)
        ]
        async with router_of(scripted("m", *steps, usd=5.0), clock=manual_clock) as router:
            core, spent = core_of(router), Decimal(0)
            for _ in steps:
                decision = await ask(router)
                assert decision.cost is not None
                assert decision.cost >= 0
                await asyncio.to_thread(core.ledger.flush)
                rows = await asyncio.to_thread(lambda: list(core.ledger.decisions()))
                booked = sum((row.cost or Decimal(0) for row in rows), Decimal(0))
                assert booked >= spent
                spent = booked
                found = router.route(messages=HELLO).ranking[0]
                assert math.isfinite(known(found.cost))
                assert math.isfinite(known(found.latency_p95))

    run_on(manual_clock, body)


def test_the_parts_add_up() -> None:
    price = Price(input=2, output=8, cached_input=0.5, per_request=0.01)
    models = [ScriptedModel("m", price=price, load_time=2.0), ScriptedModel("free")]

    async def body() -> None:
        async with router_of(*models) as router:
            await ask(router, 3, messages=TALK)
            for found in router.route(messages=TALK, max_tokens=50).ranking:
                parts = found.parts
                money = sum(value for name, value in parts.items() if name.endswith(" USD"))
                seconds = sum(
                    value for name, value in parts.items() if name.endswith(" s") and name != "wait s"
                )
                assert money == pytest.approx(known(found.cost))
                assert seconds == pytest.approx(known(found.latency))
                assert known(found.cost_p95) >= known(found.cost)
                assert known(found.ttft_p95) >= known(found.ttft)
                assert known(found.latency_p95) >= known(found.latency)

    asyncio.run(body())


def test_a_price_that_changes_holds_at_once_and_what_was_learned_stays(manual_clock: ManualClock) -> None:
    async def body() -> None:
        hangs = Step(text="Hello!", ttft=5.0, completion_tokens=10)
        cheap = ScriptedModel("m", price=Price(input=0, output=1e6), script=[Step(ttft=2.0), hangs])
        dear = cheap.model_copy(update={"price": Price(input=0, output=3e6)})
        async with router_of(cheap, clock=manual_clock) as router:
            await ask(router)
            learned = known(router.route(messages=HELLO).ranking[0].ttft)
            flying = asyncio.create_task(ask(router))
            await asyncio.sleep(0.5)
            router.update([dear])
            now = router.route(messages=HELLO).ranking[0]
            decision = await flying
        assert decision.cost == 10, "what was begun at a price is booked at it"
        assert known(now.ttft) == pytest.approx(learned, rel=0.05)
        assert known(now.cost) == pytest.approx(3 * now.parts["tokens out"])

    run_on(manual_clock, body)


def test_a_model_removed_with_requests_in_flight_ends_them_and_leaves_no_trace(
    manual_clock: ManualClock,
) -> None:
    async def body() -> None:
        gone, stays = scripted("gone", Step(ttft=3.0)), scripted("stays", usd=2.0)
        async with router_of(gone, stays, clock=manual_clock) as router:
            flying = [asyncio.create_task(ask(router)) for _ in range(5)]
            await asyncio.sleep(0.1)
            router.update([stays])
            assert {(await task).model for task in flying} == {"gone"}
            assert (await ask(router)).model == "stays"
            assert not core_of(router).traffic.flows

    run_on(manual_clock, body)


def test_a_name_that_means_another_backend_learns_anew(manual_clock: ManualClock) -> None:
    async def body() -> None:
        slow = scripted("m", Step(ttft=9.0))
        async with router_of(slow, clock=manual_clock) as router:
            await ask(router, 5)
            flying = asyncio.create_task(ask(router))
            await asyncio.sleep(1)
            router.update([scripted("m", Step(ttft=0.01), speed_ttft=0.2)])
            await flying
            assert known(router.route(messages=HELLO).ranking[0].ttft) == pytest.approx(0.2, rel=0.1)

    run_on(manual_clock, body)


def test_a_unix_clock_that_jumps_back_changes_no_prediction(manual_clock: ManualClock) -> None:
    async def body() -> None:
        async with router_of(scripted("m", Step(ttft=0.5)), clock=manual_clock) as router:
            await ask(router, 10)
            before = router.route(messages=HELLO).ranking[0]
            manual_clock.set_time(0.0)
            assert router.route(messages=HELLO).ranking[0] == before
            await ask(router, 3)
            assert known(router.route(messages=HELLO).ranking[0].latency) == pytest.approx(0.5, rel=0.05)

    run_on(manual_clock, body)


# --- caches and sessions ---------------------------------------------------------------------------------


def conversation(turns: int) -> list[Any]:
    """A conversation that has gone on for some turns."""
    said: list[Any] = [{"role": "system", "content": SYSTEM}]
    for turn in range(turns):
        said += [
            {"role": "user", "content": f"Question {turn}: " + "and what about the station? " * 20},
            {"role": "assistant", "content": f"Answer {turn}: " + "it is a short walk away. " * 20},
        ]
    return [*said, {"role": "user", "content": "And today?"}]


def keeps_cache(name: str, **fields: Any) -> ScriptedModel:
    """A model whose host caches nine tenths of every prompt that it is sent."""
    price = Price(input=10, output=10, cached_input=1)
    step = Step(text="Yes.", prompt_tokens=1000, cached_tokens=900)
    return ScriptedModel(name, price=price, script=[step], **fields)


def test_a_session_stays_where_its_prefix_is_cached_as_long_as_that_is_cheaper() -> None:
    policy = Policy(explore=0, value_of_time=0)
    host = keeps_cache("host")

    async def body(other_price: float) -> str | None:
        other = ScriptedModel("other", price=Price(input=other_price, output=10))
        async with router_of(host, other, policy=policy) as router:
            for turn in range(4):
                await ask(router, messages=conversation(turn), model="host", routing={"session": "s"})
            stranger = router.route(messages=[{"role": "user", "content": "Something else. " * 200}])
            assert stranger.model == "other", "without its cache the host is the dearer one"
            return router.route(messages=conversation(4), routing={"session": "s"}).model

    assert asyncio.run(body(8.0)) == "host"
    assert asyncio.run(body(0.5)) == "other", "by the formula, not by a rule"


def test_what_a_host_never_caches_is_not_expected_to_be_cached() -> None:
    step = Step(text="Yes.", prompt_tokens=1000, cached_tokens=0)
    model = ScriptedModel("m", price=Price(input=10, output=10, cached_input=1), script=[step])

    async def body() -> None:
        async with router_of(model) as router:
            first = router.route(messages=conversation(3)).ranking[0].parts
            for turn in range(6):
                await ask(router, messages=conversation(turn))
            found = router.route(messages=conversation(6)).ranking[0].parts
        assert "tokens cached" not in first
        assert found.get("tokens cached", 0.0) < 0.15 * found["tokens in"]

    asyncio.run(body())


# --- time ------------------------------------------------------------------------------------------------


def test_predictions_follow_prompt_and_answer(manual_clock: ManualClock) -> None:
    draw = random.Random(3)

    async def body() -> None:
        counts = [draw.randrange(5, 400) for _ in range(80)]
        steps = [Step(text="word " * count, ttft=0.5, per_token=0.02) for count in counts]
        async with router_of(scripted("m", *steps), clock=manual_clock) as router:
            for _ in steps:
                await ask(router, max_tokens=500)
            short = router.route(messages=HELLO, max_tokens=10).ranking[0]
        assert known(short.latency) == pytest.approx(0.5 + 10 * 0.02, rel=0.25)

    run_on(manual_clock, body)


def test_failures_make_a_model_dearer_for_a_while(manual_clock: ManualClock) -> None:
    async def body() -> None:
        error = Step(error=ModelConnectionError("gone", model="flaky"), ttft=2.0)
        script = [Step(ttft=0.1), Step(ttft=0.1), error] * 20
        flaky, even = scripted("flaky", *script), scripted("even", Step(ttft=0.3), usd=1.0)
        policy = Policy(explore=0, value_of_time=1.0)
        async with router_of(
            flaky, even, clock=manual_clock, policy=policy, recovery=Recovery(failure_threshold=50)
        ) as router:
            await ask(router, 30, model="even")
            for _ in range(30):
                with contextlib.suppress(AllModelsFailedError):  # a pinned model has nobody behind it
                    await ask(router, model="flaky")
            decision = router.route(messages=HELLO)
            found = candidate(decision, "flaky")
            assert found.parts["failures s"] > 0.3
            assert decision.model == "even"
            manual_clock.advance(3600)
            assert candidate(router.route(messages=HELLO), "flaky").parts.get("failures s", 0.0) < 0.01

    run_on(manual_clock, body)


def test_a_model_long_unused_goes_back_to_its_profile(manual_clock: ManualClock) -> None:
    async def body() -> None:
        async with router_of(scripted("m", Step(ttft=20.0), speed_ttft=0.5), clock=manual_clock) as router:
            await ask(router, 30)
            assert known(router.route(messages=HELLO).ranking[0].ttft) == pytest.approx(20, rel=0.1)
            manual_clock.advance(7 * 86_400)
            for _ in range(10):
                found = router.route(messages=HELLO).ranking[0]
            assert known(found.ttft) < 1.0, "or nobody would ever ask it again"

    run_on(manual_clock, body)


def test_a_router_that_starts_knows_what_its_ledger_knows(tmp_path: Path, manual_clock: ManualClock) -> None:
    async def body() -> None:
        steps = [Step(text="word " * 40, ttft=1.5, per_token=0.01)]
        async with router_of(
            scripted("m", *steps), ledger=tmp_path / "router.db", clock=manual_clock
        ) as router:
            await ask(router, 40, routing={"task": "write"})
            before = router.route(messages=HELLO, routing={"task": "write"}).ranking[0]
        async with router_of(
            scripted("m", *steps), ledger=tmp_path / "router.db", clock=manual_clock
        ) as router:
            after = router.route(messages=HELLO, routing={"task": "write"}).ranking[0]
            fresh = router.route(messages=HELLO, routing={"task": "write"})
        assert known(after.latency) == pytest.approx(known(before.latency), rel=0.03)
        assert known(after.cost) == pytest.approx(known(before.cost), rel=0.05)
        assert fresh.ranking[0].parts["answers seen"] == 40

    run_on(manual_clock, body)


# --- load ------------------------------------------------------------------------------------------------


def choose_and_start(core: Core, times: int) -> list[str]:
    """As many requests as come at the same moment: none has answered when the last one is decided."""
    chosen = []
    for _ in range(times):
        routing = choose(core, parse_request({"messages": HELLO}))
        attempt = start(core, routing, Start(attempt=0, candidate=0))
        begin(core, routing, attempt)
        chosen.append(routing.fleet.names[routing.order[0]])
    return chosen


async def test_ten_thousand_at_once_do_not_all_pile_on_the_fastest() -> None:
    models = [
        scripted(name, speed_ttft=ttft) for name, ttft in (("fast", 0.5), ("second", 0.6), ("third", 0.8))
    ]
    async with router_of(*models) as router:
        chosen = choose_and_start(core_of(router), 10_000)
    shares = {model.name: chosen.count(model.name) / 10_000 for model in models}
    assert shares["fast"] > shares["second"] > shares["third"] > 0.2


async def test_what_is_under_way_ends_with_its_attempts() -> None:
    async with router_of(scripted("a"), scripted("b")) as router:
        core = core_of(router)
        await asyncio.gather(*(ask(router) for _ in range(50)))
        assert not core.traffic.flows
        routing = choose(core, parse_request({"messages": HELLO}))
        attempt = start(core, routing, Start(attempt=0, candidate=0))
        attempt.outcome = "cancelled"
        book(core, routing, attempt)
        assert not core.traffic.flows


def test_equals_do_not_take_turns_at_every_answer(manual_clock: ManualClock) -> None:
    draw = random.Random(11)

    async def body() -> None:
        def steps() -> list[Step]:
            return [Step(ttft=math.exp(draw.gauss(0, 0.3))) for _ in range(300)]

        async with router_of(scripted("a", *steps()), scripted("b", *steps()), clock=manual_clock) as router:
            for name in ("a", "b"):
                await ask(router, 30, model=name)
            chosen = [(await ask(router)).model for _ in range(200)]
        switches = sum(one != other for one, other in itertools.pairwise(chosen))
        assert switches < 40

    run_on(manual_clock, body)


# --- exploration -----------------------------------------------------------------------------------------


def explored_share(
    models: Sequence[ScriptedModel], policy: Policy, times: int = 3000, **request: Any
) -> float:
    """How many of so many requests exploration moved."""
    router = AsyncRouter(models, policy=policy)
    core = core_of(router)
    core.random.seed(1)
    moved = 0
    for _ in range(times):
        routing = choose(core, parse_request({"messages": HELLO, **request}))
        best = routing.order[0]
        explore(core, routing)
        moved += routing.order[0] != best
    asyncio.run(router.aclose())
    return moved / times


def test_exploration_is_a_bounded_share_and_can_be_switched_off() -> None:
    models = [scripted("best"), scripted("other", usd=1.2)]
    assert explored_share(models, Policy(explore=0.1)) == pytest.approx(0.1, abs=0.03)
    assert explored_share(models, Policy(explore=0)) == 0
    for corner in (Policy.cheapest(), Policy.fastest(), Policy.best()):
        assert explored_share(models, corner, 300) == 0


def test_exploration_tries_nothing_whose_price_alone_makes_it_worse() -> None:
    models = [scripted("cheap", usd=0.1), scripted("dear", usd=5000.0)]
    assert explored_share(models, Policy(explore=0.5), 500) == 0


async def test_a_prompt_that_another_model_counts_shorter_rules_no_unseen_one_out() -> None:
    async with router_of(
        scripted("known"), scripted("unseen", usd=1.0001), policy=Policy(explore=0.5)
    ) as router:
        core = core_of(router)
        core.random.seed(1)
        for _ in range(50):  # it takes four fifths of the tokens that we count
            sample = Sample(
                task=None, counted_tokens=1000, prompt_tokens=800, completion_tokens=1, ttft=None, duration=1e-4
            )  # fmt: skip
            core.fleet.learned.learn(0, sample)
        explored = 0
        for _ in range(100):
            routing = choose(core, parse_request({"messages": TALK}))
            explore(core, routing)
            explored += routing.fleet.names[routing.order[0]] == "unseen"
        assert 30 < explored < 70


def test_exploration_breaks_no_constraint_and_no_deadline() -> None:
    models = [
        scripted("best", quality=0.9, speed_ttft=0.1),
        scripted("poor", quality=0.1, speed_ttft=0.1),
        scripted("slow", quality=0.9, speed_ttft=30.0),
    ]
    policy = Policy(explore=0.5, min_quality=0.5)
    assert explored_share(models, policy, 500, routing={"deadline": 10.0}) == 0
    with pytest.raises(NoEligibleModelError):
        explored_share(models, Policy(explore=0.5, max_latency=0.001), 1)


# --- constraints by probability --------------------------------------------------------------------------


def test_a_limit_on_time_holds_with_the_policys_confidence(manual_clock: ManualClock) -> None:
    draw = random.Random(5)

    async def body() -> None:
        steps = [Step(text="Hi", ttft=math.exp(draw.gauss(0, 0.5)), completion_tokens=10) for _ in range(200)]
        async with router_of(scripted("m", *steps), clock=manual_clock) as router:
            await ask(router, 200)
            found = router.route(messages=HELLO).ranking[0]
        true_p95, true_mean = math.exp(0.5 * 1.645), math.exp(0.125)
        assert known(found.latency) == pytest.approx(true_mean, rel=0.3)
        assert known(found.latency_p95) == pytest.approx(true_p95, rel=0.35)

        def eligible(limit: float, confidence: float) -> bool:
            policy = Policy(explore=0, max_latency=limit, confidence=confidence)
            core = core_of(router)
            core.config = core.config.model_copy(update={"policy": policy})
            core.closed = False
            try:
                router.route(messages=HELLO)
            except NoEligibleModelError:
                return False
            return True

        between = (known(found.latency) + known(found.latency_p95)) / 2
        assert not eligible(between, 0.95)
        assert eligible(between, 0.6)

    run_on(manual_clock, body)


async def test_of_those_that_will_miss_a_deadline_the_likeliest_to_make_it_goes_first() -> None:
    models = [scripted("cheap", usd=0.1, speed_ttft=60.0), scripted("quick", usd=10.0, speed_ttft=5.0)]
    async with router_of(*models, policy=Policy(explore=0, value_of_time=0)) as router:
        assert router.route(messages=HELLO).model == "cheap"
        assert router.route(messages=HELLO, routing={"deadline": 2.0}).model == "quick"


# --- what becomes slow, and what nobody asked yet ----------------------------------------------------------


async def test_a_slow_spell_under_a_limit_on_time_shuts_a_model_out_for_minutes_only(
    manual_clock: ManualClock,
) -> None:
    model = scripted("m")
    async with router_of(model, clock=manual_clock, policy=Policy(explore=0, max_latency=5.0)) as router:
        core = core_of(router)

        def answered(seconds: float, at: float) -> None:
            sample = Sample(
                task=None, counted_tokens=9, prompt_tokens=9, completion_tokens=9, ttft=None,
                duration=seconds, at=at,
            )  # fmt: skip
            core.fleet.learned.learn(0, sample)

        for _ in range(30):
            manual_clock.advance(1)
            answered(1.0, manual_clock.now())
        for _ in range(4):
            manual_clock.advance(1)
            answered(9.0, manual_clock.now())
        with pytest.raises(NoEligibleModelError, match="max_latency"):
            router.route(messages=HELLO)
        manual_clock.advance(120)
        decision = router.route(messages=HELLO)
        assert any("slow when it was asked last" in note for note in decision.ranking[0].notes)
        for _ in range(3):  # one good answer lets the next one through
            answered(1.0, manual_clock.now())
            manual_clock.advance(1)
            router.route(messages=HELLO)
        assert router.route(messages=HELLO).ranking[0].notes.count("time limit") == 0


async def test_under_a_limit_on_time_the_measured_come_before_the_unmeasured(
    manual_clock: ManualClock,
) -> None:
    models = [scripted("unseen", usd=0.1, speed_ttft=2.0), scripted("known", usd=5.0, speed_ttft=2.0)]
    policy = Policy(explore=0, max_latency=6.0, value_of_time=0)

    async with router_of(*models, clock=manual_clock, policy=policy) as router:
        core = core_of(router)
        assert router.route(messages=HELLO).model == "unseen", (
            "nobody is measured: all are taken at their word"
        )
        for turn in range(20):
            sample = Sample(
                task=None, counted_tokens=9, prompt_tokens=9, completion_tokens=150, ttft=None, duration=1.0,
                at=manual_clock.now() + turn,
            )  # fmt: skip
            core.fleet.learned.learn(1, sample)
        decision = router.route(messages=HELLO)
        assert [one.model for one in decision.ranking] == ["known", "unseen"]
        assert known(candidate(decision, "unseen").latency_p95) > 4.0
        assert "hardly measured yet" in decision.explain()


def test_an_old_figure_is_a_doubtful_one(manual_clock: ManualClock) -> None:
    async def body() -> None:
        async with router_of(scripted("m", Step(ttft=1.0)), clock=manual_clock) as router:
            await ask(router, 40)
            fresh = router.route(messages=HELLO).ranking[0]
            manual_clock.advance(86_400)
            for _ in range(5):
                old = router.route(messages=HELLO).ranking[0]
        assert known(fresh.latency_p95) < 1.2 * known(fresh.latency)
        assert known(old.latency_p95) > 2.0 * known(old.latency)

    run_on(manual_clock, body)


def test_a_host_that_reports_no_usage_teaches_the_length_of_its_texts(manual_clock: ManualClock) -> None:
    async def body() -> None:
        long = Step(text="word " * 800, usage=False)
        model = ScriptedModel("m", price=Price(input=0, output=1e6), script=[long])
        async with router_of(model, clock=manual_clock) as router:
            decision = await ask(router, 30)
            found = router.route(messages=HELLO).ranking[0]
        assert decision.attempts[0].cost_source == "estimate"
        assert known(found.cost) == pytest.approx(float(decision.cost or 0), rel=0.05)

    run_on(manual_clock, body)


def test_no_quantile_goes_beyond_what_the_limit_allows() -> None:
    model = ScriptedModel("m", price=Price(input=0, output=1e6), max_output=300)
    with Router([model], policy=Policy(explore=0)) as router:
        limited = router.route(messages=HELLO, max_tokens=100).ranking[0]
        free = router.route(messages=HELLO).ranking[0]
    assert known(limited.cost_p95) == pytest.approx(100)
    assert limited.parts["tokens out p95"] == pytest.approx(100)
    assert known(free.cost_p95) == pytest.approx(300), "the model's own limit"
