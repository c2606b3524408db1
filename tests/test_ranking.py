"""Which model is chosen, in which order the others follow, and why some may not be asked at all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router import (
    Budget,
    BudgetExceededError,
    Candidate,
    ConfigurationError,
    Decision,
    HostedModel,
    LocalModel,
    Model,
    NoEligibleModelError,
    Policy,
    Price,
    Router,
    RoutingOptions,
)
from router.adapter import AdapterSettings
from router.capabilities import CAPABILITIES
from router.decision import Features
from router.estimates import Situation
from router.fleet import Fleet
from router.learning.pace import PRIOR_SPREAD
from router.objective import Rules
from router.profile import PriceTable, Profile, Speed, Tier
from router.ranked import Ranked
from router.ranking import rank
from router.testing import ScriptedModel

HELLO: Any = [{"role": "user", "content": "hi"}]
CHEAP, DEAR = Price(input=0.1, output=0.2), Price(input=10, output=30)


@contextmanager
def routers(models: Sequence[Model], policy: Policy | None = None, **more: Any) -> Iterator[Router]:
    with Router(models, policy=policy, **more) as router:
        yield router


def decide(
    models: Sequence[Model], policy: Policy | None = None, *, budget: Budget | None = None, **request: Any
) -> Decision:
    with Router(models, policy=policy, budget=budget) as router:
        return router.route(**{"messages": HELLO, **request})


def refused(
    models: Sequence[Model], policy: Policy | None = None, *, budget: Budget | None = None, **request: Any
) -> NoEligibleModelError:
    with pytest.raises(NoEligibleModelError) as caught:
        decide(models, policy, budget=budget, **request)
    return caught.value


def order(decision: Decision) -> list[str]:
    """Names of the eligible models, best first."""
    return [candidate.model for candidate in decision.ranking if candidate.rejected_because is None]


def known(value: float | None) -> float:
    """A figure that must be known here."""
    assert value is not None
    return value


def why(decision: Decision) -> dict[str, str]:
    """The rejected models, with the reason."""
    return {c.model: c.rejected_because for c in decision.ranking if c.rejected_because is not None}


# --- The objective ---------------------------------------------------------------------------------------


def test_the_cheaper_of_two_equally_fast_models_is_chosen() -> None:
    assert order(decide([ScriptedModel("dear", price=DEAR), ScriptedModel("cheap", price=CHEAP)])) == [
        "cheap",
        "dear",
    ]


def test_the_faster_of_two_equally_cheap_models_is_chosen() -> None:
    models = [ScriptedModel("slow", speed_decode=10), ScriptedModel("fast", speed_decode=100)]
    assert order(decide(models)) == ["fast", "slow"]
    assert order(decide(models, Policy(value_of_time=0))) == ["slow", "fast"], "time is worth nothing: a tie"


def test_value_of_time_decides_between_cheap_and_fast() -> None:
    models = [ScriptedModel("cheap", price=CHEAP, speed_decode=10), ScriptedModel("fast", price=DEAR)]
    assert order(decide(models, Policy(value_of_time=0)))[0] == "cheap"
    assert order(decide(models, Policy(value_of_time=1)))[0] == "fast"


def test_value_of_quality_decides_between_cheap_and_good() -> None:
    models = [
        ScriptedModel("cheap", price=CHEAP, quality=0.5),
        ScriptedModel("good", price=DEAR, quality=0.9),
    ]
    assert order(decide(models))[0] == "cheap"
    assert order(decide(models, Policy(value_of_quality=1)))[0] == "good"


def test_the_figures_of_a_candidate_are_those_of_the_objective() -> None:
    policy = Policy(value_of_time=0.01, value_of_quality=0.1)
    model = ScriptedModel("m", price=Price(input=2, output=8, per_request=0.25), quality=0.7)
    decision = decide([model], policy)
    (found,) = decision.ranking
    tokens = decision.features.prompt_tokens
    assert found.cost == pytest.approx(0.25 + tokens * 2e-6 + 150 * 8e-6)
    assert found.latency == pytest.approx(0.1 + tokens / 1e6 + 150 / 100)
    assert found.ttft == pytest.approx(0.1 + tokens / 1e6)
    assert found.utility == pytest.approx(-(known(found.cost) + 0.01 * known(found.latency) - 0.1 * 0.7))


def test_the_callers_limit_shortens_the_forecast() -> None:
    decision = decide([ScriptedModel("m", price=Price(input=0, output=1_000_000))], max_tokens=7)
    assert decision.ranking[0].cost == pytest.approx(7)


@pytest.mark.parametrize("policy", [Policy(), Policy.cheapest(), Policy.fastest(), Policy.best()])
def test_ties_go_to_the_earlier_declared_every_time(policy: Policy) -> None:
    names = ["c", "a", "d", "b"]
    with routers([ScriptedModel(name, quality=0.5) for name in names], policy) as router:
        assert all(order(router.route(messages=HELLO)) == names for _ in range(20))


def test_the_corners_sort_by_what_they_say_and_break_ties_by_the_second_key() -> None:
    models = [
        ScriptedModel("slow", price=CHEAP, quality=0.5, speed_decode=20),
        ScriptedModel("quick", price=CHEAP, quality=0.5, speed_decode=80),
        ScriptedModel("good", price=DEAR, quality=0.9, speed_decode=40),
        ScriptedModel("good-and-cheap", price=Price(input=5, output=5), quality=0.9, speed_decode=40),
        ScriptedModel("unjudged", price=Price(input=0, output=0), speed_decode=80),
    ]
    assert order(decide(models, Policy.cheapest())) == ["unjudged", "quick", "slow", "good-and-cheap", "good"]
    assert order(decide(models, Policy.fastest())) == ["unjudged", "quick", "good-and-cheap", "good", "slow"]
    assert order(decide(models, Policy.best())) == ["good-and-cheap", "good", "slow", "quick", "unjudged"]


def test_the_corners_take_constraints_and_explore_nothing() -> None:
    for corner in (Policy.cheapest, Policy.fastest, Policy.best):
        policy = corner(min_quality=0.5, max_cost=1.0, privacy="private", on_infeasible="relax")
        assert (policy.explore, policy.min_quality, policy.privacy) == (0.0, 0.5, "private")


@pytest.mark.parametrize(
    "policy", [Policy(value_of_quality=0.01), Policy.cheapest(), Policy.fastest(), Policy.best()]
)
def test_utility_falls_along_the_ranking(policy: Policy) -> None:
    models = [
        ScriptedModel(
            f"m{n}", price=Price(input=n % 3, output=n % 5), quality=(n % 4) / 4, speed_decode=10 + n * 7 % 50
        )
        for n in range(12)
    ]
    utilities = [candidate.utility for candidate in decide(models, policy).ranking]
    assert None not in utilities
    assert utilities == sorted(utilities, reverse=True)  # type: ignore[type-var]


# --- Constraints -----------------------------------------------------------------------------------------

GOOD = ScriptedModel("good", quality=0.9)


@pytest.mark.parametrize(
    ("model", "policy", "request_fields", "reason"),
    [
        (ScriptedModel("x", quality=0.5), Policy(min_quality=0.6), {}, "min_quality: 0.5 < 0.6"),
        (ScriptedModel("x"), Policy(min_quality=0.6), {}, "min_quality: the model's quality is unknown"),
        (ScriptedModel("x", quality={"a": 0.9}), Policy(min_quality=0.6), {}, "min_quality:"),
        (ScriptedModel("x", price=DEAR), Policy(max_cost=0.001), {}, "max_cost: 0.00"),
        (ScriptedModel("x", speed_decode=10), Policy(max_latency=5), {}, "max_latency: "),
        (ScriptedModel("x", speed_ttft=2), Policy(max_ttft=1), {}, "max_ttft: "),
        (ScriptedModel("x", price=None), Policy(), {}, "price: unknown"),
        (ScriptedModel("x", context_window=20), Policy(), {}, "context: "),
        (ScriptedModel("x", max_output=10), Policy(), {"max_tokens": 11}, "max_output: 11 > 10"),
        (
            ScriptedModel("x", languages=frozenset({"en"})),
            Policy(),
            {"routing": {"language": "ja"}},
            "language: ja",
        ),
        (ScriptedModel("x"), Policy(), {"routing": {"exclude": ["x"]}}, "excluded: "),
        (ScriptedModel("x"), Policy(), {"routing": {"models": ["good"]}}, "not listed: "),
        (ScriptedModel("x"), Policy(), {"model": "good"}, "pinned: "),
        (ScriptedModel("x"), Policy(), {"routing": {"min_quality": 0.3}}, "min_quality:"),
        (ScriptedModel("x", price=DEAR), Policy(), {"routing": {"max_cost": 0.0001}}, "max_cost:"),
        (ScriptedModel("x", speed_ttft=2), Policy(), {"routing": {"max_ttft": 1}}, "max_ttft:"),
        (
            HostedModel("x", provider="xai", price=CHEAP, quality=1),
            Policy(),
            {},
            "credentials: XAI_API_KEY is not set",
        ),
    ],
)
def test_every_rejection_begins_with_its_stable_code(
    model: Model, policy: Policy, request_fields: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XAI_API_KEY", raising=False)
    decision = decide([model, GOOD], policy, **request_fields)
    assert order(decision) == ["good"]
    assert why(decision)["x"].startswith(reason)


def test_a_constraint_holds_at_its_very_limit() -> None:
    assert order(decide([ScriptedModel("x", quality=0.6)], Policy(min_quality=0.6))) == ["x"]
    free = ScriptedModel("x", price=Price(input=0, output=0))
    assert order(decide([free], Policy(max_cost=0))) == ["x"]


def test_times_are_held_with_the_policys_confidence() -> None:
    model = ScriptedModel("x", speed_decode=100)  # 1.6 s in the middle, 2.4 s in 95 of 100 cases
    assert order(decide([model], Policy(max_latency=2, confidence=0.5))) == ["x"]
    assert refused([model], Policy(max_latency=2, confidence=0.95)).reasons["x"].startswith("max_latency")


def test_quality_is_that_of_the_task() -> None:
    models = [
        ScriptedModel("generalist", quality=0.7),
        ScriptedModel("specialist", quality={"support": 0.9, "default": 0.2}),
    ]
    assert order(decide(models, Policy.best())) == ["generalist", "specialist"]
    assert order(decide(models, Policy.best(), routing={"task": "support"})) == ["specialist", "generalist"]
    assert order(decide(models, Policy.best(), routing={"task": "other"})) == ["generalist", "specialist"]


def test_a_requests_own_numbers_override_the_policys_both_ways() -> None:
    models = [ScriptedModel("x", quality=0.5)]
    policy = Policy(min_quality=0.9)
    assert order(decide(models, policy, routing=RoutingOptions(min_quality=0.4))) == ["x"]
    assert (
        refused(models, Policy(min_quality=0.4), routing={"min_quality": 0.9})
        .reasons["x"]
        .startswith("min_qual")
    )


def test_an_unknown_window_and_unknown_capabilities_are_admitted_and_flagged() -> None:
    (found,) = decide([ScriptedModel("x")]).ranking
    assert set(found.notes) == {"context window: unknown", "capabilities: unknown"}


def test_a_prompt_and_its_answer_must_fit_the_window_together() -> None:
    tokens = decide([ScriptedModel("x")]).features.prompt_tokens
    fits = ScriptedModel("x", context_window=tokens + 100)
    assert order(decide([fits], max_tokens=100)) == ["x"]
    assert refused([fits], max_tokens=101).reasons["x"] == f"context: {tokens + 101} > {tokens + 100} tokens"


def test_a_model_that_knows_the_language_or_does_not_say_may_take_the_request() -> None:
    models = [
        ScriptedModel("knows", languages=frozenset({"JA", "en"})),
        ScriptedModel("silent"),
        ScriptedModel("not", languages=frozenset()),
    ]
    decision = decide(models, routing={"language": "ja-JP"})
    assert order(decision) == ["knows", "silent"]
    assert why(decision) == {"not": "language: ja"}


# --- Price -----------------------------------------------------------------------------------------------

UNPRICED = ScriptedModel("unpriced", price=None, quality=0.9, speed_decode=200)


@pytest.mark.parametrize("policy", [Policy.fastest(), Policy.best()])
def test_an_unknown_price_is_admitted_where_neither_cost_nor_budget_is_looked_at(policy: Policy) -> None:
    decision = decide([ScriptedModel("x", quality=0.1), UNPRICED], policy)
    assert order(decision)[0] == "unpriced"
    assert [candidate.cost for candidate in decision.ranking] == [None, 0]


@pytest.mark.parametrize(
    ("policy", "budget"),
    [
        (Policy(), None),
        (Policy.cheapest(), None),
        (Policy.fastest(max_cost=1), None),
        (Policy.best(), Budget(usd=1)),
        (Policy.best(), Budget(usd=1, model="unpriced")),
    ],
)
def test_an_unknown_price_is_rejected_where_cost_or_a_budget_matters_unless_pinned(
    policy: Policy, budget: Budget | None
) -> None:
    decision = decide([GOOD, UNPRICED], policy, budget=budget)
    assert why(decision) == {"unpriced": "price: unknown"}
    assert order(decide([GOOD, UNPRICED], policy, budget=budget, model="unpriced")) == ["unpriced"]


def test_a_budget_for_another_model_or_task_asks_nothing_of_this_price() -> None:
    for budget in (Budget(usd=1, model="good"), Budget(usd=1, task="other")):
        assert "unpriced" in order(decide([GOOD, UNPRICED], Policy.best(), budget=budget))


class Tiered(Model):
    """A model whose whole request is priced by the tier of its prompt."""

    adapter: ClassVar[str] = "scripted"

    def profile(self: Any) -> Profile:
        tiers = (Tier(0, 1.0, 10.0), Tier(100, 2.0, 20.0))
        return Profile(
            price=PriceTable(tiers=tiers, per_request=0.5), speed=Speed(ttft=0.1, prefill=1e6, decode=100.0)
        )


def test_a_prompt_beyond_a_tier_prices_the_whole_request_anew() -> None:
    short = decide([Tiered("t")])
    assert short.ranking[0].cost == pytest.approx(0.5 + (short.features.prompt_tokens * 1 + 150 * 10) / 1e6)
    long = decide([Tiered("t")], messages=[{"role": "user", "content": "word " * 200}])
    assert long.ranking[0].cost == pytest.approx(0.5 + (long.features.prompt_tokens * 2 + 150 * 20) / 1e6)


def test_a_local_model_costs_its_seconds(tmp_path: Path) -> None:
    free = LocalModel("free", path=tmp_path / "x.gguf")
    paid = LocalModel("paid", path=tmp_path / "x.gguf", usd_per_hour=36)
    found = {candidate.model: candidate for candidate in decide([free, paid]).ranking}
    assert found["free"].cost == 0
    working = known(found["paid"].latency) - found["paid"].parts["wait s"]
    assert found["paid"].cost == pytest.approx(working * 0.01)


def test_a_model_that_must_load_first_takes_longer() -> None:
    models = [ScriptedModel("cold", load_time=3.0), ScriptedModel("warm")]
    decision = decide(models)
    assert order(decision) == ["warm", "cold"]
    assert decision.ranking[1].ttft == pytest.approx(known(decision.ranking[0].ttft) + 3)


def test_a_budget_with_no_room_is_its_own_error() -> None:
    dear = ScriptedModel("dear", price=Price(input=0, output=1_000_000))
    error = refused([dear], budget=Budget(usd=1))
    assert isinstance(error, BudgetExceededError)
    assert error.reasons["dear"] == "budget: 150 > 1 USD left"
    assert isinstance(refused([dear], budget=Budget(usd=1), model="dear"), BudgetExceededError), (
        "pinned or not"
    )
    assert order(decide([dear, GOOD], budget=Budget(usd=1))) == ["good"]


# --- Privacy ---------------------------------------------------------------------------------------------


def test_private_admits_local_models_and_hosted_ones_declared_private_and_nothing_else(
    tmp_path: Path,
) -> None:
    models = [
        LocalModel("local", path=tmp_path / "x.gguf"),
        HostedModel("mine", base_url="http://127.0.0.1:1/v1", price=CHEAP, private=True),
        HostedModel("loopback", base_url="http://127.0.0.1:1/v1", price=CHEAP),
        HostedModel("self-hosted", provider="vllm", base_url="http://127.0.0.1:1/v1"),
        ScriptedModel(
            "public", capabilities=frozenset(CAPABILITIES), languages=frozenset({"en"}), context_window=8192
        ),
    ]
    for policy, routing in ((Policy(privacy="private"), {}), (Policy(), {"privacy": "private"})):
        decision = decide(models, policy, routing=routing)
        assert set(order(decision)) == {"local", "mine"}
        assert all(reason.startswith("privacy: ") for reason in why(decision).values())
        assert decision.features.sensitivity == "private"


def test_an_option_cannot_loosen_the_policys_privacy() -> None:
    error = refused([ScriptedModel("x")], Policy(privacy="private"), routing={"privacy": "any"})
    assert error.reasons["x"].startswith("privacy: ")


def test_privacy_is_never_given_up() -> None:
    policy = Policy(privacy="private", min_quality=0.9, on_infeasible="relax")
    models = [ScriptedModel("public", quality=1.0), ScriptedModel("mine", private=True, quality=0.1)]
    assert order(decide(models, policy)) == ["mine"]
    assert refused([models[0]], policy).reasons["public"].startswith("privacy: ")
    assert refused(models, policy, model="public").reasons["public"].startswith("privacy: ")


# --- Pinning ---------------------------------------------------------------------------------------------


def test_a_pinned_model_needs_to_meet_no_taste() -> None:
    poor = ScriptedModel("poor", price=DEAR, quality=0.1, speed_ttft=60, languages=frozenset({"en"}))
    policy = Policy(min_quality=0.9, max_cost=0.0001, max_latency=1, max_ttft=1)
    decision = decide([GOOD, poor], policy, model="poor", routing={"language": "ja", "deadline": 1})
    assert order(decision) == ["poor"]
    assert decision.reason == "the request names this model"
    assert why(decision) == {"good": "pinned: the request asks for poor"}


@pytest.mark.parametrize(
    ("model", "request_fields", "code"),
    [
        (ScriptedModel("x"), {"routing": {"privacy": "private"}}, "privacy"),
        (ScriptedModel("x", capabilities=frozenset()), {"seed": 1}, "capability"),
        (ScriptedModel("x", context_window=20), {}, "context"),
        (ScriptedModel("x"), {"routing": {"exclude": ["x"]}}, "excluded"),
        (ScriptedModel("x"), {"routing": {"models": ["good"]}}, "not listed"),
    ],
)
def test_what_no_model_may_break_a_pinned_one_may_not_either(
    model: Model, request_fields: dict[str, Any], code: str
) -> None:
    assert refused([model, GOOD], model="x", **request_fields).reasons["x"].partition(":")[0] == code


# --- Relaxing, deadlines ---------------------------------------------------------------------------------


def relaxing(**constraints: Any) -> Policy:
    return Policy(on_infeasible="relax", **constraints)


def test_constraints_are_given_up_in_their_order_until_a_model_is_left() -> None:
    slow = ScriptedModel("slow", quality=0.9, speed_decode=1)
    poor = ScriptedModel("poor", quality=0.1)
    dear = ScriptedModel("dear", quality=0.9, price=Price(input=0, output=1e6))
    policy = relaxing(max_latency=5, min_quality=0.5, max_cost=1)
    decision = decide([dear, poor, slow], policy)
    assert (order(decision), decision.notes) == (["slow"], ("relaxed: max_latency",))
    assert {name: reason.partition(":")[0] for name, reason in why(decision).items()} == {
        "dear": "max_cost", "poor": "min_quality",
    }  # fmt: skip
    decision = decide([dear, poor], policy)
    assert (order(decision), decision.notes) == (["poor"], ("relaxed: min_quality",))
    decision = decide([dear], policy)
    assert (order(decision), decision.notes) == (["dear"], ("relaxed: max_cost",))


def test_only_what_was_needed_is_said_to_be_given_up() -> None:
    both = ScriptedModel("x", quality=0.1, speed_ttft=9)
    decision = decide([both], relaxing(max_latency=100, max_ttft=1, min_quality=0.5, max_cost=1))
    assert decision.notes == ("relaxed: max_ttft", "relaxed: min_quality")


def test_nothing_is_given_up_while_one_model_meets_everything() -> None:
    decision = decide([ScriptedModel("poor", quality=0.1), GOOD], relaxing(min_quality=0.5))
    assert (order(decision), decision.notes) == (["good"], ())


@pytest.mark.parametrize(
    ("model", "request_fields", "code"),
    [
        (ScriptedModel("x", capabilities=frozenset()), {"seed": 1}, "capability"),
        (ScriptedModel("x", context_window=20), {}, "context"),
        (ScriptedModel("x", price=None), {}, "price"),
        (ScriptedModel("x", languages=frozenset({"en"})), {"routing": {"language": "ja"}}, "language"),
    ],
)
def test_what_is_no_taste_is_never_given_up(model: Model, request_fields: dict[str, Any], code: str) -> None:
    assert refused([model], relaxing(max_cost=1), **request_fields).reasons["x"].partition(":")[0] == code


def test_without_leave_to_relax_the_request_is_refused_with_every_reason() -> None:
    error = refused([ScriptedModel("a", quality=0.1), ScriptedModel("b")], Policy(min_quality=0.5))
    assert set(error.reasons) == {"a", "b"}
    assert error.decision is not None
    assert error.decision.model is None
    assert why(error.decision) == error.reasons


def test_a_deadline_orders_and_rejects_nobody() -> None:
    models = [ScriptedModel("late", speed_decode=10), ScriptedModel("dear", price=DEAR)]
    policy = Policy(value_of_time=0)
    assert order(decide(models, policy)) == ["late", "dear"]
    decision = decide(models, policy, timeout=5)
    assert order(decision) == ["dear", "late"]
    assert "deadline: expected to be late" in decision.ranking[1].notes
    assert order(decide(models[:1], policy, timeout=5)) == ["late"]


# --- The app's own utility -------------------------------------------------------------------------------


def test_the_apps_own_utility_is_maximised() -> None:
    models = [
        ScriptedModel("a", quality=0.1),
        ScriptedModel("b", quality=0.9),
        ScriptedModel("c", quality=0.5),
    ]
    seen: list[Candidate] = []

    def utility(candidate: Candidate) -> float:
        seen.append(candidate)
        return 10 * (candidate.quality or 0)

    decision = decide(models, Policy(utility=utility))
    assert order(decision) == ["b", "c", "a"]
    assert [candidate.utility for candidate in decision.ranking] == [9, 5, 1]
    assert {candidate.model for candidate in seen} == {"a", "b", "c"}
    assert "own function" in decision.reason


def test_the_apps_own_utility_breaks_no_constraint() -> None:
    models = [ScriptedModel("a", quality=0.1), ScriptedModel("b", quality=0.9)]
    assert order(decide(models, Policy(min_quality=0.5, utility=lambda c: -(c.quality or 0)))) == ["b"]


@pytest.mark.parametrize("value", [math.nan, None, "5", "high", True, [1], object()])
def test_a_utility_that_is_no_number_is_named(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"policy\.utility.*\bm\b") as caught:
        decide([ScriptedModel("m")], Policy(utility=lambda _candidate: value))
    assert caught.value.field == "policy.utility"


def test_a_utility_that_raises_is_named_with_its_cause() -> None:
    with pytest.raises(
        ConfigurationError, match=r"policy\.utility failed for m: ZeroDivisionError"
    ) as caught:
        decide([ScriptedModel("m")], Policy(utility=lambda _candidate: 1 / 0))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


# --- Properties ------------------------------------------------------------------------------------------

prices = st.none() | st.builds(
    Price,
    input=st.floats(0, 50),
    output=st.floats(0, 100),
    per_request=st.sampled_from([0.0, 0.0, 0.001, 0.1]),
)
qualities = st.none() | st.floats(0, 1)


@st.composite
def fleets(draw: st.DrawFn) -> list[ScriptedModel]:
    count = draw(st.integers(1, 7))
    return [
        ScriptedModel(
            f"m{number}",
            price=draw(prices),
            quality=draw(qualities),
            speed_ttft=draw(st.floats(0.01, 5)),
            speed_decode=draw(st.floats(1, 500)),
            private=draw(st.booleans()),
            context_window=draw(st.sampled_from([None, None, 64, 100_000])),
        )
        for number in range(count)
    ]


@st.composite
def all_rules(draw: st.DrawFn) -> Rules:
    maybe = draw(st.sampled_from([st.none(), st.floats(0.001, 10)]))
    policy = Policy(
        value_of_time=draw(st.sampled_from([0.0, 0.001, 0.1])),
        value_of_quality=draw(st.sampled_from([0.0, 0.01, 1.0])),
        on_infeasible=draw(st.sampled_from(["raise", "relax"])),
        rank_by=draw(st.sampled_from(["objective", "cheapest", "fastest", "best"])),
    )
    return Rules(
        policy=policy,
        min_quality=draw(st.none() | st.floats(0, 1)),
        max_cost=draw(st.none() | st.floats(0, 0.1)),
        max_latency=draw(maybe),
        max_ttft=draw(maybe),
        deadline=draw(maybe),
        private=draw(st.booleans()),
    )


FEATURES = Features(prompt_tokens=60, expected_output_tokens=150)


def ranked(models: Sequence[Model], rules: Rules) -> Ranked:
    return rank(Fleet(models, AdapterSettings()), FEATURES, rules, Situation())


def breaks(candidate: Candidate, rules: Rules) -> set[str]:
    """The constraints that a candidate breaks by its own figures."""
    broken = set()
    if rules.min_quality is not None and (candidate.quality is None or candidate.quality < rules.min_quality):
        broken.add("min_quality")
    if rules.max_cost is not None and candidate.cost is not None and candidate.cost > rules.max_cost:
        broken.add("max_cost")
    if rules.max_latency is not None and known(candidate.latency_p95) > rules.max_latency:
        broken.add("max_latency")
    if rules.max_ttft is not None and known(candidate.ttft_p95) > rules.max_ttft:
        broken.add("max_ttft")
    if may_keep(candidate, rules.max_latency, rules.max_ttft):
        return broken - {"max_latency", "max_ttft"}
    return broken


def may_keep(candidate: Candidate, latency: float | None, ttft: float | None) -> bool:
    """Whether a model without an answer keeps limits on time by its profile's word."""
    word = math.exp(1.6448536269514722 * PRIOR_SPREAD - 0.5 * PRIOR_SPREAD**2)
    return (latency is None or known(candidate.latency) * word <= latency) and (
        ttft is None or known(candidate.ttft) * word <= ttft
    )


