"""The profile of a local model: what the app declared, then what its file says of itself."""

from __future__ import annotations

import platform
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

from router.capabilities import with_assumed
from router.catalogue.gguf import GGUFError, GGUFFile, read_gguf
from router.profile import Profile, Speed

if TYPE_CHECKING:
    from router.models import LocalModel

__all__ = ["EXTRA_TOKENS", "LOCAL_CAPABILITIES", "MOST_CONTEXT", "MOST_SLOTS", "local_profile"]

#: The context window unless the app asks for another: a larger one takes memory that may not be there.
MOST_CONTEXT = 8192

LOCAL_CAPABILITIES = frozenset(
    (
        "tools",
        "parallel_tool_calls",
        "tool_choice",
        "json_object",
        "json_schema",
        "sampler_extras",
        "sampling",
        "seed",
        "penalties",
        "logit_bias",
        "logprobs",
        "n>1",
        "no_reasoning",
    )
)
"""What the local adapter can do with any model: a grammar forces the shape of the answer."""

#: What is in the chat template of a model that thinks: the end of its thoughts, or a switch.
_SIGNS_OF_THOUGHT = (
    *("</think>", "[/THINK]", "</seed:think>", "<channel|>"),
    *("enable_thinking", "reasoning_effort", "<|channel|>"),
)

# Assumptions about a machine that nothing was measured on yet; the first answers replace them. Decoding reads
# all weights once a token, so memory bandwidth bounds it. One anchor: SmolLM2-135M Q4_1, 98 MB, decodes 75 to
# 165 tokens a second on two cores of a shared machine, which is 7 to 16 GB/s, and loads in 0.3 s.
_BYTES_PER_SECOND = 15e9
#: Apple's chips compute on their GPU, by default, from memory of 68 GB/s (M1) and more.
_APPLE_BYTES_PER_SECOND = 60e9
_FASTEST_DECODE = 200.0
#: A prompt's tokens share one pass over the weights; on a CPU it gains about this much.
_PREFILL_GAIN = 4.0
_LOAD_BYTES_PER_SECOND = 1e9
_LOAD_SECONDS = 0.2
#: The most requests that the engine works on at once: a step on a CPU computes 63 tokens, and prompts want
#: their share.
MOST_SLOTS = 48
#: What the engine's memory holds beside one window, unless that took too much memory.
EXTRA_TOKENS = 8192
#: What a file that cannot be read is taken for: small, so that the attempt is made and says what is wrong.
_UNKNOWN_BYTES = 100_000_000


def local_profile(model: LocalModel) -> Profile:
    """What is known of a local model. Reads the file's header, some 10 to 30 ms.

    A file that cannot be read gives a note and no exception: the attempt says it again, with everything it
    needs to say it well (`ModelLoadError`), and the other models go on.
    """
    try:
        file, trouble = read_gguf(model.path), None
    except OSError as error:
        file, trouble = None, f"{error.strerror or error} ({model.path})"
    except GGUFError as error:
        file, trouble = None, str(error)
    trained = file.context_length if file else None
    window = model.n_ctx or (min(trained, MOST_CONTEXT) if trained else None)
    licence = file.licence if file else None
    languages = frozenset(file.languages) if file and file.languages else None
    return Profile(
        price=None,
        usd_per_hour=model.usd_per_hour,
        context_window=window,
        capabilities=with_assumed(model.capabilities) or _capabilities(model, file),
        languages=languages if model.languages is None else model.languages,
        private=True,
        local=True,
        licence=model.licence or licence,
        quality=model.quality_table,
        speed=_speed(file.size_bytes if file else _UNKNOWN_BYTES),
        unavailable=_missing_engine(),
        kept_tokens=window and window + min((_slots(model) - 1) * window, EXTRA_TOKENS),
        continues=True,
        notes={"file": f"cannot be read: {trouble}"} if file is None else _notes(file),
    )


def _capabilities(model: LocalModel, file: GGUFFile | None) -> frozenset[str]:
    """Any model's, and `reasoning_effort` if this one can be told how much to think."""
    template = model.chat_template or (file.chat_template if file else None) or ""
    thinks = any(sign in template for sign in _SIGNS_OF_THOUGHT)
    return LOCAL_CAPABILITIES | {"reasoning_effort"} if thinks else LOCAL_CAPABILITIES


def _slots(model: LocalModel) -> int:
    """Requests that the engine works on at once."""
    return min(model.max_parallel, MOST_SLOTS)


def _missing_engine() -> str | None:
    """Why no file can be run at all; None if one can."""
    if find_spec("llama_cpp") is not None:
        return None
    return 'adapter: llama-cpp-python is not installed; pip install "multimodel-router[local]"'


def _speed(size_bytes: int) -> Speed:
    apple = sys.platform == "darwin" and platform.machine() == "arm64"
    bandwidth = _APPLE_BYTES_PER_SECOND if apple else _BYTES_PER_SECOND
    decode = min(_FASTEST_DECODE, bandwidth / max(size_bytes, 1))
    return Speed(
        ttft=1 / decode,
        prefill=_PREFILL_GAIN * decode,
        decode=decode,
        load=size_bytes / _LOAD_BYTES_PER_SECOND + _LOAD_SECONDS,
    )


def _notes(file: GGUFFile) -> dict[str, str]:
    facts = {
        "architecture": file.architecture,
        "name": file.name,
        "parameters": f"{file.parameters:,}" if file.parameters else None,
        "quantisation": file.quantisation,
        "trained for": f"{file.context_length:,} tokens" if file.context_length else None,
        "size": f"{file.size_bytes / 1e6:,.0f} MB",
    }
    return {name: fact for name, fact in facts.items() if fact}
