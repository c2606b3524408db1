"""What of a prompt a backend likely has cached: found again, no more than was sent, and learned from usage."""

from __future__ import annotations

import gc
import math
import threading
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import shown
from router.prefixes import PrefixMemory, Prompt, Shared, cuts, freshness, read_prompt
from router.prefixes import memory as remembered
from router.prefixes.cuts import SLICE, places_to_keep, places_to_look
from router.prefixes.hits import Hits, size_of
from router.prefixes.traces import room
from router.tokens import count_request

SENTENCE = "The quick brown fox, jumps over 13 lazy dogs. "
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}


def user(content: object) -> dict[str, object]:
    return {"role": "user", "content": content}


def chat(*texts: str) -> list[dict[str, object]]:
    roles = ("system", "user", "assistant")
    return [{"role": roles[min(n, 1 + (n + 1) % 2)], "content": text} for n, text in enumerate(texts)]


def prompt(*texts: str) -> Prompt:
    return read_prompt(chat(*texts))


def sure() -> PrefixMemory:
    """A memory for models that cache all they are sent."""
    return PrefixMemory(lambda _: 1.0)


def tokens_of(expected: dict[str, Shared], model: str = "m") -> float:
    return expected[model].tokens if model in expected else 0


def shared(before: Prompt, after: Prompt) -> float:
    """Tokens of `after` that are found again when `before` was sent."""
    memory = sure()
    memory.sent("m", before, 0.0)
    return tokens_of(memory.expect(after, 1.0))


def teach(memory: PrefixMemory, share: float, sizes: Iterable[int], model: str = "m") -> None:
    """Every prompt is sent twice; the second time, `share` of what was known is reported cached."""
    for number, size in enumerate(sizes):
        before = prompt(f"{model} {number} " + "word " * size)
        after = prompt(f"{model} {number} " + "word " * size, "and now?")
        memory.sent(model, before, 0.0)
        known = memory.expect(after, 1.0).get(model)
        memory.sent(model, after, 1.0)
        cached = round(share * before.tokens[-1])
        memory.answered(model, after, known.tokens if known else None, cached, after.total, 2.0)


def hit_share(memory: PrefixMemory, size: int, model: str = "m") -> float:
    """What is expected to be cached of a conversation of its own, of so many tokens."""
    before = prompt(f"another one {size} " + "word " * size)
    after = prompt(f"another one {size} " + "word " * size, "and now?")
    memory.sent(model, before, 0.0)
    expected = memory.expect(after, 1.0).get(model)
    return expected.share * after.total / expected.tokens if expected else 0.0


# --- what is found again ------------------------------------------------------------------------------------


def test_of_a_prompt_that_begins_like_none_before_nothing_is_expected() -> None:
    memory = sure()
    assert memory.expect(prompt("be brief", "hello"), 0.0) == {}
    memory.sent("m", prompt("be brief", "hello"), 0.0)
    assert memory.expect(prompt("be long", "hello"), 0.0) == {}
    assert memory.expect(read_prompt([]), 0.0) == {}


def test_the_next_turn_of_a_conversation_begins_with_all_that_was_sent() -> None:
    before = prompt("be brief", "hello")
    after = prompt("be brief", "hello", "hi!", "who are you?")
    memory = sure()
    memory.sent("m", before, 0.0)
    expected = memory.expect(after, 1.0)
    assert expected == {"m": Shared(before.tokens[-1] / after.total, before.tokens[-1])}


def test_another_conversation_shares_the_system_prompt() -> None:
    before = prompt("be brief", "hello", "hi!")
    assert shared(before, prompt("be brief", "good bye")) == before.tokens[0]


@pytest.mark.parametrize(
    "other",
    [
        read_prompt([{"role": "developer", "content": "be brief"}, user("hello")]),
        read_prompt([{"role": "system", "name": "x", "content": "be brief"}, user("hello")]),
        read_prompt(chat("be brief.", "hello")),
        read_prompt(chat("hello", "be brief")),
        read_prompt(chat("be brief", "hello"), [TOOL]),
        read_prompt(chat("be brief", "hello"), response_format=SCHEMA),
    ],
    ids=["role", "name", "text", "order", "tools", "schema"],
)
def test_a_change_at_the_beginning_leaves_nothing(other: Prompt) -> None:
    assert shared(prompt("be brief", "hello"), other) == 0
    assert shared(other, prompt("be brief", "hello")) == 0


