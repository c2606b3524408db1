"""Keys that show nowhere, requests and files that are refused, and files that nobody else may read."""

from __future__ import annotations

import copy
import itertools
import logging
import os
import pickle
import sqlite3
import stat
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from pydantic import SecretStr

from adapters.local.files import check_hash, check_unchanged
from router import (
    ConfigurationError,
    HostedModel,
    InvalidRequestError,
    LocalModel,
    ModelError,
    Price,
    Router,
    RouterConfig,
    RouterError,
)
from router.bounds import MOST_DEPTH, MOST_LISTED, MOST_VALUES
from router.ledger import Ledger
from router.testing import LoopbackServer, Reply
from router.testing.server import Script
from router.validation import parse_request
from tests.helpers import HELLO, router_of, scripted, sync_router_of

pytestmark = pytest.mark.usefixtures("no_network")

FREE = Price(input=0, output=0)
KEY = "planted-key-51c9e2d7"
HEADER = "planted-header-88ab01"
SECRETS = (KEY, HEADER)
OURS = (str(Path(__file__).parent.parent / "router"), str(Path(__file__).parent.parent / "adapters"))


# --- Keys ------------------------------------------------------------------------------------------------


def texts_in(value: object, depth: int = 6) -> Iterator[str]:
    """What an error tracker would write down of a variable."""
    yield repr(value)
    if depth and isinstance(value, Mapping):
        for key, item in value.items():
            yield from texts_in(key, depth - 1)
            yield from texts_in(item, depth - 1)
    elif depth and isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from texts_in(item, depth - 1)
    elif isinstance(value, BaseException):
        yield str(value)


def frames_of(trace: TracebackType | None) -> Iterator[dict[str, object]]:
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.startswith(OURS):
            yield trace.tb_frame.f_locals
        trace = trace.tb_next


def errors_behind(error: BaseException) -> Iterator[BaseException]:
    seen: dict[int, BaseException] = {}
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen[id(one)] = one
            waiting += [one.__cause__, one.__context__, *getattr(one, "causes", ())]
    yield from seen.values()


def told_by(error: BaseException) -> str:
    """All that an error, those behind it, and our frames of their tracebacks show."""
    told: list[str] = []
    for one in errors_behind(error):
        told += [str(one), repr(one), repr(vars(one)), "".join(traceback.format_exception(one))]
        for variables in frames_of(one.__traceback__):
            told += texts_in(variables)
    return "\n".join(told)


def contents(folder: Path) -> list[str]:
    return [file.read_bytes().decode("latin-1") for file in folder.iterdir()]


def raising() -> str:
    raise ValueError(f"the vault said {KEY}")


def build(server: LoopbackServer, **fields: Any) -> HostedModel:
    return HostedModel.parse(
        {"name": "m", "base_url": server.base_url, "headers": {"x-team": HEADER}, "price": FREE, **fields}
    )


KEYS: dict[str, Any] = {
    "text": {"api_key": KEY},
    "secret": {"api_key": SecretStr(KEY)},
    "callable": {"api_key": lambda: KEY},
    "callable of a secret": {"api_key": lambda: SecretStr(KEY)},
    "variable": {"api_key_env": "PLANTED_KEY"},
}
REPLIES: dict[str, Script] = {
    "answers": "Hello!",
    "quotes": Reply(status=401, error={"message": f"no such key: {KEY} {HEADER}", "code": KEY}),
    "disconnects": Reply(fault="disconnect"),
    "breaks off": Reply(text="one two three four five", fault="truncated"),
    "redirects": Reply(fault="redirect", location=f"http://{KEY}.invalid/"),
}


