"""What crosses between the two processes comes out as it went in, and nonsense is recognised."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.local.engine import Job, ModelFacts, Prelude, Sampling, Score
from adapters.local.isolation.messages import Cancel, Heard, Open, Opened, Setup, Submit
from adapters.local.isolation.wire import Frames, frame, job_fields, job_of, pack
from router.adapter import Load
from router.errors import (
    ContextWindowExceededError,
    ModelConnectionError,
    ModelError,
    ModelHTTPError,
    ModelLoadError,
    ModelProtocolError,
    ModelTimeoutError,
)
from router.models import LocalModel

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.frozensets(st.text() | st.integers())
    ),
    max_leaves=12,
)


class Deaf:
    def started(self, prompt_tokens: int, cached_tokens: int = 0) -> None: ...
    def piece(self, text: bytes, *_score: object) -> bool:
        return True

    def finished(self, finish: Any, completion_tokens: int) -> None: ...
    def failed(self, error: ModelError) -> None: ...


def framed(messages: Sequence[object]) -> bytes:
    return frame([pack(message) for message in messages])


def crossed(*messages: object) -> list[Any]:
    return Frames().feed(framed(messages))


def kinds(value: object) -> object:
    """The types in a value: what `==` does not tell apart."""
    if isinstance(value, list | tuple):
        return type(value), [kinds(one) for one in value]
    if isinstance(value, dict):
        return dict, [(kinds(key), kinds(one)) for key, one in value.items()]
    return type(value)


@given(values=st.lists(plain, max_size=4))
def test_every_plain_value_comes_out_as_it_went_in(values: list[object]) -> None:
    (message,) = crossed(Heard(1, "piece", tuple(values)))
    assert message == Heard(1, "piece", tuple(values))
    assert kinds(message.told) == kinds(tuple(values))


@given(
    messages=st.lists(st.builds(Cancel, st.integers(0, 9)) | st.builds(Open, st.integers(0, 9))),
    data=st.data(),
)
def test_messages_are_found_however_the_stream_is_cut(messages: list[object], data: st.DataObject) -> None:
    stream = framed(messages) + framed([]) + framed(messages[:1])
    frames, found = Frames(), []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        found += frames.feed(stream[:cut])
        stream = stream[cut:]
    assert found == messages + messages[:1]


def test_a_job_crosses_with_all_that_it_says() -> None:
    sampling = Sampling(temperature=0.5, logit_bias={5: -100.0, 7: 2.5}, seed=3)
    job = Job(
        prompt="<s>\ud83d 猫 \x00",
        listener=Deaf(),
        sampling=sampling,
        max_tokens=7,
        grammar='root ::= "a"',
        prelude=Prelude("</think>", frozenset({"<|end|>"})),
        borders=(3, 7),
        logprobs=0,
        visible=frozenset({"<think>"}),
        private=True,
    )
    (message,) = crossed(Submit(4, job_fields(job)))
    arrived = job_of(message.job, job.listener)
    here = {"cancelled"}
    for field in dataclasses.fields(Job):
        if field.name not in here:
            assert getattr(arrived, field.name) == getattr(job, field.name), field.name


def test_facts_load_and_setup_cross() -> None:
    facts = ModelFacts(
        n_ctx=2048,
        bos="<s>",
        eos="</s>",
        metadata={"general.architecture": "qwen3"},
        control=frozenset({"<s>"}),
    )
    told = [Opened(1, facts), Load(resident=True, slots=8), Setup({"name": "m"}, turn=5)]
    assert crossed(*told) == told


def test_a_piece_crosses_with_its_score() -> None:
    heard = Heard(3, "piece", (b"\xf0\x9f", Score(-0.1, ((b"\xf0\x9f", -0.1), (b"a", -9999.0)))))
    (message,) = crossed(heard)
    assert message == heard
    assert kinds(message.told[1].top) == kinds(heard.told[1].top)  # type: ignore[attr-defined]  # a score


def test_a_declaration_crosses_as_plain_data(tmp_path: Any) -> None:
    declared = LocalModel(
        "m",
        path=tmp_path / "x.gguf",
        isolation="process",
        quality={"default": 0.5},
        languages={"en", "zh"},
        threads=2,
        lora=tmp_path / "l.gguf",
        chat_template="{{ x }}",
    )
    (message,) = crossed(Setup(declared.model_dump(mode="json")))
    assert LocalModel.parse(message.model) == declared


@pytest.mark.parametrize(
    "error",
    [
        ModelHTTPError("x", model="m", status_code=503, retry_after=1.5, code="queue_full"),
        ModelConnectionError("broken", model="m"),
        ModelConnectionError("killed", model="m", code="crashed"),
        ModelError("new", model="m", code="new"),
        ModelTimeoutError("late", model="m", timeout=3.0),
        ModelProtocolError("nonsense", model="m", code="chat_template"),
        ContextWindowExceededError("long", model="m", tokens=10, window=5),
        ModelLoadError("no such file", model="m", code="crashed"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_keeps_its_kind_its_text_and_its_data(error: ModelError) -> None:
    (message,) = crossed(Heard(1, "failed", (error,)))
    (arrived,) = message.told
    assert type(arrived) is type(error)
    assert (str(arrived), vars(arrived)) == (str(error), vars(error))


def test_an_error_of_another_kind_arrives_as_the_kind_of_ours_that_it_is() -> None:
    class NoRoomError(ModelLoadError):
        pass

    (message,) = crossed(Opened(1, NoRoomError("full", model="m")))
    assert type(message.outcome) is ModelLoadError


def test_numbers_of_numpy_cross_as_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    assert crossed(Heard(1, "started", (numpy.int32(7),))) == [Heard(1, "started", (7,))]


def test_infinite_biases_cross() -> None:
    (message,) = crossed(Heard(1, "piece", (math.inf, -math.inf)))
    assert message.told == (math.inf, -math.inf)


@pytest.mark.parametrize("value", [object(), 1j, len, Exception("x")])
def test_what_is_no_data_does_not_cross(value: object) -> None:
    with pytest.raises(TypeError):
        pack(value)


@pytest.mark.parametrize(
    "sent",
    [b"[", b"7", b"[{}]", b'[{"x":[]}]', b'[{"d":["Popen",[]]}]', b'[{"d":["Cancel",[]]}]', b'[{"e":["OSError","x","m"]}]',
     b'[{"b":1,"t":[]}]', b'[{"d":["Load",[true,0,0,false,1,2]]}]', b"\xff\xfe", b'[{"t":"abc"}]', b'[{"d":[{"t":[]},[]]}]'],
)  # fmt: skip
def test_nonsense_is_refused(sent: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
        Frames().feed(len(sent).to_bytes(4, "big") + sent)


def test_an_absurd_length_is_refused_before_it_is_waited_for() -> None:
    with pytest.raises(ValueError, match="a message of"):
        Frames().feed(b"\xff\xff\xff\xff")


@given(sent=st.binary(max_size=60) | plain.map(repr).map(str.encode) | st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("btsmdex"), inner, max_size=1),
).map(json.dumps).map(str.encode))  # fmt: skip
def test_whatever_bytes_come_they_are_data_or_refused(sent: bytes) -> None:
    with contextlib.suppress(ValueError):
        Frames().feed(len(sent).to_bytes(4, "big") + sent)
