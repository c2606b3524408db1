from __future__ import annotations

import datetime as dt
import subprocess
import sys
from datetime import UTC
from typing import Any

import pytest

from router.capabilities import CAPABILITIES
from router.catalogue import rows
from router.catalogue.prices import listed
from router.catalogue.providers import PROVIDERS
from router.models import HostedModel, Price
from router.profile import UNKNOWN_PRICE, Profile, Tier

#: What the stories name: host, model, USD per million input and output tokens (None: only that there is a
#: price), context window (None: could not be confirmed).
NAMED = [
    ("openai", "gpt-5", (1.25, 10), 400_000),
    ("openai", "gpt-5-mini", (0.25, 2), 400_000),
    ("openai", "gpt-5-nano", (0.05, 0.4), 400_000),
    ("openai", "gpt-5.1", (1.25, 10), 400_000),
    ("anthropic", "claude-opus-4-1", (15, 75), 200_000),
    ("anthropic", "claude-opus-4.1", (15, 75), 200_000),
    ("anthropic", "claude-opus-4-20250514", (15, 75), 200_000),
    ("anthropic", "claude-opus-4-5", (5, 25), 200_000),
    ("anthropic", "claude-opus-4.5", (5, 25), 200_000),
    ("google", "gemini-2.5-pro", (1.25, 10), 1_048_576),
    ("google", "gemini-2.5-flash", (0.3, 2.5), 1_048_576),
    ("moonshot", "kimi-k2-0905-preview", (0.6, 2.5), 262_144),
    ("moonshot", "kimi-k2-turbo-preview", (1.15, 8), 262_144),
    ("groq", "moonshotai/kimi-k2-instruct-0905", (1, 3), 131_072),
    ("openrouter", "moonshotai/kimi-k2-0905", (0.6, 2.5), 262_144),
    ("dashscope", "qwen3-max", (1.2, 6), 262_144),
    ("openrouter", "qwen/qwen3-max", (1.2, 6), 262_144),
    ("openrouter", "qwen/qwen3-235b-a22b-2507", None, 262_144),
    ("openrouter", "qwen/qwen3-30b-a3b-instruct-2507", None, 262_144),
    ("openrouter", "qwen/qwen3-8b", None, 131_072),
    ("groq", "qwen/qwen3-32b", (0.29, 0.59), 131_072),
    ("openrouter", "qwen/qwen3-coder", None, 262_144),
    ("dashscope", "qwen3-coder-plus", (1, 5), 128_000),
    ("together", "Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8", (2, 2), 262_144),
    ("deepseek", "deepseek-chat", None, 1_000_000),
    ("openrouter", "deepseek/deepseek-chat-v3.1", None, 131_072),
    ("together", "deepseek-ai/DeepSeek-V3.1", (0.6, 1.7), 131_072),
    ("zai", "glm-4.6", (0.6, 2.2), 200_000),
    ("openrouter", "z-ai/glm-4.6", None, 202_752),
    ("together", "zai-org/GLM-4.6", (0.6, 2.2), 202_752),
    ("groq", "openai/gpt-oss-20b", (0.075, 0.3), 131_072),
    ("groq", "openai/gpt-oss-120b", (0.15, 0.6), 131_072),
    ("openrouter", "openai/gpt-oss-20b", None, 131_072),
    ("openrouter", "openai/gpt-oss-120b", None, 131_072),
    ("together", "openai/gpt-oss-120b", (0.15, 0.6), 131_072),
    ("fireworks", "accounts/fireworks/models/gpt-oss-20b", (0.07, 0.3), 131_072),
    ("groq", "meta-llama/llama-4-scout-17b-16e-instruct", (0.11, 0.34), 131_072),
    ("groq", "meta-llama/llama-4-maverick-17b-128e-instruct", (0.2, 0.6), 131_072),
    ("together", "meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8", (0.27, 0.85), 1_048_576),
    ("openrouter", "meta-llama/llama-4-maverick", None, None),
    ("openrouter", "google/gemma-3-27b-it", None, None),
    ("openrouter", "google/gemma-3-4b-it", None, 131_072),
    ("fireworks", "accounts/fireworks/models/gemma-3-27b-it", (0.1, 0.1), 131_000),
]


