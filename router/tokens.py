"""Counts the prompt tokens of an OpenAI-shaped chat request, offline.

Text is counted exactly, with o200k_base. Everything else follows published rules, or assumptions that are
stated at the constants below. Models with other vocabularies differ by a factor that is learned from the
usage they report, so what matters here is to be steady and cheap, not to be exact for each of them.
"""

from __future__ import annotations

import json
import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from router.images import image_size
from router.request import JSONObject
from router.vocabulary import encoding

__all__ = ["TokenCount", "count_request", "count_text", "is_long", "warm"]

#: "How to count tokens with tiktoken", OpenAI cookbook: 3 tokens open and close a message, 1 more announces
#: a name, and 3 prime the answer. https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken
PER_MESSAGE = 3
PER_NAME = 1
PRIMING = 3
#: Assumption: what surrounds the tool definitions. The cookbook has 12 at the end of all functions. The
#: definitions themselves are counted as their compact JSON, which is what Qwen's, Llama's and Kimi's
#: templates put into the prompt; OpenAI's own form of them is shorter.
TOOLS_FRAME = 12
#: Assumption: what surrounds one tool call in an assistant's message.
PER_TOOL_CALL = 4
#: OpenAI's "Images and vision" guide: a low-detail image costs 85 tokens; a high-detail one is fitted into
#: 2048 x 2048, then to a shorter side of 768, and costs 85 and 170 for each tile of 512 x 512.
IMAGE_BASE = 85
IMAGE_TILE = 170
#: Assumption: an image of unknown size is one of 1024 x 1024 (four tiles).
IMAGE_UNKNOWN = IMAGE_BASE + 4 * IMAGE_TILE
#: OpenAI's "Audio" guide: 10 tokens for a second of speech. Assumption: 16 kB a second, 128 kbit/s.
AUDIO_PER_SECOND = 10
AUDIO_BYTES_PER_SECOND = 16_000
#: Assumption: a page of a document is 1,500 tokens (half text, half picture) and 100 kB.
FILE_PAGE = 1500
FILE_PAGE_BYTES = 100_000

#: Text is counted in pieces: tiktoken's regular expression gives up (it panics) at a million spaces, and
#: pieces that were counted before are not counted again when their text grows at its end.
PIECE = 32_768
#: A cut is moved back to a space this near, since a cut inside a word changes the count by a token.
_NEAR = 256
#: Shorter strings are counted faster than they are looked up.
_WORTH_KEEPING = 48
_MOST_KEPT = 32_768
#: Characters of English that take about a millisecond, when they were not counted before.
LONG = 16_000
#: Text beyond ASCII takes up to this many times as long per character.
_SLOW = 6

_kept: OrderedDict[tuple[int, int], int] = OrderedDict()
_lock = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCount:
    """The prompt tokens of a request, by what takes them.

    Attributes:
        text: Contents, names and tool calls.
        frame: What surrounds messages and announces the answer.
        tools: Tool definitions and response schemas.
        media: Images, audio and files.
        assumed: Whether the size of some medium was assumed rather than read.
    """

    text: int = 0
    frame: int = 0
    tools: int = 0
    media: int = 0
    assumed: bool = False

    @property
    def total(self) -> int:
        """All of them."""
        return self.text + self.frame + self.tools + self.media


def count_text(text: str) -> int:
    """Tokens of a text, as ordinary text whatever it looks like (`<|endoftext|>` is no special token).

    Exact up to 32,768 characters; beyond, every further piece of that length may add or hide one token.
    Linear in the length whatever the text. Thread-safe.

    Raises:
        RuntimeError: if the shipped vocabulary cannot be read.
    """
    if len(text) < _WORTH_KEEPING:
        return len(encoding().encode_ordinary(text))
    # The text itself is not kept: prompts may be private. Python's own hash is keyed anew in every process
    # and remembered by the string; two texts of one length that share 64 bits of it would share a count.
    key = (len(text), hash(text))
    with _lock:
        known = _kept.get(key)
        if known is not None:
            _kept.move_to_end(key)
            return known
    if len(text) <= PIECE:
        count = len(encoding().encode_ordinary(text))
    else:
        count = sum(count_text(piece) for piece in _pieces(text))
    with _lock:
        _kept[key] = count
        if len(_kept) > _MOST_KEPT:
            _kept.popitem(last=False)
    return count


def count_request(
    messages: Sequence[JSONObject],
    tools: Sequence[object] | None = None,
    *,
    response_format: object = None,
) -> TokenCount:
    """Prompt tokens of a chat request.

    Args:
        messages: OpenAI-shaped messages. Parts that are not understood are counted as their JSON.
        tools: OpenAI-shaped tool definitions.
        response_format: OpenAI's field of that name; a schema in it becomes part of the prompt.

    Raises:
        RuntimeError: if the shipped vocabulary cannot be read.
    """
    text, media, assumed = 0, 0, False
    for message in messages:
        for string in _strings(message):
            text += count_text(string)
        if "name" in message:
            text += PER_NAME
        calls = message.get("tool_calls")
        if isinstance(calls, Sequence):
            text += PER_TOOL_CALL * len(calls)
        for part in _media(message):
            tokens, known = _media_tokens(part)
            media += tokens
            assumed |= not known
    return TokenCount(
        text=text,
        frame=PER_MESSAGE * len(messages) + PRIMING,
        tools=_tool_tokens(tools, response_format),
        media=media,
        assumed=assumed,
    )


