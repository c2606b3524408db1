"""How much memory a model will take, from its file's header alone.

Checked against llama.cpp of late 2026 (`llama_kv_cache`, `llama_memory_recurrent`, `output_reserve`).
What runs on a GPU with memory of its own is counted as if it were in the machine's.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path

from router.catalogue.gguf import GGUFError, GGUFFile, read_gguf
from router.catalogue.local import EXTRA_TOKENS, MOST_CONTEXT
from router.models import LocalModel

__all__ = ["KEPT_SEQUENCES", "Need", "cells_for", "identity", "predict", "shelf_for"]

#: Finished sequences that are kept beside the running ones.
KEPT_SEQUENCES = 24
#: The most memory that cells beside those of one request's whole window may take, in bytes.
_EXTRA_BYTES = 1 << 30
#: Rows that one step computes at most (`context.MOST_ROWS`).
_ROWS = 512
#: Keys and values are 16-bit numbers, states and what is computed 32-bit ones.
_HALF, _FULL = 2, 4
#: llama.cpp rounds the cells up to a multiple of this.
_CELLS = 256
#: Bytes that a token of the vocabulary takes in llama.cpp's tables: 350 measured with SmolLM2's 49,152.
_TOKEN = 350
#: Bytes of graphs, threads' stacks and their working memory.
_SMALL = 6 << 20

_PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Memory that a model will take, in bytes, and what it takes it for.

    Attributes:
        source: What its weights are: models of the same source hold them once, together.
        weights: Of its weights and its vocabulary.
        fixed: Of all else but the cells.
        per_cell: Of one cell: a token of context.
        window: Cells that it cannot do without: one request's whole context.
        extra: Cells beside them, at most: for other requests, and for beginnings that are kept.
        per_shelved: Of one token of a finished chat that waits outside of the cells (see `batching.shelf`).
    """

    source: Hashable
    weights: int
    fixed: int
    per_cell: int
    window: int
    extra: int
    per_shelved: int = 0

    def own(self, cells: int) -> int:
        """Bytes beside the weights with so many cells."""
        return self.fixed + self.per_cell * (-(-cells // _CELLS) * _CELLS) + self.shelf(cells)

    def shelf(self, cells: int) -> int:
        """Bytes of these for finished chats, which are taken as these come."""
        return self.per_shelved * shelf_for(self.window, cells)

    def cells(self, room: int) -> int | None:
        """The cells that fit into so many bytes, beside all else but the weights; None: too few."""
        if self.own(self.window) > room:
            return None
        room += self.per_shelved * self.window  # what is a window has no shelf
        fit = (room - self.fixed) // max(self.per_cell + self.per_shelved, 1) // _CELLS * _CELLS
        return min(self.window + self.extra, max(self.window, fit))


def cells_for(window: int, slots: int, bytes_per_token: int) -> int:
    """Tokens of context to hold in memory, of all requests together, if there is room.

    One request alone can always use its whole window. What is beyond that is for the others, and for
    beginnings that are kept: the rest of the windows, but at most 8,192 tokens and a gigabyte.
    """
    extra = min((slots - 1) * window, EXTRA_TOKENS, _EXTRA_BYTES // max(1, bytes_per_token))
    return window + extra


def shelf_for(window: int, cells: int) -> int:
    """Tokens of finished chats that may wait outside of so many cells: as many as are beside a window."""
    return max(0, cells - window)


def identity(path: Path) -> Hashable:
    """What tells a file from all others, and from itself after it was replaced.

    Raises:
        OSError: if there is none.
    """
    status = path.stat()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def predict(model: LocalModel, slots: int) -> Need:
    """Predicts what a model will take. Reads its header, some 10 to 30 ms.

    A file whose header says too little counts with its size; llama.cpp will say what is wrong with it.

    Args:
        model: What was declared.
        slots: Requests at work at once, at most.

    Raises:
        OSError: if its file cannot be read.
    """
    source = (identity(model.path), model.n_gpu_layers)
    lora = model.lora.stat().st_size if model.lora is not None else 0
    try:
        file = read_gguf(model.path)
    except GGUFError:
        size, window = model.path.stat().st_size, model.n_ctx or MOST_CONTEXT
        return Need(source=source, weights=size, fixed=lora, per_cell=0, window=window, extra=0)
    layers = _Layers(file)
    window = model.n_ctx or min(file.context_length or MOST_CONTEXT, MOST_CONTEXT)
    sequences = slots + KEPT_SEQUENCES
    if not layers.state:
        sequences *= 2  # as many hold free cells
    return Need(
        source=source,
        weights=_weights(file, model.path) + (file.vocabulary or 0) * _TOKEN,
        fixed=_fixed(file, layers, sequences) + lora,
        per_cell=layers.per_cell + layers.masks * _ROWS * _HALF,
        window=window,
        extra=cells_for(window, slots, layers.per_cell) - window,
        per_shelved=0 if layers.state else layers.per_cell,
    )


def _weights(file: GGUFFile, path: Path) -> int:
    """Of all parts of a file that is split."""
    found = _PART.search(path.name)
    if file.parts == 1 or found is None:
        return file.tensor_bytes
    name, count = path.name[: found.start()], found.group(1)
    parts = (path.with_name(f"{name}-{part:05}-of-{count}.gguf") for part in range(1, file.parts + 1))
    return sum(part.stat().st_size for part in parts if part.is_file())


def _fixed(file: GGUFFile, layers: _Layers, sequences: int) -> int:
    vocabulary, shape = file.vocabulary or 0, file.shape
    # The logits of each sequence's next token, once where they are computed and once for whoever reads them.
    logits = 2 * _FULL * vocabulary * sequences
    feed = max(
        _most(shape, "feed_forward_length"),
        _most(shape, "expert_feed_forward_length") * _most(shape, "expert_used_count"),
    )
    activations = _FULL * _ROWS * (2 * feed + 4 * (file.embedding_length or 0))
    return logits + activations + layers.state * sequences + _SMALL


class _Layers:
    """What a model's layers remember of the tokens before.

    Attributes:
        per_cell: Bytes per token, of all layers that attend.
        state: Bytes per sequence, of all layers that have a state instead.
        masks: Kinds of attention, each of which has a mask of its own: the whole context, a window of it.
    """

    def __init__(self, file: GGUFFile) -> None:
        shape = file.shape
        self._shape = shape
        self._width = file.embedding_length or 0
        self._heads = max(1, _most(shape, "attention.head_count"))
        count = max(0, (file.block_count or 0) - _most(shape, "nextn_predict_layers"))
        recurrent = [layer for layer in range(count) if self._is_recurrent(layer)]
        attending = set(range(count - _most(shape, "attention.shared_kv_layers"))) - set(recurrent)
        self.per_cell = sum(self._cell(layer) for layer in attending)
        self.state = len(recurrent) * self._state()
        self.masks = 2 if _most(shape, "attention.sliding_window") else 1

    def _is_recurrent(self, layer: int) -> bool:
        shape = self._shape
        if not self._state():
            return False
        if _most(shape, "wkv.head_size"):
            return True
        declared = shape.get("attention.recurrent_layers")
        if isinstance(declared, tuple):
            return bool(_of_layer(declared, layer))
        if interval := _most(shape, "full_attention_interval"):
            return (layer + 1) % interval != 0
        return not _of_layer(shape.get("attention.head_count_kv", 0), layer)

    def _state(self) -> int:
        """Bytes of a recurrent layer's state."""
        shape, width = self._shape, self._width
        if wkv := _most(shape, "wkv.head_size"):
            return _FULL * width * (wkv + max(1, _most(shape, "token_shift_count")))
        if kernel := _most(shape, "shortconv.l_cache"):
            return _FULL * width * (kernel - 1)
        inner, size = _most(shape, "ssm.inner_size"), _most(shape, "ssm.state_size")
        kernel = max(0, _most(shape, "ssm.conv_kernel") - 1)
        if head := _most(shape, "kda.head_dim"):
            return _FULL * self._heads * head * (head + 3 * (kernel or 3))
        return _FULL * (inner * size + kernel * (inner + 2 * _most(shape, "ssm.group_count") * size))

    def _cell(self, layer: int) -> int:
        """Bytes of one token in one layer."""
        shape = self._shape
        default = self._width // self._heads
        heads = _of_layer(shape.get("attention.head_count_kv", self._heads), layer)
        keys = self._head("attention.key_length", default)
        values = self._head("attention.value_length", default)
        if _most(shape, "attention.key_length_mla"):  # the values are computed from what is kept as the keys
            values = 0
        index = _most(shape, "attention.indexer.key_length")
        return _HALF * (heads * (keys + values) + index)

    def _head(self, key: str, default: int) -> int:
        """The width of a head; the larger one where layers with a window have another."""
        return max(_most(self._shape, key) or default, _most(self._shape, f"{key}_swa"))


def _of_layer(value: int | tuple[int, ...], layer: int) -> int:
    if isinstance(value, int):
        return value
    return value[layer] if layer < len(value) else max(value, default=0)


def _most(shape: Mapping[str, int | tuple[int, ...]], key: str) -> int:
    """A number of the architecture's, the largest where layers differ; 0 if it is not there."""
    value = shape.get(key, 0)
    return value if isinstance(value, int) else max(value, default=0)
