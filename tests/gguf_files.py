"""Writes small GGUF files with random weights: real architectures, a real byte-level BPE vocabulary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Literal

import gguf
import numpy as np

from tests.gguf_templates import GEMMA3, LLAMA3, QWEN2, QWEN3

Architecture = Literal["llama", "qwen2", "qwen3", "gemma3"]

_CORPUS = (
    "the quick brown fox jumps over the lazy dog and the cat sat on the mat while it was raining in spain "
    'what is the weather in paris today {"name": "get_weather", "arguments": {"city": "paris"}} '
    "you are a helpful assistant that answers questions and calls tools when they are needed user system "
)
_MERGES = 160

#: Every sixth layer of Gemma sees everything, the others this many tokens.
_GEMMA_LAYERS, _GEMMA_WINDOW = 6, 32
_LAYERS, _WIDTH, _HEADS, _KV_HEADS, _FEED = 2, 64, 4, 2, 128


@dataclass(frozen=True)
class _Family:
    template: str
    pre: str
    control: tuple[str, ...]
    plain: tuple[str, ...]
    bos: str | None
    eos: str
    eot: str


_QWEN_CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_QWEN_PLAIN = ("<tool_call>", "</tool_call>", "<think>", "</think>")
_FAMILIES: dict[Architecture, _Family] = {
    "qwen2": _Family(QWEN2, "qwen2", _QWEN_CONTROL, _QWEN_PLAIN[:2], None, "<|im_end|>", "<|im_end|>"),
    "qwen3": _Family(QWEN3, "qwen2", _QWEN_CONTROL, _QWEN_PLAIN, None, "<|im_end|>", "<|im_end|>"),
    "gemma3": _Family(
        GEMMA3,
        "llama-bpe",
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        (),
        "<bos>",
        "<eos>",
        "<end_of_turn>",
    ),
    "llama": _Family(
        LLAMA3,
        "llama-bpe",
        (
            *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
            *("<|eot_id|>", "<|eom_id|>", "<|python_tag|>"),
        ),
        (),
        "<|begin_of_text|>",
        "<|eot_id|>",
        "<|eot_id|>",
    ),
}


def write_gguf(
    path: Path,
    architecture: Architecture = "qwen3",
    *,
    seed: int = 0,
    n_ctx: int = 2048,
    template: str | None = "",
    metadata: Mapping[str, float | int] | None = None,
    quantised: bool = False,
    control: tuple[str, ...] = (),
    pooling: gguf.PoolingType | None = None,
) -> Path:
    """Writes one model.

    Args:
        path: Where to.
        architecture: The family, which also decides vocabulary and template.
        seed: Of the weights.
        n_ctx: The context length that the file claims, in tokens.
        template: Another chat template; None: none at all; empty: the family's.
        metadata: Further key-value pairs (`general.sampling.temp`, ...).
        quantised: Write the weights as Q8_0 instead of floats.
        control: Further control tokens, of another family's vocabulary.
        pooling: Makes it an embedding model, which ends each text with the end-of-sequence token.

    Returns:
        The path.
    """
    family = _FAMILIES[architecture]
    family = replace(family, control=(*family.control, *control))
    tokens, merges = _vocabulary()
    writer = gguf.GGUFWriter(path, architecture)
    _write_shape(writer, architecture, n_ctx)
    _write_vocabulary(writer, family, tokens, merges)
    if pooling is not None:
        writer.add_pooling_type(pooling)
        writer.add_add_eos_token(True)
    chosen = family.template if template == "" else template
    if chosen is not None:
        writer.add_chat_template(chosen)
    for key, value in (metadata or {}).items():
        if isinstance(value, int):
            writer.add_int32(key, value)
        else:
            writer.add_float32(key, value)
    size = len(tokens) + len(family.control) + len(family.plain)
    for name, tensor in _tensors(architecture, size, seed).items():
        if quantised and tensor.ndim > 1:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_shape(writer: gguf.GGUFWriter, architecture: Architecture, n_ctx: int) -> None:
    writer.add_name(f"tiny {architecture}")
    writer.add_size_label("0.1M")
    writer.add_license("apache-2.0")
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_layers(architecture))
    if architecture == "gemma3":
        writer.add_sliding_window(_GEMMA_WINDOW)
    writer.add_feed_forward_length(_FEED)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_key_length(_WIDTH // _HEADS)
    writer.add_value_length(_WIDTH // _HEADS)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def _write_vocabulary(writer: gguf.GGUFWriter, family: _Family, tokens: list[str], merges: list[str]) -> None:
    normal, control, plain = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED
    words = [*tokens, *family.control, *family.plain]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(family.pre)
    writer.add_token_list(words)
    writer.add_token_types(
        [normal] * len(tokens) + [control] * len(family.control) + [plain] * len(family.plain)
    )
    writer.add_token_merges(merges)
    writer.add_eos_token_id(words.index(family.eos))
    writer.add_eot_token_id(words.index(family.eot))
    if family.bos is not None:
        writer.add_bos_token_id(words.index(family.bos))
    writer.add_add_bos_token(family.bos is not None)


def _tensors(architecture: Architecture, size: int, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)

    def weights(*shape: int, scale: float = 0.2) -> np.ndarray:
        return random.normal(0, scale, shape).astype(np.float32)

    narrow = _WIDTH // _HEADS * _KV_HEADS
    tensors = {
        "token_embd.weight": weights(size, _WIDTH, scale=1.0),
        "output_norm.weight": np.ones(_WIDTH, dtype=np.float32),
        "output.weight": weights(size, _WIDTH, scale=0.5),
    }
    for layer in range(_layers(architecture)):
        block = {
            "attn_norm.weight": np.ones(_WIDTH, dtype=np.float32),
            "attn_q.weight": weights(_WIDTH, _WIDTH),
            "attn_k.weight": weights(narrow, _WIDTH),
            "attn_v.weight": weights(narrow, _WIDTH),
            "attn_output.weight": weights(_WIDTH, _WIDTH),
            "ffn_norm.weight": np.ones(_WIDTH, dtype=np.float32),
            "ffn_gate.weight": weights(_FEED, _WIDTH),
            "ffn_up.weight": weights(_FEED, _WIDTH),
            "ffn_down.weight": weights(_WIDTH, _FEED),
        }
        if architecture == "qwen2":
            block |= {
                "attn_q.bias": weights(_WIDTH),
                "attn_k.bias": weights(narrow),
                "attn_v.bias": weights(narrow),
            }
        if architecture == "gemma3":
            block |= {
                "post_attention_norm.weight": np.ones(_WIDTH, dtype=np.float32),
                "post_ffw_norm.weight": np.ones(_WIDTH, dtype=np.float32),
            }
        if architecture in ("qwen3", "gemma3"):
            ones = np.ones(_WIDTH // _HEADS, dtype=np.float32)
            block |= {"attn_q_norm.weight": ones, "attn_k_norm.weight": ones}
        tensors |= {f"blk.{layer}.{name}": tensor for name, tensor in block.items()}
    return tensors


def _layers(architecture: Architecture) -> int:
    return _GEMMA_LAYERS if architecture == "gemma3" else _LAYERS


def _byte_letters() -> dict[int, str]:
    """GPT-2's way to spell bytes as visible letters."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = {byte: chr(byte) for byte in visible}
    for byte in range(256):
        if byte not in letters:
            letters[byte] = chr(256 + len(letters) - len(visible))
    return letters


@cache
def _vocabulary() -> tuple[list[str], list[str]]:
    """Tokens and merges, learned from a few sentences as BPE is."""
    letters = _byte_letters()
    pieces = [[letters[byte] for byte in f" {word}".encode()] for word in _CORPUS.split()]
    tokens, merges = [letters[byte] for byte in range(256)], []
    for _ in range(_MERGES):
        pairs = Counter(pair for piece in pieces for pair in pairwise(piece))
        if not pairs:
            break
        first, second = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(f"{first} {second}")
        if first + second not in tokens:
            tokens.append(first + second)
        pieces = [_merged(piece, first, second) for piece in pieces]
    return tokens, merges


def _merged(piece: list[str], first: str, second: str) -> list[str]:
    result: list[str] = []
    for letter in piece:
        if result and result[-1] == first and letter == second:
            result[-1] = first + second
        else:
            result.append(letter)
    return result
