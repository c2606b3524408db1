"""What a router is built from: bad declarations fail at once and say where; good ones load, TOML too."""

from __future__ import annotations

import math
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import (
    AsyncRouter,
    Budget,
    ConfigurationError,
    HostedModel,
    LocalModel,
    Model,
    Policy,
    Price,
    Recovery,
    Router,
    RouterConfig,
    RoutingOptions,
)
from router.declared import Declared
from router.testing import ScriptedModel
from router.toml import MOST_TOML_BYTES

SECRET = "sk-planted-7f3a9c"
#: As an app without a type checker builds them: from text, lists and whatever comes.
build_hosted: Callable[..., HostedModel] = HostedModel
build_local: Callable[..., LocalModel] = LocalModel
build_config: Callable[..., RouterConfig] = RouterConfig
URL = "http://127.0.0.1:1/v1"


def refusal(build: Callable[..., object], *args: Any, **kwargs: Any) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        build(*args, **kwargs)
    return caught.value


def written(folder: Path, text: str) -> Path:
    file = folder / "router.toml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("build", "field", "meant"),
    [
        (Policy, "min_qualty", "min_quality"),
        (Recovery, "cooldwn", "cooldown"),
        (lambda **wrong: Budget(usd=1, **wrong), "perod", "period"),
        (RoutingOptions, "deadlin", "deadline"),
        (lambda **wrong: Price(input=1, output=1, **wrong), "cached_inputs", "cached_input"),
        (lambda **wrong: build_hosted("h", base_url=URL, **wrong), "contex_window", "context_window"),
        (lambda **wrong: build_local("l", path="x.gguf", **wrong), "n_gpu_layer", "n_gpu_layers"),
        (lambda **wrong: Router([ScriptedModel("a")], **wrong), "polcy", "policy"),
        (lambda **wrong: AsyncRouter([ScriptedModel("a")], **wrong), "keep_txt", "keep_text"),
        (lambda **wrong: build_config(models=[ScriptedModel("a")], **wrong), "recovry", "recovery"),
        (Policy.cheapest, "max_laency", "max_latency"),
    ],
)
def test_a_misspelt_option_is_refused_with_the_nearest_right_name(
    build: Callable[..., object], field: str, meant: str
) -> None:
    error = refusal(build, **{field: 1})
    assert (error.field, error.value) == (field, "1")
    assert f"did you mean {meant!r}?" in str(error)


@pytest.mark.parametrize(
    ("table", "field", "value", "said"),
    [
        ({"policy": {"min_qualty": 0.5}}, "policy.min_qualty", "0.5", "'min_quality'"),
        ({"recovery": {"cooldown": -1}}, "recovery.cooldown", "-1", "greater than 0"),
        ({"budget": {"usd": -1}}, "budget.0.usd", "-1", "greater than 0"),
        ({"budget": [{"usd": 1}, {"usd": 1, "period": "dai"}]}, "budget.1.period", "'dai'", "'day'"),
        ({"policy": {"privacy": "privat"}}, "policy.privacy", "'privat'", "'private'"),
        ({"policy": "cheapest"}, "policy", "'cheapest'", "Policy"),
        ({"ledger": 5}, "ledger", "5", "path"),
        ({"ledger": ""}, "ledger", "''", "path of a file"),
        ({"keep_text": "no"}, "keep_text", "'no'", "boolean"),
        ({"local_memory": "lots"}, "local_memory", "'lots'", "byte"),
        ({"local_memory": True}, "local_memory", "True", "8GiB"),
        ({"local_memory": 0}, "local_memory", "0", "greater"),
        ({"polcy": {}}, "polcy", "{}", "'policy'"),
    ],
)
def test_an_error_inside_a_table_names_its_whole_path(
    table: dict[str, Any], field: str, value: Any, said: str
) -> None:
    error = refusal(RouterConfig.parse, {"models": [ScriptedModel("a")], **table})
    assert (error.field, error.value) == (field, value)
    assert said in str(error)
    assert field in str(error)