@pytest.mark.parametrize("reply", REPLIES)
@pytest.mark.parametrize("kind", KEYS)
async def test_a_key_shows_nowhere(
    kind: str, reply: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("PLANTED_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx2", "httpcore2"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.DEBUG)
    said: list[str] = []
    with LoopbackServer(REPLIES[reply]) as server:
        model = build(server, **KEYS[kind])
        async with router_of(model, ledger=tmp_path / "l.db", recovery={"max_attempts": 1}) as router:
            for stream in (False, True):
                try:
                    answer: Any = await router.chat.completions.create(messages=HELLO, stream=stream)
                    if stream:
                        async for _ in answer:
                            pass
                except RouterError as error:
                    said.append(told_by(error))
            config = router.config
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}", "nothing was tested"
    said += [repr(model), str(model), repr(config), str(model.model_dump()), str(config.model_dump())]
    said += [repr(copy.copy(model)), repr(copy.deepcopy(model)), repr(model.model_copy())]
    if not callable(model.api_key):
        said += [model.model_dump_json(), config.model_dump_json()]
    said += [caplog.text, *(repr(record.__dict__) for record in caplog.records)]
    said += contents(tmp_path)
    for secret in SECRETS:
        assert secret not in "\n".join(said)


@pytest.mark.parametrize(
    "fields",
    [
        {"api_key": f"{KEY}\u00e9"},
        {"api_key": f"{KEY}\r\nx: y"},
        {"api_key": lambda: f"{KEY}\x00"},
        {"api_key": lambda: [KEY]},
        {"api_key": raising},
        {"api_key_env": "PLANTED_KEY"},
    ],
)
async def test_a_key_that_cannot_be_used_is_in_no_frame_of_ours(
    fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED_KEY", f"{KEY}\u00e9")
    with LoopbackServer() as server:
        async with router_of(build(server, **fields)) as router:
            with pytest.raises(RouterError) as caught:
                await router.chat.completions.create(messages=HELLO)
        assert server.requests == []
    told = told_by(caught.value)
    assert "no API key" in told
    assert KEY not in told


async def test_a_proxys_password_is_in_no_frame_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://user:{KEY}@proxy.invalid:x")
    model = HostedModel("m", base_url="http://models.invalid/v1", price=FREE)
    async with router_of(model) as router:
        with pytest.raises(RouterError) as caught:
            await router.chat.completions.create(messages=HELLO)
    told = told_by(caught.value)
    assert "proxy" in told
    assert KEY not in told


@pytest.mark.parametrize("fields", [{"api_key": KEY}, {"api_key": SecretStr(KEY)}, {}])
def test_a_declaration_that_holds_a_key_cannot_be_pickled(fields: dict[str, Any]) -> None:
    model = HostedModel.parse(
        {"name": "m", "provider": "openai", "headers": {"x-team": HEADER}, "price": FREE, **fields}
    )
    for thing in (model, RouterConfig(models=[model])):
        with pytest.raises(ConfigurationError, match="pickled") as caught:
            pickle.dumps(thing)
        assert not any(secret in told_by(caught.value) for secret in SECRETS)
    assert copy.deepcopy(model) == model


def test_a_declaration_that_names_a_variable_can_be_pickled() -> None:
    model = HostedModel("m", provider="openai", api_key_env="PLANTED_KEY")
    assert pickle.loads(pickle.dumps(model)) == model


@pytest.mark.parametrize("name", ["api_base", "base_url", "api_key", "azure_endpoint", "user_config"])
def test_no_field_of_a_requests_body_sends_it_elsewhere(name: str) -> None:
    with pytest.raises(InvalidRequestError, match="credentials or a base URL"):
        parse_request({"messages": HELLO, "extra_body": {name: "http://elsewhere.invalid"}})


# --- Requests that no JSON text is -----------------------------------------------------------------------


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"properties": value}
    return value


def laughs(levels: int = 60) -> dict[str, Any]:
    """A schema that names another one twice, which names another one twice, ..."""
    value: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        value = {"a": value, "b": value}
    return value


def loop() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = [value]
    return value


def tool(parameters: object) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "f", "parameters": parameters}}]


def fields_with(value: Any) -> dict[str, dict[str, Any]]:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": value}}
    part = {"type": "image_url", "image_url": {"url": "data:,", "more": value}}
    return {
        "tools": {"tools": tool(value)},
        "response_format": {"response_format": schema},
        "extra_body": {"extra_body": {"x": value}},
        "routing": {"routing": value},
        "stop": {"stop": value},
        "prediction": {"prediction": value},
        "metadata": {"metadata": {"x": value}},
        "messages": {"messages": [{"role": "user", "content": [part]}]},
        "unheard_of": {"unheard_of": value},
    }


