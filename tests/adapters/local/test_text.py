"""From tokens' bytes to content, reasoning and calls, wherever the borders fall."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from adapters.local.formats import Hermes, Llama
from adapters.local.reading import THINK, Part, Reader
from adapters.local.stopping import Stopping
from adapters.local.text import Characters, StopText
from adapters.local.tools import Tool, ToolCall, ToolFormat

TOOLS = [Tool("get_weather"), Tool("add")]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich"}}\n</tool_call>'


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, place = [], 0
    for size in sizes:
        pieces.append(data[place : place + size])
        place += size
    return [*pieces, data[place:]]


sizes = st.lists(st.integers(1, 6), max_size=60)


@given(st.text(max_size=40), sizes)
def test_characters_are_never_split(text: str, borders: list[int]) -> None:
    decoder = Characters()
    shown = [decoder.feed(piece) for piece in cut(text.encode(), borders)]
    assert "".join(shown) == text
    assert not any("\ufffd" in piece for piece in shown) or "\ufffd" in text


def test_an_emoji_comes_whole_and_an_unfinished_one_not_at_all() -> None:
    decoder = Characters()
    emoji = "🙂".encode()
    assert [decoder.feed(emoji[place : place + 1]) for place in range(4)] == ["", "", "", "🙂"]
    assert decoder.feed(emoji[:3]) == ""


@given(st.text("abSTOP \n", max_size=40), sizes)
def test_a_stop_string_never_shows_wherever_the_borders_are(text: str, borders: list[int]) -> None:
    decoder = StopText(["STOP", "\n\n"])
    shown = ""
    for piece in cut(text.encode(), borders):
        shown += decoder.feed(piece.decode())
        if decoder.stopped:
            break
    shown += decoder.end()
    places = [place for stop in ("STOP", "\n\n") if (place := text.find(stop)) >= 0]
    assert shown == text[: min(places, default=len(text))]
    assert decoder.stopped == bool(places)


def test_text_that_only_began_like_a_stop_string_is_shown_at_the_end() -> None:
    decoder = StopText(["STOP"])
    assert decoder.feed("a STO") == "a "
    assert decoder.end() == "STO"


STOPS = ["STOP", "ürlich", "🙂a", "\n\n", "</", '"city"']
WORDS = ["STOP", "ST", "OP", "nat", "ürlich", "ü", "🙂", "a", "\n", " ", "<", "</", CALL, "<tool_call>", "."]


def heard(text: bytes, borders: list[int]) -> tuple[str, list[ToolCall], bool]:
    """What an answer says in the end, and whether a stop string ended it."""
    characters = Characters()
    reader = Stopping(Reader(tools=Hermes(TOOLS)), STOPS)
    parts: list[Part] = []
    for piece in cut(text, borders):
        if shown := characters.feed(piece):
            parts += reader.feed(shown)
        if reader.done:
            break
    stopped = reader.done
    parts += reader.end()
    content = "".join(part.text for part in parts if part.kind == "content")
    return content, [part.call for part in parts if part.call], stopped


@given(st.lists(st.sampled_from(WORDS), max_size=14).map("".join), sizes)
def test_stop_strings_work_alike_wherever_tokens_end_even_inside_a_character(
    text: str, borders: list[int]
) -> None:
    content, calls, stopped = heard(text.encode(), borders)
    whole, all_calls, _ = heard(text.encode(), [])
    # Whoever reads an answer in one piece learns of its end only after the calls that follow.
    assert content == whole
    assert calls == all_calls[: len(calls)]
    assert stopped or calls == all_calls
    assert calls or not any(stop in content for stop in STOPS)  # a call may stand in the middle of one


@given(sizes)
def test_what_a_call_says_is_no_stop_string(borders: list[int]) -> None:
    """`"city"` and `</` stand in the call; they end content only."""
    content, calls, stopped = heard(f"One. {CALL} Two </b>".encode(), borders)
    assert content == "One.  Two "
    assert [call.name for call in calls] == ["get_weather"]
    assert stopped


def test_the_beginning_of_a_stop_string_is_shown_before_a_call_and_not_joined_across_it() -> None:
    content, calls, stopped = heard(f"a ST{CALL}OP".encode(), [])
    assert (content, len(calls), stopped) == ("a STOP", 1, False)


def read(
    text: str, borders: list[int] | None = None, **options: Any
) -> tuple[str, str, list[tuple[str, object]]]:
    reader = Reader(**options)
    parts: list[Part] = []
    for piece in cut(text.encode(), []) if borders is None else [text[a:b] for a, b in _spans(text, borders)]:
        parts += reader.feed(piece if isinstance(piece, str) else piece.decode())
        if reader.done:
            break
    parts += reader.end()
    joined = {"content": "", "reasoning": ""}
    calls = []
    for part in parts:
        if part.call:
            calls.append((part.call.name, json.loads(part.call.arguments)))
        else:
            joined[part.kind] += part.text
    return joined["content"], joined["reasoning"], calls


def _spans(text: str, borders: list[int]) -> list[tuple[int, int]]:
    places = [0]
    for size in borders:
        places.append(min(places[-1] + size, len(text)))
    return [*pairwise(places), (places[-1], len(text))]


@given(sizes)
def test_reasoning_content_and_calls_are_kept_apart(borders: list[int]) -> None:
    text = f"<think>\nlet me see\n</think>\n\nOne moment.\n{CALL}\n{CALL.replace('get_weather', 'add')}"
    content, reasoning, calls = read(text, borders, thoughts=THINK, tools=Hermes(TOOLS))
    assert (content, reasoning) == ("One moment.", "let me see")
    assert calls == [("get_weather", {"city": "Zürich"}), ("add", {"city": "Zürich"})]


def test_content_is_streamed_as_it_comes_and_the_call_is_not() -> None:
    reader = Reader(tools=Hermes(TOOLS))
    assert reader.feed("One ") == [Part("content", "One")]
    assert reader.feed("moment <too") == [Part("content", " moment")]
    assert reader.feed("l_call>{") == []


def test_what_only_looks_like_a_call_is_content() -> None:
    for text in (
        "<tool_call>nonsense</tool_call>",
        "<tool_call>",
        CALL.replace("get_weather", "unknown"),
        "a <tool",
    ):
        assert read(text, tools=Hermes(TOOLS)) == (text, "", [])


def test_an_unclosed_call_counts_at_the_end() -> None:
    assert read(CALL.removesuffix("\n</tool_call>"), tools=Hermes(TOOLS))[2] == [
        ("get_weather", {"city": "Zürich"})
    ]


def test_a_closing_mark_inside_an_argument_closes_nothing() -> None:
    text = '<tool_call>{"name": "add", "arguments": {"x": "</tool_call>"}}</tool_call> done'
    assert read(text, tools=Hermes(TOOLS)) == ("done", "", [("add", {"x": "</tool_call>"})])


def test_one_call_is_enough_where_one_is_allowed() -> None:
    content, _, calls = read(CALL + CALL, tools=Hermes(TOOLS), most_calls=1)
    assert (content, len(calls)) == ("", 1)


def test_without_tools_or_thoughts_nothing_is_touched() -> None:
    text = f"\n  <think>{CALL}  \n"
    assert read(text) == (text, "", [])


def test_reasoning_that_the_prompt_opened_and_that_never_ends() -> None:
    assert read("hm </think>\nyes", thoughts=THINK, thinking=True) == ("yes", "hm", [])
    assert read("for ever and", thoughts=THINK, thinking=True) == ("", "for ever and", [])


def test_qwen_coder_writes_its_arguments_as_xml() -> None:
    tool = Tool(
        "add", {"type": "object", "properties": {"a": {"type": "integer"}, "note": {"type": "string"}}}
    )
    text = (
        "<tool_call>\n<function=add>\n<parameter=a>\n12\n</parameter>\n"
        "<parameter=note>\n12\n</parameter>\n</function>\n</tool_call>"
    )
    assert read(text, tools=Hermes([tool]))[2] == [("add", {"a": 12, "note": "12"})]


@given(sizes)
def test_llama_calls_are_bare_or_tagged(borders: list[int]) -> None:
    form: ToolFormat = Llama(TOOLS)
    call = '{"name": "add", "parameters": {"a": 1}}'
    assert read(call, borders, tools=form) == ("", "", [("add", {"a": 1})])
    assert read(f"<|python_tag|>{call}; {call}", borders, tools=form)[2] == [("add", {"a": 1})] * 2
    for text in ('{"answer": 1}', '{"name": "other", "parameters": {}}', call[:-3], "{", "Hello {"):
        assert read(text, borders, tools=form) == (text, "", [])