@pytest.mark.parametrize(
    ("table", "field", "value", "said"),
    [
        (
            {"name": "m", "provider": "openai", "price": {"input": -1, "output": 1}},
            "price.input",
            "-1",
            "greater",
        ),
        (
            {"name": "m", "provider": "openai", "price": {"inptu": 1, "output": 1}},
            "price.inptu",
            "1",
            "'input'",
        ),
        ({"name": "m", "provider": "opena"}, "provider", "'opena'", "'openai'"),
        ({"name": "m", "kind": "hostd"}, "kind", "'hostd'", "'hosted'"),
        ({"name": "m", "kind": []}, "kind", "[]", "hosted, local"),
        ({"name": "m"}, "provider", "", "provider or a base_url"),
        ({"provider": "openai"}, "name", "", "needed"),
        ({"name": "m", "path": "x.gguf", "n_ctx": 0}, "n_ctx", "0", "greater"),
        ({"name": "m", "path": "x.gguf", "rpm": 1}, "rpm", "1", "unknown option"),
        (
            {"name": "m", "provider": "openai", "quality": {"support": 1.5}},
            "quality.support",
            "1.5",
            "less than",
        ),
        ({"name": "m", "provider": "openai", "quality": "good"}, "quality", "'good'", "number"),
    ],
)
def test_an_error_in_the_table_of_a_model_names_its_place(
    table: dict[str, Any], field: str, value: Any, said: str
) -> None:
    error = refusal(RouterConfig.parse, {"models": [{"name": "z", "base_url": URL}, table]})
    assert (error.field, error.value) == (f"models.1.{field}", value)
    assert said in str(error)


def test_several_mistakes_are_all_told() -> None:
    error = refusal(Policy, max_cost=-1, privacy="open")
    assert "max_cost" in str(error)
    assert "privacy" in str(error)


@pytest.mark.parametrize(
    "models", [[], (), None, "gpt", 5, {"name": "a"}, ["gpt-5"], HostedModel("h", base_url=URL)]
)
def test_without_a_list_of_models_nothing_is_built(models: Any) -> None:
    error = refusal(Router, models)
    assert error.field.startswith("models")


def test_two_models_of_one_name_are_refused() -> None:
    error = refusal(Router, [ScriptedModel("a"), ScriptedModel("b"), ScriptedModel("a", script=("x",))])
    assert (error.field, error.value) == ("models.2.name", "'a'")


def test_a_budget_for_a_model_that_does_not_exist_is_refused_with_the_nearest() -> None:
    error = refusal(Router, [ScriptedModel("alpha")], budget=[Budget(usd=1), Budget(usd=1, model="alpa")])
    assert (error.field, error.value) == ("budget.1.model", "'alpa'")
    assert "'alpha'" in str(error)


def test_an_update_that_does_not_fit_changes_nothing() -> None:
    with Router([ScriptedModel("a")], budget=Budget(usd=1, model="a")) as router:
        assert refusal(router.update, [ScriptedModel("b")]).field == "budget.0.model"
        assert refusal(router.update, [ScriptedModel("a"), ScriptedModel("a")]).field == "models.1.name"
        assert router.route(messages=[{"role": "user", "content": "hi"}]).model == "a"


numbers: list[tuple[Callable[[Any], object], str]] = [
    (lambda v: Price(input=v, output=1), "input"),
    (lambda v: Price(input=1, output=v), "output"),
    (lambda v: Price(input=1, output=1, cached_input=v), "cached_input"),
    (lambda v: Price(input=1, output=1, per_request=v), "per_request"),
    (lambda v: Policy(value_of_time=v), "value_of_time"),
    (lambda v: Policy(max_latency=v), "max_latency"),
    (lambda v: Policy(explore=v), "explore"),
    (lambda v: Policy(confidence=v), "confidence"),
    (lambda v: Policy(min_quality=v), "min_quality"),
    (lambda v: Recovery(retry_share=v), "retry_share"),
    (lambda v: Recovery(max_attempts=v), "max_attempts"),
    (lambda v: Budget(usd=v), "usd"),
    (lambda v: RoutingOptions(deadline=v), "deadline"),
    (lambda v: build_hosted("h", base_url=URL, rpm=v), "rpm"),
    (lambda v: build_hosted("h", base_url=URL, quality=v), "quality"),
    (lambda v: build_local("l", path="x", n_ctx=v), "n_ctx"),
    (lambda v: build_local("l", path="x", usd_per_hour=v), "usd_per_hour"),
    (lambda v: build_local("l", path="x", threads=v), "threads"),
]