def worse(candidate: Candidate, rules: Rules) -> tuple[object, ...]:
    """What is minimised, written down once more from the candidate's own figures."""
    within = known(candidate.latency_p95)  # of those likely to be late, the likeliest to make it comes first
    tardy = rules.deadline is not None and within > rules.deadline
    if tardy and not may_keep(candidate, rules.deadline, None):
        return 2, within, *minimised(candidate, rules.policy)
    late = int(tardy or any(note.startswith("time limit:") for note in candidate.notes))
    return late, *minimised(candidate, rules.policy)


def minimised(candidate: Candidate, policy: Policy) -> tuple[float, ...]:
    """The corner's or the objective's own figures of a candidate, least first."""
    cost = math.inf if candidate.cost is None else candidate.cost
    if policy.rank_by == "cheapest":
        return cost, known(candidate.latency)
    if policy.rank_by == "fastest":
        return known(candidate.latency), cost
    if policy.rank_by == "best":
        return math.inf if candidate.quality is None else -candidate.quality, cost
    value = policy.value_of_time * known(candidate.latency) - policy.value_of_quality * (
        candidate.quality or 0
    )
    return (cost + value,)


@given(models=fleets(), rules=all_rules())
@settings(max_examples=300)
def test_the_ranking_holds_every_model_once_the_rejected_last_as_declared(
    models: list[ScriptedModel], rules: Rules
) -> None:
    candidates = ranked(models, rules).candidates()
    names = [model.name for model in models]
    assert sorted(candidate.model for candidate in candidates) == sorted(names)
    reasons = [candidate.rejected_because is not None for candidate in candidates]
    assert reasons == sorted(reasons)
    rejected = [candidate.model for candidate in candidates if candidate.rejected_because is not None]
    assert rejected == [name for name in names if name in rejected]


