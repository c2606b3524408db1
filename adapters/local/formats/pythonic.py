"""`[name(key=value), ...]`: calls in Python's syntax."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

from adapters.local.json_text import BROKEN, object_text
from adapters.local.tools import Tool, ToolCall

__all__ = ["begins_pythonic", "pythonic_calls", "pythonic_end"]

_TOKEN = re.compile(
    r"""'[^'\\]*+(?:\\.[^'\\]*+)*+'|"[^"\\]*+(?:\\.[^"\\]*+)*+"|[()\[\]{}]|[^'"()\[\]{}]++""", re.DOTALL
)
_NAME = re.compile(r"\s*([A-Za-z_][\w.-]*)\s*\(")
_WORDS = {"true": True, "false": False, "null": None}
#: Characters of one call's arguments: more is no call, and Python's parser is not made for it.
_LONGEST = 200_000


def begins_pythonic(text: str, names: Mapping[str, Tool]) -> bool | None:
    """Whether a text begins a list of calls; None: too early to tell."""
    if not text.startswith("["):
        return None if not text else False
    start = text[1:].lstrip()
    if any(start.startswith(f"{name}(") for name in names):
        return True
    return None if any(f"{name}(".startswith(start) for name in names) else False


def pythonic_end(text: str, start: int) -> int | None:
    """Where the brackets that open first are closed; None: not yet; `BROKEN`: they never will be."""
    depth, place = 0, start
    while place < len(text):
        token = _TOKEN.match(text, place)
        if token is None:
            return None  # a string that is not over
        place = token.end()
        if token[0] in "([{":
            depth += 1
        elif token[0] in ")]}":
            depth -= 1
            if depth <= 0:
                return place if depth == 0 else BROKEN
    return None


def pythonic_calls(text: str, names: Mapping[str, Tool]) -> list[ToolCall] | None:
    """The calls of `[f(a=1), g()]` or of `f(a=1)`; None if it is anything else."""
    text = text.strip()
    if text.startswith("["):
        if not text.endswith("]"):
            return None
        text = text[1:-1]
    calls = []
    while text.strip():
        found = _NAME.match(text)
        over = pythonic_end(text, found.end() - 1) if found else None
        if found is None or over is None or over == BROKEN:
            return None
        name = found[1] if found[1] in names else found[1].removesuffix(".call")
        arguments = _arguments(text[found.end() : over - 1])
        if name not in names or arguments is None:
            return None
        calls.append(ToolCall(name, arguments))
        rest = text[over:].lstrip()
        if rest and rest[0] not in ",;":
            return None
        text = rest[1:]
    return calls or None


def _arguments(text: str) -> str | None:
    if len(text) > _LONGEST:
        return None
    try:
        call = ast.parse(f"f({text.strip()})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            return None
        return object_text({word.arg: _value(word.value) for word in call.keywords if word.arg is not None})
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr) -> object:
    if isinstance(node, ast.Name) and node.id in _WORDS:  # JSON's words among Python's
        return _WORDS[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
        if not all(isinstance(key, str) for key in keys):
            raise TypeError("a key that is no text")
        return {str(key): _value(item) for key, item in zip(keys, node.values, strict=True)}
    value: object = ast.literal_eval(node)
    if value is not None and not isinstance(value, str | int | float):
        raise TypeError(f"{type(value).__name__} is no JSON")
    return value
