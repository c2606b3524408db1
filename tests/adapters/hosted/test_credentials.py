"""Keys go to the host that was declared, in the header, and nowhere else."""

from __future__ import annotations

import io
import logging
import traceback

import pytest
from pydantic import SecretStr

from adapters.hosted.credentials import mask
from router.errors import ConfigurationError, ModelError, ModelHTTPError
from router.testing.server import LoopbackServer, Reply
from tests.adapters.hosted.conftest import Make, call, text_of

KEY = "sk-live-0123456789abcdef"


@pytest.mark.parametrize("key", [KEY, SecretStr(KEY), lambda: KEY, lambda: SecretStr(KEY)])
async def test_the_key_is_sent_as_a_bearer_token(server: LoopbackServer, make: Make, key: object) -> None:
    await make(api_key=key).complete(call())
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


async def test_a_callable_is_asked_for_each_request_over_one_connection(
    server: LoopbackServer, make: Make
) -> None:
    keys = iter(["first-key", "second-key"])
    adapter = make(api_key=lambda: next(keys))
    await adapter.complete(call())
    await text_of(adapter)
    assert [r.headers["authorization"] for r in server.requests] == ["Bearer first-key", "Bearer second-key"]
    assert server.accepted == 1


async def test_a_key_of_the_environment_is_read_for_each_request(
    server: LoopbackServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = make(api_key_env="MY_KEY")
    for key in ("one-key", "two-key"):
        monkeypatch.setenv("MY_KEY", f"{key}\n")
        await adapter.complete(call())
    assert [r.headers["authorization"] for r in server.requests] == ["Bearer one-key", "Bearer two-key"]


@pytest.mark.parametrize("value", [None, "", "  "])
async def test_a_missing_key_is_a_401_that_names_the_variable(
    server: LoopbackServer, make: Make, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(ModelHTTPError, match="MY_KEY") as caught:
        await make(api_key_env="MY_KEY").complete(call())
    assert (caught.value.status_code, caught.value.code) == (401, "missing_api_key")
    assert server.requests == []


def raising() -> str:
    raise RuntimeError(f"vault refused {KEY}")


@pytest.mark.parametrize(
    "key", [raising, lambda: None, lambda: "", lambda: "clé-secrète", lambda: "two\r\nlines: x"]
)
async def test_a_callable_that_gives_no_key_is_a_typed_error(
    server: LoopbackServer, make: Make, key: object
) -> None:
    for attempt in (make(api_key=key).complete(call()), text_of(make(api_key=key))):
        with pytest.raises(ModelHTTPError) as caught:
            await attempt
        shown = "".join(traceback.format_exception(caught.value))
        assert KEY not in shown
        assert "secr" not in shown
    assert server.requests == []


async def test_nothing_of_the_environment_reaches_a_host_that_did_not_ask_for_it(
    server: LoopbackServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID", "WEBHOOK_SECRET"):
        monkeypatch.setenv(f"OPENAI_{name}", f"ambient-{name}")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Mine: ambient\nAuthorization: Bearer ambient")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/ambient")
    adapter = make()
    await adapter.complete(call())
    await text_of(adapter)
    for request in server.requests:
        assert "authorization" not in request.headers
        assert "ambient" not in str(request.headers).lower()
        assert "openai-organization" not in request.headers
        assert not any(name.startswith("x-stainless-os") for name in request.headers)


async def test_declared_headers_and_ids_are_sent_and_beat_the_callers(
    server: LoopbackServer, make: Make
) -> None:
    adapter = make(
        headers={"X-Team": "declared", "api-key": "azure-key"}, organization="org-1", project="proj-1"
    )
    stolen = {"x-team": "caller", "Authorization": "Bearer caller", "Host": "evil", "X-Trace": "42"}
    await adapter.complete(call(extra_headers=stolen))
    sent = server.requests[0].headers
    assert (sent["x-team"], sent["api-key"], sent["x-trace"]) == ("declared", "azure-key", "42")
    assert (sent["openai-organization"], sent["openai-project"]) == ("org-1", "proj-1")
    assert "authorization" not in sent
    assert sent["host"].startswith("127.0.0.1")


def test_a_declared_header_that_cannot_be_sent_is_refused_at_once(make: Make) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make(headers={"X-Key": "sécret\n"})
    assert "sécret" not in str(caught.value)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(
            status=401, error={"message": f"Incorrect API key provided: {KEY}.", "code": "invalid_api_key"}
        ),
        Reply(status=500, raw=[f"your header was Authorization: Bearer {KEY}".encode()]),
        Reply(fault="error_in_200", error={"message": f"bad key {KEY}", "code": KEY}),
        Reply(fault="error_first", error={"message": f"bad key {KEY}", "param": KEY}),
        Reply(fault="disconnect"),
        Reply(fault="html"),
    ],
)
async def test_a_key_shows_in_no_error_and_in_none_of_its_causes(
    server: LoopbackServer, make: Make, reply: Reply
) -> None:
    server.script(reply)
    adapter = make(api_key=KEY)
    for streams in (False, True) if reply.fault != "error_first" else (True,):
        with pytest.raises(ModelError) as caught:
            await (text_of(adapter) if streams else adapter.complete(call()))
        shown = "".join(
            traceback.TracebackException.from_exception(caught.value, capture_locals=False).format()
        )
        error: BaseException | None = caught.value
        while error is not None:
            shown += repr(error) + str(error) + repr(vars(error))
            request = getattr(error, "request", None)
            shown += repr(getattr(request, "headers", None)) + str(
                getattr(request, "headers", {}).get("authorization")
            )
            error = error.__cause__
        assert KEY not in shown
    assert KEY not in repr(adapter)


async def test_a_key_shows_in_no_log_of_the_sdk_or_its_http_client(
    server: LoopbackServer, make: Make
) -> None:
    shown = io.StringIO()
    handler = logging.StreamHandler(shown)
    loggers = [logging.getLogger(name) for name in ("openai", "httpx2", "httpcore2")]
    adapter = make(api_key=KEY)
    await adapter.complete(call())
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    try:
        await adapter.complete(call())
        await text_of(adapter)
        logging.getLogger("openai._base_client").debug(
            "Request options: %s", {"Authorization": f"Bearer {KEY}"}
        )
        logging.getLogger("httpx2").debug("unknown key Bearer abcdef0123456789", exc_info=ValueError(KEY))
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.setLevel(logging.NOTSET)
    assert "HTTP" in shown.getvalue()
    assert "(hidden)" in shown.getvalue()
    assert KEY not in shown.getvalue()
    assert "abcdef0123456789" not in shown.getvalue()


def test_masking_leaves_other_words_alone() -> None:
    text = "the model is overloaded; key_management and task-based words stay, max_tokens too"
    assert mask(text) == text
