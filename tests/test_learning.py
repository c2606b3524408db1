"""What is learned of a model from its answers: quickly, steadily, and not from nonsense."""

from __future__ import annotations

import math
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.learning import (
    EXPECTED_OUTPUT_TOKENS,
    LEAST_SECONDS,
    LEAST_SPREAD,
    LEAST_WEIGHT,
    LONGEST,
    MOST_STEP,
    MOST_SURPRISE,
    MOST_TASKS,
    PRIOR_SAMPLES,
    Columns,
    Sample,
)
from router.profile import Profile, Speed

PRIOR = Speed(ttft=0.5, prefill=1000.0, decode=50.0)


def columns(models: int = 1) -> Columns:
    return Columns([Profile(speed=PRIOR)] * models)


def sample(
    *,
    task: str | None = None,
    counted: int = 1000,
    prompt: int | None = 1000,
    completion: int | None = 100,
    ttft: float | None = None,
    duration: float = 3.5,
) -> Sample:
    return Sample(
        task=task,
        counted_tokens=counted,
        prompt_tokens=prompt,
        completion_tokens=completion,
        ttft=ttft,
        duration=duration,
    )


def first_token(learned: Columns, tokens_in: float) -> float:
    return learned.base[0] + tokens_in * learned.per_in[0]


def prompt_tokens(learned: Columns, counted: int) -> float:
    return learned.frame[0] + counted * learned.ratio[0]


def latency(learned: Columns, tokens_in: float, tokens_out: float) -> float:
    return first_token(learned, tokens_in) + tokens_out * learned.per_out[0]


def weight_of(learned: Columns) -> float:
    return max(LEAST_WEIGHT, 1.0 / (learned.samples[0] + PRIOR_SAMPLES))


ANY_SECONDS = st.floats(allow_nan=False, allow_infinity=False)
ANY_COUNT = st.none() | st.integers(0, 50_000_000)
ANY_SAMPLE = st.builds(
    sample,
    task=st.none() | st.sampled_from(["support", "code"]),
    counted=st.integers(0, 10_000_000),
    prompt=ANY_COUNT,
    completion=ANY_COUNT,
    ttft=st.none() | ANY_SECONDS,
    duration=ANY_SECONDS,
)


class TestAtFirst:
    def test_a_model_never_seen_has_its_profiles_speed(self) -> None:
        learned = columns()
        assert first_token(learned, 1000) == pytest.approx(1.5)
        assert latency(learned, 1000, 100) == pytest.approx(3.5)
        assert learned.samples == [0]
        assert learned.outputs("anything") == [EXPECTED_OUTPUT_TOKENS]

    def test_an_answer_just_as_expected_moves_no_speed(self) -> None:
        learned = columns()
        learned.learn(0, sample(duration=3.5, ttft=1.5))
        assert latency(learned, 1000, 100) == pytest.approx(3.5)
        assert first_token(learned, 1000) == pytest.approx(1.5)
        assert learned.samples == [1]


