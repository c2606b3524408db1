from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from router import vocabulary
from router.catalogue.tables import DATA

ORIGINAL_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"


def shipped() -> bytes:
    return (DATA / "o200k_base.zlib").read_bytes()


def test_the_shipped_vocabulary_is_openais() -> None:
    tokens = vocabulary.unpack(shipped())
    lines = (base64.b64encode(token) + f" {rank}\n".encode() for rank, token in enumerate(tokens))
    assert hashlib.sha256(b"".join(lines)).hexdigest() == ORIGINAL_SHA256


def test_the_readme_names_the_hash_of_the_shipped_file() -> None:
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(shipped()).hexdigest() in readme
    assert ORIGINAL_SHA256 in readme


def test_packing_is_undone_by_unpacking() -> None:
    tokens = vocabulary.unpack(shipped())
    assert vocabulary.unpack(vocabulary.pack(tokens)) == tokens


@pytest.mark.parametrize("damaged", [b"", b"not deflated", zlib.compress(b"\x01\x02\x03"), shipped()[:-20]])
def test_a_damaged_vocabulary_is_refused(damaged: bytes) -> None:
    with pytest.raises(ValueError, match="packed vocabulary"):
        vocabulary.unpack(damaged)


def test_a_missing_vocabulary_says_to_reinstall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "DATA", tmp_path)
    monkeypatch.setattr(vocabulary, "_loaded", None)
    with pytest.raises(RuntimeError, match="reinstall"):
        vocabulary.encoding()


def test_the_word_pattern_is_tiktokens_own() -> None:
    import inspect
    import re

    openai_public = pytest.importorskip("tiktoken_ext.openai_public")
    theirs = "|".join(re.findall(r'r"""(.*?)"""', inspect.getsource(openai_public.o200k_base)))
    assert theirs == vocabulary._PATTERN


def test_loading_needs_neither_network_nor_environment() -> None:
    script = (
        "import socket, os\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "before = dict(os.environ)\n"
        "from router.tokens import count_text\n"
        "assert count_text('hello world') == 2\n"
        "assert dict(os.environ) == before\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
