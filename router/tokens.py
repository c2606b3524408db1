"""Counts the prompt tokens of an OpenAI-shaped chat request, offline.

Text is counted exactly, with o200k_base. Everything else follows published rules, or assumptions that are
stated at the constants below. Models with other vocabularies differ by a factor that is learned from the
usage they report, so what matters here is to be steady and cheap, not to be exact for each of them.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from router.errors import shown
from router.media import is_medium, media_tokens
from router.request import JSONObject
from router.vocabulary import encoding

__all__ = [
    "PRIMING",
    "TokenCount",
    "count_front",
    "count_messages",
    "count_part",
    "count_request",
    "count_text",
    "front_texts",
    "is_long",
    "warm",
]

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
    counts = [_count_message(message) for message in messages]
    return TokenCount(
        text=sum(text for text, _, _ in counts),
        frame=PER_MESSAGE * len(counts) + PRIMING,
        tools=count_front(front_texts(tools, response_format), tools),
        media=sum(media for _, media, _ in counts),
        assumed=any(assumed for _, _, assumed in counts),
    )


def count_messages(messages: Sequence[JSONObject]) -> list[int]:
    """Prompt tokens of each message, its frame included.

    With `count_front` and `PRIMING` they add up to what `count_request` says.

    Raises:
        RuntimeError: if the shipped vocabulary cannot be read.
    """
    return [PER_MESSAGE + text + media for text, media, _ in map(_count_message, messages)]


def count_part(part: object) -> int:
    """Prompt tokens of one part of a message's content, as `count_messages` counts it."""
    if isinstance(part, Mapping) and is_medium(part):
        return media_tokens(part)[0]
    return sum(map(count_text, _part_strings(part)))


def front_texts(tools: Sequence[object] | None, response_format: object) -> list[str]:
    """What stands in front of the messages, as text: tool definitions and the schema of the answer."""
    texts = [_json(tool) for tool in tools or ()]
    if isinstance(response_format, Mapping) and "json_schema" in response_format:
        texts.append(_json(response_format["json_schema"]))
    return texts


def count_front(texts: Sequence[str], tools: Sequence[object] | None) -> int:
    """Prompt tokens of the texts in front (`front_texts`), with what surrounds the tools if there are any."""
    return (TOOLS_FRAME if tools else 0) + sum(map(count_text, texts))


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


def _count_message(message: JSONObject) -> tuple[int, int, bool]:
    """Tokens of a message's texts and of its media, without its frame; whether some medium was assumed."""
    text, media, assumed = 0, 0, False
    for string in _strings(message):
        text += count_text(string)
    if "name" in message:
        text += PER_NAME
    calls = message.get("tool_calls")
    if calls and isinstance(calls, Sequence):
        text += PER_TOOL_CALL * len(calls)
    content = message.get("content")
    for part in () if content is None or isinstance(content, str) else _media(content):
        tokens, known = media_tokens(part)
        media += tokens
        assumed |= not known
    return text, media, assumed


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
    if is_medium(part):
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


def _media(content: object) -> Iterator[Mapping[str, object]]:
    if isinstance(content, Sequence):
        for part in content:
            if isinstance(part, Mapping) and is_medium(part):
                yield part


def _json(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    except (TypeError, ValueError, RecursionError):
        # No JSON at all: a key that is no text, a list that holds itself. Whoever sends it will say so.
        return shown(value, PIECE)