@pytest.mark.parametrize(
    "value", [-1, math.nan, math.inf, -math.inf, True, "1", b"1", [1], pytest.param(-(10**5000), id="huge")]
)
@pytest.mark.parametrize(("build", "field"), numbers)
def test_what_is_no_sensible_number_is_refused(build: Callable[..., object], field: str, value: Any) -> None:
    error = refusal(build, value)
    assert error.field == field
    assert field in str(error)


@pytest.mark.parametrize("value", ["false", "yes", 0, 1, 1.0])
def test_a_switch_is_true_or_false_and_nothing_that_looks_like_it(value: Any) -> None:
    assert refusal(HostedModel, "h", base_url=URL, private=value).field == "private"
    assert refusal(Policy, hedge=value).field == "hedge"
    assert refusal(LocalModel, "l", path="x", preload=value).field == "preload"


def test_a_whole_float_is_a_count_but_a_fraction_is_none() -> None:
    assert build_hosted("h", base_url=URL, rpm=60.0).rpm == 60
    assert refusal(HostedModel, "h", base_url=URL, rpm=60.5).field == "rpm"


def test_a_price_of_zero_is_a_price() -> None:
    assert Price(input=0, output=0).input == 0


def test_everything_declared_is_frozen() -> None:
    for declared in (Price(input=1, output=1), Policy(), ScriptedModel("a")):
        with pytest.raises(Exception, match="frozen"):
            setattr(declared, "name", "other")  # noqa: B010 - mypy knows that it cannot be set


# --- Secrets ---------------------------------------------------------------------------------------------


def told(error: BaseException) -> str:
    """All that a log could show of an error."""
    seen: BaseException | None = error
    text = ""
    while seen is not None:
        text += f"{seen!s}{seen!r}{seen.args}{vars(seen)}"
        text += "".join(traceback.format_exception(seen))
        seen = seen.__cause__ or seen.__context__
    return text


wrong_fields: dict[str, Any] = {
    "price": {"input": -1, "output": 1},
    "base_url": "ftp://x",
    "provider": "opena",
    "rpm": 0,
    "quality": 7,
    "capabilities": ["tool"],
    "languages": ["not a language"],
    "api_key_env": "A_VARIABLE",  # beside api_key
    "private": "no",
    "contxt_window": 5,
    "name": "auto",
}


@given(field=st.sampled_from(sorted(wrong_fields)), in_table=st.booleans(), in_headers=st.booleans())
def test_a_key_is_in_no_error_when_something_else_is_wrong(
    field: str, in_table: bool, in_headers: bool
) -> None:
    right: dict[str, Any] = {"name": "m", "base_url": URL, "api_key": SECRET}
    if in_headers:
        right["headers"] = {"Authorization": f"Bearer {SECRET}"}
    table = {**right, field: wrong_fields[field]}
    error = refusal(RouterConfig.parse, {"models": [table]}) if in_table else refusal(HostedModel, **table)
    assert SECRET not in told(error)


@pytest.mark.parametrize(
    "wrong",
    [
        {"apikey": SECRET},
        {"key": SECRET},
        {"authorization": f"Bearer {SECRET}"},
        {"header": {"Authorization": SECRET}},
        {"api_key": [SECRET]},
        {"api_key": {"text": SECRET}},
        {"headers": SECRET},
        {"headers": [SECRET]},
        {"headers": {"Authorization": [SECRET]}},
        {"headers": {"X-Bad": f"{SECRET}\r\nX-Other: 1"}},
        {"base_url": f"http://user:{SECRET}@host/v1"},
        {"base_url": f"http://host/v1?api_key={SECRET}"},
        {"base_url": f"ftp://user:{SECRET}@host/v1"},
        {"api_key_env": SECRET},
        {"whatever": SECRET},
        {"whatever": [SECRET]},
    ],
)
def test_a_key_in_the_wrong_place_is_in_no_error(wrong: dict[str, Any]) -> None:
    error = refusal(HostedModel, "m", **{"base_url": URL, **wrong})
    assert SECRET not in told(error)
    assert error.value == ""
    nested = refusal(RouterConfig.parse, {"models": [{"name": "m", "base_url": URL, **wrong}]})
    assert SECRET not in told(nested)
    misnamed = refusal(RouterConfig.parse, {"model": [{"name": "m", "base_url": URL, **wrong}]})
    assert SECRET not in told(misnamed)
    assert "'models'" in str(misnamed)


