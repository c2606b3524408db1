"""Reads the header of a GGUF file: what the model is, without loading it.

Pure Python, so that a profile needs no llama-cpp-python. Files are not trusted: every count and length
is checked against a limit and against the file's size before it is believed, and nothing that is only
skipped (the vocabulary, above all) is kept.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3).
"""

from __future__ import annotations

import math
import os
import stat
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

from router.catalogue.ggml import FILE_TYPES, TENSOR_TYPES
from router.catalogue.header import MOST_STRING_BYTES, GGUFError, HeaderReader

__all__ = ["GGUFError", "GGUFFile", "read_gguf"]

#: Real headers stay far below all of these: some 60 keys, 2,000 tensors, 256,000 tokens, 20 MB.
MOST_KEYS = 4096
MOST_TENSORS = 65_536
MOST_ELEMENTS = 4_000_000  # of all arrays together
MOST_NAME_BYTES = 65_535
MOST_DEPTH = 4  # of arrays in arrays
MOST_DIMENSIONS = 8
MOST_CONTEXT = 1 << 31
MOST_PARTS = 1 << 16

_KEPT_STRINGS = frozenset(
    ("general.architecture", "general.name", "general.license", "tokenizer.chat_template", "general.basename")
)
_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_WHOLE = _SCALARS.keys() - {6, 12}
_U32 = _SCALARS[4]
_U64 = _SCALARS[10]

Value = str | int | float | bool | tuple[str, ...] | tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GGUFFile:
    """What a GGUF file says of its model.

    Attributes:
        version: Of the format.
        size_bytes: Of the whole file.
        architecture: `llama`, `qwen3`, ...; None if the file does not say.
        name: What its maker calls it.
        parameters: Numbers in all tensors together; 0 if it has none.
        tensor_count: Tensors.
        quantisation: `Q4_K_M`, `F16`, ...; None if it cannot be told.
        context_length: Tokens it was trained for.
        block_count: Layers.
        embedding_length: Width of a layer.
        vocabulary: Tokens in its vocabulary.
        chat_template: Its Jinja template. Not to be trusted.
        licence: As the file says.
        languages: ISO 639-1 codes; None if the file does not say.
        tensor_bytes: Bytes of what follows the header: the tensors that are in this file.
        parts: Files that the model is split into.
        shape: The architecture's own whole numbers, by their key without the architecture's name
            (`attention.head_count_kv`, ...); several where each layer has its own.
    """

    version: int
    size_bytes: int
    tensor_count: int
    parameters: int
    architecture: str | None = None
    name: str | None = None
    quantisation: str | None = None
    context_length: int | None = None
    block_count: int | None = None
    embedding_length: int | None = None
    vocabulary: int | None = None
    chat_template: str | None = None
    licence: str | None = None
    languages: tuple[str, ...] | None = None
    tensor_bytes: int = 0
    parts: int = 1
    shape: Mapping[str, int | tuple[int, ...]] = field(default_factory=dict)


def read_gguf(path: str | os.PathLike[str]) -> GGUFFile:
    """Reads a file's header.

    Raises:
        GGUFError: if it is no GGUF file, is damaged, or is not to be believed.
        OSError: if it cannot be opened or read.
    """
    file = Path(path)
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise GGUFError(f"{file} is not a regular file")
    with file.open("rb", buffering=0) as stream:
        return _read(HeaderReader(stream, status.st_size))


def _read(reader: HeaderReader) -> GGUFFile:
    version = _version(reader)
    tensor_count = _count(reader, MOST_TENSORS, "tensors")
    key_count = _count(reader, MOST_KEYS, "keys")
    values: dict[str, Value] = {}
    for _ in range(key_count):
        key = reader.text(MOST_NAME_BYTES)
        _value(reader, key, values)
    parameters, commonest = _tensors(reader, tensor_count)
    architecture = _text(values, "general.architecture")
    languages = values.get("general.languages")
    return GGUFFile(
        version=version,
        size_bytes=reader.size,
        tensor_count=tensor_count,
        parameters=parameters,
        architecture=architecture,
        name=_text(values, "general.name") or _text(values, "general.basename"),
        quantisation=_quantisation(values, commonest),
        context_length=_whole(values, f"{architecture}.context_length", MOST_CONTEXT),
        block_count=_whole(values, f"{architecture}.block_count", MOST_TENSORS),
        embedding_length=_whole(values, f"{architecture}.embedding_length", MOST_CONTEXT),
        vocabulary=_whole(values, "tokenizer.ggml.tokens", MOST_ELEMENTS),
        chat_template=_text(values, "tokenizer.chat_template"),
        licence=_text(values, "general.license"),
        languages=languages if _are_texts(languages) and languages else None,
        tensor_bytes=max(0, reader.size - reader.place),
        parts=_whole(values, "split.count", MOST_PARTS) or 1,
        shape=_shape(values, f"{architecture}."),
    )