def test_tools_and_schemas_stand_in_front_and_are_shared() -> None:
    one = read_prompt(chat("be brief"), [TOOL], response_format=SCHEMA)
    two = read_prompt(chat("be long"), [TOOL], response_format=SCHEMA)
    assert shared(one, two) == count_request([], [TOOL], response_format=SCHEMA).tools


def test_plain_json_mode_changes_no_prompt() -> None:
    plain = read_prompt(chat("be brief"))
    assert read_prompt(chat("be brief"), response_format={"type": "json_object"}).cuts == plain.cuts


def test_a_tool_call_and_its_arguments_are_told_apart() -> None:
    def talk(city: str) -> Prompt:
        call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": city}}
        return read_prompt([user("hi"), {"role": "assistant", "content": None, "tool_calls": [call]}])

    assert shared(talk("Oslo"), talk("Oslo")) == talk("Oslo").tokens[-1]
    assert shared(talk("Oslo"), talk("Rome")) == talk("Oslo").tokens[0]


def test_neither_the_order_of_fields_nor_empty_fields_matter() -> None:
    one = read_prompt([{"role": "user", "content": "hi", "name": None}])
    two = read_prompt([{"content": "hi", "role": "user"}])
    assert one.cuts == two.cuts


def test_a_document_in_front_of_a_question_is_shared_although_both_are_one_message() -> None:
    document = SENTENCE * 500
    one, two = prompt(f"{document} Who?"), prompt(f"{document} How?")
    found = shared(one, two)
    assert 0.7 * two.total < found < two.total
    assert shared(prompt(f"Who? {document}"), prompt(f"How? {document}")) == 0


@given(st.integers(0, 300_000))
@settings(max_examples=30, deadline=None)
def test_most_of_a_long_text_that_stands_before_a_change_is_shared(place: int) -> None:
    text = SENTENCE * 7000
    found = shared(prompt(text), prompt(text[:place] + "changed" + text[place + 7 :]))
    tokens_before = place * prompt(text).total / len(text)
    slack = 20 + SLICE * prompt(text).total / len(text)
    assert tokens_before * 0.7 - slack <= found <= tokens_before + 20


def test_two_texts_are_cut_at_the_same_places_whatever_their_lengths() -> None:
    ends = list(cuts._ends(30_000_000))
    assert all(
        list(cuts._ends(length)) == [end for end in ends if end < length] for length in (0, 4096, 4097, 10**6)
    )
    assert len(prompt("x" * 8_000_000).cuts) <= 1 + cuts.MOST_INNER


def test_a_document_that_is_a_part_of_its_own_is_shared_to_its_end() -> None:
    document = {"type": "text", "text": SENTENCE * 300}
    one, two = (read_prompt([user([document, {"type": "text", "text": q}])]) for q in ("Who?", "How?"))
    assert shared(one, two) == pytest.approx(two.total, abs=12)
    inside = list(cuts._ends(len(document["text"])))
    assert len(one.cuts) == len(inside) + 2  # one after the document, one after the message
    last = [read_prompt([user([{"type": "text", "text": q}, document])]) for q in ("Who?", "How?")]
    assert shared(*last) == 0
    assert len(last[0].cuts) == len(inside) + 2  # the document ends where the message does


def test_an_image_that_was_sent_before_is_shared() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    other = {"type": "image_url", "image_url": {"url": "https://example.org/b.png"}}
    question = {"type": "text", "text": "Who is it?"}
    before = read_prompt([user([image, {"type": "text", "text": "What is it?"}])])
    assert shared(before, read_prompt([user([image, question])])) > 700
    assert shared(before, read_prompt([user([other, question])])) == 0


def test_each_model_has_what_it_was_sent_itself() -> None:
    memory = sure()
    short, long = prompt("be brief", "hello"), prompt("be brief", "hello", "hi!", "who?")
    memory.sent("a", long, 0.0)
    memory.sent("b", short, 0.0)
    memory.sent("c", prompt("be brief", "other"), 0.0)
    memory.sent("d", prompt("else"), 0.0)
    expected = memory.expect(prompt("be brief", "hello", "hi!", "who?", "me", "ah"), 1.0)
    found = {model: known.tokens for model, known in expected.items()}
    assert found == {"a": long.tokens[-1], "b": short.tokens[-1], "c": short.tokens[0]}


