"""What the guard keeps out, measured on real HTTP."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import traceback
import tracemalloc
import zlib

import pytest

from adapters.hosted.sdk import _proxy_for, tls
from router.adapter import AdapterSettings
from router.errors import InvalidRequestError, ModelConnectionError, ModelHTTPError, ModelProtocolError
from router.testing.server import LoopbackServer, Reply
from tests.adapters.hosted.conftest import Make, call, text_of

ANSWER = b'{"id":"x","choices":[{"index":0,"message":{"content":"ok"},"finish_reason":"stop"}]}'
CHUNK = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"ok"},"finish_reason":"stop"}]}\n\n'


def bare_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize("streams", [False, True])
async def test_a_gzip_bomb_is_refused_before_it_unfolds(
    server: LoopbackServer, make: Make, streams: bool
) -> None:
    adapter = make(settings=AdapterSettings(max_response_bytes=1024 * 1024))
    await adapter.complete(call())
    server.script(Reply(fault="gzip_bomb"))
    with pytest.raises(ModelProtocolError):
        await adapter.complete(call())
    tracemalloc.start()
    try:
        with pytest.raises(ModelProtocolError, match="larger than 1048576 bytes"):
            await (text_of(adapter) if streams else adapter.complete(call()))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 1024 * 1024


async def test_an_announced_size_over_the_limit_is_refused_unread(server: LoopbackServer, make: Make) -> None:
    server.script("word " * 1000)
    with pytest.raises(ModelProtocolError, match="announces"):
        await make(settings=AdapterSettings(max_response_bytes=2048)).complete(call())


async def test_a_long_stream_is_refused_at_the_limit(server: LoopbackServer, make: Make) -> None:
    server.script("word " * 1000)
    with pytest.raises(ModelProtocolError, match="larger than"):
        await text_of(make(settings=AdapterSettings(max_response_bytes=2048)))


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", bare_deflate),
        ("gzip", lambda data: gzip.compress(data[:10]) + gzip.compress(data[10:])),
        ("gzip", lambda data: gzip.compress(data) + b"\0" * 8),
        ("identity", bytes),
    ],
)
async def test_packed_answers_are_read(
    server: LoopbackServer, make: Make, encoding: str, pack: object
) -> None:
    assert callable(pack)
    headers = {"content-encoding": encoding}
    packed = pack(ANSWER)
    server.script(Reply(raw=[packed[:7], packed[7:]], headers=headers))
    assert (await make().complete(call())).choices[0].message.content == "ok"
    packed = pack(CHUNK + b"data: [DONE]\n\n")
    server.script(Reply(raw=[packed[i : i + 1] for i in range(len(packed))], headers=headers))
    assert await text_of(make()) == "ok"


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", ANSWER),
        ("gzip", gzip.compress(ANSWER)[:-12]),
        ("br", ANSWER),
        ("gzip, gzip", gzip.compress(ANSWER)),
    ],
)
async def test_a_damaged_or_unknown_packing_is_refused(
    server: LoopbackServer, make: Make, encoding: str, body: bytes
) -> None:
    server.script(Reply(raw=[body], headers={"content-encoding": encoding}))
    for attempt in (make().complete(call()), text_of(make())):
        with pytest.raises(ModelProtocolError):
            await attempt


@pytest.mark.parametrize("streams", [False, True])
async def test_a_redirect_is_refused_and_the_prompt_goes_nowhere(
    server: LoopbackServer, make: Make, streams: bool
) -> None:
    with LoopbackServer() as other:
        server.script(Reply(fault="redirect", location=f"{other.base_url}/secret-path?token=abc"))
        with pytest.raises(ModelProtocolError, match=r"127\.0\.0\.1") as caught:
            await (text_of(make()) if streams else make().complete(call()))
        assert other.requests == []
        assert "secret-path" not in str(caught.value)


@pytest.mark.parametrize("size", [100_000, 30_000_000])
async def test_a_large_error_body_still_tells_its_status(
    server: LoopbackServer, make: Make, size: int
) -> None:
    server.script(Reply(status=503, raw=[b"x" * size], headers={"retry-after": "3"}))
    for attempt in (make().complete(call()), text_of(make())):
        with pytest.raises(ModelHTTPError) as caught:
            await attempt
        assert (caught.value.status_code, caught.value.retry_after) == (503, 3.0)


async def test_a_stream_that_stays_open_after_its_end_does_not_hold_the_answer_up(
    server: LoopbackServer, make: Make
) -> None:
    server.script(Reply(raw=[CHUNK + b"data: [DONE]\n\n", b": late\n\n"], per_token=30.0))
    async with asyncio.timeout(5):
        assert await text_of(make(), call(timeout=60.0)) == "ok"


async def test_connections_are_kept_for_the_next_request(server: LoopbackServer, make: Make) -> None:
    adapter = make()
    for _ in range(3):
        await adapter.complete(call())
        await text_of(adapter)
    assert server.accepted == 1


async def test_proxies_are_used_as_the_environment_says_but_not_for_private_models(
    server: LoopbackServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("http_proxy", server.base_url.removesuffix("/v1"))
    await make(base_url="http://models.invalid/v1").complete(call())
    assert server.requests[0].headers["host"] == "models.invalid"
    with pytest.raises(ModelConnectionError):
        await make(base_url="http://models.invalid/v1", private=True).complete(call())
    assert len(server.requests) == 1
    monkeypatch.setenv("no_proxy", "models.invalid")
    assert _proxy_for("http://models.invalid/v1") is None
    monkeypatch.setenv("https_proxy", "proxy.invalid:3128")
    assert _proxy_for("https://api.other.invalid/v1") == "http://proxy.invalid:3128"


@pytest.mark.parametrize(
    "proxy", ["ftp://user:hunter22@proxy.invalid", "http://user:hunter22@proxy.invalid:x"]
)
async def test_a_proxy_that_cannot_be_used_is_a_typed_error(
    make: Make, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(ModelConnectionError, match="proxy") as caught:
        await make(base_url="http://models.invalid/v1").complete(call())
    assert "hunter22" not in "".join(traceback.format_exception(caught.value))


async def test_certificates_that_cannot_be_read_are_a_typed_error(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/certificates.pem")
    tls.cache_clear()
    try:
        with pytest.raises(ModelConnectionError, match="TLS"):
            await make().complete(call())
    finally:
        tls.cache_clear()


async def test_a_host_that_is_not_there_is_a_connection_error(make: Make) -> None:
    for url in ("http://127.0.0.1:9/v1", "https://127.0.0.1:9/v1", "http://nowhere.invalid/v1"):
        with pytest.raises(ModelConnectionError):
            await make(base_url=url).complete(call())


def test_tls_is_verified() -> None:
    assert tls().verify_mode is ssl.CERT_REQUIRED
    assert tls().check_hostname


async def test_a_prompt_that_cannot_be_encoded_is_a_typed_error(make: Make) -> None:
    asked = call(messages=[{"role": "user", "content": "broken \ud800 text"}])
    with pytest.raises(InvalidRequestError, match=r"^messages\.0: "):
        await make().complete(asked)
    with pytest.raises(InvalidRequestError, match=r"^messages\.0: "):
        await text_of(make(), asked)
    with pytest.raises(ModelProtocolError):
        await make().complete(call(extra_headers={"X-Odd": "new\r\nline"}))
