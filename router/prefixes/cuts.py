"""Cuts a prompt where another one may branch off from it: after each message, and within long ones.

A cut is a number that stands for everything before it. Two prompts agree up to a cut if they have it in
common; texts are hashed with Python's own hash of strings, which is keyed anew in every process.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from router.request import JSONObject
from router.tokens import PRIMING, count_front, count_messages, count_part, front_texts

__all__ = ["Prompt", "places_to_keep", "places_to_look", "read_prompt"]

#: Characters: longer texts are cut inside, since a shared document often stands in front of a question in
#: one message. From 16 slices on, a slice is as long as it can be without being more than an eighth of what
#: stands before it in the text: two texts are cut at the same places whatever their lengths.
SLICE = 4096
SLICES_OF_ONE_LENGTH = 16
#: Cuts inside one message at most.
MOST_INNER = 64
#: Cuts of one prompt that are looked up at most: its last ones, and landmarks of those before.
MOST_LOOKUPS = 256
MOST_LANDMARKS = 64
#: Cuts of a new prompt that are kept: so many of its first ones, which other conversations may share; so many
#: of its last, where this one goes on or is edited; and between them one whenever the prompt has grown by a
#: quarter. Where a conversation ended earlier is known from then.
LEADING = 8
TRAILING = 8
GROWTH = 1.25
#: Content that is nested deeper is told apart no further.
DEEPEST = 12


class Prompt:
    """Where a prompt may be cut: one number and one token position per cut, from its beginning.

    Attributes:
        cuts: Each stands for all that is before it: tools and schemas first, then the messages.
        tokens: Tokens before each cut, by our own count, frame included; they never fall.
        total: Prompt tokens of the whole request, by our own count.
    """

    __slots__ = ("cuts", "tokens", "total")

    def __init__(self, cuts: tuple[int, ...], tokens: tuple[int, ...], total: int) -> None:
        self.cuts = cuts
        self.tokens = tokens
        self.total = total


def read_prompt(
    messages: Sequence[JSONObject],
    tools: Sequence[object] | None = None,
    *,
    response_format: object = None,
    total: int | None = None,
) -> Prompt:
    """Cuts a chat request's prompt and counts it, in one pass.

    Args:
        messages: OpenAI-shaped messages. What is not understood in them is told apart as well as it goes.
        tools: OpenAI-shaped tool definitions; templates put them in front.
        response_format: OpenAI's field of that name; a schema in it stands in front, too.
        total: Tokens of the whole, where they were counted otherwise; None: what `count_request` says.

    Raises:
        RuntimeError: if the shipped vocabulary cannot be read.
    """
    cuts: list[int] = []
    tokens: list[int] = []
    mark, position = 0, 0
    texts = front_texts(tools, response_format)
    if texts:
        mark, position = hash(tuple(texts)), count_front(texts, tools)
        cuts.append(mark)
        tokens.append(position)
    for message, count in zip(messages, count_messages(messages), strict=True):
        content = message.get("content")
        whole = _message_mark(message)
        if content and (not isinstance(content, str) or len(content) > SLICE):
            around = whole ^ _field_mark("content", content)  # all of it but its content
            for inner, offset in islice(_inner_cuts(content, hash((mark, around)), count), MOST_INNER):
                cuts.append(inner)
                tokens.append(position + offset)
        mark = hash((mark, whole))
        position += count
        cuts.append(mark)
        tokens.append(position)
    counted = position + PRIMING
    return Prompt(tuple(cuts), tuple(tokens), counted if total is None else max(total, position))


def places_to_look(tokens: Sequence[int]) -> Sequence[int]:
    """Which cuts of a prompt to look up, from the last to the first.

    Args:
        tokens: The tokens before each of its cuts.
    """
    count = len(tokens)
    if count <= MOST_LOOKUPS:
        return range(count - 1, -1, -1)
    recent = count - (MOST_LOOKUPS - MOST_LANDMARKS)
    earlier = (place for place in reversed(_landmarks(tokens)) if place < recent)
    return [*range(count - 1, recent - 1, -1), *earlier]


def places_to_keep(tokens: Sequence[int]) -> set[int]:
    """Which cuts of a new prompt to remember; all of them are among `places_to_look`.

    Args:
        tokens: The tokens before each of its cuts.
    """
    count = len(tokens)
    return {*_landmarks(tokens), *range(max(count - TRAILING, 0), count)}


def _landmarks(tokens: Sequence[int]) -> list[int]:
    """Its first cuts and those where it has grown by a quarter: the same as far as two prompts agree."""
    places = list(range(min(LEADING, len(tokens))))
    while places and len(places) < MOST_LANDMARKS:
        place = bisect_left(tokens, tokens[places[-1]] * GROWTH, places[-1] + 1)
        if place == len(tokens):
            break
        places.append(place)
    return places


def _message_mark(message: JSONObject) -> int:
    """A number for a message, whatever the order of its fields; a field that is None is one left out.

    Taking a field out again is one more exclusive or.
    """
    mark = 0
    for key, value in message.items():
        if value is not None:
            mark ^= _field_mark(key, value)
    return mark


def _field_mark(key: str, value: object) -> int:
    return hash((key, value if isinstance(value, str) else _mark(value)))


def _mark(value: object, depth: int = 0) -> int:
    """A number for a JSON value. Anything else is told apart by its type alone."""
    if isinstance(value, str | int | float):
        return hash(value)
    if depth < DEEPEST:
        if isinstance(value, Mapping):
            return hash(tuple((key, _mark(item, depth + 1)) for key, item in value.items()))
        if isinstance(value, list | tuple):
            return hash(tuple(_mark(item, depth + 1) for item in value))
    return hash(type(value).__name__)


def _inner_cuts(content: object, mark: int, count: int) -> Iterator[tuple[int, int]]:
    """Cuts within the content of one message of `count` tokens, and the tokens of it that stand before."""
    if isinstance(content, str):
        yield from _text_cuts(content, mark, count)
        return
    parts = content if isinstance(content, list | tuple) else ()
    offset = 0
    for number, part in enumerate(parts, 1):
        text = part.get("text") if isinstance(part, Mapping) else None
        long = isinstance(text, str) and len(text) > SLICE
        if number == len(parts) and not long:
            return  # it ends where the message does, which is a cut anyway
        tokens = count_part(part)
        if isinstance(text, str) and long:
            for inner, inside in _text_cuts(text, mark, tokens):
                yield inner, offset + inside
        mark = hash((mark, _mark(part)))
        offset += tokens
        if number < len(parts):
            yield mark, offset


def _text_cuts(text: str, mark: int, count: int) -> Iterator[tuple[int, int]]:
    """Cuts within a text, whose `count` tokens are taken to be spread evenly."""
    start = 0
    for end in _ends(len(text)):
        mark = hash((mark, text[start:end]))
        yield mark, count * end // len(text)
        start = end


def _ends(length: int) -> Iterator[int]:
    """Where a text of so many characters is cut; the end of the text is no cut."""
    end, step = SLICE, SLICE
    while end < length:
        yield end
        if end >= SLICES_OF_ONE_LENGTH * step:
            step *= 2
        end += step