def test_of_the_same_prompt_sent_again_at_least_one_token_is_computed() -> None:
    for same in (prompt("hello"), read_prompt([{}], total=1), read_prompt(chat("hi"), total=0)):
        memory = sure()
        memory.sent("m", same, 0.0)
        for known in memory.expect(same, 0.0).values():
            assert known.tokens <= same.total - 1
            assert known.share < 1.0


def test_a_conversation_edited_in_the_middle_keeps_most_of_what_stands_before() -> None:
    texts = [f"{number} {SENTENCE}" for number in range(1000)]
    before = prompt(*texts)
    for place in (3, 20, 100, 500, 850, 998):
        edited = [*texts[:place], "something else", *texts[place + 1 :]]
        at_most = before.tokens[place - 1]
        assert at_most / 1.3 <= shared(before, prompt(*edited)) <= at_most


def test_a_conversation_is_found_where_it_ended_before_however_long_it_became() -> None:
    memory = sure()
    texts: list[str] = []
    for turn in range(150):
        texts += [f"question {turn}", f"answer {turn}"]
        memory.sent("m", prompt(*texts), float(turn))
    branched = prompt(*texts[:101], "let us go back")
    assert tokens_of(memory.expect(branched, 150.0)) >= prompt(*texts[:100]).tokens[-1]


# --- time ---------------------------------------------------------------------------------------------------


def test_what_was_sent_fades() -> None:
    memory = sure()
    before, after = prompt("be brief", "hello"), prompt("be brief", "hello", "hi!")
    memory.sent("m", before, 1000.0)
    full = before.tokens[-1] / after.total
    for age, left in ((0, 1), (300, 1), (600, 0.5), (900, 0.25), (3599, 0.5**10.9967)):
        assert memory.expect(after, 1000.0 + age)["m"].share == pytest.approx(full * left, rel=1e-3)
    assert memory.expect(after, 1000.0 + 3600) == {}


@given(st.floats(allow_nan=True, allow_infinity=True), st.floats(allow_nan=True, allow_infinity=True))
def test_freshness_is_a_share_that_never_rises(one: float, two: float) -> None:
    assert 0.0 <= freshness(one) <= 1.0
    if one <= two:
        assert freshness(one) >= freshness(two)


def test_a_clock_that_jumps_back_breaks_nothing() -> None:
    memory = sure()
    before, after = prompt("be brief", "hello"), prompt("be brief", "hello", "hi!")
    memory.sent("m", before, 1e9)
    assert 0 < memory.expect(after, 5.0)["m"].share < 1
    memory.sent("m", before, 5.0)
    assert memory.expect(after, 5000.0) == {}


def test_a_turn_renews_all_that_it_begins_with() -> None:
    memory = sure()
    memory.sent("m", prompt("be brief", "hello"), 0.0)
    memory.sent("m", prompt("be brief", "hello", "hi!", "who?"), 3000.0)
    other = prompt("be brief", "hello", "go on")
    assert memory.expect(other, 3100.0)["m"].tokens == prompt("be brief", "hello").tokens[-1]


def test_a_fresh_system_prompt_is_worth_more_than_a_conversation_that_faded() -> None:
    memory = sure()
    system = SENTENCE * 20
    memory.sent("m", prompt(system, "hello"), 0.0)
    memory.sent("m", prompt(system, "another one"), 3000.0)
    known = memory.expect(prompt(system, "hello", "hi!"), 3001.0)["m"]
    assert known.tokens == prompt(system).tokens[0]
    assert known.share > 0.9


# --- learning -----------------------------------------------------------------------------------------------


def test_before_anything_was_seen_the_prior_holds() -> None:
    memory = PrefixMemory({"a": 0.5, "b": 0.0, "c": 1.0, "d": math.nan, "e": 7.0}.__getitem__)
    assert hit_share(memory, 4000, "a") == pytest.approx(0.5)
    assert hit_share(memory, 4000, "b") == 0.0
    assert hit_share(memory, 50, "c") == pytest.approx(1.0)
    assert hit_share(memory, 4000, "d") == 0.0
    assert hit_share(memory, 4000, "e") == pytest.approx(1.0)


