from __future__ import annotations

import base64
import struct
import threading
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router import tokens
from router.images import image_size
from router.media import FILE_PAGE, IMAGE_UNKNOWN
from router.tokens import (
    PIECE,
    PRIMING,
    TokenCount,
    count_front,
    count_messages,
    count_part,
    count_request,
    count_text,
    front_texts,
    is_long,
    warm,
)
from router.vocabulary import encoding

SENTENCE = "The quick brown fox, jumps over 13 lazy dogs. "


def user(content: object) -> dict[str, object]:
    return {"role": "user", "content": content}


def data_url(kind: str, raw: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"


def png(width: int, height: int) -> bytes:
    return (
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", width, height) + b"\x08\x02\x00\x00\x00"
    )


def image(url: str, **more: object) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


# --- text ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("hello world", 2),
        ("antidisestablishmentarianism", 6),
        ("お誕生日おめでとう", 8),
        ("2 + 2 = 4", 7),
    ],
)
def test_texts_have_the_counts_of_openais_cookbook(text: str, count: int) -> None:
    assert count_text(text) == count


def test_what_looks_like_a_special_token_is_ordinary_text() -> None:
    assert count_text("<|endoftext|>") > 1


def test_a_lone_surrogate_is_counted() -> None:
    assert count_text("broken \ud83d text") > 2


