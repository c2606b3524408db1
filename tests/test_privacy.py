"""A private request is planted with a marker, sent down every path, and looked for where it must not be."""

from __future__ import annotations

import asyncio
import base64
import logging
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, aclosing, suppress
from pathlib import Path
from typing import Any

import pytest

from router import (
    AsyncRouter,
    Budget,
    HostedModel,
    InvalidRequestError,
    ModelError,
    ModelHTTPError,
    ModelProtocolError,
    NoEligibleModelError,
    Policy,
    Price,
    Recovery,
    RouterError,
    RoutingOptions,
)
from router.discreet import discreet
from router.ledger import Ledger
from router.testing import LoopbackServer, Reply, ScriptedModel, Step
from router.testing.server import Script
from router.testing.wire import Connection
from tests.adapters.local.batching.disk.test_memory import Shelf, made
from tests.adapters.local.batching.test_memory import compute
from tests.helpers import router_of, sync_router_of

pytestmark = pytest.mark.usefixtures("no_network")

MARKER = "zebra4711quokka"
PICTURE = base64.b64encode(MARKER.encode()).decode()
#: The marker as it may stand in a file, in a body or in an image.
FORMS = (MARKER, MARKER[::-1], PICTURE.rstrip("="))

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": f"find_{MARKER}",
            "description": f"Finds {MARKER}.",
            "parameters": {"type": "object", "properties": {MARKER: {"type": "string", "enum": [MARKER]}}},
        },
    }
]
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": f"You work for {MARKER}."},
    {"role": "user", "name": MARKER, "content": f"My name is {MARKER}."},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": f"call_{MARKER}",
                "type": "function",
                "function": {"name": f"find_{MARKER}", "arguments": f'{{"q": "{MARKER}"}}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": f"call_{MARKER}", "content": f"found {MARKER}"},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": f"and this? {MARKER}"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}},
        ],
    },
]
REQUEST: dict[str, Any] = {
    "messages": MESSAGES,
    "tools": TOOLS,
    "user": MARKER,
    "metadata": {MARKER: MARKER},
    "safety_identifier": MARKER,
    "prompt_cache_key": MARKER,
    "stop": [MARKER],
    "extra_body": {"x_note": {MARKER: [MARKER]}},
    "extra_headers": {"x-note": MARKER},
    "extra_query": {"note": MARKER},
}
PRIVATE = {"privacy": "private", "session": f"session of {MARKER}"}
PLAIN: Any = [{"role": "user", "content": "Hello!"}]
ABLE = frozenset({"tools", "vision", "metadata", "extras", "stop", "user", "n>1", "logprobs", "json_schema"})
QUICK = Recovery(attempt_timeout=2.0, ttft_timeout=2.0, cooldown=0.05, max_attempts=3)


class _RawConnection(Connection):
    """Keeps every byte that comes in, whatever becomes of it."""

    heard: list[bytes]

    def data_received(self, data: bytes) -> None:
        self.heard.append(data)
        super().data_received(data)


class Ear(LoopbackServer):
    """A loopback server that keeps the raw bytes that it is sent."""

    def __init__(self, reply: Script = "Hello!") -> None:
        super().__init__(reply)
        self.heard: list[bytes] = []

    def _accept(self) -> Connection:
        self.accepted += 1
        connection = _RawConnection(self._begin, self._end, self._open)
        connection.heard = self.heard
        return connection

    @property
    def told(self) -> str:
        return b"".join(self.heard).decode("latin-1")


def quoting(status: int) -> Reply:
    """A host that repeats the prompt in its error, as some do."""
    return Reply(status=status, error={"message": f"cannot do {MARKER}", "code": MARKER, "type": MARKER})


def host(name: str, server: LoopbackServer, *, usd: float = 1.0, **fields: Any) -> HostedModel:
    fields = {"capabilities": _capabilities(), "context_window": 100_000, "quality": 0.5, **fields}
    return HostedModel.parse(
        {"name": name, "base_url": server.base_url, "price": Price(input=usd, output=usd), **fields}
    )


