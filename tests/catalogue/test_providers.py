from __future__ import annotations

import datetime as dt
import subprocess
import sys
from ipaddress import ip_address
from urllib.parse import urlsplit

import pytest

from router.capabilities import CAPABILITIES
from router.catalogue.providers import GENERIC, PROVIDERS, Provider, _provider, provider_of
from router.models import HostedModel

HOSTED = "openai anthropic google moonshot moonshot-cn dashscope dashscope-cn deepseek zai groq openrouter together fireworks mistral xai siliconflow"
SELF_HOSTED = "ollama vllm lm-studio llama-server"


def test_every_host_that_is_promised_has_a_row() -> None:
    assert set(PROVIDERS) == {*HOSTED.split(), *SELF_HOSTED.split()}


@pytest.mark.parametrize("row", PROVIDERS.values(), ids=lambda row: row.name)
def test_a_row_is_complete_dated_and_sourced(row: Provider) -> None:
    assert row.title
    assert row.source.startswith("https://")
    assert dt.date.fromisoformat(row.checked) >= dt.date(2026, 11, 22)
    assert row.lacks <= CAPABILITIES.keys()
    for value in (row.title, row.base_url, row.source, *row.renames, *row.renames.values()):
        assert isinstance(value, str)
    for flag in (row.self_hosted, row.developer_role, row.stream_options):
        assert isinstance(flag, bool)
    assert HostedModel("m", base_url=row.base_url).base_url == row.base_url


@pytest.mark.parametrize("row", PROVIDERS.values(), ids=lambda row: row.name)
def test_a_host_goes_on_with_a_begun_answer_only_where_a_page_says_so(row: Provider) -> None:
    assert (row.prefix is not None) == bool(row.prefix_source) == bool(row.prefix_checked)
    if row.prefix is None:
        assert not row.prefix_body
        return
    assert row.prefix_source.startswith("https://")
    assert dt.date.fromisoformat(row.prefix_checked) >= dt.date(2026, 11, 22)
    assert {"role", "content"}.isdisjoint(row.prefix)


@pytest.mark.parametrize("name", HOSTED.split())
def test_a_remote_host_is_encrypted_and_wants_a_key(name: str) -> None:
    row = PROVIDERS[name]
    assert urlsplit(row.base_url).scheme == "https"
    assert row.key_env
    assert not row.self_hosted


@pytest.mark.parametrize("name", SELF_HOSTED.split())
def test_a_self_hosted_row_is_on_loopback_and_wants_no_key(name: str) -> None:
    row = PROVIDERS[name]
    assert ip_address(urlsplit(row.base_url).hostname or "").is_loopback
    assert row.key_env is None
    assert row.prices is None


def test_every_price_list_that_a_row_names_exists() -> None:
    from genai_prices.data_snapshot import get_snapshot

    known = {provider.id for provider in get_snapshot().providers}
    assert {row.prices for row in PROVIDERS.values() if row.prices} <= known


def test_openai_is_asked_for_max_completion_tokens_and_the_others_for_what_they_know() -> None:
    assert PROVIDERS["openai"].renames == {"max_tokens": "max_completion_tokens"}
    assert PROVIDERS["mistral"].renames == {"max_completion_tokens": "max_tokens", "seed": "random_seed"}


def test_a_bare_base_url_gets_the_generic_row() -> None:
    assert provider_of(HostedModel("m", base_url="http://127.0.0.1:9/v1")) is GENERIC
    assert (
        provider_of(HostedModel("m", provider="groq", base_url="http://127.0.0.1:9/v1")) is PROVIDERS["groq"]
    )


def test_rows_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        PROVIDERS["openai"] = GENERIC  # type: ignore[index]
    with pytest.raises(TypeError):
        PROVIDERS["openai"].renames["seed"] = "s"  # type: ignore[index]


def test_a_typo_in_the_table_is_named() -> None:
    with pytest.raises(ValueError, match=r"acme.*base_ulr"):
        _provider("acme", {"title": "Acme", "base_ulr": "x"})
    with pytest.raises(ValueError, match="no capability is called 'visions'"):
        _provider("acme", {"title": "Acme", "base_url": "x", "lacks": ["visions"]})


def test_the_catalogues_face_loads_nothing_heavy() -> None:
    script = (
        "import sys, router.catalogue, router.catalogue.providers\n"
        "assert not {'genai_prices', 'tiktoken', 'openai', 'llama_cpp'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