@pytest.mark.parametrize("value", [laughs, loop, lambda: nested(100_000)])
@pytest.mark.parametrize("field", fields_with(None))
def test_what_is_too_large_or_too_deep_is_refused_before_it_is_walked_through(
    value: Callable[[], Any], field: str
) -> None:
    given = fields_with(value())[field]
    began = time.process_time()
    with pytest.raises(InvalidRequestError) as caught:
        parse_request({"messages": HELLO, **given})
    assert time.process_time() - began < 20, "it would take until the sun is cold"
    assert caught.value.field == field
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("field", ["messages", "tools", "functions"])
def test_a_generator_without_an_end_is_refused(field: str) -> None:
    endless = itertools.repeat({"role": "user", "content": "x"})
    with pytest.raises(InvalidRequestError, match=f"more than {MOST_LISTED}"):
        parse_request({"messages": HELLO, field: endless})


def test_what_a_long_chat_holds_is_taken() -> None:
    parts = [{"type": "text", "text": "x"}] * 4
    messages = [{"role": "user", "content": parts}] * 20_000
    assert len(parse_request({"messages": messages}).request.messages) == 20_000
    assert parse_request({"messages": HELLO, "tools": tool(nested(MOST_DEPTH - 5))})
    with pytest.raises(InvalidRequestError, match=f"more than {MOST_VALUES}"):
        parse_request({"messages": [{"role": "user", "content": parts}] * 90_000})


@pytest.mark.parametrize(
    "given",
    [
        {"seed": 10**5000},
        {"temperature": 10**400},
        {"temperature": float("nan")},
        {"top_p": float("inf")},
        {"timeout": 10**400},
        {"routing": {"deadline": 10**400}},
        {"routing": {5: 6}},
        {"extra_body": {5: 6}},
        {"extra_query": {5: 6}},
        {"extra_headers": {5: "x"}},
        {"metadata": {5: "x"}},
        {"messages": [{"role": {}, "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": []}]}]},
        {"tools": [{"type": {}, "function": {}}]},
        {"tools": tool({(1, 2): 3})},
        {"tools": tool({"x": {1, 2}})},
        {"extra_body": {"x": 10**5000}},
        {"extra_body": {"x": float("nan")}},
        {"tools": tool({"x": "\ud83d"})},
        {"messages": [{"role": "user", "content": "\ud83d"}]},
        {"response_format": {"type": []}},
        {"logit_bias": {"9" * 5000: "x"}},
    ],
)
def test_what_json_cannot_hold_is_a_typed_error(given: dict[str, Any]) -> None:
    with LoopbackServer() as server:
        with sync_router_of(HostedModel("m", base_url=server.base_url, price=FREE)) as router:
            with pytest.raises(InvalidRequestError) as caught:
                router.chat.completions.create(**{"messages": HELLO, **given})
            assert len(str(caught.value)) < 400
        assert server.requests == []


# --- Files that declare ----------------------------------------------------------------------------------

MODEL = '[[models]]\nname = "a"\nbase_url = "http://127.0.0.1:1/v1"\n'


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 100_000,
        "x = " + "{a = " * 50_000 + "1" + "}" * 50_000,
        "a." * 100_000 + "b = 1",
        '"a" . ' * 50_000 + "b = 1",
        MODEL + "quality." + "a." * 3_000 + "b = 1",
        MODEL + "rpm = " + "9" * 5_000,
        MODEL + "rpm = " + "9" * 4_000,
        MODEL + "quality = 1e999999",
        MODEL + 'model = "' + "a" * (5 << 20) + '"',
        MODEL + "\n".join(f"k{number} = 1" for number in range(20_000)),
        'x = "\\ud800"',
    ],
    ids=str.__len__,
)
def test_a_configuration_that_is_no_configuration_is_refused_soon(text: str, tmp_path: Path) -> None:
    file = tmp_path / "router.toml"
    file.write_text(text)
    began = time.process_time()
    with pytest.raises(ConfigurationError) as caught:
        RouterConfig.from_file(file)
    assert time.process_time() - began < 20
    assert len(str(caught.value)) < 10_000