def _capabilities() -> frozenset[str]:
    from router.capabilities import CAPABILITIES

    return frozenset(CAPABILITIES)


class Watch:
    """Two public hosts, the cheapest and the best there are, and everything that was said aloud."""

    def __init__(self, stack: ExitStack, caplog: pytest.LogCaptureFixture, folder: Path) -> None:
        self.cheap, self.good, self.own, self.other = (stack.enter_context(Ear()) for _ in range(4))
        self.caplog = caplog
        self.path = folder / "ledger.db"
        self.said: list[str] = []

    def models(self, **own: Any) -> list[HostedModel]:
        return [
            host("cheap", self.cheap, usd=0, quality=0.9),
            host("good", self.good, quality=1.0),
            host("own", self.own, usd=5, private=True, **own),
            host("other", self.other, usd=9, private=True, **own),
        ]

    def router(self, *, own: dict[str, Any] | None = None, **fields: Any) -> AsyncRouter:
        fields = {"policy": Policy(explore=0.5), "recovery": QUICK, "keep_text": True, **fields}
        return router_of(*self.models(**(own or {})), ledger=self.path, **fields)

    async def ask(self, router: AsyncRouter, **fields: Any) -> object:
        """Sends the planted request and reads its answer to the end; keeps what an error says."""
        fields = {**REQUEST, "routing": PRIVATE, **fields}
        try:
            answered = await router.chat.completions.create(**fields)
            if fields.get("stream"):
                async with aclosing(answered):
                    async for _ in answered:
                        pass
        except RouterError as error:
            self.hear(error)
            return error
        self.said += [repr(answered.routing), answered.routing.explain(), repr(router)]
        return answered

    def hear(self, error: BaseException) -> None:
        """All that an error says, and those behind it."""
        seen: set[int] = set()
        waiting: list[BaseException | None] = [error]
        while waiting:
            one = waiting.pop()
            if one is None or id(one) in seen:
                continue
            seen.add(id(one))
            told = {name: value for name, value in vars(one).items() if name != "text"}  # the caller's answer
            self.said += [str(one), repr(one), repr(told), "".join(traceback.format_exception(one))]
            decision = getattr(one, "decision", None)
            if decision is not None:
                self.said.append(decision.explain())
            waiting += [one.__cause__, one.__context__, *getattr(one, "causes", ())]

    def ledger(self) -> str:
        return "".join(
            file.read_bytes().decode("latin-1")
            for file in sorted(self.path.parent.iterdir())
            if file.name.startswith(self.path.name)
        )

    def check(self, *, reached: bool = True) -> None:
        """The marker is with whoever may have it, and with nobody else."""
        public = self.cheap.told + self.good.told
        logs = self.caplog.text + "".join(repr(record.__dict__) for record in self.caplog.records)
        for form in FORMS:
            assert form not in public
            assert form not in logs
            assert form not in "\n".join(self.said)
            assert form not in self.ledger()
        if reached:
            assert MARKER in self.own.told + self.other.told, "the request went nowhere: nothing was tested"


