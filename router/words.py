"""Small checks of words that come from outside: header fields, codes of languages, variables."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

__all__ = ["is_header", "is_server", "primary_language", "variable"]

#: RFC 9110, 5.1 and 5.6.2: the name of a field is a token.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: RFC 9110, 5.5: visible characters, spaces and tabs; no line breaks, which would begin another field.
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
#: RFC 5646, 2.1: the primary language of a tag, of two or three letters.
_TAG = re.compile(r"([A-Za-z]{2,3})([-_][A-Za-z0-9]{1,8})*")

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def is_header(name: str, value: str) -> bool:
    """Whether a name and a value make one HTTP header."""
    return _TOKEN.fullmatch(name) is not None and _FIELD_VALUE.fullmatch(value) is not None


def is_server(url: str) -> bool:
    """Whether a text is the URL of a Redis server, as far as that can be seen."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # may be no number
    except ValueError:
        return False
    if parts.scheme == "unix":
        return parts.path not in ("", "/")
    return parts.scheme in ("redis", "rediss") and bool(parts.hostname)


def primary_language(tag: str) -> str:
    """The language of a tag, in small letters: `en` of `EN`, `pt` of `pt-BR`, `zh` of `zh_Hans`.

    Raises:
        ValueError: if it is no language's code.
    """
    found = _TAG.fullmatch(tag)
    if found is None:
        raise ValueError("a language is an ISO 639 code, such as en, ja or pt-BR")
    return found[1].lower()


def variable(name: str) -> str:
    """The name of an environment variable.

    Raises:
        ValueError: if it is none: mostly, that is the key itself in the place of its variable's name.
    """
    if _VARIABLE.fullmatch(name) is None:
        raise ValueError("the name of an environment variable is needed; a key itself goes into api_key")
    return name