@given(models=fleets(), rules=all_rules())
@settings(max_examples=300)
def test_the_order_is_that_of_brute_force_over_the_rankings_own_figures(
    models: list[ScriptedModel], rules: Rules
) -> None:
    found = ranked(models, rules)
    candidates = {candidate.model: candidate for candidate in found.candidates()}
    eligible = [candidate for candidate in found.candidates() if candidate.rejected_because is None]
    declared = [candidates[model.name] for model in models]
    wanted = [candidate for candidate in declared if candidate.rejected_because is None]
    assert [c.model for c in eligible] == [c.model for c in sorted(wanted, key=lambda c: worse(c, rules))]


@given(models=fleets(), rules=all_rules())
@settings(max_examples=300)
def test_who_is_eligible_is_what_brute_force_says(models: list[ScriptedModel], rules: Rules) -> None:
    found = ranked(models, rules)
    candidates = {candidate.model: candidate for candidate in found.candidates()}
    may = []
    for model in models:
        if rules.private and not model.private:
            assert str(candidates[model.name].rejected_because).startswith("privacy:")
        elif model.context_window is not None and model.context_window < FEATURES.prompt_tokens + 16:
            assert str(candidates[model.name].rejected_because).startswith("context:")
        elif model.price is None and (
            rules.policy.rank_by in ("objective", "cheapest") or rules.max_cost is not None
        ):
            assert candidates[model.name].rejected_because == "price: unknown"
        else:
            may.append(candidates[model.name])
    meeting = {candidate.model for candidate in may if not breaks(candidate, rules)}
    given_up: set[str] = set()
    if rules.policy.on_infeasible == "relax":
        for name in ("max_latency", "max_ttft", "min_quality", "max_cost"):
            if meeting:
                break
            given_up.add(name)
            meeting = {candidate.model for candidate in may if breaks(candidate, rules) <= given_up}
    assert set(found.names) == meeting
    assert set(found.relaxed) == set().union(*(breaks(candidates[name], rules) for name in meeting))
    for candidate in may:
        if candidate.model not in meeting:
            assert str(candidate.rejected_because).partition(":")[0] in breaks(candidate, rules)