def test_dots_in_texts_are_no_key_of_many_parts(tmp_path: Path) -> None:
    file = tmp_path / "router.toml"
    file.write_text(MODEL + f'region = "{"a sentence. " * 20}{"..." * 100}"\n')
    assert RouterConfig.from_file(file).models[0].name == "a"


# --- Files that are written ------------------------------------------------------------------------------


def modes(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


@pytest.fixture
def _open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_open_umask")
def test_a_ledgers_files_are_never_open_to_others_not_even_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, int]] = []
    connect = sqlite3.connect

    class Watching(sqlite3.Connection):
        def execute(self, *arguments: Any) -> sqlite3.Cursor:
            seen.append(modes(tmp_path))
            return super().execute(*arguments)

    def watched(*arguments: Any, **options: Any) -> sqlite3.Connection:
        seen.append(modes(tmp_path))
        return connect(*arguments, **options, factory=Watching)

    monkeypatch.setattr(sqlite3, "connect", watched)
    with Router([scripted("a")], ledger=tmp_path / "l.db") as router:
        router.chat.completions.create(messages=HELLO)
        seen.append(modes(tmp_path))
    assert {"l.db", "l.db-wal", "l.db-shm"} <= set().union(*seen)
    assert {mode for moment in seen for mode in moment.values()} == {0o600}


@pytest.mark.usefixtures("_open_umask")
def test_a_link_to_a_ledger_that_is_not_there_yet_makes_a_private_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "l.db").symlink_to(tmp_path / "real" / "there.db")
    ledger = Ledger(tmp_path / "l.db")
    assert set(modes(tmp_path / "real").values()) == {0o600}
    ledger.close()


@pytest.mark.parametrize("mode", [0o644, 0o666, 0o640, 0o755])
def test_a_ledger_that_others_could_read_is_closed_to_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    Ledger(tmp_path / "l.db").close()
    (tmp_path / "l.db").chmod(mode)
    Ledger(tmp_path / "l.db").close()
    assert modes(tmp_path)["l.db"] & 0o077 == 0
    assert f"{mode:04o}" in caplog.text


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_a_link_in_the_place_of_a_ledgers_companion_is_not_followed(tmp_path: Path, suffix: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f"l.db{suffix}").symlink_to(victim)
    with pytest.raises(ConfigurationError, match="link"):
        Ledger(tmp_path / "l.db")
    assert victim.read_text() == "precious"


# --- Files that are pinned -------------------------------------------------------------------------------


def pinned(path: Path, content: bytes = b"GGUF weights") -> LocalModel:
    import hashlib

    path.write_bytes(content)
    return LocalModel("m", path=path, sha256=hashlib.sha256(content).hexdigest())


def test_a_file_that_stays_what_was_hashed_may_be_used(tmp_path: Path) -> None:
    model = pinned(tmp_path / "m.gguf")
    check_unchanged(model, check_hash(model, lambda: True))
    unpinned = model.model_copy(update={"sha256": None})
    check_unchanged(unpinned, check_hash(unpinned, lambda: True))


def replaced(path: Path) -> None:
    other = path.with_suffix(".other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def rewritten(path: Path) -> None:
    told = path.stat()
    time.sleep(0.02)  # so that the clock of the file system goes on
    path.write_bytes(b"GGUF WEIGHTS")
    os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))


@pytest.mark.parametrize("change", [replaced, rewritten, Path.unlink])
def test_a_file_that_is_swapped_after_it_was_hashed_is_refused(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    model = pinned(tmp_path / "m.gguf")
    mark = check_hash(model, lambda: True)
    change(model.path)
    with pytest.raises(ModelError, match="was changed after"):
        check_unchanged(model, mark)


def test_a_model_in_several_files_cannot_be_pinned_by_the_hash_of_one(tmp_path: Path) -> None:
    model = pinned(tmp_path / "m-00001-of-00003.gguf")
    with pytest.raises(ModelError, match="merge"):
        check_hash(model, lambda: True)
    single = pinned(tmp_path / "m-00001-of-00001.gguf")
    assert check_hash(single, lambda: True)
