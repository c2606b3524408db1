"""The ways that most tokens take are short; they give what the long ones give."""

from __future__ import annotations

import codecs
from itertools import groupby, pairwise
from typing import Any

import llama_cpp.llama_cpp as c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.local.batching.cells import Cells
from adapters.local.context import NativeContext
from adapters.local.engine import Sampling
from adapters.local.files import load_settings
from adapters.local.formats.hermes import Hermes
from adapters.local.native import NativeModel
from adapters.local.reading import THINK, Part, Reader
from adapters.local.sampling import Sampler, recommended
from adapters.local.stopping import Stopping
from adapters.local.text import Characters, StopText
from adapters.local.tools import Tool
from router.models import LocalModel
from tests.adapters.local.conftest import Tiny

PIECES = st.lists(
    st.sampled_from(
        [
            *(
                "Hello",
                " there",
                "  ",
                "\n",
                "",
                "a<b",
                "<",
                "<tool",
                "_call>",
                "</tool_call>",
                "é",
                "</think>",
            ),
            *("<think>", " hm ", '{"name": "f", "arguments": {}}', "<tool_call>\n", "end.\n\n"),
        ]
    ),
    max_size=12,
)


class LongWay(Reader):
    """Reads everything as if it might be something else."""

    def _flows(self, text: str) -> bool:
        return False


def shown(reader: Reader, pieces: list[str]) -> list[Any]:
    def seen(parts: list[Part]) -> list[Any]:
        return [(part, part.places) for part in parts]

    told = [(seen(reader.feed(piece)), reader.done, reader.thinking) for piece in pieces]
    return [*told, seen(reader.end())]


@given(pieces=PIECES, options=st.fixed_dictionaries({
    "thoughts": st.sampled_from([None, THINK]),
    "thinking": st.booleans(),
    "most_calls": st.sampled_from([None, 1]),
    "live": st.sampled_from([None, 0, 8]),
    "calls_only": st.booleans(),
}), calls=st.booleans())  # fmt: skip
def test_content_is_read_alike(pieces: list[str], options: dict[str, Any], *, calls: bool) -> None:
    options["tools"] = Hermes([Tool("f", None)]) if calls else None
    assert shown(Reader(**options), pieces) == shown(LongWay(**options), pieces)


@given(
    pieces=PIECES,
    thoughts=st.sampled_from([None, THINK]),
    stops=st.sampled_from([[], ["there"], [" a", "\n\n"], ["ell"]]),
    ends=st.sampled_from([[], ["<tool"]]),
)
def test_what_passes_is_what_would_have_been_read(
    pieces: list[str], thoughts: tuple[str, str] | None, stops: list[str], ends: list[str]
) -> None:
    def told(*, short: bool) -> list[tuple[str, str]]:
        reader = Stopping(Reader(thoughts=thoughts), stops, ends)
        parts: list[Part] = []
        for piece in pieces:
            if short and reader.passes(piece):
                parts.append(Part("content", piece))
                assert not reader.done
            else:
                parts += reader.feed(piece)
            if reader.done:
                break
        parts += reader.end()
        runs = groupby(parts, key=lambda part: part.kind)
        return [(kind, "".join(part.text for part in run)) for kind, run in runs]

    assert told(short=True) == told(short=False)


@given(
    text=st.text(alphabet="ab é€😀\x00", max_size=12),
    cuts=st.lists(st.integers(0, 40)),
    junk=st.binary(max_size=3),
)
def test_characters_are_whole_wherever_they_are_cut(text: str, cuts: list[int], junk: bytes) -> None:
    data = text.encode() + junk + text.encode()
    places = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    characters, decoder = Characters(), codecs.getincrementaldecoder("utf-8")("replace")
    for start, end in pairwise(places):
        assert characters.feed(data[start:end]) == decoder.decode(data[start:end])
        assert characters.unfinished == bool(decoder.getstate()[0])


