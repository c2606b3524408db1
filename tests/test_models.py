"""Declared models: their names, hosts and files, and how third parties declare their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from router import ConfigurationError, HostedModel, LocalModel, Model, Price
from router.testing import ScriptedModel

#: As an app without a type checker builds them.
build_hosted: Callable[..., HostedModel] = HostedModel
build_scripted: Callable[..., ScriptedModel] = ScriptedModel
URL = "http://127.0.0.1:1/v1"


def refusal(build: Callable[..., object], *args: Any, **kwargs: Any) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        build(*args, **kwargs)
    return caught.value


@pytest.mark.parametrize("name", ["", " a", "a ", "auto", "a\nb", "\x1b[2J", "x" * 201, 5, None])
def test_a_name_that_could_not_be_used_is_refused(name: Any) -> None:
    assert refusal(ScriptedModel, name).field == "name"


def test_a_name_may_come_with_its_keyword_but_only_once() -> None:
    assert ScriptedModel(name="a") == ScriptedModel("a")
    assert refusal(HostedModel, "a", name="b", base_url=URL).field == "name"
    assert refusal(HostedModel, "a", "openai").field == "name"


@pytest.mark.parametrize(
    "url",
    ["", "x", "127.0.0.1:8080", "ftp://h/v1", "http://", "http://h/v1?k=1", "http://h/v1#f", "http://u:p@h/v1",
     "http://h:99999/v1", "http://h:x/v1", "http://[::1", "http://h /v1", "http://h/v1\n", "file:///etc/passwd"],
)  # fmt: skip
def test_a_base_url_that_is_none_is_refused(url: str) -> None:
    assert refusal(HostedModel, "m", base_url=url).field == "base_url"


@pytest.mark.parametrize(
    "url", [URL, "https://host", "http://[::1]:8080/v1", "https://h.openai.azure.com/openai/v1/"]
)
def test_a_base_url_needs_no_provider(url: str) -> None:
    assert HostedModel("m", base_url=url).profile().credentials is None


def test_a_provider_gives_the_variable_of_the_key_and_a_declared_one_replaces_it() -> None:
    assert HostedModel("m", provider="moonshot").profile().credentials == "MOONSHOT_API_KEY"
    assert HostedModel("m", provider="moonshot", api_key_env="MINE").profile().credentials == "MINE"
    assert build_hosted("m", provider="moonshot", api_key="k").profile().credentials is None
    assert HostedModel("m", provider="moonshot", api_key=lambda: "k").profile().credentials is None


def test_a_host_is_needed_and_one_source_of_the_key() -> None:
    assert refusal(HostedModel, "m").field == "provider"
    both = refusal(HostedModel, "m", provider="openai", api_key="k", api_key_env="K")
    assert both.field == "api_key_env"


@pytest.mark.parametrize("name", ["sk-12345", "A B", "1A", "", "A=B", "${KEY}"])
def test_a_variable_of_a_key_is_the_name_of_one(name: Any) -> None:
    assert refusal(HostedModel, "m", base_url=URL, api_key_env=name).field == "api_key_env"


@pytest.mark.parametrize("headers", [{"X Y": "1"}, {"": "1"}, {"X": "a\r\nb"}, {"X": "a\0"}, {"X:": "1"}])
def test_a_header_that_cannot_be_sent_is_refused(headers: Any) -> None:
    assert refusal(HostedModel, "m", base_url=URL, headers=headers).field == "headers"


def test_a_capability_that_does_not_exist_is_refused_with_the_nearest() -> None:
    error = refusal(HostedModel, "m", base_url=URL, capabilities={"tools", "json_shema"})
    assert error.field == "capabilities"
    assert "'json_schema'" in str(error)
    assert refusal(HostedModel, "m", base_url=URL, capabilities="tools").field == "capabilities"


def test_languages_are_kept_as_their_primary_codes() -> None:
    tags = ["EN", "pt-BR", "zh_Hans"]
    assert build_scripted("m", languages=tags).languages == frozenset({"en", "pt", "zh"})
    assert refusal(ScriptedModel, "m", languages=["english"]).field == "languages.0"


@pytest.mark.parametrize(
    ("quality", "table"),
    [(None, {}), (0, {"default": 0.0}), (0.5, {"default": 0.5}), ({"a": 0.5}, {"a": 0.5}), ({}, {})],
)
def test_quality_is_a_number_or_a_table(quality: Any, table: dict[str, Any]) -> None:
    assert ScriptedModel("m", quality=quality).quality_table == table


def test_a_local_model_needs_a_path_and_no_file_yet(tmp_path: Path) -> None:
    assert refusal(LocalModel, "l").field == "path"
    assert refusal(LocalModel, "l", path="").field == "path"
    profile = LocalModel("l", path=tmp_path / "not-there.gguf").profile()
    assert profile.private
    assert "cannot be read" in profile.notes["file"]


@pytest.mark.parametrize(
    "wrong",
    [{"n_gpu_layers": "all"}, {"n_gpu_layers": -2}, {"n_gpu_layers": True}, {"threads": "many"}, {"threads": 0},
     {"sha256": "abc"}, {"isolation": "container"}, {"n_ctx": 2**31}, {"max_parallel": 0}, {"lora": ""}],
)  # fmt: skip
def test_a_wrong_option_of_a_local_model_is_named(wrong: dict[str, Any]) -> None:
    (field,) = wrong
    assert refusal(LocalModel, "l", path="x.gguf", **wrong).field == field


@pytest.mark.parametrize(
    ("field", "least", "wrong"), [("threads", 1, 0), ("threads", 1, 2.5), ("n_gpu_layers", -1, -2)]
)
def test_a_number_that_is_none_of_the_choices_is_told_what_may_stand_there(
    field: str, least: int, wrong: float
) -> None:
    build: Callable[..., LocalModel] = LocalModel
    error = refusal(build, "l", path="x.gguf", **{field: wrong})
    assert str(error) == f"LocalModel: {field} = {wrong}: a number of at least {least}, or 'auto'"
    assert getattr(build("l", path="x.gguf", **{field: least}), field) == least


def test_a_third_party_declares_its_own_kind_on_the_same_base() -> None:
    class Echo(Model):
        adapter: ClassVar[str] = "echo"
        loudness: int = 1

    assert Echo("e", loudness=2, quality=0.5).profile().quality == {"default": 0.5}
    assert "'loudness'" in str(refusal(Echo, "e", loudnes=2))


def test_models_are_compared_by_what_they_declare() -> None:
    assert HostedModel("m", base_url=URL, price=Price(input=1, output=2)) == HostedModel(
        "m", base_url=URL, price=Price(input=1, output=2)
    )
    assert build_hosted("m", base_url=URL, api_key="a") != build_hosted("m", base_url=URL, api_key="b")


def test_declaring_models_imports_no_sdk() -> None:
    code = (
        "import sys; from router import HostedModel, LocalModel, Price\n"
        "HostedModel('m', provider='openai', price=Price(input=1, output=1)); LocalModel('l', path='x.gguf')\n"
        "print(sorted({'openai', 'llama_cpp', 'genai_prices', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_a_repr_shows_only_what_differs_from_the_default() -> None:
    hosted = HostedModel("a", provider="openai", api_key="sk-secret", quality=0.5)
    shown = "name='a', quality=0.5, provider='openai', api_key=SecretStr('**********')"
    assert repr(hosted) == f"HostedModel({shown})"
    assert repr(Price(input=1, output=2)) == "Price(input=1.0, output=2.0)"


def test_a_quality_out_of_range_is_told_once_and_plainly() -> None:
    with pytest.raises(ConfigurationError) as caught:
        HostedModel("a", provider="openai", quality=1.5)
    assert str(caught.value) == (
        "HostedModel: quality = 1.5: a probability from 0 to 1 is needed, or a table of them per task"
    )