def test_an_unsure_prior_counts_less_below_the_length_that_hosts_cache_from() -> None:
    memory = PrefixMemory(lambda _: 0.5)
    assert hit_share(memory, 200) == pytest.approx(0.25)


def test_from_a_host_that_never_caches_nothing_is_expected() -> None:
    memory = PrefixMemory(lambda _: 0.5)
    teach(memory, 0.0, [3000] * 30)
    assert hit_share(memory, 3000) < 0.03
    assert hit_share(memory, 100) < 0.03


def test_from_a_host_that_always_caches_all_is_expected() -> None:
    memory = PrefixMemory(lambda _: 0.5)
    teach(memory, 1.0, [3000] * 30)
    assert hit_share(memory, 3000) > 0.97
    assert hit_share(memory, 30_000) > 0.97


def test_a_host_believed_to_cache_nothing_can_prove_the_contrary() -> None:
    memory = PrefixMemory(lambda _: 0.0)
    teach(memory, 0.9, [3000] * 30)
    assert hit_share(memory, 3000) == pytest.approx(0.9, abs=0.05)


def test_the_length_from_which_a_host_caches_is_learned() -> None:
    memory = PrefixMemory(lambda _: 0.5)
    for _ in range(15):
        teach(memory, 0.0, [300, 600, 900])
        teach(memory, 0.95, [1200, 2500])
    assert [hit_share(memory, size) < 0.05 for size in (100, 400, 800)] == [True] * 3
    assert [hit_share(memory, size) > 0.85 for size in (1100, 3000, 20_000)] == [True] * 3


def test_a_host_that_changes_is_learned_anew() -> None:
    memory = PrefixMemory(lambda _: 0.5)
    teach(memory, 1.0, [3000] * 100)
    teach(memory, 0.0, [3000] * 40)
    assert hit_share(memory, 3000) < 0.05


def test_models_are_learned_apart() -> None:
    memory = PrefixMemory(lambda _: 0.5)
    teach(memory, 1.0, [3000] * 30, "a")
    teach(memory, 0.0, [3000] * 30, "b")
    assert hit_share(memory, 3000, "a") > 0.95
    assert hit_share(memory, 3000, "b") < 0.05


def test_a_provider_that_counts_otherwise_teaches_the_same() -> None:
    memory = PrefixMemory(lambda _: 0.5)
    for number in range(30):
        before = prompt(f"{number}" + "word " * 3000)
        after = prompt(f"{number}" + "word " * 3000, "and now?")
        memory.sent("m", before, 0.0)
        memory.sent("m", after, 1.0)
        memory.answered(
            "m", after, before.tokens[-1], round(1.6 * before.tokens[-1]), round(1.6 * after.total), 2.0
        )
    assert hit_share(memory, 3000) > 0.97


def test_without_the_decisions_figure_what_was_known_at_sending_is_compared() -> None:
    memory = PrefixMemory(lambda _: 0.0)
    before, after = prompt("word " * 3000), prompt("word " * 3000, "and now?")
    memory.sent("m", before, 0.0)
    assert memory.expect(after, 1.0) == {}
    memory.sent("m", after, 1.0)
    memory.answered("m", after, None, before.tokens[-1], after.total, 2.0)
    assert hit_share(memory, 3000) == pytest.approx(0.5)


def test_what_is_seen_of_a_conversation_counts_more_than_its_models_average() -> None:
    memory = PrefixMemory(lambda _: 0.5)
    teach(memory, 0.0, [3000] * 30)
    texts = ["word " * 3000]
    for turn in range(3):
        before = prompt(*texts)
        memory.sent("m", before, turn)
        texts.append(f"turn {turn}")
        after = prompt(*texts)
        memory.sent("m", after, turn)
        memory.answered("m", after, before.tokens[-1], before.tokens[-1], after.total, turn)
    after = prompt(*texts, "and?")
    assert memory.expect(after, 3.0)["m"].share > 0.6
    assert hit_share(memory, 3000) < 0.5


def test_what_was_seen_of_a_conversation_outlasts_a_turn_without_usage() -> None:
    memory = PrefixMemory(lambda _: 0.5)
    teach(memory, 0.0, [3000] * 30)
    texts = ["word " * 3000]
    memory.sent("m", prompt(*texts), 0.0)
    for turn in range(4):
        texts.append(f"turn {turn}")
        after = prompt(*texts)
        memory.sent("m", after, turn)
        if turn == 0:
            memory.answered("m", after, None, after.total, after.total, turn)
    assert memory.expect(prompt(*texts, "and?"), 4.0)["m"].share > 0.6