def _version(reader: HeaderReader) -> int:
    if reader.size < 24 or reader.take(4) != b"GGUF":  # noqa: PLR2004 - magic, version and two counts
        raise GGUFError("not a GGUF file")
    raw = reader.take(4)
    version = int.from_bytes(raw, "little")
    if version in (2, 3):
        return version
    if int.from_bytes(raw, "big") in (2, 3):
        raise GGUFError("a big-endian GGUF file; only little-endian ones can be used")
    raise GGUFError(f"GGUF version {version}; only 2 and 3 are known")


def _count(reader: HeaderReader, most: int, what: str) -> int:
    count = reader.number(_U64)
    if count > most:
        raise GGUFError(f"{count} {what}; at most {most} are believed")
    return count


def _value(reader: HeaderReader, key: str, values: dict[str, Value]) -> None:
    """Reads a value; keeps it if it is a number or one of the strings that are asked for."""
    kind = reader.number(_U32)
    if kind == _STRING:
        if key in _KEPT_STRINGS:
            values[key] = reader.text(MOST_STRING_BYTES)
        else:
            reader.skip_text()
    elif kind == _ARRAY:
        vocabulary = key.startswith("tokenizer.")
        kept = _array(reader, depth=1, keep=not vocabulary)
        if not vocabulary or key == "tokenizer.ggml.tokens":
            values[key] = kept
    elif kind in _SCALARS:
        form = _SCALARS[kind]
        values[key] = form.unpack(reader.take(form.size))[0]
    else:
        raise GGUFError(f"a value of the unknown kind {kind}")


def _array(
    reader: HeaderReader, *, depth: int, keep: bool = False
) -> tuple[str, ...] | tuple[int, ...] | int:
    """Goes past an array; gives its length, or its strings or whole numbers if they are to be kept."""
    if depth > MOST_DEPTH:
        raise GGUFError(f"arrays in arrays deeper than {MOST_DEPTH}")
    kind = reader.number(_U32)
    count = reader.number(_U64)
    reader.elements += count
    if reader.elements > MOST_ELEMENTS:
        raise GGUFError(f"arrays of more than {MOST_ELEMENTS} elements together")
    if kind == _STRING and keep and count <= MOST_KEYS:
        return tuple(reader.text(MOST_NAME_BYTES) for _ in range(count))
    if kind == _STRING:
        reader.skip_texts(count)
    elif kind == _ARRAY:
        for _ in range(count):
            _array(reader, depth=depth + 1)
    elif kind in _WHOLE and keep and count <= MOST_KEYS:
        form = _SCALARS[kind]
        return tuple(int(form.unpack(reader.take(form.size))[0]) for _ in range(count))
    elif kind in _SCALARS:
        reader.skip(count * _SCALARS[kind].size)
    else:
        raise GGUFError(f"an array of the unknown kind {kind}")
    return count


def _tensors(reader: HeaderReader, count: int) -> tuple[int, int | None]:
    """Numbers in all tensors, and the type that most of them have; None without tensors."""
    numbers: Counter[int] = Counter()
    for _ in range(count):
        reader.skip_text()
        dimensions = reader.number(_U32)
        if dimensions > MOST_DIMENSIONS:
            raise GGUFError(f"a tensor of {dimensions} dimensions")
        shape = struct.unpack(f"<{dimensions}Q", reader.take(8 * dimensions))
        kind = reader.number(_U32)
        reader.skip(_U64.size)
        numbers[kind] += math.prod(shape)
    total = numbers.total()
    if total > 16 * reader.size:  # no type packs more than eight numbers into a byte
        raise GGUFError(f"tensors of {total} numbers in a file of {reader.size} bytes: truncated, or absurd")
    return total, max(numbers, key=lambda kind: numbers[kind], default=None)


def _text(values: Mapping[str, Value], key: str) -> str | None:
    value = values.get(key)
    return value if isinstance(value, str) and value else None


def _whole(values: Mapping[str, Value], key: str, most: int) -> int | None:
    value = values.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise GGUFError(f"{key} = {value!r}: not to be believed")
    return value or None


def _are_texts(value: Value | None) -> TypeGuard[tuple[str, ...]]:
    return isinstance(value, tuple) and all(isinstance(one, str) for one in value)


def _shape(values: Mapping[str, Value], prefix: str) -> dict[str, int | tuple[int, ...]]:
    """The architecture's whole numbers; what is not to be believed is left out."""
    found: dict[str, int | tuple[int, ...]] = {}
    for key, value in values.items():
        if not key.startswith(prefix):
            continue
        numbers = value if isinstance(value, tuple) else (value,)
        whole = tuple(int(one) for one in numbers if isinstance(one, int) and 0 <= one <= MOST_CONTEXT)
        if len(whole) == len(numbers):
            found[key.removeprefix(prefix)] = whole if isinstance(value, tuple) else whole[0]
    return found


def _quantisation(values: Mapping[str, Value], commonest: int | None) -> str | None:
    declared = values.get("general.file_type")
    if isinstance(declared, int) and declared in FILE_TYPES:
        return FILE_TYPES[declared]
    return None if commonest is None else TENSOR_TYPES.get(commonest)