def test_a_key_is_in_no_text_of_a_model() -> None:
    model = build_hosted("m", base_url=URL, api_key=SECRET, headers={"Authorization": SECRET})
    config = build_config(models=[model])
    for text in (repr(model), str(model), repr(config), model.model_dump_json(), repr(model.model_dump())):
        assert SECRET not in text


def test_a_key_given_to_the_router_itself_is_not_shown() -> None:
    assert SECRET not in told(refusal(Router, [ScriptedModel("a")], api_key=SECRET))
    assert SECRET not in told(refusal(Router, [ScriptedModel("a")], apikey=SECRET))


def test_a_key_in_broken_toml_is_not_shown(tmp_path: Path) -> None:
    error = refusal(RouterConfig.from_file, written(tmp_path, f'models = [{{ api_key = "{SECRET}" '))
    assert SECRET not in told(error)
    file = tmp_path / "latin.toml"
    file.write_bytes(f'api_key = "{SECRET}é"'.encode("latin-1"))
    assert SECRET not in told(refusal(RouterConfig.from_file, file))


# --- TOML ------------------------------------------------------------------------------------------------

EVERYTHING = """
ledger = "state/router.db"
keep_text = true
local_memory = "8GiB"

[policy]
value_of_time = 0.002
value_of_quality = 0.01
min_quality = 0.6
max_cost = 0.01
max_latency = 5
max_ttft = 1.5
privacy = "private"
hedge = true
on_infeasible = "relax"
explore = 0.0
confidence = 0.9
rank_by = "objective"

[recovery]
max_attempts = 4
attempt_timeout = 60
ttft_timeout = 10
cooldown = 5
failure_threshold = 2
retry_share = 0.2
max_response_bytes = 1048576
on_interrupt = "raise"

[[budget]]
usd = 10
period = "month"

[[budget]]
usd = 0.5
period = "hour"
task = "draft"
model = "mine"

[[models]]
name = "small"
path = "weights/small.gguf"
n_ctx = 4096
n_gpu_layers = "auto"
threads = 2
max_parallel = 4
usd_per_hour = 0.1
preload = false
lora = "weights/lora.gguf"
isolation = "thread"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
chat_template = "{{ messages }}"
idle_ttl = 300
session_dir = "state/sessions"
quality = { default = 0.6, support = 0.85 }
capabilities = ["tools", "json_schema"]
languages = ["en", "pt-BR"]
licence = "Apache-2.0"

[[models]]
kind = "hosted"
name = "mine"
provider = "vllm"
model = "qwen3-30b"
base_url = "http://127.0.0.1:8080/v1"
api_key_env = "MY_KEY"
price = { input = 0.5, output = 1.5, cached_input = 0.05, per_request = 0.001 }
context_window = 32768
max_output = 4096
private = true
region = "eu"
headers = { X-Team = "support" }
organization = "org"
project = "proj"
rpm = 60
tpm = 100000
max_concurrency = 8
quality = 0.9
"""


def test_a_file_with_every_key_loads(tmp_path: Path) -> None:
    config = RouterConfig.from_file(written(tmp_path, EVERYTHING))
    small, mine = config.models
    assert isinstance(small, LocalModel)
    assert isinstance(mine, HostedModel)
    assert config.policy == Policy(
        value_of_time=0.002, value_of_quality=0.01, min_quality=0.6, max_cost=0.01, max_latency=5.0,
        max_ttft=1.5, privacy="private", hedge=True, on_infeasible="relax", explore=0.0, confidence=0.9,
    )  # fmt: skip
    assert [budget.period for budget in config.budget] == ["month", "hour"]
    assert mine.price == Price(input=0.5, output=1.5, cached_input=0.05, per_request=0.001)
    assert small.languages == frozenset({"en", "pt"})
    assert config.keep_text
    assert config.local_memory == 8 << 30
    assert config.recovery.max_attempts == 4