def test_a_beginning_that_many_share_has_a_hit_share_of_its_own() -> None:
    memory = PrefixMemory(lambda _: 0.5)
    teach(memory, 0.0, [3000] * 30)
    system = "word " * 3000
    for turn in range(4):
        after = prompt(system, f"question {turn}")
        memory.sent("m", after, turn)
        memory.answered("m", after, None, after.total - 10, after.total, turn)
    assert memory.expect(prompt(system, "one more"), 4.0)["m"].share > 0.6
    assert hit_share(memory, 3000) < 0.5


def test_a_miss_on_a_short_beginning_says_nothing_of_the_conversation_when_it_is_longer() -> None:
    memory = PrefixMemory(lambda _: 0.5)
    teach(memory, 1.0, [1500] * 30)
    first, second = prompt("word " * 600), prompt("word " * 600, "word " * 700)
    memory.sent("m", first, 0.0)
    memory.sent("m", second, 1.0)
    memory.answered("m", second, first.tokens[-1], 0, second.total, 1.0)
    third = prompt("word " * 600, "word " * 700, "more")
    assert memory.expect(third, 2.0)["m"].share > 0.9


def test_a_beginning_that_was_sent_long_ago_teaches_little() -> None:
    memory = PrefixMemory(lambda _: 0.5)
    for number in range(20):
        before, after = prompt(f"{number}" + "word " * 3000), prompt(f"{number}" + "word " * 3000, "now?")
        memory.sent("m", before, 0.0)
        memory.sent("m", after, 3000.0)
        memory.answered("m", after, before.tokens[-1], 0, after.total, 3001.0)
    assert hit_share(memory, 3000) > 0.45


def test_no_report_or_one_of_a_new_prompt_teaches_nothing() -> None:
    memory = PrefixMemory(lambda _: 0.5)
    before, after = prompt("word " * 3000), prompt("word " * 3000, "and now?")
    memory.sent("m", before, 0.0)
    memory.answered("m", before, None, 0, before.total, 0.0)
    memory.sent("m", after, 1.0)
    memory.answered("m", after, before.tokens[-1], 0, None, 1.0)
    memory.answered("m", after, 0.0, 0, after.total, 1.0)
    assert hit_share(memory, 3000) == pytest.approx(0.5)


NUMBERS: Any = st.one_of(
    st.integers(-(10**40), 10**40), st.floats(allow_nan=True, allow_infinity=True), st.none()
)


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=8), st.floats(allow_nan=True))
@settings(max_examples=200, deadline=None)
def test_absurd_reports_and_clocks_leave_every_figure_finite(
    reports: list[tuple[Any, Any, Any]], now: float
) -> None:
    memory = PrefixMemory(lambda _: 0.5)
    before, after = prompt("word " * 1500), prompt("word " * 1500, "and now?")
    for known, cached, counted in reports:
        memory.sent("m", before, now)
        memory.answered("m", after, known, cached or 0, counted, now)
        memory.answered("m", before, known, cached or 0, counted, now)
    memory.sent("m", before, 0.0)
    for known in memory.expect(after, 1.0).values():
        assert 0.0 <= known.share < 1.0
        assert 0 < known.tokens < after.total


@given(
    st.lists(st.tuples(st.integers(0, 24), st.floats(0, 1), st.floats(0, 1)), max_size=40), st.floats(0, 1)
)
def test_a_hit_share_is_a_share_whatever_was_seen(seen: list[tuple[int, float, float]], prior: float) -> None:
    hits = Hits()
    for size, share, credit in seen:
        assert hits.learn(size, share, credit, prior) == hits.share(size, prior)
    assert all(-1e-9 <= hits.share(size, prior) <= 1 + 1e-9 for size in range(26))


def test_sizes_are_powers_of_two() -> None:
    assert [size_of(tokens) for tokens in (0, 0.9, 1, 1023.9, 1024, 1e30)] == [0, 0, 1, 10, 11, 24]


# --- memory -------------------------------------------------------------------------------------------------


