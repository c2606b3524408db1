"""Texts as vectors, by a GGUF embedding model. For the library's own use."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

import llama_cpp.llama_cpp as c
import numpy as np

from adapters.local.files import check_file
from adapters.local.native import LoadSettings, NativeError, NativeModel, take_complaints
from adapters.local.residency import RESIDENCY, Tenant, predict
from adapters.local.threads import THREADS
from adapters.local.turns import TURN
from router.errors import ModelConnectionError, ModelLoadError, ModelProtocolError
from router.models import LocalModel

__all__ = ["Embedder", "Pooling", "Vectors"]

Pooling = Literal["mean", "cls", "last"]
"""How the vectors of a text's tokens become one: their mean, or that of the first or the last token."""

Vectors: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.float32]]

#: Tokens of a text at most, unless asked for more: what comes later rarely changes what a text is about, and
#: memory grows with the square.
MOST_TOKENS = 2048
#: Tokens that are computed in one step at least, and texts at most.
_ROWS, _TEXTS = 512, 64
_POOLINGS: dict[Pooling, int] = {
    "mean": c.LLAMA_POOLING_TYPE_MEAN,
    "cls": c.LLAMA_POOLING_TYPE_CLS,
    "last": c.LLAMA_POOLING_TYPE_LAST,
}


class _Resident:
    """Never idle, as far as the books go: whoever made it holds it. Fulfils `residency.Engine`."""

    def idle(self) -> bool:
        return False

    def leave(self) -> bool:
        return False

    def untaken(self) -> float:
        return 1.0


