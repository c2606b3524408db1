"""The size of an image inside a data URL, from its first bytes, for counting tokens."""

from __future__ import annotations

import base64
import binascii
import struct

__all__ = ["image_size"]

#: As much as a JPEG's size may hide behind its metadata; more is not looked at.
_LOOKED_AT = 1 << 16

_JPEG_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})


def image_size(url: str) -> tuple[int, int] | None:
    """Width and height in pixels of a PNG, GIF, WebP or JPEG in a `data:` URL; None if they cannot be told.

    Looks at the first 64 KiB at most, so it takes microseconds whatever the image's size.
    """
    head, comma, _ = url[:256].partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        return None
    start = len(head) + 1
    text = url[start : start + 4 * (_LOOKED_AT // 3)]
    try:
        raw = base64.b64decode(text[: len(text) // 4 * 4])
    except (binascii.Error, ValueError):
        return None
    try:
        return _size(raw)
    except (struct.error, IndexError):
        return None


def _size(raw: bytes) -> tuple[int, int] | None:
    if raw.startswith(b"\x89PNG\r\n\x1a\n"):
        width, height = struct.unpack_from(">II", raw, 16)
    elif raw.startswith((b"GIF87a", b"GIF89a")):
        width, height = struct.unpack_from("<HH", raw, 6)
    elif raw.startswith(b"\xff\xd8"):
        return _jpeg(raw)
    elif raw[:4] == b"RIFF" and raw[8:12] == b"WEBP":
        return _webp(raw)
    else:
        return None
    return (width, height) if width and height else None


def _jpeg(raw: bytes) -> tuple[int, int] | None:
    position = 2
    while raw[position] == 0xFF:  # noqa: PLR2004 - every marker begins with it
        if raw[position + 1] in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", raw, position + 5)
            return (width, height) if width and height else None
        position += 2 + int(struct.unpack_from(">H", raw, position + 2)[0])
    return None


def _webp(raw: bytes) -> tuple[int, int] | None:
    kind = raw[12:16]
    if kind == b"VP8X":
        return int.from_bytes(raw[24:27], "little") + 1, int.from_bytes(raw[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int(struct.unpack_from("<I", raw, 21)[0])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", raw, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None