@pytest.fixture
def watch(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> Iterator[Watch]:
    import openai  # noqa: F401 - its loggers exist before their levels are set

    before = {name: logging.getLogger(name).level for name in list(logging.root.manager.loggerDict)}
    with ExitStack() as stack:
        caplog.set_level(logging.DEBUG)
        for name in (*before, "openai", "httpx2", "httpcore2", "asyncio", "router", "router.ledger"):
            logging.getLogger(name).setLevel(logging.DEBUG)
        yield Watch(stack, caplog, tmp_path)
    for name in list(logging.root.manager.loggerDict):
        logging.getLogger(name).setLevel(before.get(name, logging.NOTSET))


CUT = Reply(text="one two three four five six seven", fault="truncated")
#: What the private hosts do. All of it makes a router look for somebody else to ask.
FAILURES: dict[str, Script] = {
    "answers": "Hello!",
    "quotes it in a 400": quoting(400),
    "quotes it in a 404": quoting(404),
    "quotes it in a 429": quoting(429),
    "quotes it in a 500": quoting(500),
    "quotes it in an error of status 200": Reply(fault="error_in_200", error={"message": MARKER}),
    "quotes it in the first event": Reply(fault="error_first", error={"message": MARKER}),
    "quotes it in a later event": Reply(fault="error_later", error={"message": MARKER}),
    "says that it is too long": Reply(
        status=400, error={"message": f"maximum context length is 9 tokens, {MARKER} has 10"}
    ),
    "sends a page": Reply(fault="html"),
    "sends nonsense": Reply(raw=[f'{{"id": "{MARKER}", "choices": "{MARKER}"}}'.encode()]),
    "sends half": Reply(raw=[f'{{"id": "{MARKER}'.encode()]),
    "breaks off": CUT,
    "disconnects": Reply(fault="disconnect"),
}


async def test_a_loop_that_writes_down_every_step_writes_nothing_private(watch: Watch) -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0
    watch.own.script([quoting(500), CUT])
    async with watch.router() as router:
        for stream in (False, True):
            await watch.ask(router, stream=stream)
    loop.set_debug(False)
    assert "Executing" in watch.caplog.text
    watch.check()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("failure", FAILURES)
async def test_a_private_request_is_told_to_private_hosts_only_however_they_fail(
    watch: Watch, failure: str, stream: bool
) -> None:
    for server in (watch.own, watch.other):
        server.script(FAILURES[failure])
    recovery = QUICK.model_copy(update={"on_interrupt": "continue"})
    async with watch.router(recovery=recovery) as router:
        await watch.ask(router, stream=stream)
    watch.check()


PATHS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "hedged": ({"policy": Policy(hedge=True)}, {}),
    "hedged by the request": ({}, {"routing": {**PRIVATE, "hedge": True}}),
    "relaxed": ({"policy": Policy(min_quality=0.8, max_latency=0.001, on_infeasible="relax")}, {}),
    "by the policy": ({"policy": Policy(privacy="private", explore=0.5)}, {"routing": None}),
    "by the policy, loosened": ({"policy": Policy(privacy="private")}, {"routing": {"privacy": "any"}}),
    "by the body": ({}, {"routing": None, "extra_body": {"routing": PRIVATE}}),
    "by the body, loosened": (
        {}, {"routing": RoutingOptions(privacy="any"), "extra_body": {"routing": PRIVATE}}
    ),
    "of one session": ({}, {"routing": {**PRIVATE, "tags": {"kind": "test"}}}),
    "listed": ({}, {"routing": {**PRIVATE, "models": ["cheap", "good", "own"]}}),
    "excluding": ({}, {"routing": {**PRIVATE, "exclude": ["own"]}}),
    "best": ({"policy": Policy.best()}, {}),
    "cheapest": ({"policy": Policy.cheapest()}, {}),
    "by a function": ({"policy": Policy(utility=lambda candidate: -(candidate.cost or 0.0))}, {}),
    "pinned": ({}, {"model": "own"}),
    "limited": ({"own": {"rpm": 60, "max_concurrency": 1}}, {"routing": {**PRIVATE, "deadline": 2.0}}),
    "within a budget": ({"budget": (Budget(usd=1.0),)}, {}),
    "beside a deadline": ({}, {"routing": {**PRIVATE, "deadline": 1.0}}),
}  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
async def test_a_private_request_stays_private_on_every_path(watch: Watch, path: str) -> None:
    config, asked = PATHS[path]
    watch.own.script([Reply(status=503), Reply(text="late", ttft=0.05), "Hello!"])
    watch.other.script([quoting(500), "Hello!"])
    async with watch.router(**config) as router:
        with suppress(RouterError):  # a policy may be private, and then nobody is left for it
            await router.chat.completions.create(messages=PLAIN)
        for stream in (False, True):
            answers = await asyncio.gather(*(watch.ask(router, stream=stream, **asked) for _ in range(3)))
            for answered in answers:
                router.feedback(getattr(answered, "routing", None) or "nobody", 0.5)
    watch.check()


