"""What an answer costs, to the billionth of a dollar, and what is set aside before it."""

from __future__ import annotations

import decimal
import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.booking import booked_cost, reserved_cost
from router.objective import Estimate
from router.profile import UNKNOWN_PRICE, PriceTable, Profile, Tier
from router.usage import Usage


def hosted(*tiers: Tier, per_request: float = 0.0, max_output: int | None = None) -> Profile:
    return Profile(price=PriceTable(tiers=tiers, per_request=per_request), max_output=max_output)


def forecast(tokens_in: float = 1000, tokens_out: float = 150, wait: float = 0.0) -> Estimate:
    return Estimate(
        cost=0.0,
        ttft=wait + 1.0,
        latency=wait + 4.0,
        tokens_in=tokens_in,
        cached=0.0,
        tokens_out=tokens_out,
        scatter=0.25,
        most_out=math.inf,
        wait=wait,
    )


KIMI = hosted(Tier(0, 0.6, 2.5, 0.15))
LONG_IS_DEARER = hosted(Tier(0, 1.25, 10.0, 0.125), Tier(200_000, 2.5, 15.0, 0.25))


class TestBookedCost:
    def test_every_token_has_its_price(self) -> None:
        # 700 × 0.60 + 300 × 0.15 + 200 × 2.50 = 965 millionths of a dollar
        assert booked_cost(KIMI, Usage(1000, 200, 300), 9.9) == Decimal("0.000965")

    def test_cached_tokens_cost_what_others_cost_if_nothing_else_is_known(self) -> None:
        profile = hosted(Tier(0, 0.6, 2.5))
        assert booked_cost(profile, Usage(1000, 200, 300), 0) == booked_cost(profile, Usage(1000, 200), 0)

    def test_cached_tokens_may_be_free(self) -> None:
        assert booked_cost(hosted(Tier(0, 1.0, 1.0, 0.0)), Usage(1000, 0, 1000), 0) == 0

    @pytest.mark.parametrize(
        ("prompt", "usd"),
        [
            (199_999, "0.250998750"),
            (200_000, "0.251"),
            (200_001, "0.5015025"),  # all of the prompt and all of the answer at the higher tier
        ],
    )
    def test_a_tier_prices_the_whole_request(self, prompt: int, usd: str) -> None:
        answer = 100
        assert booked_cost(LONG_IS_DEARER, Usage(prompt, answer), 0) == Decimal(usd)

    def test_the_fee_is_added_once(self) -> None:
        profile = hosted(Tier(0, 1.0, 1.0), per_request=0.005)
        assert booked_cost(profile, Usage(1, 1), 0) == Decimal("0.005002")

    def test_money_is_exact_where_floats_are_not(self) -> None:
        profile = hosted(Tier(0, 0.1, 0.2))
        cost = booked_cost(profile, Usage(1_000_000, 1_000_000), 0)
        assert cost is not None
        assert cost == Decimal("0.3")
        assert float(cost) != 0.1 + 0.2
        assert sum([cost] * 1000, Decimal(0)) == 300

    def test_a_free_model_costs_nothing_and_an_unknown_price_is_not_free(self) -> None:
        usage = Usage(1000, 1000)
        free = booked_cost(hosted(Tier(0, 0.0, 0.0, 0.0)), usage, 5.0)
        assert free is not None
        assert free == 0
        assert booked_cost(Profile(usd_per_hour=0.0), usage, 5.0) == 0
        assert booked_cost(Profile(price=UNKNOWN_PRICE), usage, 5.0) is None
        assert booked_cost(Profile(), usage, 5.0) is None

    def test_a_local_model_costs_its_time(self) -> None:
        assert booked_cost(Profile(usd_per_hour=3.6), Usage(10, 10), 2.5) == Decimal("0.0025")
        assert booked_cost(Profile(usd_per_hour=3.6), Usage(10, 10), -1.0) == 0

    def test_an_apps_own_decimal_context_changes_no_bill(self) -> None:
        with decimal.localcontext(decimal.Context(prec=3, rounding=decimal.ROUND_UP)):
            assert booked_cost(KIMI, Usage(123_457, 6_789), 0) == Decimal("0.0910467")
            assert booked_cost(Profile(usd_per_hour=1234.5678), Usage(1, 1), 1) == Decimal("0.342935500")

    def test_a_huge_price_is_a_huge_bill_not_a_crash(self) -> None:
        cost = booked_cost(hosted(Tier(0, 1e30, 1e30)), Usage(50_000_000, 50_000_000), 0)
        assert cost == Decimal("1e32")

    @given(
        prompt=st.integers(0, 50_000_000),
        completion=st.integers(0, 50_000_000),
        cached=st.floats(0, 1),
        prices=st.tuples(*[st.floats(0, 1000)] * 4),
    )
    def test_it_agrees_with_plain_arithmetic(
        self, prompt: int, completion: int, cached: float, prices: tuple[float, float, float, float]
    ) -> None:
        price_in, price_out, price_cached, fee = prices
        hit = int(prompt * cached)
        cost = booked_cost(
            hosted(Tier(0, price_in, price_out, price_cached), per_request=fee),
            Usage(prompt, completion, hit),
            0,
        )
        plain = ((prompt - hit) * price_in + hit * price_cached + completion * price_out) / 1e6 + fee
        assert cost is not None
        assert cost >= 0
        assert float(cost) == pytest.approx(plain, rel=1e-12, abs=1e-9)
        assert cost == cost.quantize(Decimal("1e-9"))


