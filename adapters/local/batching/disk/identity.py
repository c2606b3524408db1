"""Whose states they are: one digest of all that decides what a model computes for a token."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from adapters.local.context import NativeContext
from router.models import LocalModel

__all__ = ["identity"]

#: Changes whenever states of earlier versions must not be used.
_FORMAT = 1
#: Bytes at a file's beginning that are looked at: its metadata and what it says of its tensors.
_HEAD = 16 << 20
#: Samples of the rest, and the bytes of each.
_SAMPLES, _SAMPLE = 32, 1 << 16
_FIRST_PART = re.compile(r"(.+)-00001-of-(\d{5})\.gguf")


def identity(model: LocalModel, context: NativeContext, metadata: Mapping[str, str]) -> bytes:
    """A digest that differs when a state of the one cannot be used for the other.

    A file is known by its declared SHA-256, which was checked when it was loaded, or else by its size, the
    time of its last change, its header and samples of its tensors: to read all of it would take as long as
    to compute again.

    Raises:
        OSError: if a file cannot be read.
    """
    digest = hashlib.sha256()
    # Some stretch their positions by the size of the context.
    cells = context.cells if any(".rope.scaling." in key for key in metadata) else 0
    facts = (_FORMAT, sys.byteorder, context.build, model.n_gpu_layers, model.sha256 or "", cells)
    digest.update(repr(facts).encode())
    first, *others = _parts(model.path)
    if model.sha256 is None:
        digest.update(_fingerprint(first))
    for path in (*others, *filter(None, (model.lora,))):
        digest.update(_fingerprint(path))
    return digest.digest()


def _parts(path: Path) -> list[Path]:
    """The file, and those that it is continued in if it is the first of several."""
    match = _FIRST_PART.fullmatch(path.name)
    if match is None:
        return [path]
    name, count = match.groups()
    return [path.with_name(f"{name}-{part:05}-of-{count}.gguf") for part in range(1, int(count) + 1)]


def _fingerprint(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        stat = os.fstat(file.fileno())
        digest.update(repr((stat.st_size, stat.st_mtime_ns)).encode())
        digest.update(file.read(_HEAD))
        for place in range(1, _SAMPLES + 1):
            start = (stat.st_size - _SAMPLE) * place // _SAMPLES
            if start > _HEAD:
                file.seek(start)
                digest.update(file.read(_SAMPLE))
    return digest.digest()