@pytest.mark.parametrize(
    ("asked", "config"),
    [
        ({"model": "cheap"}, {}),
        ({"routing": {**PRIVATE, "models": ["cheap", "good"]}}, {}),
        ({"routing": {**PRIVATE, "exclude": ["own", "other"]}}, {}),
        ({"model": "good", "routing": None}, {"policy": Policy(privacy="private", on_infeasible="relax")}),
        ({"max_tokens": 1_000_000}, {"budget": (Budget(usd=0.001, model="own"), Budget(usd=0.001))}),
    ],
)
async def test_where_no_private_model_is_left_a_private_request_is_refused(
    watch: Watch, asked: dict[str, Any], config: dict[str, Any]
) -> None:
    async with watch.router(**config) as router:
        error = await watch.ask(router, **asked)
    assert isinstance(error, NoEligibleModelError)
    assert watch.cheap.accepted == watch.good.accepted == watch.own.accepted == watch.other.accepted == 0
    watch.check(reached=False)


async def test_when_all_private_models_are_shut_a_private_request_does_not_go_elsewhere(watch: Watch) -> None:
    for server in (watch.own, watch.other):
        server.script(quoting(500))
    async with watch.router(recovery=Recovery(failure_threshold=1, cooldown=60)) as router:
        for _ in range(12):
            assert isinstance(await watch.ask(router), RouterError)
    assert watch.cheap.accepted == watch.good.accepted == 0
    watch.check()


async def test_what_a_private_request_was_told_is_not_told_to_the_next_caller(watch: Watch) -> None:
    """Whoever finds a model shut is told why: that is the error of somebody else's request."""
    watch.own.script(quoting(401))
    async with router_of(host("own", watch.own, private=True), ledger=watch.path) as router:
        await watch.ask(router)
        with pytest.raises(RouterError) as caught:
            await router.chat.completions.create(messages=PLAIN)
    watch.hear(caught.value)
    assert "401" in str(caught.value)
    watch.check()


async def test_cancelled_and_dropped_private_requests_leave_nothing(watch: Watch) -> None:
    for server in (watch.own, watch.other):
        server.script(Reply(text="one two three four five", per_token=0.05))
    async with watch.router() as router:
        asking = [asyncio.ensure_future(watch.ask(router, stream=stream)) for stream in (False, True)]
        await asyncio.to_thread(
            watch.own.wait_until, lambda server: len(server.requests + watch.other.requests) == 2
        )
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await router.chat.completions.create(**REQUEST, routing=PRIVATE, stream=True)  # and nobody reads it
    watch.check()


@pytest.mark.parametrize("location", ["http://127.0.0.1:{port}/v1/x", "//127.0.0.1:{port}/", "/{marker}"])
async def test_a_private_host_cannot_send_a_request_on_to_another(watch: Watch, location: str) -> None:
    told = location.format(port=watch.cheap.port, marker=MARKER)
    for server in (watch.own, watch.other):
        server.script(Reply(fault="redirect", location=told))
    async with watch.router() as router:
        for stream in (False, True):
            assert isinstance(await watch.ask(router, stream=stream), RouterError)
    assert watch.cheap.accepted == 0
    watch.check()


async def test_the_environments_proxies_do_not_see_private_requests(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    proxy = watch.cheap.base_url.removesuffix("/v1")
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy)
    async with watch.router() as router:
        for stream in (False, True):
            await watch.ask(router, stream=stream)
    assert watch.cheap.accepted == 0
    watch.check()


