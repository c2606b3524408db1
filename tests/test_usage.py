"""What is believed of the usage that a backend reports, and what is not."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CompletionUsage

from router.usage import MOST_TOKENS, Usage, judge_usage, read_usage

ABSURD: tuple[object, ...] = (
    -1,
    -1.0,
    math.nan,
    math.inf,
    -math.inf,
    10**9,
    1e9,
    10**400,
    MOST_TOKENS + 1,
    12.5,
    True,
    False,
    "12",
    "",
    None,
    [12],
    {},
)


def reported(prompt: object = 100, completion: object = 20, **fields: object) -> CompletionUsage:
    """Usage as the SDK builds it from an answer: unchecked."""
    data: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": completion, **fields}
    return CompletionUsage.construct(**data)


class TestPlausibleReports:
    def test_the_four_numbers_are_read(self) -> None:
        usage = reported(
            100,
            20,
            total_tokens=120,
            prompt_tokens_details={"cached_tokens": 64},
            completion_tokens_details={"reasoning_tokens": 12},
        )
        assert read_usage(usage) == Usage(100, 20, cached_tokens=64, reasoning_tokens=12)

    @pytest.mark.parametrize("details", [None, {}, {"cached_tokens": None}, {"cached_tokens": 0}])
    def test_missing_details_mean_that_nothing_was_cached(self, details: object) -> None:
        assert read_usage(reported(prompt_tokens_details=details)) == Usage(100, 20)

    def test_whole_numbers_written_as_floats_are_tokens(self) -> None:
        usage = read_usage(reported(100.0, 20.0))
        assert usage == Usage(100, 20)
        assert usage is not None
        assert isinstance(usage.prompt_tokens, int)

    def test_an_empty_answer_is_a_real_one(self) -> None:
        assert read_usage(reported(100, 0)) == Usage(100, 0)

    def test_a_whole_prompt_may_be_cached(self) -> None:
        assert read_usage(reported(prompt_tokens_details={"cached_tokens": 100})) == Usage(100, 20, 100)

    @pytest.mark.parametrize("field", ["cached_tokens", "prompt_cache_hit_tokens"])
    def test_cached_tokens_are_found_where_moonshot_and_deepseek_put_them(self, field: str) -> None:
        assert read_usage(reported(**{field: 64})) == Usage(100, 20, cached_tokens=64)

    def test_reasoning_that_is_billed_beside_the_completion_is_added_to_it(self) -> None:
        # the figures of a real answer of xAI's: 10120 + 1499 + 2809 = 14428
        usage = reported(
            10120, 1499, total_tokens=14428, completion_tokens_details={"reasoning_tokens": 2809}
        )
        assert read_usage(usage) == Usage(10120, 4308, reasoning_tokens=2809)

    def test_reasoning_that_is_a_part_of_the_completion_is_not_counted_twice(self) -> None:
        usage = reported(500, 500, total_tokens=1000, completion_tokens_details={"reasoning_tokens": 200})
        assert read_usage(usage) == Usage(500, 500, reasoning_tokens=200)


class TestAbsurdReports:
    def test_no_report_is_none(self) -> None:
        assert read_usage(None) is None

    @pytest.mark.parametrize("value", ABSURD, ids=repr)
    def test_an_absurd_prompt_is_none(self, value: object) -> None:
        assert read_usage(reported(prompt=value)) is None

    @pytest.mark.parametrize("value", ABSURD, ids=repr)
    def test_an_absurd_completion_is_none(self, value: object) -> None:
        assert read_usage(reported(completion=value)) is None

    @pytest.mark.parametrize("value", [-1, math.nan, math.inf, 1e9, True, "64", 12.5, 101], ids=repr)
    def test_absurd_cached_tokens_are_none(self, value: object) -> None:
        usage = reported(prompt_tokens_details={})
        setattr(usage.prompt_tokens_details, "cached_tokens", value)  # noqa: B010 - of a wrong type on purpose
        assert read_usage(usage) is None

    @pytest.mark.parametrize("value", [-1, math.nan, 1e9, True, "12"], ids=repr)
    def test_absurd_reasoning_tokens_are_none(self, value: object) -> None:
        usage = reported(completion_tokens_details={})
        setattr(usage.completion_tokens_details, "reasoning_tokens", value)  # noqa: B010 - as above
        assert read_usage(usage) is None

    @pytest.mark.parametrize("completion", [0, 20])
    def test_a_chat_without_a_prompt_is_none(self, completion: int) -> None:
        assert read_usage(reported(0, completion)) is None

    @pytest.mark.parametrize("total", [True, "120", math.nan, -1, None], ids=repr)
    def test_an_absurd_total_changes_nothing(self, total: object) -> None:
        assert read_usage(reported(total_tokens=total)) == Usage(100, 20)

    @given(st.tuples(*[st.integers() | st.floats() | st.booleans() | st.text() | st.none()] * 5))
    def test_whatever_is_reported_what_is_read_makes_sense(self, values: tuple[object, ...]) -> None:
        prompt, completion, cached, reasoning, total = values
        usage = read_usage(
            reported(
                prompt,
                completion,
                total_tokens=total,
                prompt_tokens_details={"cached_tokens": cached},
                completion_tokens_details={"reasoning_tokens": reasoning},
            )
        )
        if usage is not None:
            assert 0 < usage.prompt_tokens <= MOST_TOKENS
            assert 0 <= usage.completion_tokens <= 2 * MOST_TOKENS
            assert 0 <= usage.cached_tokens <= usage.prompt_tokens
            assert usage.reasoning_tokens >= 0


def judged(usage: CompletionUsage | None, **known: Any) -> tuple[Usage | None, str | None]:
    """What is made of a report for an answer of a usual size, by a model of which nothing is known."""
    usual: dict[str, Any] = {
        "expected_prompt": 100.0,
        "window": None,
        "most_output": None,
        "characters": 80,
        "choices": 1,
    }
    return judge_usage(usage, **usual | known)


def because(usage: CompletionUsage | None, **known: Any) -> str:
    """Why a report is not believed."""
    usage_read, reason = judged(usage, **known)
    assert usage_read is None
    assert reason is not None
    return reason


def with_details(cached: object = None, reasoning: object = None, **fields: Any) -> CompletionUsage:
    usage = reported(prompt_tokens_details={}, completion_tokens_details={}, **fields)
    setattr(usage.prompt_tokens_details, "cached_tokens", cached)  # noqa: B010 - of a wrong type on purpose
    setattr(usage.completion_tokens_details, "reasoning_tokens", reasoning)  # noqa: B010 - as above
    return usage


class TestJudging:
    """The same report, once the model and the answer are known."""

    @pytest.mark.parametrize("known", [{}, {"window": 8192.0, "most_output": 4096.0}])
    def test_what_makes_sense_is_believed_without_a_reason(self, known: dict[str, Any]) -> None:
        usage = reported(
            100,
            20,
            prompt_tokens_details={"cached_tokens": 64},
            completion_tokens_details={"reasoning_tokens": 12},
        )
        assert judged(usage, **known) == (Usage(100, 20, 64, 12), None)
        assert judged(reported(100.0, 12.0), **known) == (Usage(100, 12), None)

    @pytest.mark.parametrize("usage", [None, CompletionUsage.construct(), reported(None, None)], ids=repr)
    def test_no_report_is_not_an_absurd_one(self, usage: CompletionUsage | None) -> None:
        assert judged(usage) == (None, None)

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            (-5, "-5"),
            (-5.0, "-5.0"),
            (12.5, "12.5"),
            (math.nan, "nan"),
            (math.inf, "inf"),
            (-math.inf, "-inf"),
            (True, "true"),
            (False, "false"),
            ("12", "a text"),
            ([12], "a list"),
            ({"n": 12}, "an object"),
            (None, "null"),
            (1j, "no number"),
            (-(10**30), "-10^30 or so"),
        ],
    )
    def test_what_is_no_count_is_named(self, value: object, said: str) -> None:
        assert because(reported(prompt=value)) == f"prompt_tokens = {said}"
        assert because(reported(completion=value)) == f"completion_tokens = {said}"
        if value:
            assert because(with_details(cached=value)) == f"cached_tokens = {said}"
            assert because(with_details(reasoning=value)) == f"reasoning_tokens = {said}"

    @pytest.mark.parametrize(
        ("usage", "said"), [("lots of Ada", "a text"), ([1], "a list"), (5, "5"), (True, "true")]
    )
    def test_what_is_no_report_at_all_is_named(self, usage: Any, said: str) -> None:
        assert because(usage) == f"usage = {said}"

    def test_a_reason_never_quotes_a_text(self) -> None:
        assert "Ada" not in because(reported(prompt="about Ada"))

    def test_no_prompt_or_more_cached_than_prompt_tokens_are_named(self) -> None:
        assert because(reported(prompt=0)) == "prompt_tokens = 0"
        assert because(with_details(cached=90, prompt=40)) == "cached_tokens = 90 of 40 prompt tokens"

    def test_a_prompt_beyond_the_window_is_absurd_with_room_for_a_rounded_window(self) -> None:
        assert judged(reported(10_000), window=8_000.0) == (Usage(10_000, 20), None)
        assert because(reported(10_001), window=8_000.0) == (
            "prompt_tokens = 10001: more than fit into its context window of 8000"
        )
        assert because(reported(10**9), window=8_000.0).startswith(
            "prompt_tokens = 1000000000: more than fit into its context window"
        )

    def test_a_window_counts_more_than_our_own_forecast_of_the_prompt(self) -> None:
        huge = reported(900_000)
        assert judged(huge, expected_prompt=1.0, window=1e6) == (Usage(900_000, 20), None)
        assert because(huge, expected_prompt=1.0) == ("prompt_tokens = 900000: far more than the 1 expected")

    def test_without_a_window_a_prompt_may_hold_much_that_we_do_not_count(self) -> None:
        assert judged(reported(210_000))[1] is None
        assert because(reported(210_001)) == "prompt_tokens = 210001: far more than the 100 expected"

    @pytest.mark.parametrize("expected", [math.nan, -1.0, 0.0])
    def test_a_forecast_of_nothing_still_allows_what_we_do_not_count(self, expected: float) -> None:
        assert judged(reported(200_000), expected_prompt=expected)[1] is None
        assert because(reported(200_001), expected_prompt=expected).endswith("the 0 expected")

    def test_more_than_the_model_can_answer_is_absurd_with_room_for_a_frame(self) -> None:
        assert judged(reported(completion=1_314), most_output=1_000.0)[1] is None
        assert because(reported(completion=1_315), most_output=1_000.0) == (
            "completion_tokens = 1315: more than the 1000 that it can answer with"
        )
        assert judged(reported(completion=20), most_output=1.0)[1] is None

    def test_every_choice_may_be_as_long_as_one_answer(self) -> None:
        assert judged(reported(completion=3 * 1_314), most_output=1_000.0, choices=3)[1] is None
        assert because(reported(completion=4_000), most_output=1_000.0, choices=3) == (
            "completion_tokens = 4000: more than the 1000 that it can answer with for 3 answers"
        )
        assert judged(reported(completion=30_000), window=8_000.0, choices=3)[1] is None
        assert because(reported(completion=30_001), window=8_000.0, choices=3) == (
            "completion_tokens = 30001: more than fit into its context window of 8000 for 3 answers"
        )

    def test_reasoning_may_be_longer_than_the_answer_but_not_than_the_window(self) -> None:
        thought = with_details(reasoning=9_000, completion=9_500)
        assert judged(thought, most_output=1_000.0, window=32_000.0) == (
            Usage(100, 9_500, reasoning_tokens=9_000),
            None,
        )
        assert because(thought, most_output=1_000.0, window=7_000.0).endswith("context window of 7000")

    def test_reasoning_that_was_reported_cannot_excuse_an_answer_that_it_is_no_part_of(self) -> None:
        assert because(with_details(reasoning=60_000, completion=50_000), most_output=1_000.0) == (
            "completion_tokens = 50000: more than the 1000 that it can answer with"
        )

    def test_of_an_unknown_model_only_the_impossible_is_absurd(self) -> None:
        assert judged(reported(completion=200_000))[1] is None, "reasoning that the host does not tell apart"
        assert because(reported(completion=9_999_999)) == (
            "completion_tokens = 9999999: more than an answer of 80 characters can have taken"
        )
        assert because(reported(completion=10_000_001)) == (
            "completion_tokens = 10000001: more than any model answers with"
        )
        assert because(reported(completion=10**30)) == (
            "completion_tokens = 10^30 or so: more than any model answers with"
        )
        assert because(reported(prompt=10**9)) == "prompt_tokens = 1000000000: more than any model takes"
        assert because(with_details(reasoning=10**9)) == (
            "reasoning_tokens = 1000000000 of 20 completion tokens"
        )

    def test_a_number_too_long_to_write_is_told_all_the_same(self) -> None:
        assert because(reported(prompt=10**5_000)) == (
            "prompt_tokens = 10^5000 or so: more than any model takes"
        )

    def test_an_answer_takes_tokens_unless_it_is_hardly_one(self) -> None:
        assert because(reported(100, 0), characters=812) == (
            "no completion tokens for an answer of 812 characters"
        )
        assert because(reported(100, 0), characters=40) is not None
        assert judged(reported(100, 0), characters=39) == (Usage(100, 0), None)

    @given(
        st.tuples(*[st.integers() | st.floats() | st.booleans() | st.text() | st.none()] * 5),
        st.fixed_dictionaries(
            {
                "expected_prompt": st.floats() | st.integers(0, 10**7),
                "window": st.none() | st.floats(0, allow_nan=False),
                "most_output": st.none() | st.floats(0, allow_nan=False),
                "characters": st.integers(0, 10**9),
                "choices": st.integers(0, 128),
            }
        ),
    )
    def test_whatever_is_reported_it_is_believed_or_there_is_one_short_reason(
        self, values: tuple[object, ...], known: dict[str, Any]
    ) -> None:
        prompt, completion, cached, reasoning, total = values
        usage = with_details(cached, reasoning, prompt=prompt, completion=completion, total_tokens=total)
        read, reason = judge_usage(usage, **known)
        if read is None:
            assert reason is None or (0 < len(reason) < 500 and "\n" not in reason)
            assert reason is not None or (prompt is None and completion is None)
        else:
            assert reason is None
            assert 0 < read.prompt_tokens <= MOST_TOKENS
            assert 0 <= read.completion_tokens <= MOST_TOKENS
            assert 0 <= read.cached_tokens <= read.prompt_tokens
            assert read_usage(usage) == read