class Embedder:
    """One embedding model. Thread-safe: whoever asks while it computes waits. A context manager.

    Attributes:
        width: Numbers of a vector.
        window: Tokens of a text at most; longer ones are cut.
        truncated: Texts that were cut so far.

    Args:
        path: A GGUF file.
        n_ctx: The most tokens of a text; None: what the file was trained with, at most 2,048.
        pooling: None: as the file says. A file that does not say is no embedding model; to name a pooling
            makes it one all the same, for what that is worth.
        threads: Threads to compute with; None: as for other models.

    Raises:
        ModelLoadError: if the file cannot be loaded, is no embedding model, or can never fit into memory.
        ModelHTTPError: 503, if there is no room, and the models that take it go on serving.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        n_ctx: int | None = None,
        pooling: Pooling | None = None,
        threads: int | None = None,
    ) -> None:
        self._name = Path(path).name
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._stack = ExitStack()
        model = LocalModel(name=self._name, path=Path(path), n_ctx=n_ctx)
        check_file(model)  # some damage makes llama.cpp abort
        settings = LoadSettings(
            path=Path(path),
            n_ctx=n_ctx,
            most_ctx=MOST_TOKENS,
            n_gpu_layers=None,
            threads=threads or THREADS.guess(),
            lora=None,
        )
        try:
            self._move_in(model)
            self._open(settings, pooling)
            self._place.entered(0.0, None)
        except NativeError as error:
            self._stack.close()
            raise ModelLoadError(f"{path} cannot be loaded: {error}", model=self._name) from error
        except BaseException:
            self._stack.close()
            raise
        self.truncated = 0

    def _move_in(self, model: LocalModel) -> None:
        """Sets memory aside for it, which idle models may have to leave; it stays until it is closed."""
        n_ctx = model.n_ctx or MOST_TOKENS
        need = replace(predict(model.model_copy(update={"n_ctx": n_ctx}), 1), extra=0)
        self._place = Tenant(RESIDENCY, self._name, _Resident(), None)
        self._stack.callback(self._place.close)
        self._place.enter(need, lambda: True)
        self._stack.callback(self._place.left)

    def _open(self, settings: LoadSettings, pooling: Pooling | None) -> None:
        self._model = NativeModel(settings)
        self._stack.callback(self._model.close)
        self._vocab = c.llama_model_get_vocab(self._model.pointer)
        self.window = self._model.n_ctx
        self.width = int(c.llama_model_n_embd_out(self._model.pointer))
        self._rows = max(self.window, _ROWS)
        params = c.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = self._rows  # all of a text in one step
        params.n_seq_max = _TEXTS
        params.n_threads = params.n_threads_batch = settings.threads
        params.kv_unified = True
        params.embeddings = True
        if pooling is not None:
            params.pooling_type = _POOLINGS[pooling]
        self._context = c.llama_init_from_model(self._model.pointer, params)
        if not self._context:
            raise NativeError(take_complaints() or "no memory for a context")
        self._stack.callback(c.llama_free, self._context)
        if c.llama_pooling_type(self._context) not in _POOLINGS.values():
            text = "it is no embedding model: it does not say how to make one vector of a text"
            raise NativeError(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees the model, after what is being computed. May be called twice."""
        if self._pid == os.getpid():  # else it is the parent's
            with self._lock:
                self._stack.close()
                self._context = None

    def embed(self, texts: Sequence[str]) -> Vectors:
        """The vectors of texts.

        Short texts are computed together; a text has the same vector, up to rounding, whatever others are
        with it. Blocks: not on an event loop.

        Returns:
            Shape (len(texts), width), float32; each row of length 1. A text without any token has zeros.

        Raises:
            ModelLoadError: if this process forked after the model was loaded.
            ModelConnectionError: if it was closed.
            ModelProtocolError: if nothing, or no number, was computed.
        """
        if self._pid != os.getpid():
            text = "this process forked after the model was loaded; llama.cpp does not survive a fork"
            raise ModelLoadError(text, model=self._name)
        vectors = np.zeros((len(texts), self.width), np.float32)
        with self._lock:
            if self._context is None:
                raise ModelConnectionError("the embedding model was closed", model=self._name)
            tokens = [self._tokens(text) for text in texts]
            for batch in self._batches(tokens):
                self._compute([tokens[place] for place in batch])
                for sequence, place in enumerate(batch):
                    vectors[place] = self._vector(sequence)
        return vectors

    def _tokens(self, text: str) -> list[int]:
        """A text as tokens, with those that the model wants around it; nothing in a text is special."""
        data = text.encode("utf-8", "replace")
        room = len(data) + 16
        tokens = (c.llama_token * room)()
        count = int(c.llama_tokenize(self._vocab, data, len(data), tokens, room, True, False))
        if count < 0:
            raise ModelProtocolError("a text cannot be tokenized", model=self._name)
        found = list(tokens[:count])
        if count > self.window:
            self.truncated += 1
            end = found[-1:] if self._model.is_control(found[-1]) else []  # its vector may be the text's
            found = found[: self.window - len(end)] + end
        return found

    def _batches(self, tokens: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Places of texts that are computed together: alike in length, so that few steps are needed."""
        batch: list[int] = []
        rows = 0
        for place in sorted(range(len(tokens)), key=lambda place: len(tokens[place])):
            count = len(tokens[place])
            if not count:
                continue
            if len(batch) == _TEXTS or rows + count > self._rows:
                yield batch
                batch, rows = [], 0
            batch.append(place)
            rows += count
        if batch:
            yield batch

    def _compute(self, texts: Sequence[Sequence[int]]) -> None:
        """One step; text number n is sequence n."""
        rows = sum(len(tokens) for tokens in texts)
        batch = c.llama_batch_init(rows, 0, 1)
        try:
            batch.n_tokens = rows
            row = 0
            for sequence, tokens in enumerate(texts):
                for position, token in enumerate(tokens):
                    batch.token[row] = token
                    batch.pos[row] = position
                    batch.n_seq_id[row] = 1
                    batch.seq_id[row][0] = sequence
                    batch.logits[row] = True
                    row += 1
            with TURN:
                memory = c.llama_get_memory(self._context)
                if memory:  # models that see a text as a whole have none
                    c.llama_memory_clear(memory, False)
                code = int(c.llama_decode(self._context, batch))
        finally:
            c.llama_batch_free(batch)
        if code:
            text = f"llama_decode returned {code}: {take_complaints() or 'no reason given'}"
            raise ModelProtocolError(text, model=self._name)

    def _vector(self, sequence: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        pointer = c.llama_get_embeddings_seq(self._context, sequence)
        if not pointer:
            raise ModelProtocolError("no vector was computed", model=self._name)
        address = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float))
        vector = np.ctypeslib.as_array(address, shape=(self.width,)).astype(np.float32)
        length = float(np.linalg.norm(vector))
        if not 0.0 < length < np.inf:
            raise ModelProtocolError("the model computes no numbers: its file is damaged", model=self._name)
        return vector / np.float32(length)
