"""Writes a small BERT with random weights, as sentence embedders are: it sees a text as a whole."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

_WIDTH, _HEADS, _LAYERS, _FEED = 32, 4, 2, 64
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("the", "a", "cat", "dog", "sat", "ran", "on", "mat", "paris", "weather", "is", "nice", ".", "?")


def write_bert(
    path: Path, *, pooling: gguf.PoolingType | None = gguf.PoolingType.MEAN, n_ctx: int = 64, seed: int = 0
) -> Path:
    """Writes the model; `pooling` None: the file does not say. Returns the path."""
    tokens = [*_SPECIAL, *(f"\N{LOWER ONE EIGHTH BLOCK}{word}" for word in WORDS)]
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("tiny bert")
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_FEED)
    writer.add_head_count(_HEADS)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    if pooling is not None:
        writer.add_pooling_type(pooling)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control] * len(_SPECIAL) + [normal] * len(WORDS))
    writer.add_token_type_count(2)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    writer.add_eos_token_id(3)
    writer.add_mask_token_id(4)
    for name, tensor in _tensors(len(tokens), n_ctx, seed).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(size: int, n_ctx: int, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        return random.normal(0, 0.3, shape).astype(np.float32)

    def norm(name: str) -> dict[str, np.ndarray]:
        return {
            f"{name}.weight": np.ones(_WIDTH, np.float32),
            f"{name}.bias": np.zeros(_WIDTH, np.float32),
        }

    def linear(name: str, out: int, inner: int) -> dict[str, np.ndarray]:
        return {f"{name}.weight": weights(out, inner), f"{name}.bias": weights(out)}

    tensors = {
        "token_embd.weight": weights(size, _WIDTH),
        "token_types.weight": weights(2, _WIDTH),
        "position_embd.weight": weights(n_ctx, _WIDTH),
        **norm("token_embd_norm"),
    }
    for layer in range(_LAYERS):
        block = f"blk.{layer}"
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors |= linear(f"{block}.{name}", _WIDTH, _WIDTH)
        tensors |= norm(f"{block}.attn_output_norm")
        tensors |= linear(f"{block}.ffn_up", _FEED, _WIDTH)
        tensors |= linear(f"{block}.ffn_down", _WIDTH, _FEED)
        tensors |= norm(f"{block}.layer_output_norm")
    return tensors