async def test_the_models_may_change_while_a_private_request_runs(watch: Watch) -> None:
    watch.own.script(Reply(status=503, ttft=0.2))
    async with watch.router() as router:
        asking = asyncio.ensure_future(watch.ask(router))
        await asyncio.to_thread(watch.own.wait_until, lambda server: bool(server.requests))
        router.update([model.model_copy(update={"private": False}) for model in watch.models()])
        await asking
        assert isinstance(await watch.ask(router), NoEligibleModelError)
    watch.check()


def test_the_synchronous_router_keeps_private_requests_private(watch: Watch) -> None:
    with sync_router_of(*watch.models(), ledger=watch.path, recovery=QUICK, keep_text=True) as router:
        watch.own.script(quoting(500))
        answer = router.chat.completions.create(**REQUEST, routing=PRIVATE)
        assert answer.routing.model == "other"
        list(router.chat.completions.create(**REQUEST, routing=PRIVATE, stream=True))
        decision = router.route(**REQUEST, routing=PRIVATE)
        watch.said += [repr(decision), decision.explain()]
    watch.check()


@pytest.mark.parametrize("keep_text", [False, True])
async def test_the_ledger_keeps_the_text_of_others_only_if_asked_and_of_private_ones_never(
    watch: Watch, keep_text: bool
) -> None:
    async with watch.router(keep_text=keep_text) as router:
        await watch.ask(router)
        await router.chat.completions.create(messages=[{"role": "user", "content": "a giraffe"}])
    assert ("a giraffe" in watch.ledger()) is keep_text
    watch.check()
    ledger = Ledger(watch.path)
    private = next(row for row in ledger.decisions() if row.sensitivity == "private")
    assert private.exchange is None
    assert private.session is not None
    assert MARKER not in private.session
    ledger.close()


async def test_private_conversations_can_be_told_apart_in_the_ledger(watch: Watch) -> None:
    async with watch.router() as router:
        for session in ("anna 1", "ben 2", "anna 1"):
            await watch.ask(router, routing={"privacy": "private", "session": session})
    ledger = Ledger(watch.path)
    names = [row.session for row in ledger.decisions()]
    ledger.close()
    assert len(names) == 3
    assert len(set(names)) == 2
    assert not {"anna 1", "ben 2"} & set(names)


async def test_a_conversation_that_was_not_private_until_now_goes_on_in_the_ledger(watch: Watch) -> None:
    async with watch.router() as router:
        for privacy in ("any", "private"):
            options: Any = {"privacy": privacy, "session": "carla 3"}
            await router.chat.completions.create(messages=PLAIN, routing=options)
    ledger = Ledger(watch.path)
    assert [row.session for row in ledger.decisions()] == ["carla 3"] * 2
    ledger.close()


WRONG: Sequence[dict[str, Any]] = (
    {"stop": [MARKER, 5]},
    {"stop": {MARKER: MARKER}},
    {"user": [MARKER]},
    {"metadata": {MARKER: 5}},
    {"metadata": MARKER},
    {"tools": [{"type": "function", "function": {"title": MARKER}}]},
    {"tools": [{"type": MARKER}]},
    {"tools": MARKER},
    {"tool_choice": {"type": "function", "function": {"name": MARKER[:-1]}}},
    {"tool_choice": MARKER},
    {"response_format": {"type": MARKER}},
    {"response_format": {"type": "json_schema", "json_schema": {"title": MARKER}}},
    {"logit_bias": {MARKER: 1}},
    {"messages": [{"role": MARKER, "content": MARKER}]},
    {"messages": [{"role": "user", "content": [{"type": MARKER}]}]},
    {"messages": [{"role": "user", "content": {MARKER: MARKER}}]},
    {"messages": MARKER},
    {"messages": [*MESSAGES, {"role": "user", "content": f"{MARKER} \ud83d"}]},
    {"prediction": MARKER},
    {"temperature": MARKER},
    {"prompt": MARKER},
    {"extra_body": {"zz": {(MARKER,): MARKER}}},
    {"extra_headers": {"x-note": f"{MARKER}\r\n"}},
)


