"""Server-sent events, read as the standard says and written anew in the one form the SDK reads rightly.

The SDK's own decoder takes an event without data for one with empty data (after an `id` or an `event`
field, so any comment after it ends in a JSON error), loses the first event after a byte order mark, and
knows no error event but OpenAI's. So the events are cleaned before it sees them. Most hosts send nothing
but `data: {...}` and blank lines; those bytes pass through as they are.
"""

from __future__ import annotations

import json

__all__ = ["EventCleaner"]

_BOM = b"\xef\xbb\xbf"
_KEEP_ALIVES = frozenset({b"ping", b"keep-alive", b"keepalive", b"heartbeat"})


class EventCleaner:
    """Cleans one stream.

    Attributes:
        done: Whether `[DONE]` was read; what follows it is no part of the answer.
    """

    def __init__(self) -> None:
        self.done = False
        self._at_start = True
        self._after_cr = False
        self._tail: list[bytes] = []
        self._data: list[bytes] = []
        self._event = b""

    def feed(self, raw: bytes) -> bytes:
        """The whole events that a piece completes, each as `data: ...` and a blank line; maybe none."""
        if self._at_start:
            raw = self._without_bom(raw)
        if not self._tail and not self._data and _is_clean(raw):
            self._event = b""
            self._after_cr = False
            return raw
        return self._slowly(raw)

    def finish(self) -> bytes:
        """The last event if the host forgot its blank line, and it is whole all the same."""
        if self.done:
            return b""
        last = self.feed(b"\n\n") if self._tail or self._data else b""
        if not last:
            return b""
        try:
            json.loads(last[len(b"data: ") :])
        except ValueError:
            return b""
        return last

    def _without_bom(self, raw: bytes) -> bytes:
        raw = b"".join(self._tail) + raw
        self._tail = []
        if raw != _BOM and _BOM.startswith(raw):
            self._tail = [raw] if raw else []
            return b""
        self._at_start = False
        return raw.removeprefix(_BOM)

    def _slowly(self, raw: bytes) -> bytes:
        if self._after_cr and raw:
            raw = raw.removeprefix(b"\n")
            self._after_cr = False
        if b"\n" not in raw and b"\r" not in raw:
            # Joined only when the line ends: a long line in many pieces stays linear.
            if raw:
                self._tail.append(raw)
            return b""
        text = b"".join(self._tail) + raw
        if b"\r" in text:
            self._after_cr = text.endswith(b"\r")
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, tail = text.split(b"\n")
        self._tail = [tail] if tail else []
        clean = []
        for line in lines:
            if line:
                self._field(line)
            else:
                clean.append(self._dispatch())
                if self.done:
                    break
        return b"".join(clean)

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value

    def _dispatch(self) -> bytes:
        data, event = b"\n".join(self._data), self._event
        self._data, self._event = [], b""
        if not data.strip() or event in _KEEP_ALIVES:
            return b""
        if data.startswith(b"[DONE]"):
            self.done = True
            return b""
        if event == b"error":
            data = _as_error(data)
        return b"data: " + data.replace(b"\n", b"\ndata: ") + b"\n\n"


def _is_clean(raw: bytes) -> bool:
    """Whether a piece is made of whole `data: {...}` events and nothing else."""
    blanks = raw.count(b"\n\n")
    return (
        raw.startswith(b"data: {")
        and raw.endswith(b"\n\n")
        and raw.count(b"\n") == 2 * blanks
        and (blanks == 1 or raw.count(b"\n\ndata: {") == blanks - 1)
        and b"\r" not in raw
    )


def _as_error(data: bytes) -> bytes:
    """The data of an `error` event in OpenAI's shape."""
    try:
        body = json.loads(data)
    except ValueError:
        body = {"message": data.decode("utf-8", "replace")}
    if isinstance(body, dict) and body.get("error"):
        return data
    return json.dumps({"error": body if isinstance(body, dict) else {"message": str(body)}}).encode()
