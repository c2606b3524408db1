"""What images, recordings and files in a prompt count as, in tokens, by what is written about them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from router.images import image_size

__all__ = ["FILE_PAGE", "IMAGE_UNKNOWN", "is_medium", "media_tokens"]

#: OpenAI's "Images and vision" guide: a low-detail image costs 85 tokens; a high-detail one is fitted into
#: 2048 x 2048, then to a shorter side of 768, and costs 85 and 170 for each tile of 512 x 512.
IMAGE_BASE = 85
IMAGE_TILE = 170
#: Assumption: an image of unknown size is one of 1024 x 1024 (four tiles).
IMAGE_UNKNOWN = IMAGE_BASE + 4 * IMAGE_TILE
#: OpenAI's "Audio" guide: 10 tokens for a second of speech. Assumption: 16 kB a second, 128 kbit/s.
AUDIO_PER_SECOND = 10
AUDIO_BYTES_PER_SECOND = 16_000
#: Assumption: a page of a document is 1,500 tokens (half text, half picture) and 100 kB.
FILE_PAGE = 1500
FILE_PAGE_BYTES = 100_000


def is_medium(part: Mapping[str, object]) -> bool:
    """Whether a part of a message's content is an image, a recording or a file."""
    kind = part.get("type")
    return isinstance(kind, str) and kind in _MEDIA


def media_tokens(part: Mapping[str, object]) -> tuple[int, bool]:
    """Tokens of a part that `is_medium`, and whether its size was known."""
    kind = str(part["type"])
    body = part.get(kind)
    fields: Mapping[str, object] = body if isinstance(body, Mapping) else {}
    return _MEDIA[kind](fields)


def _image_tokens(image: Mapping[str, object]) -> tuple[int, bool]:
    url = image.get("url")
    if image.get("detail") == "low":
        return IMAGE_BASE, True
    size = image_size(url) if isinstance(url, str) else None
    if size is None:
        return IMAGE_UNKNOWN, False
    width, height = size
    fit = min(1.0, 2048 / max(width, height))
    fit *= min(1.0, 768 / (min(width, height) * fit))
    tiles = math.ceil(width * fit / 512) * math.ceil(height * fit / 512)
    return IMAGE_BASE + IMAGE_TILE * tiles, True


def _audio_tokens(audio: Mapping[str, object]) -> tuple[int, bool]:
    size = _decoded_bytes(audio.get("data"))
    return math.ceil(AUDIO_PER_SECOND * size / AUDIO_BYTES_PER_SECOND), False


def _file_tokens(file: Mapping[str, object]) -> tuple[int, bool]:
    return FILE_PAGE * max(1, math.ceil(_decoded_bytes(file.get("file_data")) / FILE_PAGE_BYTES)), False


_MEDIA = {"image_url": _image_tokens, "input_audio": _audio_tokens, "file": _file_tokens}


def _decoded_bytes(data: object) -> int:
    """About how many bytes a base64 text stands for."""
    return len(data) * 3 // 4 if isinstance(data, str) else 0
