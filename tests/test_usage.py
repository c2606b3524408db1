"""What is believed of the usage that a backend reports, and what is not."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CompletionUsage

from router.usage import MOST_TOKENS, Usage, read_usage

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
