"""What a block is called says what it can be used for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from adapters.local.batching.disk.blocks import blocks_of, packed, unpacked
from adapters.local.batching.tree import common_prefix

tokens = st.lists(st.integers(0, 3), max_size=20)


@given(tokens, tokens, st.integers(1, 5))
def test_sequences_share_the_blocks_that_they_begin_alike_with_and_no_others(
    one: list[int], other: list[int], size: int
) -> None:
    first, second = ([block.name for block in blocks_of(b"m", found, size)] for found in (one, other))
    alike = common_prefix(one, other) // size
    assert common_prefix(first, second) == alike
    assert not set(first[alike:]) & set(second[alike:])
    assert not set(first) & {block.name for block in blocks_of(b"n", one, size)}


@given(tokens, st.integers(1, 5))
def test_blocks_are_neighbours_from_the_beginning_on(one: list[int], size: int) -> None:
    blocks = list(blocks_of(b"m", one, size))
    assert [token for block in blocks for token in block.tokens] == one[: len(one) // size * size]
    assert [(block.start, block.end) for block in blocks] == [
        (start, start + size) for start in range(0, len(one) // size * size, size)
    ]


def test_a_content_is_known_by_its_model_place_and_tokens() -> None:
    first, second = blocks_of(b"m" * 32, [1, 2, 3, 4], 2)
    data = memoryview(b"".join(packed(b"m" * 32, second, b"state")))
    assert bytes(unpacked(b"m" * 32, second, data) or b"") == b"state"
    assert unpacked(b"n" * 32, second, data) is None
    assert unpacked(b"m" * 32, first, data) is None
    assert unpacked(b"m" * 32, second, data[:10]) is None