class TestConvergence:
    @pytest.mark.parametrize("factor", [0.1, 0.5, 2.0, 10.0])
    @pytest.mark.parametrize("streamed", [True, False])
    def test_thirty_answers_are_enough_to_know_a_speed(self, factor: float, streamed: bool) -> None:
        learned = columns()
        for _ in range(30):
            learned.learn(0, sample(ttft=1.5 * factor if streamed else None, duration=3.5 * factor))
        assert latency(learned, 1000, 100) == pytest.approx(3.5 * factor, rel=0.2)
        if streamed:
            assert first_token(learned, 1000) == pytest.approx(1.5 * factor, rel=0.2)

    def test_a_stream_tells_a_slow_start_from_slow_writing(self) -> None:
        learned = columns()
        for _ in range(40):
            learned.learn(0, sample(ttft=6.0, duration=6.5))
        assert first_token(learned, 1000) == pytest.approx(6.0, rel=0.1)
        assert 100 * learned.per_out[0] == pytest.approx(0.5, rel=0.1)

    def test_thirty_answers_are_enough_to_know_the_tokens(self) -> None:
        learned = columns()
        for _ in range(30):
            learned.learn(0, sample(counted=1000, prompt=1300, completion=800, task="code"))
        assert learned.ratio[0] == pytest.approx(1.3, rel=0.05)
        assert learned.outputs("code")[0] == pytest.approx(800, rel=0.1)
        assert learned.outputs("support")[0] == pytest.approx(800, rel=0.1), "all tasks showed it"

    def test_very_long_answers_are_learned_too(self) -> None:
        learned = columns()
        for _ in range(30):
            learned.learn(0, sample(completion=20_000))
        assert learned.outputs(None)[0] == pytest.approx(20_000, rel=0.15)

    def test_what_changes_later_is_followed(self) -> None:
        learned = columns()
        for _ in range(200):
            learned.learn(0, sample(duration=3.5))
        for _ in range(30):
            learned.learn(0, sample(duration=14.0))
        assert latency(learned, 1000, 100) == pytest.approx(14.0, rel=0.2)

    def test_a_backend_that_reports_no_usage_is_measured_by_our_own_count(self) -> None:
        learned = columns()
        for _ in range(30):
            learned.learn(0, sample(counted=1000, prompt=2000, completion=150, ttft=2.5, duration=5.5))
        before = first_token(learned, 2000)
        for _ in range(30):
            learned.learn(0, sample(counted=1000, prompt=None, completion=None, ttft=2.5, duration=5.5))
        counted = prompt_tokens(learned, 1000)
        assert first_token(learned, counted) == pytest.approx(before, rel=0.05)
        assert counted == pytest.approx(2000, rel=0.05), "nothing was said against it"

    def test_the_frame_of_short_prompts_is_not_taken_for_a_ratio_of_long_ones(self) -> None:
        learned = columns()
        for _ in range(50):
            learned.learn(0, sample(counted=15, prompt=35))
        assert prompt_tokens(learned, 15) == pytest.approx(35, rel=0.02)
        assert prompt_tokens(learned, 1000) < 1250, "a prompt that fits must not be shut out"

    def test_long_prompts_tell_the_ratio_whatever_short_ones_said(self) -> None:
        learned = columns()
        for _ in range(50):
            learned.learn(0, sample(counted=15, prompt=35))
            learned.learn(0, sample(counted=4000, prompt=5220))
        assert prompt_tokens(learned, 8000) == pytest.approx(8000 * 1.3 + 20, rel=0.05)
        assert prompt_tokens(learned, 15) == pytest.approx(35, rel=0.5)

    def test_the_spread_grows_when_answers_are_uneven_and_shrinks_when_they_are_not(self) -> None:
        even, uneven = columns(), columns()
        for turn in range(60):
            even.learn(0, sample(duration=3.5))
            uneven.learn(0, sample(duration=3.5 * (3.0 if turn % 2 else 1 / 3)))
        assert even.spread[0] < 0.1
        assert 0.5 < uneven.spread[0] <= 1.0