def is_long(messages: Sequence[JSONObject], tools: Sequence[object] | None = None) -> bool:
    """Whether counting a request would take more than about a millisecond, so better not on an event loop.

    Takes microseconds itself: texts that were counted before, as in a growing conversation, are free. Always
    true before the vocabulary is loaded (see `warm`).
    """
    from router import vocabulary

    if not vocabulary.is_loaded():
        return True
    work = 400 * len(tools or ())
    for message in messages:
        for string in _strings(message):
            if len(string) >= _WORTH_KEEPING and (len(string), hash(string)) in _kept:
                continue
            work += len(string) * (1 if string.isascii() else _SLOW)
        if work > LONG:
            return True
    return work > LONG


def warm() -> None:
    """Loads the vocabulary now rather than with the first text: some 0.15 s of CPU. Idempotent."""
    encoding()


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = start + PIECE
        if end < len(text):
            space = text.rfind(" ", end - _NEAR, end)
            end = space if space > start else end
        yield text[start:end]
        start = end


def _strings(message: JSONObject) -> Iterator[str]:
    """The texts of a message that the model reads."""
    for key, value in message.items():
        if isinstance(value, str):
            if key != "tool_call_id":
                yield value
        elif key == "content" and isinstance(value, Sequence):
            for part in value:
                yield from _part_strings(part)
        elif key in ("tool_calls", "function_call"):
            yield from _call_strings(value)


def _part_strings(part: object) -> Iterator[str]:
    if not isinstance(part, Mapping):
        return
    if part.get("type") in _MEDIA:
        return
    text = part.get("text", part.get("refusal"))
    yield text if isinstance(text, str) else _json(part)


def _call_strings(calls: object) -> Iterator[str]:
    for call in calls if isinstance(calls, Sequence) else (calls,):
        if not isinstance(call, Mapping):
            continue
        for kind in ("function", "custom"):
            called = call.get(kind)
            if isinstance(called, Mapping):
                yield from (value for value in called.values() if isinstance(value, str))
        if isinstance(call.get("arguments"), str):  # the old function_call
            yield f"{call.get('name', '')}{call['arguments']}"


def _media(message: JSONObject) -> Iterator[Mapping[str, object]]:
    content = message.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        for part in content:
            if isinstance(part, Mapping) and part.get("type") in _MEDIA:
                yield part


def _media_tokens(part: Mapping[str, object]) -> tuple[int, bool]:
    """Tokens of an image, a recording or a file, and whether its size was known."""
    kind = str(part["type"])
    body = part.get(kind)
    fields: Mapping[str, object] = body if isinstance(body, Mapping) else {}
    return _MEDIA[kind](fields)


def _image_tokens(image: Mapping[str, object]) -> tuple[int, bool]:
    url = image.get("url")
    if image.get("detail") == "low":
        return IMAGE_BASE, True
    size = image_size(url) if isinstance(url, str) else None
    if size is None:
        return IMAGE_UNKNOWN, False
    width, height = size
    fit = min(1.0, 2048 / max(width, height))
    fit *= min(1.0, 768 / (min(width, height) * fit))
    tiles = math.ceil(width * fit / 512) * math.ceil(height * fit / 512)
    return IMAGE_BASE + IMAGE_TILE * tiles, True


def _audio_tokens(audio: Mapping[str, object]) -> tuple[int, bool]:
    size = _decoded_bytes(audio.get("data"))
    return math.ceil(AUDIO_PER_SECOND * size / AUDIO_BYTES_PER_SECOND), False


def _file_tokens(file: Mapping[str, object]) -> tuple[int, bool]:
    return FILE_PAGE * max(1, math.ceil(_decoded_bytes(file.get("file_data")) / FILE_PAGE_BYTES)), False


_MEDIA = {"image_url": _image_tokens, "input_audio": _audio_tokens, "file": _file_tokens}


def _decoded_bytes(data: object) -> int:
    """About how many bytes a base64 text stands for."""
    return len(data) * 3 // 4 if isinstance(data, str) else 0


def _tool_tokens(tools: Sequence[object] | None, response_format: object) -> int:
    tokens = 0
    if tools:
        tokens += TOOLS_FRAME + sum(count_text(_json(tool)) for tool in tools)
    if isinstance(response_format, Mapping) and "json_schema" in response_format:
        tokens += count_text(_json(response_format["json_schema"]))
    return tokens


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