class TestReservedCost:
    def test_the_whole_answer_that_the_caller_allows_is_set_aside(self) -> None:
        reserved = reserved_cost(KIMI, forecast(1000, 150), 4096)
        assert reserved == booked_cost(KIMI, Usage(1028, 4096), 0)

    def test_without_a_limit_four_times_the_forecast_is_set_aside(self) -> None:
        assert reserved_cost(KIMI, forecast(1000, 150), None) == booked_cost(KIMI, Usage(1028, 600), 0)

    def test_a_short_forecast_is_not_trusted(self) -> None:
        assert reserved_cost(KIMI, forecast(1000, 1), None) == booked_cost(KIMI, Usage(1028, 256), 0)

    def test_no_more_is_set_aside_than_the_model_can_answer(self) -> None:
        profile = hosted(Tier(0, 0.6, 2.5), max_output=300)
        assert reserved_cost(profile, forecast(1000, 150), None) == booked_cost(profile, Usage(1028, 300), 0)

    @pytest.mark.parametrize("profile", [Profile(), Profile(price=UNKNOWN_PRICE), Profile(usd_per_hour=0.0)])
    def test_nothing_is_set_aside_where_nothing_can_be_known(self, profile: Profile) -> None:
        assert reserved_cost(profile, forecast(), 100) == 0

    def test_a_local_model_gets_the_time_of_the_longest_answer_without_its_wait(self) -> None:
        # 1 s to the first token, 3 s for 150 tokens; 1500 tokens take 31 s; and twice that is set aside
        profile = Profile(usd_per_hour=3600.0)
        assert reserved_cost(profile, forecast(1000, 150, wait=50.0), 1500) == 62
        assert reserved_cost(profile, forecast(1000, 150), 10) == 8

    def test_a_local_model_without_a_forecast_does_not_break_it(self) -> None:
        assert reserved_cost(Profile(usd_per_hour=3600.0), forecast(1000, 0), 10) == 8

    def test_a_cheaper_tier_just_above_does_not_shrink_what_is_set_aside(self) -> None:
        profile = hosted(Tier(0, 2.0, 10.0), Tier(1000, 1.0, 5.0))
        booked = booked_cost(profile, Usage(999, 100), 0)
        assert booked is not None
        assert reserved_cost(profile, forecast(999), 100) >= booked

    @given(
        tokens_in=st.floats(1, 300_000),
        deviation=st.floats(0.98, 1.02),
        most=st.integers(1, 100_000),
        answered=st.floats(0, 1),
        cached=st.floats(0, 1),
        tiers=st.lists(
            st.tuples(st.floats(0, 100), st.floats(0, 100), st.none() | st.floats(0, 100)),
            min_size=1,
            max_size=3,
        ),
        fee=st.floats(0, 1),
    )
    def test_an_answer_within_its_limits_never_costs_more_than_was_set_aside(
        self,
        *,
        tokens_in: float,
        deviation: float,
        most: int,
        answered: float,
        cached: float,
        tiers: list[tuple[float, float, float | None]],
        fee: float,
    ) -> None:
        profile = hosted(
            *(Tier(place * 100_000, *prices) for place, prices in enumerate(tiers)), per_request=fee
        )
        prompt = math.floor(tokens_in * deviation)
        usage = Usage(prompt, int(most * answered), int(prompt * cached))
        booked = booked_cost(profile, usage, 1.0)
        assert booked is not None
        assert reserved_cost(profile, forecast(tokens_in), most) >= booked
