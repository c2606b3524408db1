"""A context of llama.cpp to compute in: many sequences, one memory (see `native` for the model itself).

Nothing here locks. One thread makes a `NativeContext`, uses it and closes it; only `abort` is for others.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import llama_cpp.llama_cpp as c
import numpy as np
from llama_cpp import __version__ as version

from adapters.local.lora import NativeLora
from adapters.local.native import LoadSettings, NativeError, NativeModel, take_complaints

if TYPE_CHECKING:
    from adapters.local.batching.states import State
    from adapters.local.sampling import Sampler

__all__ = ["CPU_ROWS", "GPU_ROWS", "MOST_ROWS", "DecodeError", "NativeContext"]

#: Tokens of several chats computed in one step on a CPU. From 64 on llama.cpp's flash attention takes another
#: way through its kernels, which sums up 64 cells of the memory at a time: greedy text would change with the
#: company a chat is in. Below, each token is rounded alike whatever is computed beside it; only one alone, in
#: a memory of 512 cells or more, is summed up in as many parts as there are threads.
CPU_ROWS = 63
#: The same on a GPU, which is slow with so few, and rounds its own way.
GPU_ROWS = 512
#: Tokens in one step at most; more than `CPU_ROWS` are one chat's alone. The more, the faster a long prompt:
#: 4,000 tokens took 22.8 s with 63 at a time, 18.9 with 64, 15.0 with 128, 13.1 with 512 (SmolLM2, 2 cores).
MOST_ROWS = 512


class DecodeError(NativeError):
    """A step failed; nothing of it was kept."""


class NativeContext:
    """Computes for one model. Fulfils `batching.cells.Store`, too.

    A step is filled with `put`, then computed with `compute`; after it `draw` gives the next tokens.

    Args:
        model: Whose weights.
        settings: As the model was loaded.
        cells: Tokens that its memory holds, of all sequences together.
        sequences: The most sequences at once, numbered from 0.

    Raises:
        NativeError: if there is no memory for it, or the LoRA adapter does not fit.
    """

    def __init__(self, model: NativeModel, settings: LoadSettings, *, cells: int, sequences: int = 1) -> None:
        self._stack = ExitStack()
        self._model = model
        self._n_vocab = model.n_vocab
        #: By address. llama.cpp uses the same memory for every step; to wrap it anew costs as much as a draw.
        self._logits: dict[int, np.ndarray[Any, np.dtype[np.single]]] = {}
        self._shareable = model.shareable
        self.rows = GPU_ROWS if model.on_gpu and settings.n_gpu_layers != 0 else CPU_ROWS
        try:
            with model.guard:
                lora = NativeLora(model, settings.lora) if settings.lora else None
                if lora is not None:
                    self._stack.callback(lora.close)  # what is made last is freed first: the context
                self._make(settings, cells, sequences)
                if lora is not None:
                    lora.apply(self._context)
        except BaseException:
            self._stack.close()
            raise
        self._make_batch()

    def _make(self, settings: LoadSettings, cells: int, sequences: int) -> None:
        params = c.llama_context_default_params()
        params.n_ctx = cells
        params.n_ubatch = params.n_batch = max(MOST_ROWS, sequences)
        # Room for each sequence's next token, which llama.cpp asserts; for every row it would be gigabytes.
        params.n_outputs_max = max(self.rows, sequences)
        params.n_threads = params.n_threads_batch = settings.threads
        params.n_seq_max = sequences
        params.kv_unified = True  # all sequences share the memory, and can share cells of it
        params.swa_full = True  # a sliding window's old cells may be wanted by who shares a beginning
        params.flash_attn_type = c.LLAMA_FLASH_ATTN_TYPE_AUTO
        self._context = c.llama_init_from_model(self._model.pointer, params)
        if not self._context:
            raise NativeError(take_complaints() or f"no memory for a context of {cells} tokens")
        self._stack.callback(c.llama_free, self._context)
        self.cells = min(cells, int(c.llama_n_ctx(self._context)))  # llama.cpp may round up
        self._memory = c.llama_get_memory(self._context)
        self._abort = ctypes.create_string_buffer(2)
        self._let_abort()

    def _let_abort(self) -> None:
        """Lets `abort` break a step off.

        llama.cpp asks its abort callback at every node of its graph, from its own threads: too often for
        Python. The C library's `strlen` answers instead: 0, "go on", while our buffer holds an empty text.
        """
        if os.name != "posix":  # another C library; closing waits for the step to end there
            return
        strlen = ctypes.cast(ctypes.CDLL(None).strlen, c.ggml_abort_callback)
        c.llama_set_abort_callback(self._context, strlen, ctypes.addressof(self._abort))

    def _make_batch(self) -> None:
        """One batch, made once: numpy fills what llama.cpp reads."""
        rows = MOST_ROWS
        self._count = 0
        self._tokens = np.zeros(rows, np.int32)
        self._positions = np.arange(rows, dtype=np.int32)
        self._sequences = np.zeros(rows, np.int32)
        self._outputs = np.zeros(rows, np.int8)
        self._ones = np.ones(rows, np.int32)
        self._steps = np.arange(rows, dtype=np.int32)
        #: Where `compute` put each row of `put`; None: nowhere else.
        self._row_of: list[int] | None = None
        # Item by item a memoryview is several times as fast as numpy, and answers come one token at a time.
        self._views = [
            array.data for array in (self._tokens, self._positions, self._sequences, self._outputs)
        ]
        at, size = self._sequences.ctypes.data, self._sequences.itemsize
        self._places = np.arange(at, at + rows * size, size, dtype=np.uintp)
        kinds: dict[str, Any] = {field[0]: field[1] for field in c.llama_batch._fields_}
        arrays: dict[str, np.ndarray[Any, Any]] = {
            "token": self._tokens,
            "pos": self._positions,
            "seq_id": self._places,
            "n_seq_id": self._ones,
            "logits": self._outputs,
        }
        self._batch = c.llama_batch(
            **{name: ctypes.cast(array.ctypes.data, kinds[name]) for name, array in arrays.items()}
        )

    def close(self) -> None:
        """Frees everything but the model. May be called twice."""
        self._logits.clear()
        self._stack.close()

    def abort(self, *, now: bool = True) -> None:
        """Breaks the step in progress off, and all later ones until `now=False`; from any thread."""
        self._abort[0] = b"\x01" if now else b"\x00"

    # A step

    def put(self, sequence: int, tokens: list[int], position: int, *, output: bool) -> int:
        """Adds tokens to the step: at most `rows` of several sequences, or `MOST_ROWS` of one.

        Args:
            sequence: Where they are appended.
            tokens: Which.
            position: How many tokens the sequence has already.
            output: Whether the token after the last one will be drawn.

        Returns:
            The row of the last one, for `draw`.
        """
        start = self._count
        end = self._count = start + len(tokens)
        if end - start == 1:
            token_at, position_at, sequence_at, output_at = self._views
            token_at[start], position_at[start] = tokens[0], position
            sequence_at[start], output_at[start] = sequence, output
            return start
        self._tokens[start:end] = tokens
        np.add(self._steps[: end - start], position, out=self._positions[start:end])
        self._sequences[start:end] = sequence
        self._outputs[start:end] = 0
        self._outputs[end - 1] = output
        return end - 1

    def compute(self, cells: list[int] | None = None) -> None:
        """Computes the step, and empties it for the next one.

        Args:
            cells: Which cell each token is to be in, in the order of the `put`s; see `batching.cells`.
                None: that does not matter.

        Raises:
            DecodeError: if llama.cpp cannot, or `abort` broke it off.
        """
        count = self._batch.n_tokens = self._count
        self._count = 0
        self._row_of = None
        if cells is not None and cells != sorted(cells):
            order = np.argsort(np.asarray(cells))
            for array in (self._tokens, self._positions, self._sequences, self._outputs):
                array[:count] = array[:count][order]
            rows = np.empty(count, np.int32)
            rows[order] = self._steps[:count]
            self._row_of = rows.tolist()
        code = int(c.llama_decode(self._context, self._batch))
        if code:
            raise DecodeError(f"llama_decode returned {code}: {take_complaints() or 'no reason given'}")

    def sane(self, row: int) -> bool:
        """Whether numbers were computed for a row; damaged weights do not, and any token would follow."""
        return not bool(np.isnan(self.logits(row)).any())

    def logits(self, row: int) -> np.ndarray[Any, np.dtype[np.single]]:
        """What the last step computed for a row: llama.cpp's own memory, until the next step."""
        found = c.llama_get_logits_ith(self._context, self._row(row))
        address = ctypes.addressof(found.contents)
        known = self._logits.get(address)
        if known is None:
            known = self._logits[address] = np.ctypeslib.as_array(found, shape=(self._n_vocab,))
        return known

    def draw(self, sampler: Sampler, row: int) -> int:
        """The next token after a row of the last step."""
        return sampler.draw(self._context, self._row(row), self.logits(row))

    def _row(self, row: int) -> int:
        return row if self._row_of is None else self._row_of[row]

    # The memory

    def share(self, source: int, target: int, start: int, end: int) -> None:
        """Makes the source's positions from `start` up to `end` the target's, too."""
        c.llama_memory_seq_cp(self._memory, source, target, start, end)

    def cut(self, sequence: int, start: int, end: int = -1) -> None:
        """Takes positions from a sequence; -1: to its end."""
        c.llama_memory_seq_rm(self._memory, sequence, start, end)

    def use_threads(self, count: int) -> None:
        """Computes with so many threads from now on; what it computes does not depend on it."""
        c.llama_set_n_threads(self._context, count, count)

    def trial(self) -> None:
        """Computes one token for nothing, to see how long it takes. Forgets all sequences.

        Raises:
            DecodeError: as `compute`.
        """
        self.put(0, [0], 0, output=True)
        self.compute()
        self.clear()

    def clear(self) -> None:
        """Forgets all sequences."""
        c.llama_memory_clear(self._memory, not self._shareable)

    def holds(self, sequence: int, length: int) -> bool:
        """Whether a sequence's first tokens, so many, can be gone on from.

        What is further back than a sliding window llama.cpp gives to others, in the layers that have one, as
        soon as it looks for room there. Who shares a beginning that ends earlier would miss it.
        """
        first = int(c.llama_memory_seq_pos_min(self._memory, sequence)) if self.window else 0
        return 0 <= first <= max(0, length - self.window)

    # What was computed, as bytes

    @property
    def build(self) -> str:
        """What decides, beside the model's file, how numbers are computed and laid out here."""
        return f"{version} {c.llama_print_system_info().decode('utf-8', 'replace')}"

    @property
    def window(self) -> int:
        """Tokens that each token looks back on in layers with a sliding window; 0: there are none."""
        return int(c.llama_model_n_swa(self._model.pointer))

    def state(self, sequence: int, start: int, end: int) -> memoryview | None:
        """What was computed for all positions of a sequence, which go from `start` up to `end`.

        Returns:
            llama.cpp's own format, for `restore` in a context of the same kind; None if some are missing.
        """
        if not self._spans(sequence, start, end):
            return None
        size = int(c.llama_state_seq_get_size(self._context, sequence))
        state = np.empty(size, np.uint8)
        written = int(c.llama_state_seq_get_data(self._context, _pointer(state), size, sequence))
        return state.data if 0 < written == size else None

    def double(self, source: int, target: int, count: int) -> bool:
        """Copies the first `count` positions of a sequence into the first empty cells, as an empty one's.

        Returns:
            Whether llama.cpp could. If not, the target is empty.
        """
        self.share(source, target, 0, count)
        state = self.state(target, 0, count)
        self.cut(target, 0)
        return state is not None and self.restore(target, state, 0, count)

    def restore(self, sequence: int, state: State, start: int, end: int) -> bool:
        """Puts what `state` gave into the first empty cells, in that order.

        Args:
            sequence: An empty one.
            state: Undamaged: llama.cpp may abort the process otherwise.
            start: The first position ...
            end: ... and the one after the last.

        Returns:
            Whether llama.cpp took it. If not, the sequence is empty.
        """
        data = np.frombuffer(state, np.uint8)
        taken = int(c.llama_state_seq_set_data(self._context, _pointer(data), len(data), sequence))
        if taken == len(data) and self._spans(sequence, start, end):
            return True
        take_complaints()
        self.cut(sequence, 0)
        return False

    def _spans(self, sequence: int, start: int, end: int) -> bool:
        first = int(c.llama_memory_seq_pos_min(self._memory, sequence))
        return (first, int(c.llama_memory_seq_pos_max(self._memory, sequence))) == (start, end - 1)


def _pointer(data: np.ndarray[Any, np.dtype[np.uint8]]) -> Any:
    return data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