def profile(provider: str, model: str, **more: Any) -> Profile:
    return HostedModel("m", provider=provider, model=model, **more).profile()


@pytest.mark.parametrize(("provider", "model", "price", "window"), NAMED, ids=str)
def test_a_model_that_the_stories_name_resolves(
    provider: str, model: str, price: tuple[float, float] | None, window: int | None
) -> None:
    known = profile(provider, model)
    assert known.price is not None
    tier = known.price.at(1000)
    assert tier is not None
    assert 0 < tier.input <= tier.output
    if price is not None:
        assert (tier.input, tier.output) == price
    assert known.context_window == window
    assert not known.local
    assert known.credentials == PROVIDERS[provider].key_env


@pytest.mark.parametrize(
    ("model", "licence"),
    [
        ("qwen/qwen3-8b", "Apache-2.0"),
        ("qwen/qwen3-coder", "Apache-2.0"),
        ("moonshotai/kimi-k2-0905", "Modified-MIT"),
        ("deepseek/deepseek-chat-v3.1", "MIT"),
        ("z-ai/glm-4.6", "MIT"),
        ("openai/gpt-oss-120b", "Apache-2.0"),
        ("meta-llama/llama-4-scout", "Llama-4-Community"),
        ("google/gemma-3-27b-it", "Gemma"),
        ("qwen/qwen3-max", None),
        ("qwen/qwen3-coder-plus", None),
        ("z-ai/glm-4.6v", None),
        ("openai/gpt-5", None),
    ],
)
def test_open_weights_have_their_licence_and_closed_ones_none(model: str, licence: str | None) -> None:
    assert profile("openrouter", model).licence == licence


# --- prices -------------------------------------------------------------------------------------------------


def test_a_declared_price_goes_before_the_catalogue() -> None:
    known = profile("openai", "gpt-5", price=Price(input=1, output=2, cached_input=0.1, per_request=0.01))
    assert known.price is not None
    assert known.price.tiers == (Tier(above=0, input=1, output=2, cached_input=0.1),)
    assert (known.price.per_request, known.price.source) == (0.01, "declared")


def test_tiers_hold_above_their_threshold_and_not_at_it() -> None:
    price = profile("google", "gemini-2.5-pro").price
    assert price is not None
    assert price.at(200_000) == Tier(above=0, input=1.25, output=10, cached_input=0.125)
    assert price.at(200_001) == Tier(above=200_000, input=2.5, output=15, cached_input=0.25)
    qwen = profile("dashscope", "qwen3-max").price
    assert qwen is not None
    assert [qwen.at(tokens).input for tokens in (32_000, 32_001, 128_001)] == [1.2, 2.4, 3.0]  # type: ignore[union-attr]


@pytest.mark.parametrize("provider", ["openai", "google", "anthropic", "openrouter", "groq", "together"])
@pytest.mark.parametrize("prompt", [10, 150_000, 250_000])
def test_the_price_of_a_request_is_what_genai_prices_calculates(provider: str, prompt: int) -> None:
    from genai_prices import Usage, calc_price

    models = {
        "openai": "gpt-5",
        "google": "gemini-2.5-pro",
        "anthropic": "claude-sonnet-4-5",
        "openrouter": "moonshotai/kimi-k2-0905",
        "groq": "openai/gpt-oss-120b",
        "together": "openai/gpt-oss-120b",
    }
    table = profile(provider, models[provider]).price
    assert table is not None
    tier = table.at(prompt)
    assert tier is not None
    cached = prompt // 2
    rate = tier.input if tier.cached_input is None else tier.cached_input
    ours = ((prompt - cached) * tier.input + cached * rate + 500 * tier.output) / 1e6
    theirs = calc_price(
        Usage(input_tokens=prompt, cache_read_tokens=cached, output_tokens=500),
        models[provider],
        provider_id=PROVIDERS[provider].prices,
    )
    assert ours == pytest.approx(float(theirs.total_price))