@given(models=fleets(), rules=all_rules(), chosen=st.integers(0, 6), factor=st.floats(0, 1))
@settings(max_examples=300)
def test_a_lower_price_never_worsens_a_models_rank(
    models: list[ScriptedModel], rules: Rules, chosen: int, factor: float
) -> None:
    place = chosen % len(models)
    model = models[place]
    if model.price is None:
        return
    cheaper = Price(
        input=model.price.input * factor,
        output=model.price.output * factor,
        per_request=model.price.per_request,
    )
    fields = {name: getattr(model, name) for name in type(model).model_fields}
    after_models = [*models[:place], ScriptedModel(**{**fields, "price": cheaper}), *models[place + 1 :]]
    before, after = ranked(models, rules).names, ranked(after_models, rules).names
    if model.name in before:
        assert model.name in after
        assert after.index(model.name) <= before.index(model.name)


@given(models=fleets(), rules=all_rules())
def test_the_same_request_gives_the_same_ranking_every_time(
    models: list[ScriptedModel], rules: Rules
) -> None:
    fleet = Fleet(models, AdapterSettings())
    first = rank(fleet, FEATURES, rules, Situation()).candidates()
    assert all(rank(fleet, FEATURES, rules, Situation()).candidates() == first for _ in range(3))


@given(models=fleets(), rules=all_rules(), left=st.floats(0, 0.02))
def test_no_eligible_model_is_expected_to_cost_more_than_what_is_left(
    models: list[ScriptedModel], rules: Rules, left: float
) -> None:
    now = Situation(budget_left=dict.fromkeys(range(len(models)), left))
    for candidate in rank(Fleet(models, AdapterSettings()), FEATURES, rules, now).candidates():
        if candidate.rejected_because is None:
            assert candidate.cost is not None
            assert candidate.cost <= left
