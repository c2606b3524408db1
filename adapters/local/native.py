"""llama.cpp, typed: a model's weights and vocabulary.

Only this module, `context`, `lora` and `sampling` import llama_cpp.

The class `llama_cpp.Llama` is left aside on purpose: while it loads, it points the whole process's standard
output at nothing; it parses the file's chat template, so that a broken one cannot be replaced; it cuts
tokens longer than 32 bytes; and a grammar that leads nowhere aborts the process.

Nothing here locks. One thread loads a `NativeModel`, uses it and closes it; what several use is said.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as c

__all__ = ["LoadSettings", "NativeError", "NativeModel", "NativeWeights", "start_backend", "take_complaints"]

_ERROR_LEVEL = 4

_NEVER_TEXT = c.LLAMA_TOKEN_ATTR_CONTROL | c.LLAMA_TOKEN_ATTR_UNKNOWN
_ANY_SPECIAL = _NEVER_TEXT | c.LLAMA_TOKEN_ATTR_USER_DEFINED
#: `<|im_start|>`, `<|User|>` with another bar, `<start_of_turn>`.
_LOOKS_LIKE_CONTROL = re.compile("<([|\N{FULLWIDTH VERTICAL LINE}]).+\\1>|<(start|end)_of_turn>")


class NativeError(Exception):
    """llama.cpp refused; the text says what it said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """How to load a model.

    Attributes:
        path: The GGUF file.
        n_ctx: Tokens of one request's context; None: what the file was trained with, at most `most_ctx`.
        most_ctx: See `n_ctx`.
        n_gpu_layers: -1: all; None: all if the build has a GPU, else none.
        threads: Threads to compute with.
        lora: A LoRA adapter's GGUF file.
        name: The model's name, for errors.
    """

    path: Path
    n_ctx: int | None
    most_ctx: int
    n_gpu_layers: int | None
    threads: int
    lora: Path | None
    name: str = ""