def test_an_unknown_model_has_an_unknown_price_and_window() -> None:
    known = profile("openai", "no-such-model-9")
    assert known.price is UNKNOWN_PRICE
    assert known.price.at(1) is None
    assert known.context_window is None


@pytest.mark.parametrize("private", [False, True])
def test_a_bare_base_url_has_an_unknown_price_even_if_it_is_private(private: bool) -> None:
    known = HostedModel("m", base_url="http://127.0.0.1:9/v1", private=private).profile()
    assert known.price is UNKNOWN_PRICE
    assert known.private is private
    assert known.capabilities is None


@pytest.mark.parametrize("provider", ["ollama", "vllm", "lm-studio", "llama-server"])
def test_a_self_hosted_row_is_free_but_not_private_by_itself(provider: str) -> None:
    known = profile(provider, "qwen3:8b")
    assert known.price is not None
    assert known.price.at(10) == Tier(above=0, input=0, output=0, cached_input=0)
    assert known.price.source == "self-hosted"
    assert not known.private
    assert profile(provider, "qwen3:8b", private=True).private


def test_openrouters_free_models_are_free_and_not_unknown() -> None:
    price = profile("openrouter", "qwen/qwen3-coder:free").price
    assert price is not None
    assert price.at(10) == Tier(above=0, input=0, output=0)


def test_a_stale_price_is_replaced_and_the_reason_told() -> None:
    known = profile("deepseek", "deepseek-chat")
    assert known.price is not None
    assert "deepseek-v4-flash" in known.price.source
    assert known.notes["retired"] == "2026-07-24"
    assert "genai-prices" in known.notes["price"]


def test_a_model_that_its_host_withdraws_says_so() -> None:
    assert profile("moonshot", "kimi-k2-0905-preview").notes["deprecated"] == "by its host"


def test_the_price_valid_on_the_day_is_taken() -> None:
    before = listed("zai", "glm-5.3-flash", now=dt.datetime(2026, 9, 1, tzinfo=UTC))
    after = listed("zai", "glm-5.3-flash", now=dt.datetime(2026, 9, 11, tzinfo=UTC))
    assert before is not None
    assert after is not None
    assert before.price is not None
    assert after.price is not None
    assert (before.price.tiers[0].input, after.price.tiers[0].input) == (0.075, 0.15)


@pytest.mark.parametrize("hour", range(0, 24, 3))
def test_where_the_price_changes_with_the_hour_the_dearest_is_taken(hour: int) -> None:
    known = listed("deepseek", "deepseek-flash", now=dt.datetime(2026, 11, 23, hour, tzinfo=UTC))
    assert known is not None
    assert known.price is not None
    assert (known.price.tiers[0].input, known.price.tiers[0].output) == (0.3, 1.2)
    assert "peak hours" in known.price.source


def test_a_model_without_a_price_for_both_directions_has_none() -> None:
    known = listed("google", "gemma-3-27b-it")
    assert known is not None
    assert known.price is None
    assert listed("google", "no-such-model") is None
    assert listed("no-such-host", "gpt-5") is None


# --- the rest -----------------------------------------------------------------------------------------------


def test_a_declared_window_and_limit_go_before_the_catalogue() -> None:
    known = profile("zai", "glm-4.6", context_window=1000, max_output=100)
    assert (known.context_window, known.max_output) == (1000, 100)
    assert profile("zai", "glm-4.6").max_output == 128_000


