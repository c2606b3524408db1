"""A request is told in the host's own words, and stays as it was."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from adapters.hosted.dialect import outgoing
from router.catalogue.providers import GENERIC, Provider
from router.models import HostedModel
from router.testing.server import LoopbackServer
from tests.adapters.hosted.conftest import Make, call

MODEL = HostedModel(name="mine", base_url="http://127.0.0.1:1/v1", model="their-name")


def provider(**fields: object) -> Provider:
    return Provider(name="x", title="X", base_url="http://x.invalid", **fields)  # type: ignore[arg-type]  # shorthand


def test_the_host_is_told_its_own_name_of_the_model() -> None:
    assert outgoing(call(), MODEL, GENERIC, stream=False).body["model"] == "their-name"


@pytest.mark.parametrize(
    ("ours", "theirs"), [("max_completion_tokens", "max_tokens"), ("max_tokens", "max_completion_tokens")]
)
def test_a_parameter_is_renamed_as_the_row_says(ours: str, theirs: str) -> None:
    body = outgoing(call(params={ours: 5}), MODEL, provider(renames={ours: theirs}), stream=False).body
    assert body[theirs] == 5
    assert ours not in body


@pytest.mark.parametrize(("knows", "role"), [(True, "developer"), (False, "system")])
def test_the_developer_role_is_system_where_it_is_not_known(knows: bool, role: str) -> None:
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    body = outgoing(call(messages=messages), MODEL, provider(developer_role=knows), stream=False).body
    assert body["messages"] == [{"role": role, "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert messages[0]["role"] == "developer"


@pytest.mark.parametrize("accepts", [True, False])
def test_usage_is_asked_for_on_streams_where_the_host_can_tell_it(accepts: bool) -> None:
    body = outgoing(call(), MODEL, provider(stream_options=accepts), stream=True).body
    assert body["stream"] is True
    assert ("stream_options" in body) is accepts


async def test_all_parameters_and_extras_reach_the_host(server: LoopbackServer, make: Make) -> None:
    params = MappingProxyType(
        {"temperature": 0, "seed": 7, "tools": [{"type": "function", "function": {"name": "f"}}]}
    )
    extra = MappingProxyType({"top_k": 5, "thinking": {"type": "disabled"}})
    asked = call(
        params=params, extra_body=extra, extra_query={"api-version": "1"}, extra_headers={"X-A": "b"}
    )
    await make().complete(asked)
    received = server.requests[0]
    assert received.body == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        **params,
        **extra,
    }
    assert received.path == "/v1/chat/completions?api-version=1"
    assert received.headers["x-a"] == "b"


async def test_extras_can_neither_change_the_model_nor_start_a_stream(
    server: LoopbackServer, make: Make
) -> None:
    await make().complete(call(extra_body={"model": "dearer", "stream": True, "messages": []}))
    body = server.requests[0].body
    assert body["model"] == "m"
    assert body["messages"]
    assert "stream" not in body
