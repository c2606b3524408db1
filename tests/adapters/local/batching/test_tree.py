"""The radix tree: what it says is what a list of sequences would say."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.local.batching.tree import PrefixTree, common_prefix

#: Few different tokens, so that sequences have much in common.
sequences = st.lists(st.integers(0, 2), max_size=12)
#: (what, whom, tokens, a length)
moves = st.lists(
    st.tuples(
        st.sampled_from(["add", "grow", "trim", "drop"]), st.integers(0, 5), sequences, st.integers(0, 12)
    ),
    max_size=40,
)


def distinct(held: dict[int, list[int]]) -> int:
    """Different beginnings: each is one token that is held."""
    return len({tuple(tokens[:end]) for tokens in held.values() for end in range(1, len(tokens) + 1)})


def apply(tree: PrefixTree, held: dict[int, list[int]], move: tuple[str, int, list[int], int]) -> None:
    what, holder, tokens, length = move
    if what == "add" and holder not in held:
        count, _ = tree.match(tokens)
        tree.add(holder, tokens[:count])
        held[holder] = tokens[:count]
    elif what == "grow" and holder in held and tokens:
        others = {tuple(other) for key, other in held.items() if key != holder}
        grown = held[holder] + tokens
        most = max((common_prefix(list(other), grown) for other in others), default=0)
        same, who = tree.grow(holder, tokens)
        assert same == max(0, most - len(held[holder]))
        assert (who is None) == (same == 0)
        if who is not None:
            assert held[who][: len(held[holder]) + same] == grown[: len(held[holder]) + same]
        held[holder] = grown
    elif what == "trim" and holder in held:
        held[holder] = held[holder][:length]
        tree.trim(holder, min(length, tree.length(holder)))
    elif what == "drop" and holder in held:
        tree.drop(holder)
        del held[holder]


@settings(max_examples=300, deadline=None)
@given(moves, sequences)
def test_it_holds_what_was_put_and_counts_what_is_common_once(
    done: list[tuple[str, int, list[int], int]], asked: list[int]
) -> None:
    tree, held = PrefixTree(), dict[int, list[int]]()
    for move in done:
        apply(tree, held, move)
        assert {holder: tree.tokens(holder) for holder in held} == held
        assert {holder: tree.length(holder) for holder in held} == {h: len(t) for h, t in held.items()}
        assert tree.size == distinct(held)
    length, holder = tree.match(asked)
    assert length == max((common_prefix(tokens, asked) for tokens in held.values()), default=0)
    assert (holder is None) == (length == 0)
    if holder is not None:
        assert held[holder][:length] == asked[:length]


@settings(max_examples=200, deadline=None)
@given(moves)
def test_a_holder_is_covered_if_dropping_it_loses_nothing(
    done: list[tuple[str, int, list[int], int]],
) -> None:
    tree, held = PrefixTree(), dict[int, list[int]]()
    for move in done:
        apply(tree, held, move)
    for holder in list(held):
        others = {key: tokens for key, tokens in held.items() if key != holder}
        assert tree.covered(holder) == (distinct(held) == distinct(others))
        tree.drop(holder)
        held = others
        assert tree.size == distinct(held)


def test_beginnings_are_those_that_hold_nothing_else() -> None:
    tree = PrefixTree()
    for holder, tokens in enumerate(([1], [1, 2, 3], [1, 2, 4], [5])):
        count, _ = tree.match(tokens)
        tree.add(holder, tokens[:count])
        tree.grow(holder, tokens[count:])
    tree.add(9, [1, 2, 3])
    assert sorted(tree.beginnings(9)) == [0, 1]


def test_a_new_holder_can_only_begin_with_what_is_held() -> None:
    tree = PrefixTree()
    with pytest.raises(ValueError, match="begins with"):
        tree.add(1, [1])


@given(sequences, sequences)
def test_common_prefix_is_the_longest(one: list[int], other: list[int]) -> None:
    length = common_prefix(one, other)
    assert one[:length] == other[:length]
    assert length in (len(one), len(other)) or one[length] != other[length]