def test_what_the_host_lacks_no_model_of_it_has() -> None:
    groq = profile("groq", "a-new-model").capabilities
    assert groq == frozenset(CAPABILITIES) - {"logprobs", "logit_bias", "n>1"}
    assert profile("groq", "x", capabilities={"tools", "logprobs"}).capabilities == frozenset(
        {"tools", "sampling"}
    )


def test_a_model_of_which_nothing_is_known_to_be_lacking_is_admitted_to_everything() -> None:
    assert profile("openai", "gpt-4.1").capabilities is None


def test_models_of_text_only_see_no_images_and_reasoning_models_take_no_penalties() -> None:
    kimi, gpt = (
        profile("moonshot", "kimi-k2-0905-preview").capabilities,
        profile("openai", "gpt-5").capabilities,
    )
    assert kimi is not None
    assert gpt is not None
    assert "vision" not in kimi
    assert "vision" in gpt
    assert "penalties" not in gpt
    assert {"tools", "json_schema"} <= kimi & gpt


def test_declared_capabilities_go_before_the_familys() -> None:
    assert profile("openrouter", "qwen/qwen3-8b", capabilities={"vision"}).capabilities == frozenset(
        {"vision", "sampling"}
    )


def test_models_that_refuse_to_be_steered_are_not_asked_for_a_temperature() -> None:
    assert "sampling" not in (profile("openai", "gpt-5").capabilities or ())
    assert profile("openai", "gpt-4.1").capabilities is None


def test_the_key_that_is_needed_is_named() -> None:
    assert profile("groq", "x").credentials == "GROQ_API_KEY"
    assert profile("groq", "x", api_key_env="MINE").credentials == "MINE"
    assert profile("groq", "x", api_key="secret").credentials is None
    assert profile("groq", "x", api_key=lambda: "secret").credentials is None
    assert profile("ollama", "x").credentials is None
    assert HostedModel("m", base_url="http://127.0.0.1:9/v1").profile().credentials is None
    assert HostedModel("m", base_url="http://127.0.0.1:9/v1", api_key_env="K").profile().credentials == "K"


def test_what_is_declared_is_passed_on() -> None:
    known = profile(
        "groq",
        "x",
        rpm=10,
        tpm=1000,
        max_concurrency=3,
        languages={"en"},
        licence="mine",
        quality=0.7,
        private=True,
        region="eu",
    )
    assert (known.rpm, known.tpm, known.max_concurrency) == (10, 1000, 3)
    assert (known.languages, known.licence, known.quality) == (frozenset({"en"}), "mine", {"default": 0.7})
    assert known.private
    assert known.notes["region"] == "eu"


def test_the_name_stands_for_the_model_if_none_is_given() -> None:
    assert HostedModel("gpt-5", provider="openai").profile().context_window == 400_000


def test_every_row_of_ours_is_dated_sourced_and_of_use() -> None:
    loaded = rows._load()
    assert len(loaded) > 20
    for row in loaded:
        assert row.source
        assert dt.date.fromisoformat(row.checked) >= dt.date(2026, 11, 22)
        assert row.provider is None or row.provider in PROVIDERS
        assert row.tiers or row.like or row.context_window or row.licence or row.lacks
        assert [tier.above for tier in row.tiers] == sorted({tier.above for tier in row.tiers})
        assert not row.tiers or row.tiers[0].above == 0
        assert not row.override or row.reason
        if row.like:
            assert listed(*row.like.split(":", 1)) is not None


def test_a_row_without_override_is_only_used_where_genai_prices_has_no_price() -> None:
    for row in rows._load():
        if row.tiers and not row.override and row.provider is not None:
            prices = PROVIDERS[row.provider].prices
            assert prices is None or listed(prices, row.match[0]) is None


def test_building_profiles_starts_no_thread_and_needs_no_network() -> None:
    script = (
        "import socket, threading\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "from router.models import HostedModel\n"
        "assert HostedModel('gpt-5', provider='openai').profile().price.tiers\n"
        "assert threading.active_count() == 1\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
