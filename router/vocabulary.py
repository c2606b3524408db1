"""The vocabulary that tokens are counted with: o200k_base, shipped with the library.

`router/data/o200k_base.zlib` is OpenAI's o200k_base.tiktoken (MIT) without its base64: the lengths of all
tokens, one byte each, then the tokens themselves, in the order of their ranks, all deflated. It is a
quarter of the original's size and is read in a third of its time. `router/data/README.md` has its origin
and its hash; a test rebuilds the original from it and checks that.
"""

from __future__ import annotations

import threading
import zlib
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from router.catalogue.tables import DATA

if TYPE_CHECKING:
    from tiktoken import Encoding

__all__ = ["encoding", "is_loaded", "pack", "unpack"]

#: Tokens in the vocabulary, without the special ones.
SIZE = 199_998

_SPECIAL = {"<|endoftext|>": 199_999, "<|endofprompt|>": 200_018}

#: How text is cut into words before its tokens are looked up (tiktoken_ext.openai_public, o200k_base).
_WORD_END = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_PATTERN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]*[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]+{_WORD_END}"
    rf"|[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]+[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]*{_WORD_END}"
    r"|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)

_lock = threading.Lock()
_loaded: Encoding | None = None


def encoding() -> Encoding:
    """The encoding; loaded at the first call, which takes some 0.15 s of CPU, by whichever thread is first.

    Reads one file of the library: no network, no environment variable.

    Raises:
        RuntimeError: if the file is missing or damaged, so the installation is broken.
    """
    global _loaded  # noqa: PLW0603 - one vocabulary per process is the point
    if _loaded is None:
        with _lock:
            if _loaded is None:
                _loaded = _load()
    return _loaded


def is_loaded() -> bool:
    """Whether the encoding is loaded already."""
    return _loaded is not None


def unpack(packed: bytes) -> list[bytes]:
    """The tokens in a packed vocabulary, by rank.

    Raises:
        ValueError: if it is not one.
    """
    try:
        plain = zlib.decompress(packed)
    except zlib.error as error:
        raise ValueError(f"not a packed vocabulary: {error}") from error
    ends = list(accumulate(plain[:SIZE], initial=SIZE))
    if len(ends) != SIZE + 1 or ends[-1] != len(plain):
        raise ValueError("a packed vocabulary of the wrong length")
    return [plain[start:end] for start, end in pairwise(ends)]


def pack(tokens: list[bytes]) -> bytes:
    """The contrary of `unpack`: how the shipped file was made."""
    return zlib.compress(bytes(map(len, tokens)) + b"".join(tokens), 9)


def _load() -> Encoding:
    from tiktoken import Encoding

    try:
        tokens = unpack((DATA / "o200k_base.zlib").read_bytes())
    except (OSError, ValueError) as error:
        raise RuntimeError(
            f"the token vocabulary cannot be read ({error}); reinstall multimodel-router"
        ) from error
    ranks = dict(zip(tokens, range(SIZE), strict=True))
    return Encoding("o200k_base", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens=_SPECIAL)
