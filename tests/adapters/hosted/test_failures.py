"""What hosts say when they fail, and what it is called here."""

from __future__ import annotations

import pytest

from adapters.hosted.context import context_overflow
from adapters.hosted.failures import http_error, retry_after
from router.errors import ContextWindowExceededError, ModelHTTPError
from router.testing.server import LoopbackServer, Reply
from tests.adapters.hosted.conftest import Make, call, text_of


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 408, 409, 422, 429, 500, 502, 503, 529])
async def test_an_error_status_keeps_its_status_code_and_message(
    server: LoopbackServer, make: Make, status: int
) -> None:
    error = {"message": "the host's reason", "type": "some_type", "code": "some_code"}
    server.script(Reply(status=status, error=error, headers={"retry-after": "7"}))
    for attempt in (make().complete(call()), text_of(make())):
        with pytest.raises(ModelHTTPError, match="the host's reason") as caught:
            await attempt
        assert caught.value.status_code == status
        assert caught.value.code == "some_code"
        assert caught.value.retry_after == 7.0
    assert len(server.requests) == 2, "the SDK itself must not retry"


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        ({"error": {"message": "m", "code": "c"}}, "m", "c"),
        ({"error": {"message": "m", "code": 429, "status": "RESOURCE_EXHAUSTED"}}, "m", "RESOURCE_EXHAUSTED"),
        ([{"error": {"message": "m", "code": 400, "status": "INVALID_ARGUMENT"}}], "m", "INVALID_ARGUMENT"),
        ({"error": "m"}, "m", None),
        ({"message": "m", "type": "t"}, "m", "t"),
        ({"detail": "m"}, "m", None),
        ({"detail": [{"loc": ["body"], "msg": "m"}]}, "m", None),
        ("plain text", "plain text", None),
        ("<html>502 Bad Gateway</html>", "(a web page)", None),
        (None, "HTTP 500", None),
    ],
)
def test_the_message_is_found_wherever_the_host_puts_it(body: object, message: str, code: str | None) -> None:
    error = http_error(500, {}, body, model="m")
    assert message in str(error)
    assert isinstance(error, ModelHTTPError)
    assert error.code == code


def test_a_long_message_is_shortened_to_one_line() -> None:
    error = http_error(500, {}, {"error": {"message": "long\n" * 10_000}}, model="m")
    assert len(str(error)) < 350
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e999"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m2.5s"}, 62.5),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "120ms"}, 0.12),
        ({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "1m"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "later"}, None),
        ({}, None),
    ],
)
def test_the_wait_that_a_host_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(429, headers) == seconds


OVERFLOWS = [
    (
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 10000 tokens.",
        10000,
        8192,
    ),
    (
        (
            "This model's maximum context length is 65536 tokens. However, you requested 70000 tokens "
            "(69000 in the messages, 1000 in the completion). Please reduce the length of the messages."
        ),
        70000,
        65536,
    ),
    (
        "This endpoint's maximum context length is 131072 tokens. However, you requested about 140000 tokens",
        140000,
        131072,
    ),
    (
        (
            "'max_tokens' is too large: 5000. This model's maximum context length is 4096 tokens and your request "
            "has 100 input tokens"
        ),
        100,
        4096,
    ),
    (
        (
            "You passed 5000 input tokens and requested 100 output tokens. However, the model's context length is "
            "only 4096 tokens"
        ),
        5000,
        4096,
    ),
    ("The decoder prompt (length 5000) is longer than the maximum model length of 4096.", 5000, 4096),
    (
        "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 300000 tokens.",
        300000,
        272000,
    ),
    ("prompt is too long: 210000 tokens > 200000 maximum", 210000, 200000),
    ("input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease", 190000, 200000),
    ("The prompt is too long: 140000, model maximum context length: 131071", 140000, 131071),
    ("request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it", 5000, 4096),
    ("the request exceeds the available context size, try increasing it", None, None),
    ("Invalid request: Your request exceeded model token limit: 131072 (requested: 140000)", 140000, 131072),
    ("Invalid request: Your request exceeded model token limit: 131072", None, 131072),
    (
        "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
        40000,
        32768,
    ),
    (
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        1200000,
        1048576,
    ),
    (
        "This model's maximum prompt length is 131072 but the request contains 140000 tokens.",
        140000,
        131072,
    ),
    (
        (
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8193. Given: 9000 `inputs` tokens "
            "and 100 `max_new_tokens`"
        ),
        9000,
        8193,
    ),
    ("Please reduce the length of the messages or completion.", None, None),
    ("Range of input length should be [1, 30720]", None, 30720),
]


@pytest.mark.parametrize(("text", "tokens", "window"), OVERFLOWS)
def test_an_overflow_is_recognised_by_the_hosts_words(
    text: str, tokens: int | None, window: int | None
) -> None:
    error = http_error(400, {}, {"error": {"message": text, "type": "invalid_request_error"}}, model="m")
    assert isinstance(error, ContextWindowExceededError)
    assert (error.tokens, error.window) == (tokens, window)


async def test_an_overflow_is_recognised_by_its_code(server: LoopbackServer, make: Make) -> None:
    server.script(Reply(status=400, error={"message": "too much", "code": "context_length_exceeded"}))
    with pytest.raises(ContextWindowExceededError):
        await make().complete(call())
    figures = {"message": "x", "type": "exceed_context_size_error", "n_prompt_tokens": 5000, "n_ctx": 4096}
    server.script(Reply(status=400, error=figures))
    with pytest.raises(ContextWindowExceededError) as caught:
        await text_of(make())
    assert (caught.value.tokens, caught.value.window) == (5000, 4096)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (
            413,
            "Request too large for model: tokens per minute (TPM): Limit 6000, Requested 7000, reduce the length of the messages",
        ),
        (429, "Rate limit reached: maximum context length"),
        (400, "max_tokens is too large: 5000"),
        (401, "maximum context length"),
    ],
)
def test_other_errors_that_speak_of_tokens_are_no_overflow(status: int, text: str) -> None:
    assert context_overflow(status, None, text, {}) is None
