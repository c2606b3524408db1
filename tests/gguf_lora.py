"""Writes LoRA adapters with random numbers for the model files that the tests have."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

__all__ = ["write_lora"]

_RANK = 4


def write_lora(path: Path, base: Path, *, seed: int, scale: float = 0.3) -> Path:
    """Writes an adapter that changes the queries and the feed-forward of every layer of a model.

    Args:
        path: Where to.
        base: The model's file.
        seed: Of the numbers.
        scale: How much it changes.

    Returns:
        The path.
    """
    reader = gguf.GGUFReader(base)
    architecture = reader.get_field("general.architecture")
    assert architecture is not None
    writer = gguf.GGUFWriter(path, str(architecture.contents()))
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 2.0 * _RANK)
    random = np.random.default_rng(seed)
    for tensor in reader.tensors:
        if tensor.name.endswith(("attn_q.weight", "ffn_down.weight")):
            wide, high = (int(size) for size in tensor.shape)
            for name, shape in (("lora_a", (_RANK, wide)), ("lora_b", (high, _RANK))):
                numbers = random.normal(0, scale, shape).astype(np.float32)
                writer.add_tensor(f"{tensor.name}.{name}", numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
