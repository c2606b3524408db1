"""Checks a model's file before llama.cpp sees it, and says what to do when one cannot be loaded."""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from adapters.local.native import LoadSettings
from adapters.local.threads import THREADS
from router.catalogue.local import MOST_CONTEXT
from router.errors import ModelLoadError
from router.models import LocalModel

__all__ = ["FileMark", "advice", "check_file", "check_hash", "check_unchanged", "load_settings"]

FileMark: TypeAlias = tuple[int, int, int, int, int]
"""Which file it was, and in which state."""

_FIRST_OF_SEVERAL = re.compile(r".+-\d{5}-of-(?!00001)\d{5}\.gguf")

#: More of either than any model has; a header that claims more is damaged.
_MOST_TENSORS, _MOST_PAIRS = 1_000_000, 1_000_000
_HEADER = struct.Struct("<4sIQQ")
#: Bytes in which the vocabulary begins in any file; a search of all of it would read all of it.
_LONGEST_HEADER = 1 << 26
_TOKENS, _ARRAY = b"tokenizer.ggml.tokens", struct.Struct("<IIQ")

_ADVICE = (
    ("unknown model architecture", "update llama-cpp-python: this build does not know the architecture"),
    ("memory", "free memory, or lower n_ctx, or take a smaller model or quantisation"),
    ("alloc", "free memory, or lower n_ctx, or take a smaller model or quantisation"),
    ("lora", "use an adapter that was made for this model"),
    ("decoder-only", "use a chat model"),
)


def check_file(model: LocalModel) -> None:
    """Looks at the file's first bytes and at its vocabulary; some 50 ms for a large one.

    Raises:
        ModelLoadError: if it cannot be a model.
    """
    for path in filter(None, (model.path, model.lora)):
        _check_header(path, model.name)
    if _repeats_a_token(model.path):
        # llama.cpp would not refuse the file but abort the process.
        text = f"{model.path} is damaged: its vocabulary repeats itself; download it again"
        raise ModelLoadError(text, model=model.name)


def _check_header(path: Path, name: str) -> None:
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise ModelLoadError(f"{path} is a directory; name the GGUF file in it", model=name)
        with path.open("rb") as file:
            start = file.read(_HEADER.size)
    except FileNotFoundError as error:
        raise ModelLoadError(
            f"{path}: no such file; correct the path or download the model", model=name
        ) from error
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error.strerror or error}", model=name) from error
    if start[:4] != b"GGUF":
        raise ModelLoadError(
            f"{path} is no GGUF file (it begins with {start[:4]!r}); name a .gguf file", model=name
        )
    if len(start) < _HEADER.size:
        raise ModelLoadError(f"{path} ends after {size} bytes; download it again", model=name)
    _, version, tensors, pairs = _HEADER.unpack(start)
    if version not in (2, 3):
        raise ModelLoadError(f"{path}: GGUF version {version} is not supported (2 and 3 are)", model=name)
    if tensors > min(_MOST_TENSORS, size) or pairs > min(_MOST_PAIRS, size):
        raise ModelLoadError(
            f"{path} is damaged: its header counts {tensors} tensors and {pairs} key-value pairs; "
            "download it again",
            model=name,
        )


def _repeats_a_token(path: Path) -> bool:
    """Whether two tokens are spelt alike. Anything else that is wrong is llama.cpp's to say."""
    seen: set[bytes] = set()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        place = data.find(_TOKENS, 0, _LONGEST_HEADER)
        if place < 0:
            return False
        place += len(_TOKENS)
        kind, of, count = _ARRAY.unpack_from(data, place) if place + _ARRAY.size <= len(data) else (0, 0, 0)
        place += _ARRAY.size
        if (kind, of) != (9, 8):  # an array of strings
            return False
        tokens = 0
        for _ in range(min(count, len(data) // 8)):
            if place + 8 > len(data):
                return False
            size = int.from_bytes(data[place : place + 8], "little")
            place += 8 + size
            if size:  # llama.cpp names the empty ones itself
                tokens += 1
                seen.add(data[place - size : place])
        return len(seen) < tokens


def check_hash(model: LocalModel, go_on: Callable[[], bool]) -> FileMark | None:
    """Compares the file's SHA-256 with the declared one; reads the whole file.

    Args:
        model: What was declared.
        go_on: Asked now and then; False ends the work early.

    Returns:
        What `check_unchanged` takes, since llama.cpp opens the file anew; None if no SHA-256 was declared.

    Raises:
        ModelLoadError: if they differ, or if the file is the first of several.
    """
    if model.sha256 is None:
        return None
    if _FIRST_OF_SEVERAL.fullmatch(model.path.name):
        raise ModelLoadError(
            f"{model.path}: sha256 is of one file, and this model is in several; merge them "
            "(llama-gguf-split --merge)",
            model=model.name,
        )
    digest = hashlib.sha256()
    try:
        with model.path.open("rb") as file:
            mark = _mark(os.fstat(file.fileno()))
            while go_on() and (block := file.read(1 << 22)):
                digest.update(block)
    except OSError as error:
        raise ModelLoadError(
            f"{model.path} cannot be read: {error.strerror or error}", model=model.name
        ) from error
    if go_on() and digest.hexdigest() != model.sha256.lower():
        raise ModelLoadError(
            f"{model.path} is not the declared file: its SHA-256 is {digest.hexdigest()}, declared is "
            f"{model.sha256.lower()}; download it again, or correct sha256",
            model=model.name,
        )
    return mark


def check_unchanged(model: LocalModel, mark: FileMark | None) -> None:
    """Makes sure that the file which was loaded is the one that was hashed.

    Raises:
        ModelLoadError: if it was replaced, or written to, since its hash was begun.
    """
    if mark is None:
        return
    try:
        now: FileMark | None = _mark(model.path.stat())
    except OSError:
        now = None
    if now != mark:
        raise ModelLoadError(
            f"{model.path} was changed after its SHA-256 had been checked; see who writes there",
            model=model.name,
        )


def _mark(stat: os.stat_result) -> FileMark:
    """Differs when a file is another one, or was written to; only the system sets the last of the times."""
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def advice(reason: str) -> str:
    """What a person can do about llama.cpp's reason."""
    lowered = reason.lower()
    for word, what in _ADVICE:
        if word in lowered:
            return what
    return "the file may be damaged or incomplete: download it again"


def load_settings(model: LocalModel) -> LoadSettings:
    """The declaration with its "auto"s resolved."""
    return LoadSettings(
        path=model.path,
        n_ctx=model.n_ctx,
        most_ctx=MOST_CONTEXT,
        n_gpu_layers=None if model.n_gpu_layers == "auto" else model.n_gpu_layers,
        threads=THREADS.guess() if model.threads == "auto" else model.threads,
        lora=model.lora,
        name=model.name,
    )