def test_the_file_above_has_every_key_there_is() -> None:
    """So that the test above keeps its name when an option is added."""
    unsettable = {"utility"}  # a callable cannot stand in a file
    keys = {line.partition("=")[0].strip() for line in EVERYTHING.splitlines() if "=" in line}
    classes: tuple[type[Declared], ...] = (Policy, Recovery, Budget, LocalModel, HostedModel)
    for declared in classes:
        assert set(declared.model_fields) - unsettable - keys <= {"api_key"}, declared


def test_relative_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "elsewhere").mkdir()
    written(tmp_path / "conf", EVERYTHING)
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = RouterConfig.from_file("../conf/router.toml")
    small = config.models[0]
    assert isinstance(small, LocalModel)
    assert config.ledger is not None
    folder = tmp_path / "conf"
    assert config.ledger.resolve() == folder / "state/router.db"
    assert small.path.resolve() == folder / "weights/small.gguf"
    assert small.lora is not None
    assert small.lora.resolve() == folder / "weights/lora.gguf"
    assert small.session_dir is not None
    assert small.session_dir.resolve() == folder / "state/sessions"


def test_absolute_paths_and_the_home_folder_stay_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    text = f'ledger = "~/l.db"\n[[models]]\nname = "m"\npath = "{(tmp_path / "x.gguf").as_posix()}"\n'
    config = RouterConfig.from_file(written(tmp_path, text))
    model = config.models[0]
    assert isinstance(model, LocalModel)
    assert (config.ledger, model.path) == (tmp_path / "home" / "l.db", tmp_path / "x.gguf")


def test_a_router_comes_from_a_file(tmp_path: Path) -> None:
    text = '[[models]]\nkind = "scripted"\nname = "a"\n[[models]]\nkind = "scripted"\nname = "b"\nquality = 0.5\n'
    with Router.from_file(written(tmp_path, "[policy]\nmin_quality = 0.4\n" + text)) as router:
        assert router.route(messages=[{"role": "user", "content": "hi"}]).model == "b"


def test_a_byte_order_mark_and_windows_line_ends_are_no_mistake(tmp_path: Path) -> None:
    file = tmp_path / "router.toml"
    file.write_bytes(b'\xef\xbb\xbf[[models]]\r\nkind = "scripted"\r\nname = "a"\r\n')
    assert RouterConfig.from_file(file).models[0].name == "a"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"models = [", "not valid TOML"),
        (b"\xff\xfe\x00", "not valid TOML"),
        (b"a = " + b"[" * 5000, "not valid TOML"),
        (b"a = " + b"9" * 5000, "not valid TOML"),
        (b"# " + b"x" * (MOST_TOML_BYTES + 1), "larger than"),
        (b"", "models"),
    ],
    ids=["broken", "binary", "deep", "long number", "huge", "empty"],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "router.toml"
    file.write_bytes(content)
    assert said in str(refusal(Router.from_file, file))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "cannot read" in str(refusal(Router.from_file, tmp_path / "missing.toml"))
    assert "cannot read" in str(refusal(Router.from_file, tmp_path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.timeout(10)
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "regular file" in str(refusal(Router.from_file, tmp_path / "pipe"))


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        ('[[model]]\nname = "a"\nprovider = "openai"', "model", "'models'"),
        ('[models]\nname = "a"\nprovider = "openai"', "models", "[[models]]"),
        ('[[models]]\nname = "a"\nprovider = "openai"\n[polcy]\nexplore = 0.0', "polcy", "'policy'"),
        ('[[models]]\nname = "a"\nprovider = "openai"\nprice = { input = nan, output = 1 }', "models.0.price.input", "nan"),
        ('[[models]]\nname = "a"\npath = "~nobody-by-this-name/x.gguf"', "path", "home"),
        ('[[models]]\nname = 1979-05-27\nprovider = "openai"', "models.0.name", "string"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file_names_the_key_and_what_is_meant(
    tmp_path: Path, text: str, field: str, said: str
) -> None:
    error = refusal(Router.from_file, written(tmp_path, text))
    assert error.field == field
    assert said in str(error)


def test_an_adapter_that_nobody_offers_is_named_with_the_nearest() -> None:
    class Odd(Model):
        adapter = "hostd"

    from router.adapter import AdapterSettings
    from router.loading import load_adapter

    error = refusal(load_adapter, Odd("odd"), AdapterSettings())
    assert (error.field, error.value) == ("adapter", "'hostd'")
    assert "'hosted'" in str(error)
