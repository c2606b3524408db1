"""LoRA adapters: small files that change what a model says, loaded and freed with the context that uses them.

llama.cpp keeps a list of them in the model, which it reads when a context is made, and once more at the first
step after an adapter was set. With several contexts on the same weights, on several threads, all of that
happens under the model's `guard`.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as c

from adapters.local.native import NativeError, NativeModel, take_complaints
from adapters.local.turns import TURN

__all__ = ["NativeLora"]


class NativeLora:
    """An adapter. To be made before the context that it is for, under the model's guard, and freed after it.

    Args:
        model: What it was made for.
        path: Its GGUF file.

    Raises:
        NativeError: if it does not fit the model.
    """

    def __init__(self, model: NativeModel, path: Path) -> None:
        self._guard = model.guard
        self._path = path
        self._adapter = c.llama_adapter_lora_init(model.pointer, os.fsencode(path))
        if not self._adapter:
            raise NativeError(
                f"the LoRA adapter {path} does not fit: {take_complaints() or 'no reason given'}"
            )

    def apply(self, context: Any) -> None:
        """Has a context use it, under the model's guard. Computes one token, and forgets it.

        Raises:
            NativeError: if it cannot be used.
        """
        adapters = (c.llama_adapter_lora_p_ctypes * 1)(self._adapter)
        token = (c.llama_token * 1)(0)
        with TURN:
            refused = c.llama_set_adapters_lora(context, adapters, 1, (ctypes.c_float * 1)(1.0))
            refused = refused or c.llama_decode(context, c.llama_batch_get_one(token, 1))
        c.llama_memory_clear(c.llama_get_memory(context), True)
        if refused:
            raise NativeError(f"the LoRA adapter {self._path} cannot be applied: {take_complaints()}")

    def close(self) -> None:
        """Frees it; not under the guard. May be called twice."""
        adapter, self._adapter = self._adapter, None
        if adapter:
            with self._guard:
                c.llama_adapter_lora_free(adapter)
