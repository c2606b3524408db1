"""Messages as bytes: JSON in frames. Never pickle: what a damaged process sends must stay data.

JSON has few types, so all others are written as an object with one key that names the type: `b` bytes,
`t` tuple, `s` frozenset, `m` mapping, `d` one of the dataclasses that may cross, `e` a `ModelError`.
"""

from __future__ import annotations

import dataclasses
import json
import operator
import os
import struct
from collections.abc import Mapping, Sequence
from typing import TypeAlias, cast

import adapters.local.engine
from adapters.local.engine import Job, Listener
from adapters.local.isolation import messages
from router import errors
from router.adapter import Load
from router.errors import ModelError

__all__ = ["GREETING", "Frames", "Plain", "frame", "job_fields", "job_of", "pack", "write_all"]

Plain: TypeAlias = "bool | int | float | str | list[Plain] | dict[str, Plain] | None"

#: What the child says first. Whatever some start-up file of Python printed before it is skipped.
GREETING = b"\x00router child\x01"
#: Bytes of one frame, at most; a longer one is no frame.
MOST_BYTES = 1 << 28
_LENGTH = struct.Struct(">I")

#: Fields of a job that mean something in one process only.
_HERE = frozenset({"listener", "cancelled"})
#: What an error carries besides its text and its model.
_ERROR_FIELDS: Mapping[str, tuple[str, ...]] = {
    "ModelError": ("code",),
    "ModelConnectionError": ("code",),
    "ModelProtocolError": ("code",),
    "ModelLoadError": ("code", "retry_after"),
    "ModelHTTPError": ("status_code", "retry_after", "code"),
    "ModelTimeoutError": ("timeout",),
    "ContextWindowExceededError": ("tokens", "window"),
}
_ERRORS: Mapping[str, type[ModelError]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, ModelError)
}
_CLASSES: Mapping[str, type] = {
    kind.__name__: kind
    for module in (adapters.local.engine, messages)
    for kind in (*vars(module).values(), Load)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type) and kind is not Job
}


def frame(packed: Sequence[Plain]) -> bytes:
    """Messages, each as `pack` gave it, as one frame."""
    data = json.dumps(packed, separators=(",", ":")).encode("ascii")
    return _LENGTH.pack(len(data)) + data


class Frames:
    """Finds the messages in a stream of bytes, however it was cut."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[object]:
        """The messages that are complete now.

        Raises:
            ValueError: if the bytes are no messages.
        """
        self._rest += data
        found: list[object] = []
        while len(self._rest) >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._rest)
            if size > MOST_BYTES:
                raise ValueError(f"a message of {size} bytes")
            end = _LENGTH.size + size
            if len(self._rest) < end:
                break
            found += self._messages(bytes(self._rest[_LENGTH.size : end]))
            del self._rest[:end]
        return found

    @staticmethod
    def _messages(data: bytes) -> list[object]:
        try:
            return [unpack(message) for message in json.loads(data)]
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"no message: {error!r}") from error


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all of it to a blocking descriptor."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def job_fields(job: Job) -> dict[str, object]:
    """What of a job crosses."""
    return {f.name: getattr(job, f.name) for f in dataclasses.fields(job) if f.name not in _HERE}


def job_of(fields: Mapping[str, object], listener: Listener) -> Job:
    """The job on the other side, with a listener of that side.

    Raises:
        TypeError: if the fields are not a job's.
    """
    return Job(listener=listener, **fields)  # type: ignore[arg-type]  # written by `job_fields`


def pack(value: object) -> Plain:  # noqa: PLR0911 - one for each type
    """A message, or anything in one, as JSON has it. To be called where whoever sent it can be told.

    Raises:
        TypeError: if its type, or that of something in it, does not cross.
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, bytes):
        return {"b": value.decode("latin-1")}
    if isinstance(value, list):
        return [pack(one) for one in value]
    if isinstance(value, tuple):
        return {"t": [pack(one) for one in value]}
    if isinstance(value, frozenset | set):
        return {"s": [pack(one) for one in value]}
    if isinstance(value, Mapping):
        return {"m": [[pack(key), pack(one)] for key, one in value.items()]}
    if isinstance(value, ModelError):
        return {"e": _pack_error(value)}
    if dataclasses.is_dataclass(value) and _CLASSES.get(type(value).__name__) is type(value):
        fields: list[Plain] = [pack(getattr(value, f.name)) for f in dataclasses.fields(value)]
        return {"d": [type(value).__name__, fields]}
    return operator.index(value)  # type: ignore[arg-type]  # numpy's numbers have one; raises TypeError else


def unpack(value: Plain) -> object:
    """What `pack` was given.

    Raises:
        KeyError, TypeError, ValueError: if it is nothing that `pack` writes.
    """
    if isinstance(value, list):
        return [unpack(one) for one in value]
    if not isinstance(value, dict):
        return value
    ((kind, inside),) = value.items()
    if kind == "b":
        return str(inside).encode("latin-1")
    if not isinstance(inside, list):
        raise TypeError(f"{kind!r} holds no list")
    if kind == "m":
        return {unpack(key): unpack(one) for key, one in cast("list[tuple[Plain, Plain]]", inside)}
    if kind == "e":
        return _unpack_error(inside)
    if kind == "d":
        name, fields = inside
        made = _CLASSES[str(name)]
        names = [f.name for f in dataclasses.fields(made)]
        return made(**dict(zip(names, map(unpack, cast("list[Plain]", fields)), strict=True)))
    return {"t": tuple, "s": frozenset}[kind](map(unpack, inside))


def _pack_error(error: ModelError) -> list[Plain]:
    # An engine's own kind of error arrives as the kind of ours that it is.
    name = next(kind.__name__ for kind in type(error).__mro__ if _ERRORS.get(kind.__name__) is kind)
    fields: list[Plain] = [pack(getattr(error, field)) for field in _ERROR_FIELDS.get(name, ())]
    return [name, str(error), error.model, *fields]


def _unpack_error(inside: list[Plain]) -> ModelError:
    name, text, model, *values = inside
    kind = _ERRORS[str(name)]
    fields = zip(_ERROR_FIELDS.get(str(name), ()), map(unpack, values), strict=True)
    return kind(str(text), model=str(model), **dict(fields))  # type: ignore[arg-type]  # written by `_pack_error`