@pytest.mark.parametrize("unit", ["a", " ", "\n", "\t", ".", "\u00a0", "中", "😀", "aA", " \n", "\u0301"])
def test_a_million_of_the_same_characters_is_counted(unit: str) -> None:
    count = count_text(unit * (1_000_000 // len(unit)))
    assert 0 < count <= 2_500_000


def test_a_long_text_is_counted_exactly_where_it_can_be_cut_at_spaces() -> None:
    text = SENTENCE * 5000
    assert len(text) > 6 * PIECE
    assert count_text(text) == len(encoding().encode_ordinary(text))


@given(st.text(max_size=300))
@settings(max_examples=100, deadline=None)
def test_a_text_counts_the_same_the_second_time(text: str) -> None:
    assert count_text(text) == count_text(text) == len(encoding().encode_ordinary(text))


def test_pieces_join_to_the_text() -> None:
    for text in (SENTENCE * 3000, "a" * (3 * PIECE + 5), " " * (2 * PIECE), "x" * PIECE + " " + "y" * PIECE):
        pieces = list(tokens._pieces(text))
        assert "".join(pieces) == text
        assert all(0 < len(piece) <= PIECE for piece in pieces)


def test_a_text_is_tokenised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    text = SENTENCE * 20 + "once"
    first = count_text(text)
    monkeypatch.setattr(tokens, "encoding", lambda: pytest.fail("it was counted again"))
    assert count_text("".join([SENTENCE * 20, "once"])) == first


def test_what_is_remembered_is_bounded_and_holds_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_MOST_KEPT", 10)
    tokens._kept.clear()
    for number in range(30):
        count_text(f"{SENTENCE}{SENTENCE}{number}")
    assert len(tokens._kept) == 10
    assert all(isinstance(part, int) for key in tokens._kept for part in key)


def test_many_threads_agree() -> None:
    texts = [f"{SENTENCE * 5}{number}" for number in range(200)]
    expected = [len(encoding().encode_ordinary(text)) for text in texts]
    results: list[list[int]] = []
    threads = [
        threading.Thread(target=lambda: results.append([count_text(text) for text in texts]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 8


# --- requests -----------------------------------------------------------------------------------------------


def test_the_cookbooks_example_has_the_count_that_the_api_reported() -> None:
    # https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken: 124 for gpt-4o
    messages = [
        {
            "role": "system",
            "content": "You are a helpful, pattern-following assistant that translates corporate jargon into plain English.",
        },
        {
            "role": "system",
            "name": "example_user",
            "content": "New synergies will help drive top-line growth.",
        },
        {
            "role": "system",
            "name": "example_assistant",
            "content": "Things working well together will increase revenue.",
        },
        {
            "role": "system",
            "name": "example_user",
            "content": "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage.",
        },
        {
            "role": "system",
            "name": "example_assistant",
            "content": "Let's talk later when we're less busy about how to do better.",
        },
        {
            "role": "user",
            "content": "This late pivot means we don't have time to boil the ocean for the client deliverable.",
        },
    ]
    assert count_request(messages).total == 124


def test_parts_of_text_count_like_the_text() -> None:
    parts = [{"type": "text", "text": "hello world"}, {"type": "text", "text": "again"}]
    assert count_request([user(parts)]).text == count_text("user") + count_text("hello world") + count_text(
        "again"
    )


def test_tools_and_schemas_are_counted() -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    plain = count_request([user("hi")])
    assert plain.tools == 0
    one, two = count_request([user("hi")], [tool]), count_request([user("hi")], [tool, tool])
    assert 0 < one.tools < two.tools
    schema = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}
    assert count_request([user("hi")], response_format=schema).tools > 0
    assert count_request([user("hi")], response_format={"type": "json_object"}).tools == 0


def test_tool_calls_and_their_results_are_counted_but_not_their_ids() -> None:
    def talk(call_id: str) -> list[dict[str, object]]:
        call = {
            "id": call_id,
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city":"Oslo"}'},
        }
        return [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call_id, "content": "rain"},
        ]

    assert count_request(talk("call_1")) == count_request(talk("call_" + "x" * 500))
    assert count_request(talk("call_1")).text > count_text("weather") + count_text("rain")


@pytest.mark.parametrize(
    "message", [{}, {"role": "user", "content": None}, {"role": "user", "content": [1, "x", {"type": []}]}]
)
def test_odd_messages_are_counted_without_complaint(message: dict[str, object]) -> None:
    assert count_request([message]).total >= 6


def test_messages_one_by_one_and_what_stands_in_front_add_up_to_the_request() -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    schema = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages: list[dict[str, object]] = [
        {"role": "system", "content": SENTENCE, "name": "boss"},
        user([{"type": "text", "text": "what is it?"}, image("https://example.org/a.png")]),
        {"role": "assistant", "content": None, "tool_calls": [call, call]},
    ]
    for tools, form in ((None, None), ([], None), ([tool], None), (None, schema), ([tool, tool], schema)):
        front = count_front(front_texts(tools, form), tools)
        whole = count_request(messages, tools, response_format=form)
        assert front + sum(count_messages(messages)) + PRIMING == whole.total
        assert front == whole.tools


def test_a_part_counts_as_much_as_it_adds_to_its_message() -> None:
    parts = [{"type": "text", "text": SENTENCE}, image("https://example.org/a.png"), {"type": "odd", "x": 1}]
    (whole,), (empty,) = count_messages([user(parts)]), count_messages([user([])])
    assert sum(map(count_part, parts)) == whole - empty


@pytest.mark.parametrize("tool", [{(1, 2): 3}, {"x": float("nan")}, {"x": object}, None, "text"])
def test_tools_that_are_no_json_are_counted_without_complaint(tool: object) -> None:
    assert count_request([user("hi")], [tool]).tools > 0


# --- media --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "expected"),
    [((512, 512), 255), ((1024, 1024), 765), ((2048, 4096), 1105), ((1, 1), 255), ((20_000, 10), 765)],
)
def test_an_image_costs_its_tiles(size: tuple[int, int], expected: int) -> None:
    count = count_request([user([image(data_url("png", png(*size)))])])
    assert (count.media, count.assumed) == (expected, False)


def test_a_low_detail_image_costs_85_tokens_whatever_its_size() -> None:
    count = count_request([user([image("https://example.org/a.png", detail="low")])])
    assert (count.media, count.assumed) == (85, False)


def test_an_image_of_unknown_size_is_assumed() -> None:
    count = count_request([user([image("https://example.org/a.png")])])
    assert (count.media, count.assumed) == (IMAGE_UNKNOWN, True)


def test_an_images_bytes_are_not_counted_as_text() -> None:
    large = png(512, 512) + zlib.compress(bytes(range(256)) * 4000, 0)
    assert count_request([user([image(data_url("png", large))])]).total < 300


def test_audio_and_files_are_counted_by_their_size() -> None:
    audio = {"type": "input_audio", "input_audio": {"data": "A" * (16_000 * 4 // 3 * 60), "format": "mp3"}}
    assert 590 <= count_request([user([audio])]).media <= 610
    file = {"type": "file", "file": {"file_id": "file-1"}}
    assert count_request([user([file])]) == TokenCount(text=1, frame=6, media=FILE_PAGE, assumed=True)


def test_sizes_are_read_from_the_common_kinds_of_image() -> None:
    jpeg = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0\x00\x11\x08" + struct.pack(">HH", 480, 640) + bytes(12)
    gif = b"GIF89a" + struct.pack("<HH", 64, 32)
    webp = (
        b"RIFF\x00\x00\x00\x00WEBPVP8X" + bytes(8) + (99).to_bytes(3, "little") + (49).to_bytes(3, "little")
    )
    assert image_size(data_url("png", png(3, 4))) == (3, 4)
    assert image_size(data_url("jpeg", jpeg)) == (640, 480)
    assert image_size(data_url("gif", gif + bytes(2))) == (64, 32)
    assert image_size(data_url("webp", webp)) == (100, 50)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_junk_has_no_size_and_raises_nothing(raw: bytes) -> None:
    for head in (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBPVP8L", b"GIF89a"):
        size = image_size(data_url("png", head + raw))
        assert size is None or min(size) > 0


@pytest.mark.parametrize(
    "url", ["", "data:", "data:image/png,abc", "data:image/png;base64,", "data:x;base64,!!!!"]
)
def test_other_urls_have_no_size(url: str) -> None:
    assert image_size(url) is None


# --- on or off the loop -------------------------------------------------------------------------------------


def test_short_requests_are_not_long_and_long_ones_are() -> None:
    warm()
    assert not is_long([user("hi")])
    assert is_long([user(SENTENCE * 1000 + "never seen")])
    assert is_long([user("中" * 10_000 + "never seen")])


def test_a_conversation_that_was_counted_is_not_long_when_it_grows() -> None:
    warm()
    messages = [user(SENTENCE * 1000 + "seen before")]
    assert is_long(messages)
    count_request(messages)
    assert not is_long([*messages, user("and now?")])


def test_everything_is_long_before_the_vocabulary_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.vocabulary._loaded", None)
    assert is_long([user("hi")])