@pytest.mark.parametrize("policy", [Policy(), Policy(privacy="private")])
async def test_a_wrong_private_request_is_not_quoted_in_the_complaint(watch: Watch, policy: Policy) -> None:
    options = PRIVATE if policy.privacy == "any" else None
    async with watch.router(policy=policy) as router:
        for wrong in WRONG:
            error = await watch.ask(router, **{"routing": options, **wrong})
            assert isinstance(error, InvalidRequestError), wrong
            watch.check(reached=False)


async def test_a_wrong_option_of_privacy_is_named_so_that_it_can_be_corrected(watch: Watch) -> None:
    async with watch.router() as router:
        with pytest.raises(InvalidRequestError, match="'private'"):
            await router.chat.completions.create(messages=PLAIN, routing={"privacy": "privat"})


class _ChattyError(ModelError):
    """A third party's error, which keeps what it was sent."""

    def __init__(self, prompt: str) -> None:
        super().__init__(f"could not say {prompt}", model="third", code=prompt)
        self.prompt = prompt


async def test_an_adapter_of_others_cannot_quote_a_private_request_either(watch: Watch) -> None:
    third = ScriptedModel("third", script=(Step(error=_ChattyError(MARKER)),), private=True)
    messages = [{"role": "user", "content": MARKER}]
    async with router_of(third, ledger=watch.path, recovery=QUICK) as router:
        for stream in (False, True):
            options = {"extra_headers": None, "extra_query": None, "extra_body": None, "stream": stream}
            assert isinstance(
                await watch.ask(router, **{**dict.fromkeys(REQUEST), **options, "messages": messages}),
                RouterError,
            )
    watch.check(reached=False)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ModelHTTPError(f"bad: {MARKER}", model="m", status_code=429, retry_after=3.5), "HTTP 429"),
        (ModelHTTPError("no", model="m", status_code=429, code="insufficient_quota"), "insufficient_quota"),
        (ModelHTTPError("no", model="m", status_code=400, code=MARKER), "HTTP 400"),
        (ModelProtocolError("the answer has no choices", model="m"), "the answer has no choices"),
        (ModelProtocolError(f"it cannot be read ({MARKER})", model="m"), "it cannot be read"),
    ],
)
def test_a_discreet_error_keeps_what_the_router_goes_by(error: ModelError, said: str) -> None:
    from router.failures import judge

    told = discreet(error, ours=True)
    assert said in str(told)
    assert MARKER not in str(told) + repr(vars(told))
    assert type(told) is type(error)
    assert judge(told) == judge(error)
    assert told.model == "m"
    assert str(told) != str(error) or "choices" in said


def test_what_is_computed_for_a_private_chat_is_never_written_to_the_disk() -> None:
    shelf = Shelf()
    secret, public = list(range(1000, 1030)), list(range(2000, 2030))
    with made(shelf, cells=200) as (store, memory):
        for tokens, private in ((secret, True), (public, False)):
            sequence, held = memory.open(tokens, private=private)
            compute(store, memory, [(sequence, held, tokens[held:])])
            memory.close(sequence)
        memory.save(lambda: False)
        memory.reclaim(200)
    assert shelf.files
    kept = b"".join(shelf.files.values())
    assert all(token.to_bytes(4, "little") not in kept for token in secret)


def test_a_place_in_memory_that_was_a_private_chats_is_written_for_the_next_one() -> None:
    shelf = Shelf()
    with made(shelf, cells=30) as (store, memory):
        for start, private in ((1000, True), (2000, False), (3000, True), (4000, False)):
            tokens = list(range(start, start + 20))
            memory.reclaim(20)
            sequence, held = memory.open(tokens, private=private)
            compute(store, memory, [(sequence, held, tokens[held:])])
            memory.close(sequence)
            memory.save(lambda: False)
    kept = b"".join(shelf.files.values())
    for start, there in ((1000, False), (2000, True), (3000, False), (4000, True)):
        assert (start.to_bytes(4, "little") in kept) is there
