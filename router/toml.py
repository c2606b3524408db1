"""Reads a configuration file."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from router.errors import ConfigurationError

__all__ = ["MOST_TOML_BYTES", "read_toml"]

#: A configuration is written by hand; a larger file is a mistake.
MOST_TOML_BYTES = 4 * 1024 * 1024
#: Parts of a dotted key; ours have three.
MOST_KEY_PARTS = 40
_LONG_KEY = re.compile(
    r"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+)"""  # a part and its dot
    rf"{{{MOST_KEY_PARTS}}}"
)


def read_toml(file: Path) -> dict[str, object]:
    """What a TOML file holds, with the paths in it made relative to the file.

    Raises:
        ConfigurationError: if the file cannot be read, or is no TOML.
    """
    try:
        text = _read(file)
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror or error}", field=str(file)) from error
    try:
        # Some editors begin a UTF-8 file with a byte order mark.
        data = tomllib.loads(_sane(text.decode("utf-8-sig").replace("\r\n", "\n")))
    except (ValueError, RecursionError) as error:
        # Not `from error`: some of them carry the file's content, and there may be keys in it.
        trouble = str(error)
    else:
        return _anchored(data, file.parent)
    raise ConfigurationError(f"{file} is not valid TOML: {trouble}", field=str(file))


def _sane(text: str) -> str:
    """A text that tomllib can read: a key of very many parts takes it the square of their number in memory.

    Raises:
        ValueError: if it has one.
    """
    if _LONG_KEY.search(text):
        raise ValueError(f"a key of more than {MOST_KEY_PARTS} parts")
    return text


def _read(file: Path) -> bytes:
    """A file's content. Anything but a file is refused: reading from a pipe could wait for ever."""
    if not file.is_file():
        file.stat()  # says why, if it is because there is nothing
        raise OSError(None, "it is no regular file")
    with file.open("rb") as stream:
        text = stream.read(MOST_TOML_BYTES + 1)
    if len(text) > MOST_TOML_BYTES:
        raise OSError(None, f"it is larger than {MOST_TOML_BYTES} bytes")
    return text


def _anchored(data: dict[str, object], folder: Path) -> dict[str, object]:
    """The configuration with its relative paths made relative to the folder of its file."""
    models = data.get("models")
    _anchor(data, "ledger", folder)
    for model in models if isinstance(models, list) else ():
        for key in ("path", "lora", "session_dir"):
            if isinstance(model, dict):
                _anchor(model, key, folder)
    return data


def _anchor(table: dict[str, object], key: str, folder: Path) -> None:
    path = table.get(key)
    if isinstance(path, str) and path:
        try:
            table[key] = folder / Path(path).expanduser()
        except RuntimeError as error:
            raise ConfigurationError(f"{key} = {path!r}: {error}", field=key, value=repr(path)) from error