class TestRobustness:
    @settings(max_examples=150)
    @given(st.lists(ANY_SAMPLE, max_size=40))
    def test_columns_stay_finite_and_positive_whatever_comes(self, samples: list[Sample]) -> None:
        learned = columns()
        for one in samples:
            learned.learn(0, one)
        every = [
            learned.ratio,
            learned.base,
            learned.per_in,
            learned.per_out,
            learned.spread,
            learned.service,
            learned.outputs(None),
            learned.outputs("support"),
        ]
        for column in every:
            assert math.isfinite(column[0])
            assert column[0] > 0
        assert 0 <= learned.frame[0] < math.inf
        assert learned.spread[0] <= 1.0
        assert learned.samples == [len(samples)]

    @pytest.mark.parametrize(
        "stubborn",
        [
            sample(duration=sys.float_info.max, ttft=sys.float_info.max),
            sample(duration=sys.float_info.max, ttft=None),
            sample(duration=0.0, ttft=0.0, completion=50_000_000, prompt=50_000_000),
            sample(duration=0.0, ttft=None),
            sample(duration=-1.0, ttft=5.0),
            sample(completion=0, duration=0.0),
            sample(prompt=50_000_000, counted=1),
            sample(ttft=1.5),
        ],
        ids=["endless", "endless in one piece", "at once", "nothing", "backwards", "empty", "huge", "steady"],
    )
    @pytest.mark.parametrize("between", [None, sample(ttft=1e300, duration=1e300, completion=1)])
    def test_the_same_without_end_breaks_nothing(self, stubborn: Sample, between: Sample | None) -> None:
        learned = columns()
        for _ in range(8000):
            learned.learn(0, stubborn)
            if between is not None:
                learned.learn(0, between)
        for column in (learned.base, learned.per_in, learned.per_out, learned.spread, learned.service):
            assert 0 < column[0] <= LONGEST
        assert min(learned.base[0], learned.per_in[0], learned.per_out[0]) >= LEAST_SECONDS
        assert learned.spread[0] >= LEAST_SPREAD
        assert math.isfinite(latency(learned, 1e6, 1e6))

    @settings(max_examples=150)
    @given(before=st.integers(0, 40), outlier=ANY_SAMPLE)
    def test_one_outlier_moves_a_speed_by_a_bounded_factor(self, before: int, outlier: Sample) -> None:
        learned = columns()
        for _ in range(before):
            learned.learn(0, sample(ttft=1.5))
        most = MOST_STEP ** weight_of(learned) * (1 + 1e-9)
        was = (learned.base[0], learned.per_in[0], learned.per_out[0])
        learned.learn(0, outlier)
        for old, new in zip(was, (learned.base[0], learned.per_in[0], learned.per_out[0]), strict=True):
            assert 1 / most <= new / old <= most

    def test_one_absurd_report_of_tokens_does_not_price_a_model_out(self) -> None:
        learned = columns()
        for _ in range(20):
            learned.learn(0, sample(completion=100))
        learned.learn(0, sample(counted=10, prompt=40_000_000, completion=40_000_000))
        assert learned.ratio[0] <= 1 + LEAST_WEIGHT * MOST_STEP
        assert learned.outputs(None)[0] <= 150 * (1 + LEAST_WEIGHT * MOST_SURPRISE)

    def test_an_empty_answer_does_not_make_a_model_look_fast(self) -> None:
        learned = columns()
        before = learned.per_out[0]
        for _ in range(20):
            learned.learn(0, sample(completion=0, ttft=1.5, duration=1.5))
        assert learned.per_out[0] == before


class TestTasksAndModels:
    def test_a_new_task_starts_from_what_all_tasks_showed(self) -> None:
        learned = columns()
        for _ in range(30):
            learned.learn(0, sample(task="code", completion=1000))
        everything = learned.outputs(None)[0]
        learned.learn(0, sample(task="intent", completion=5))
        assert 5 < learned.outputs("intent")[0] < everything
        for _ in range(80):
            learned.learn(0, sample(task="intent", completion=5))
        assert learned.outputs("intent")[0] == pytest.approx(5, rel=0.3)
        assert learned.outputs("code")[0] == pytest.approx(1000, rel=0.1), "one task does not touch another"

    def test_one_model_does_not_touch_another(self) -> None:
        learned = columns(2)
        for _ in range(20):
            learned.learn(0, sample(duration=60.0, prompt=2000))
        assert (learned.ratio[1], learned.base[1], learned.per_out[1]) == (1.0, 0.5, 0.02)
        assert learned.samples == [20, 0]

    def test_tasks_without_end_do_not_fill_the_memory(self) -> None:
        learned = columns()
        for place in range(3 * MOST_TASKS):
            learned.learn(0, sample(task=f"task {place}"))
        assert len(learned._outputs) == MOST_TASKS

    def test_what_was_learned_is_carried_over_to_another_place(self) -> None:
        old, new = columns(2), columns(3)
        for _ in range(30):
            old.learn(1, sample(task="code", prompt=1500, completion=700, duration=9.0))
        new.carry_over(2, old, 1)
        assert new.outputs("code")[2] == old.outputs("code")[1]
        assert new.outputs(None)[2] == old.outputs(None)[1]
        assert (new.ratio[2], new.samples[2], new.spread[2]) == (old.ratio[1], 30, old.spread[1])
        assert new.ratio[:2] == [1.0, 1.0], "the other models know nothing of it"
        assert new.outputs("code")[:2] == [EXPECTED_OUTPUT_TOKENS] * 2

    def test_more_tasks_than_there_is_room_for_do_not_spoil_the_nameless_one(self) -> None:
        old, new = columns(), columns()
        for place in range(MOST_TASKS):
            new.learn(0, sample(task=f"new {place}", completion=100))
        for _ in range(10):
            old.learn(0, sample(task="long", completion=9000))
        for _ in range(60):
            old.learn(0, sample(task=None, completion=50))
        new.carry_over(0, old, 0)
        assert new.outputs(None)[0] == old.outputs(None)[0]