class Noted:
    """A store that keeps its commands."""

    def __init__(self) -> None:
        self.commands: list[tuple[object, ...]] = []

    def share(self, *said: object) -> None:
        self.commands.append(("share", *said))

    def cut(self, *said: object) -> None:
        self.commands.append(("cut", *said))

    def double(self, *said: object) -> bool:
        self.commands.append(("double", *said))
        return True

    def holds(self, *_said: object) -> bool:
        return True


class LongPlaces(Cells):
    """Finds one cell as it finds many."""

    def _take_ahead(self, wanted: object) -> None:
        return None

    def _take_next(self, sequence: int) -> None:
        return None


MOVES = st.lists(
    st.one_of(
        st.tuples(
            st.just("place"),
            st.lists(st.tuples(st.integers(0, 3), st.sampled_from([1, 1, 1, 5])), max_size=4),
        ),
        st.tuples(st.just("cut"), st.integers(0, 3), st.integers(0, 12)),
        st.tuples(st.just("drop"), st.integers(0, 3)),
        st.tuples(st.just("undo"), st.integers(0, 3)),
    ),
    max_size=25,
)


def played(kind: type[Cells], moves: list[Any]) -> list[object]:
    store = Noted()
    cells = kind(store, cells=24, window=24, plugs=range(4, 6))
    for sequence in range(4):
        cells.add(sequence)
    told: list[object] = []
    for what, *about in moves:
        if what == "place":
            wanted = list(dict(about[0]).items())
            if sum(count for _, count in wanted) <= cells.free:
                told.append(cells.place(wanted))
        elif what == "undo" and cells.free:
            (placed,) = cells.place([(about[0], 1)])
            cells.undo([(about[0], placed)])
        elif what == "cut":
            cells.cut(*about)
        elif what == "drop":
            cells.drop(about[0])
            cells.add(about[0])
        told.append((cells.free, [cells.sole(sequence) for sequence in range(4)], cells._owners.tolist()))
    return [told, store.commands]


@given(moves=MOVES)
def test_one_cell_is_found_as_many_are(moves: list[Any]) -> None:
    assert played(Cells, moves) == played(LongPlaces, moves)


class LongStops(StopText):
    """Looks for stop strings in every text."""

    def __init__(self, stops: list[str]) -> None:
        super().__init__(stops)
        self._firsts = ("",)


@given(
    stops=st.lists(st.text(alphabet="abc", max_size=3), max_size=3),
    pieces=st.lists(st.text(alphabet="abcd", max_size=4), max_size=8),
)
def test_stop_strings_are_found_alike(stops: list[str], pieces: list[str]) -> None:
    short, long = StopText(stops), LongStops(stops)
    for piece in pieces:
        assert (short.feed(piece), short.stopped) == (long.feed(piece), long.stopped)
    assert short.end() == long.end()


@pytest.mark.gguf
def test_the_likeliest_token_is_the_one_that_llama_cpp_finds(tiny: Tiny) -> None:
    settings = load_settings(LocalModel("m", path=tiny("qwen3")))
    native = NativeModel(settings)
    context = NativeContext(native, settings, cells=64)
    sampler = Sampler(native, recommended(Sampling(temperature=0), {}), None)
    row = context.put(0, [1, 2, 3], 0, output=True)
    context.compute()

    def found() -> tuple[int, int]:
        return context.draw(sampler, row), int(c.llama_sampler_sample(sampler._chain, context._context, row))

    assert len(set(found())) == 1
    context.logits(row)[[9, 4, 11]] = context.logits(row).max() + 1  # a tie: the first of them
    assert found() == (4, 4)
    sampler.close()
    context.close()
    native.close()


@pytest.mark.parametrize("text", ["", "abc"])
def test_what_is_no_mark_is_not_held_back(text: str) -> None:
    assert [part.text for part in Reader().feed(text)] == ([text] if text else [])