class _Complaints(threading.local):
    """What llama.cpp logged as errors on this thread; its functions only return a null pointer."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def take(self) -> str:
        text = "; ".join(line.strip() for line in self.lines if line.strip())
        self.lines.clear()
        return text[-500:]


_complaints = _Complaints()


def take_complaints() -> str:
    """What llama.cpp logged as errors on this thread since the last call; empty if nothing."""
    return _complaints.take()


@c.llama_log_callback  # type: ignore[untyped-decorator]  # a ctypes function type
def _log(level: int, text: bytes, _data: object) -> None:
    if level == _ERROR_LEVEL and len(_complaints.lines) < 20:  # noqa: PLR2004 - enough for any reason
        _complaints.lines.append(text.decode("utf-8", "replace"))


_backend = threading.Lock()
_backend_ready = False


def start_backend() -> None:
    """Starts llama.cpp, once; it is silent from then on."""
    global _backend_ready  # noqa: PLW0603 - llama.cpp's own state is the process's, too
    with _backend:
        if not _backend_ready:
            c.llama_log_set(_log, ctypes.c_void_p(0))
            c.llama_backend_init()
            _backend_ready = True


class NativeWeights:
    """The weights and the vocabulary of a file, which several models may share (see `weights`).

    Attributes:
        pointer: llama.cpp's model.
        guard: Held while a context or a LoRA adapter is made or freed: the model keeps a list of adapters.

    Args:
        settings: Which file, and how; the context and the LoRA adapter are no matter.
        go_on: Asked now and then while it loads; False ends that early, with an error.

    Raises:
        NativeError: if it cannot be loaded.
    """

    def __init__(self, settings: LoadSettings, go_on: Callable[[], bool] = lambda: True) -> None:
        start_backend()
        _complaints.take()
        self.guard = threading.Lock()
        self._stack = ExitStack()
        params = c.llama_model_default_params()
        layers = settings.n_gpu_layers
        if layers is None:
            layers = -1 if c.llama_supports_gpu_offload() else 0
        params.n_gpu_layers = 0x7FFFFFFF if layers == -1 else layers
        params.load_mode = c.LLAMA_LOAD_MODE_MMAP
        params.progress_callback = c.llama_progress_callback(lambda _share, _data: go_on())
        self.pointer = c.llama_model_load_from_file(os.fsencode(settings.path), params)
        if not self.pointer:
            raise NativeError(_complaints.take() or "llama.cpp cannot read it")
        self._stack.callback(c.llama_model_free, self.pointer)
        if c.llama_model_has_encoder(self.pointer) or not c.llama_model_has_decoder(self.pointer):
            self.close()
            raise NativeError("it is no decoder-only model, and so no chat model")

    def close(self) -> None:
        """Frees everything. May be called twice."""
        self._stack.close()


class NativeModel:
    """A loaded model, without a context to compute in (see `context.NativeContext`).

    Attributes:
        n_ctx: Tokens of one request's context.
        n_vocab: Tokens of the vocabulary.
        guard: See `NativeWeights`.
        name: What the app calls it, for errors.

    Args:
        settings: Which file, and how.
        weights: Its weights, if they are loaded already; whoever loaded them frees them.

    Raises:
        NativeError: if it cannot be loaded.
    """

    def __init__(self, settings: LoadSettings, weights: NativeWeights | None = None) -> None:
        self._stack = ExitStack()
        if weights is None:
            weights = NativeWeights(settings)
            self._stack.callback(weights.close)
        self.guard = weights.guard
        self.name = settings.name
        self._model = weights.pointer
        self._vocab = c.llama_model_get_vocab(self._model)
        trained = int(c.llama_model_n_ctx_train(self._model))
        self.n_ctx = settings.n_ctx or min(trained or settings.most_ctx, settings.most_ctx)
        self.n_vocab = int(c.llama_vocab_n_tokens(self._vocab))

    def close(self) -> None:
        """Frees everything. May be called twice."""
        self._stack.close()

    # What the file says

    def metadata(self) -> dict[str, str]:
        """The file's key-value pairs as texts; llama.cpp leaves arrays out."""
        pairs = {}
        for place in range(c.llama_model_meta_count(self._model)):
            key = self._text(c.llama_model_meta_key_by_index, place)
            pairs[key] = self._text(c.llama_model_meta_val_str_by_index, place)
        return pairs

    def _text(self, read: Any, place: int) -> str:
        size = 1 << 12
        while True:
            buffer = ctypes.create_string_buffer(size)
            needed = int(read(self._model, place, buffer, size))
            if needed < size:
                return buffer.value.decode("utf-8", "replace")
            size = needed + 1

    def token_text(self, token: int) -> str:
        """A token as the vocabulary spells it; empty for -1, which stands for no token."""
        if token < 0:
            return ""
        return bytes(c.llama_vocab_get_text(self._vocab, token)).decode("utf-8", "replace")

    @property
    def bos(self) -> int:
        """The begin-of-sequence token; -1 if there is none."""
        return int(c.llama_vocab_bos(self._vocab))

    @property
    def eos(self) -> int:
        """The end-of-sequence token; -1 if there is none."""
        return int(c.llama_vocab_eos(self._vocab))

    # Tokens

    def tokenize(self, text: str, borders: Sequence[int] = ()) -> list[int]:
        """A rendered chat as tokens, special ones recognised.

        BOS is added if the model wants one and the chat does not begin with it.

        Args:
            text: The chat.
            borders: Places across which no token goes (see `engine.Job`).
        """
        found: list[int] = []
        for start, end in pairwise((0, *borders, len(text))):
            found += self._tokens(text[start:end])
        if c.llama_vocab_get_add_bos(self._vocab) and found[:1] != [self.bos]:
            found.insert(0, self.bos)
        return found

    def _tokens(self, text: str) -> list[int]:
        data = text.encode("utf-8", "replace")
        room = len(data) + 8
        tokens = (c.llama_token * room)()
        count = int(c.llama_tokenize(self._vocab, data, len(data), tokens, room, False, True))
        if count < 0:
            raise NativeError("the prompt cannot be tokenized")
        return list(tokens[:count])

    def piece(self, token: int, *, special: bool) -> bytes:
        """A token's bytes; empty for a control token unless `special`."""
        buffer = ctypes.create_string_buffer(64)
        size = int(c.llama_token_to_piece(self._vocab, token, buffer, 64, 0, special))
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = int(c.llama_token_to_piece(self._vocab, token, buffer, -size, 0, special))
        return buffer.raw[:size]

    @cached_property
    def continuations(self) -> list[int]:
        """The tokens that begin in the middle of a character."""
        pieces = (self.piece(token, special=True)[:1] for token in range(self.n_vocab))
        return [token for token, start in enumerate(pieces) if b"\x80" <= start < b"\xc0"]

    @cached_property
    def control(self) -> frozenset[str]:
        """The texts that become control tokens wherever they stand in a prompt.

        Some files call theirs user-defined; words that only mark text, such as `<tool_call>`, are, too.
        """
        found = set()
        for token in range(self.n_vocab):
            kind = c.llama_vocab_get_attr(self._vocab, token)
            if kind & _ANY_SPECIAL:
                text = self.token_text(token)
                if kind & _NEVER_TEXT or _LOOKS_LIKE_CONTROL.fullmatch(text):
                    found.add(text)
        return frozenset(text for text in found if len(text) > 1)

    def is_control(self, token: int) -> bool:
        """Whether a token structures the chat and is no text."""
        return bool(c.llama_vocab_is_control(self._vocab, token))

    def ends_turn(self, token: int) -> bool:
        """Whether a token ends the answer."""
        return bool(c.llama_vocab_is_eog(self._vocab, token))

    @property
    def vocab(self) -> object:
        """llama.cpp's vocabulary, for samplers."""
        return self._vocab

    @property
    def pointer(self) -> Any:
        """llama.cpp's model, for contexts."""
        return self._model

    @property
    def shareable(self) -> bool:
        """Whether what was computed for a beginning of a text can be used for another text, and cut."""
        return not (c.llama_model_is_recurrent(self._model) or c.llama_model_is_hybrid(self._model))

    @property
    def on_gpu(self) -> bool:
        """Whether this build computes on a GPU, if it is told to."""
        return bool(c.llama_supports_gpu_offload())