def test_memory_is_bounded_and_the_oldest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MOST_CUTS", 100)
    memory = sure()
    for number in range(500):
        memory.sent("m", prompt(f"system {number % 7}", f"hello {number}"), float(number))
        assert len(memory) <= 100
    assert tokens_of(memory.expect(prompt("system 2", "hello 499", "hi"), 500.0)) > 8
    assert (
        tokens_of(memory.expect(prompt("system 0", "hello 0", "hi"), 500.0)) == prompt("system 0").tokens[0]
    )


def test_a_conversation_that_goes_on_outlasts_those_that_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MOST_CUTS", 100)
    memory = sure()
    talk = prompt("be brief", "hello", "hi!")
    for number in range(200):
        memory.sent("m", talk, float(number))
        memory.sent("m", prompt("be kind", f"hello {number}"), float(number))
    in_order = list(memory._cuts)
    assert set(talk.cuts) <= set(in_order[-6:])


def test_a_prompt_whose_first_cut_was_dropped_is_dropped_altogether(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MOST_CUTS", 50)
    memory = sure()
    sent = [prompt(*(f"{number} {place}" for place in range(number % 20 + 1))) for number in range(100)]
    for number, one in enumerate(sent):
        memory.sent("m", one, float(number))
        for other in sent[: number + 1]:
            known = [cut in memory._cuts for cut in other.cuts]
            assert known[0] or not any(known)


@given(st.lists(st.integers(1, 500), max_size=2000))
@settings(max_examples=50, deadline=None)
def test_the_cuts_kept_are_few_and_all_are_looked_up(sizes: list[int]) -> None:
    tokens = [sum(sizes[: place + 1]) for place in range(len(sizes))]
    look, keep = places_to_look(tokens), places_to_keep(tokens)
    assert len(look) <= cuts.MOST_LOOKUPS
    assert len(keep) <= cuts.MOST_LANDMARKS + cuts.TRAILING
    assert keep <= set(look) <= set(range(len(tokens)))
    assert list(look) == sorted(look, reverse=True)


def test_a_forgotten_model_has_nothing_and_learns_nothing_of_what_is_still_answered() -> None:
    memory = sure()
    before, after = prompt("be brief"), prompt("be brief", "hello")
    memory.sent("a", before, 0.0)
    memory.sent("b", before, 0.0)
    memory.forget({"a", "unknown"})
    assert set(memory.expect(after, 1.0)) == {"b"}
    memory.answered("a", before, 5.0, 0, before.total, 1.0)
    memory.forget({"b"})
    assert len(memory) == 0
    assert memory._hits == {}
    memory.sent("a", before, 2.0)
    assert memory.expect(after, 3.0)["a"].share == pytest.approx(before.tokens[-1] / after.total)


def test_no_text_is_kept() -> None:
    secret = "the secret " + SENTENCE * 200
    messages = [user([{"type": "text", "text": secret}, {"type": "text", "text": "what?"}]), user(secret)]
    one = read_prompt(messages, [{"description": secret}])
    memory = PrefixMemory(float)
    memory.sent("3", one, 0.0)
    memory.answered("3", one, 50.0, 10, one.total, 1.0)
    seen: set[int] = set()
    texts: list[str] = []
    todo: list[object] = [memory._cuts, memory._hits, one.cuts, one.tokens, one.total]
    while todo:
        item = todo.pop()
        if id(item) not in seen and not isinstance(item, type):
            seen.add(id(item))
            texts += [item] if isinstance(item, str) else []
            todo += gc.get_referents(item)
    assert not [text for text in texts if "secret" in text or "fox" in text]
    assert all(isinstance(number, int) for number in (*one.cuts, *one.tokens))


def test_a_child_process_gets_a_lock_of_its_own() -> None:
    memory = sure()
    memory._lock.acquire()
    memory.after_fork()
    memory.sent("m", prompt("hello"), 0.0)
    assert len(memory) == 1


def test_many_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MOST_CUTS", 64)
    memory = PrefixMemory(lambda _: 0.5)
    prompts = [prompt(f"system {number % 3}", f"hello {number}", "more") for number in range(40)]
    errors: list[BaseException] = []

    def work(model: str) -> None:
        try:
            for now, one in enumerate(prompts * 5):
                known = memory.expect(one, now).get(model)
                memory.sent(model, one, now)
                memory.answered(model, one, known.tokens if known else None, 7, one.total, now)
                if now % 50 == 0:
                    memory.forget({model})
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=work, args=(f"m{number % 4}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(memory) <= 64


# --- reading ------------------------------------------------------------------------------------------------

TEXTS = st.sampled_from(["", "a", "hello there", "x" * 5000, SENTENCE * 300, "\ud83d"])
PARTS = st.one_of(
    TEXTS.map(lambda text: {"type": "text", "text": text}),
    st.just({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}),
    st.just({"type": "refusal", "refusal": "no"}),
)
MESSAGES = st.builds(
    lambda role, content: {"role": role, "content": content},
    st.sampled_from(["system", "user", "assistant"]),
    st.one_of(TEXTS, st.lists(PARTS, max_size=4), st.none()),
)


@given(st.lists(MESSAGES, max_size=12), st.sampled_from([None, [], [TOOL]]), st.sampled_from([None, SCHEMA]))
@settings(max_examples=150, deadline=None)
def test_positions_never_fall_and_end_at_the_requests_count(messages: Any, tools: Any, schema: Any) -> None:
    one = read_prompt(messages, tools, response_format=schema)
    assert one.total == count_request(messages, tools, response_format=schema).total
    assert list(one.tokens) == sorted(one.tokens)
    assert len(one.cuts) == len(one.tokens) >= len(messages)
    assert not one.tokens or one.tokens[-1] < one.total


@given(
    st.lists(MESSAGES, min_size=1, max_size=8), st.lists(MESSAGES, max_size=8), st.lists(MESSAGES, max_size=8)
)
@settings(max_examples=150, deadline=None)
def test_the_longest_common_beginning_is_found_and_nothing_more(same: Any, one: Any, two: Any) -> None:
    before, after = read_prompt([*same, *one]), read_prompt([*same, *two])
    common = sum(mine == yours for mine, yours in zip(before.cuts, after.cuts, strict=False))
    assert before.cuts[:common] == after.cuts[:common]
    assert common >= len(read_prompt(same).cuts)
    found = shared(before, after)
    assert after.tokens[common - 1] / cuts.GROWTH - 1 <= found <= after.tokens[common - 1]
    if len(before.cuts) <= cuts.LEADING + cuts.TRAILING:
        assert found == after.tokens[common - 1]


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.lists(MESSAGES, max_size=4), st.floats(0, 5000)), max_size=20
    )
)
@settings(max_examples=100, deadline=None)
def test_every_expectation_is_a_share_of_what_was_sent(events: Any) -> None:
    memory = PrefixMemory(lambda _: 0.7)
    for model, messages, now in events:
        one = read_prompt(messages)
        for name, known in memory.expect(one, now).items():
            assert name in "abc"
            assert 0.0 < known.share < 1.0
            assert known.share * one.total <= known.tokens < one.total
        memory.sent(model, one, now)
        memory.answered(model, one, None, one.total // 2, one.total, now)


class Odd:
    __hash__ = None  # type: ignore[assignment]  # what a caller's object may be like


def loop() -> list[object]:
    endless: list[object] = []
    endless.append(endless)
    return endless


ODD: list[object] = [None, 5, 1.5, True, b"bytes", Odd(), {"text": "x"}, {1: 2}, {"a", "b"}]
ODD_PARTS: list[object] = [
    None,
    1,
    "x",
    Odd(),
    {"type": []},
    {"type": "text", "text": 5},
    {(1, 2): Odd()},
    loop(),
]


@pytest.mark.parametrize("content", [*ODD, [], ODD_PARTS, *([part] for part in ODD_PARTS)], ids=shown)
def test_odd_content_is_read_without_complaint(content: object) -> None:
    messages = [user(content), {}, {"role": Odd(), "tool_calls": [Odd(), 3], "x": content}, user("hi")]
    one = read_prompt(messages)
    assert len(one.cuts) >= len(messages)
    assert one.cuts == read_prompt(messages).cuts


def test_odd_tools_are_read_without_complaint() -> None:
    one = read_prompt(chat("hi"), [Odd(), None, {(1, 2): 3}, loop()], response_format={"json_schema": loop()})
    assert one.total > one.tokens[0] > 0


def test_a_total_that_was_counted_otherwise_is_taken_over() -> None:
    assert read_prompt(chat("hello"), total=1000).total == 1000


class TestAnEnginesOwnMemory:
    """An engine in this process keeps what it computed until it needs room, or leaves memory."""

    def memory(self, kept: float = 4000.0) -> PrefixMemory:
        return PrefixMemory(lambda _: 1.0, lambda _: kept)

    def test_nothing_fades_with_time(self) -> None:
        memory, long = self.memory(), prompt(SENTENCE * 100)
        memory.sent("m", long, 0.0)
        assert tokens_of(memory.expect(long, 1e6)) == pytest.approx(long.total, rel=0.01)

    def test_what_was_used_longest_ago_makes_room_for_what_came_since(self) -> None:
        memory, first = self.memory(), prompt("first" + SENTENCE * 100)
        memory.sent("m", first, 0.0)
        before = tokens_of(memory.expect(first, 0.0))
        for turn in range(20):
            other = prompt(f"{turn}" + SENTENCE * 100)
            memory.sent("m", other, 1.0)
        assert before > 1000
        assert tokens_of(memory.expect(first, 2.0)) == 0.0
        assert tokens_of(memory.expect(other, 2.0)) > 1000

    def test_a_chat_that_goes_on_takes_only_the_room_of_what_is_new(self) -> None:
        memory, first = self.memory(), prompt("first" + SENTENCE * 60)
        memory.sent("m", first, 0.0)
        texts = ["other" + SENTENCE * 60]
        for turn in range(40):
            texts.append(f"turn {turn}")
            memory.sent("m", prompt(*texts), 1.0)
        assert tokens_of(memory.expect(first, 2.0)) == pytest.approx(first.total, rel=0.05)

    def test_answers_take_room_too(self) -> None:
        memory, first, other = self.memory(), prompt("first" + SENTENCE * 100), prompt("other")
        memory.sent("m", first, 0.0)
        for _ in range(10):
            memory.sent("m", other, 1.0)
            memory.answered("m", other, None, 0, other.total, 1.0, answer_tokens=1000)
        assert tokens_of(memory.expect(first, 2.0)) == 0.0

    def test_a_prompt_that_is_longer_than_the_memory_is_not_kept(self) -> None:
        memory, long = self.memory(kept=100.0), prompt(SENTENCE * 100)
        memory.sent("m", long, 0.0)
        assert tokens_of(memory.expect(long, 0.0)) == 0.0

    def test_when_the_model_leaves_memory_all_is_gone_and_what_was_learned_stays(self) -> None:
        memory, long = self.memory(), prompt(SENTENCE * 100)
        memory.sent("m", long, 0.0)
        memory.sent("other", long, 0.0)
        for _ in range(20):
            memory.sent("m", long, 0.0)
            memory.answered("m", long, None, long.total // 2, long.total, 0.0)
        learned = hit_share(memory, size_of(long.total))
        memory.emptied("m")
        memory.emptied("m")
        assert set(memory.expect(long, 1.0)) == {"other"}
        memory.sent("m", long, 2.0)
        assert learned < 0.6
        assert memory.expect(long, 2.0)["m"].share == pytest.approx(learned, rel=0.1)

    def test_a_model_that_was_sent_nothing_may_leave(self) -> None:
        memory = self.memory()
        memory.emptied("m")
        assert len(memory) == 0

    def test_an_engine_that_keeps_nothing_teaches_that_within_a_few_answers(self) -> None:
        """Recurrent models cannot share beginnings."""
        memory, long = self.memory(), prompt(SENTENCE * 100)
        for _ in range(4):
            memory.sent("m", long, 0.0)
            memory.answered("m", long, None, 0, long.total, 0.0)
        assert memory.expect(long, 1.0)["m"].share < 0.2

    @given(
        tokens=st.floats(0.0, 1e9),
        since=st.floats(0.0, 1e9),
        more=st.floats(0.0, 1e9),
        kept=st.floats(0.0, 1e9),
    )
    def test_room_is_a_share_that_never_rises(
        self, tokens: float, since: float, more: float, kept: float
    ) -> None:
        before, after = room(tokens, since, kept), room(tokens, since + more, kept)
        assert 0.0 <= after <= before <= 1.0
        assert kept == 0.0 or tokens + since > kept or before == 1.0
