"""Which token sequences are held, and what they have in common: a radix tree.

Pure: it knows no model. A *holder* is a number that stands for one held sequence. Sequences that begin alike
share the nodes of that beginning, so `size` is what they take together.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["PrefixTree", "common_prefix"]


def common_prefix(one: Sequence[object], other: Sequence[object]) -> int:
    """How many tokens two sequences begin alike with."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # slices are compared in C: a few of them beat a loop over tokens
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class _Node:
    """An edge with what is at its end. Every node but the root has tokens, and a holder at or below it."""

    __slots__ = ("children", "end", "holders", "parent", "tokens")

    def __init__(self, parent: _Node | None, tokens: list[int], end: int) -> None:
        self.parent = parent
        self.tokens = tokens
        self.end = end
        self.children: dict[int, _Node] = {}
        self.holders: set[int] = set()

    @property
    def start(self) -> int:
        return self.end - len(self.tokens)

    def any_holder(self) -> int:
        node = self
        while not node.holders:
            node = next(iter(node.children.values()))
        return next(iter(node.holders))


class PrefixTree:
    """Held token sequences."""

    def __init__(self) -> None:
        self._root = _Node(None, [], 0)
        self._ends: dict[int, _Node] = {}

    def __contains__(self, holder: int) -> bool:
        return holder in self._ends

    @property
    def size(self) -> int:
        """Distinct tokens held: a beginning that several sequences share counts once. Walks the tree."""
        size, nodes = 0, [self._root]
        while nodes:
            node = nodes.pop()
            size += len(node.tokens)
            nodes += node.children.values()
        return size

    def length(self, holder: int) -> int:
        """Tokens that a holder holds."""
        return self._ends[holder].end

    def tokens(self, holder: int) -> list[int]:
        """What a holder holds."""
        edges = []
        node: _Node | None = self._ends[holder]
        while node is not None:
            edges.append(node.tokens)
            node = node.parent
        return [token for edge in reversed(edges) for token in edge]

    def match(self, tokens: list[int]) -> tuple[int, int | None]:
        """The longest beginning of `tokens` that is held, and one who holds it."""
        node, done = self._root, 0
        while done < len(tokens) and (child := node.children.get(tokens[done])) is not None:
            same = common_prefix(child.tokens, tokens[done : done + len(child.tokens)])
            node, done = child, done + same
            if same < len(child.tokens):
                break
        return (done, node.any_holder()) if done else (0, None)

    def covered(self, holder: int) -> bool:
        """Whether others hold all that a holder holds."""
        node = self._ends[holder]
        return node.parent is None or bool(node.children) or len(node.holders) > 1

    def beginnings(self, holder: int) -> list[int]:
        """Others who hold nothing but a beginning of what this holder holds, or just the same."""
        found: list[int] = []
        node: _Node | None = self._ends[holder]
        while node is not None:
            found += (other for other in node.holders if other != holder)
            node = node.parent
        return found

    def add(self, holder: int, tokens: list[int]) -> None:
        """A new holder, of tokens that are held already (see `match`).

        Raises:
            ValueError: if they are not, or the holder is not new.
        """
        length, _ = self.match(tokens)
        if length < len(tokens) or holder in self._ends:
            raise ValueError("a new holder begins with what is held")
        self._put(holder, self._root)
        self._walk(holder, tokens, 0)

    def grow(self, holder: int, tokens: list[int]) -> tuple[int, int | None]:
        """Appends tokens to a sequence.

        Returns:
            How many of the first of them another one held already at this place, and who. They count once.
        """
        node = self._ends[holder]
        if node.parent is not None and not node.children and len(node.holders) == 1:
            node.tokens += tokens
            node.end += len(tokens)
            return 0, None
        return self._walk(holder, tokens, node.end)

    def _walk(self, holder: int, tokens: list[int], start: int) -> tuple[int, int | None]:
        node, done, other = self._ends[holder], 0, None
        while done < len(tokens) and (child := node.children.get(tokens[done])) is not None:
            same = common_prefix(child.tokens, tokens[done : done + len(child.tokens)])
            node = child if same == len(child.tokens) else self._split(child, same)
            done += same
        if done:
            other = node.any_holder()
        if done < len(tokens):
            leaf = _Node(node, tokens[done:], start + len(tokens))
            node.children[tokens[done]] = leaf
            node = leaf
        self._move(holder, node)
        return done, other

    def trim(self, holder: int, length: int) -> None:
        """Takes tokens off a sequence's end until it has `length`."""
        node = self._ends[holder]
        while node.parent is not None and node.start >= length:
            node = node.parent
        if node.end > length:
            node = self._split(node, length - node.start)
        self._move(holder, node)

    def drop(self, holder: int) -> None:
        """Forgets a holder."""
        node = self._ends.pop(holder)
        node.holders.discard(holder)
        self._tidy(node)

    def _put(self, holder: int, node: _Node) -> None:
        self._ends[holder] = node
        node.holders.add(holder)

    def _move(self, holder: int, node: _Node) -> None:
        old = self._ends[holder]
        if old is not node:
            old.holders.discard(holder)
            self._put(holder, node)
            self._tidy(old)

    def _split(self, node: _Node, size: int) -> _Node:
        """Cuts a node in two; the upper one is new, whatever refers to the old one still does so rightly."""
        parent = node.parent
        if parent is None:
            raise ValueError("the root has nothing to split")
        upper = _Node(parent, node.tokens[:size], node.start + size)
        parent.children[upper.tokens[0]] = upper
        node.tokens = node.tokens[size:]
        node.parent = upper
        upper.children[node.tokens[0]] = node
        return upper

    def _tidy(self, node: _Node) -> None:
        """Removes what nobody holds from here upwards, and joins what need not be apart."""
        while (parent := node.parent) is not None and not node.holders and not node.children:
            del parent.children[node.tokens[0]]
            node = parent
        if node.parent is not None and not node.holders and len(node.children) == 1:
            (child,) = node.children.values()
            child.tokens = node.tokens + child.tokens
            child.parent = node.parent
            node.parent.children[child.tokens[0]] = child
