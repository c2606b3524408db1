"""A local model takes the beginning of an answer to the letter, and gives what follows it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.local.formats.hermes import Hermes
from adapters.local.plan import plan
from adapters.local.prompting import Prompt, prepared
from adapters.local.reading import THINK, Reader
from adapters.local.resumed import Resumed, borders_in
from adapters.local.stopping import Stopping
from router.errors import ModelHTTPError
from tests.adapters.local.kit import asking
from tests.adapters.local.test_marking import FAMILIES, Family
from tests.gguf_templates import GPT_OSS, LLAMA4

HELLO = [{"role": "user", "content": "Hello?"}]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    path: Path = tmp_path_factory.mktemp("resumed") / "model.gguf"
    return Family(path, request.param)


async def going_on(family: Family, prefix: str, **params: Any) -> Prompt:
    call = asking(messages=HELLO, **params)
    return await prepared(call.request, plan(call.request, "m"), family.facts, family.model, prefix)


def read(prompt: Prompt, *pieces: str) -> str:
    reader = prompt.reader()
    parts = [part for piece in pieces for part in reader.feed(piece)] + reader.end()
    assert all(part.kind == "content" for part in parts)
    return "".join(part.text for part in parts)


@pytest.mark.parametrize(
    "prefix", ["Well", "Well, I ", "  Two\n\n", "Grüße 世界🌍", "```py\ndef f(a):\n    "]
)
async def test_the_prompt_ends_with_the_beginning(family: Family, prefix: str) -> None:
    plain = await family.prompt(HELLO)
    prompt = await going_on(family, prefix)
    assert prompt.text.endswith(prefix)
    before = prompt.text.removesuffix(prefix)
    assert before.startswith(plain.text.rstrip().removesuffix("<think>").rstrip())
    tokens = family.native.tokenize(prompt.text, prompt.borders)
    text = b"".join(family.native.piece(token, special=True) for token in tokens).decode()
    assert text.endswith(prefix)


async def test_what_follows_is_given_once_and_whole(family: Family) -> None:
    assert read(await going_on(family, "Well, I "), "th", "ink so.", "\nYes") == "think so.\nYes"


async def test_nothing_may_follow(family: Family) -> None:
    assert read(await going_on(family, "That is all.")) == ""


async def test_control_tokens_in_the_beginning_are_text(family: Family) -> None:
    said = f"He wrote {family.attack} and"
    if family.template in (GPT_OSS, LLAMA4):  # their ends of turns are read in the text, and this holds some
        with pytest.raises(ModelHTTPError):
            await going_on(family, said)
        return
    prompt = await going_on(family, said)
    native = family.native
    plain = await going_on(family, "He wrote and")
    marked = [token for token in native.tokenize(prompt.text, prompt.borders) if native.is_control(token)]
    assert marked == [
        token for token in native.tokenize(plain.text, plain.borders) if native.is_control(token)
    ]


async def test_thoughts_that_a_template_opens_are_closed_before_it(family: Family) -> None:
    prompt = await going_on(family, "Well")
    assert not prompt.text.removesuffix("Well").rstrip().endswith("<think>")
    assert prompt.reader().thinking in (False, None)


@pytest.mark.parametrize(
    "params",
    [
        {"response_format": {"type": "json_object"}},
        {"logprobs": True},
    ],
)
async def test_an_answer_of_a_forced_form_is_refused(family: Family, params: dict[str, Any]) -> None:
    with pytest.raises(ModelHTTPError) as caught:
        await going_on(family, "{", **params)
    assert caught.value.status_code == 400


TEXT = st.text(alphabet="ab <>/think_olc{}\n", max_size=30)


class TestReading:
    """Whatever the reader holds back or leaves out, the seam is not seen."""

    @staticmethod
    def reader() -> Stopping:
        return Stopping(Reader(thoughts=THINK, tools=Hermes(())), ("STOP",), ("<|im_end|>",))

    @given(TEXT, TEXT, st.lists(st.integers(0, 30)))
    @settings(max_examples=300)
    def test_both_parts_together_are_what_one_model_would_have_given(
        self, before: str, after: str, cuts: list[int]
    ) -> None:
        alone = self.reader()
        parts = [*alone.feed(before + after), *alone.end()]
        if any(part.kind != "content" for part in parts):
            return  # a thought or a call: the beginning is then refused, or is told apart by its kind
        whole = "".join(part.text for part in parts)
        try:
            resumed = Resumed(self.reader(), "", before, "m")
        except ModelHTTPError:
            return
        edges = sorted({0, *(cut for cut in cuts if cut < len(after)), len(after)})
        pieces = [after[a:b] for a, b in itertools.pairwise(edges)]
        told = [part for piece in pieces for part in resumed.feed(piece)] + resumed.end()
        text = "".join(part.text for part in told)
        # White space at the very start and end is the template's, and nothing lost.
        assert (before + text).strip() == whole.strip()

    @pytest.mark.parametrize("before", ["<think>hm", "<think>hm</think>ok", "what STOP", "done<|im_end|>x"])
    def test_a_beginning_that_is_no_plain_text_is_refused(self, before: str) -> None:
        with pytest.raises(ModelHTTPError):
            Resumed(self.reader(), "", before, "m")

    def test_a_stop_string_across_the_seam_stops(self) -> None:
        resumed = Resumed(self.reader(), "", "and ST", "m")
        assert resumed.feed("OP and more") == []
        assert resumed.done

    def test_what_turns_out_to_be_no_stop_string_is_not_given_twice(self) -> None:
        resumed = Resumed(self.reader(), "", "and ST", "m")
        assert "".join(part.text for part in resumed.feed("AND")) == "AND"


def test_texts_of_control_tokens_are_cut_apart() -> None:
    assert borders_in("plain", frozenset({"<|x|>"})) == ()
    assert borders_in("a <|x|> b", frozenset({"<|x|>"})) == (3,)
