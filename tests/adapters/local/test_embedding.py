"""Texts as vectors: the same whoever is with them, normalised, cut to the context, and refused with a reason."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from adapters.local.embedding import Embedder, Pooling
from adapters.local.residency import RESIDENCY
from adapters.local.residency.limits import Room
from router.errors import ModelConnectionError, ModelLoadError
from tests.gguf_embedders import WORDS, write_bert
from tests.gguf_files import write_gguf

pytestmark = pytest.mark.gguf

CHANCE = random.Random(5)
TEXTS = [" ".join(CHANCE.choices(WORDS, k=CHANCE.randint(1, 40))) for _ in range(150)]


@pytest.fixture(scope="module", params=["bert mean", "bert cls", "qwen3 last", "qwen3 mean"])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight model of a kind that sees a text as a whole, or from left to right."""
    kind, _, pooling = request.param.partition(" ")
    path = tmp_path_factory.mktemp("embedders") / f"{kind}.gguf"
    how = gguf.PoolingType[pooling.upper()]
    return write_bert(path, pooling=how) if kind == "bert" else write_gguf(path, "qwen3", pooling=how)


@pytest.fixture
def embedder(file: Path) -> Iterator[Embedder]:
    with Embedder(file, threads=1) as made:
        yield made


class TestVectors:
    def test_a_text_has_the_same_vector_alone_and_among_many(self, embedder: Embedder) -> None:
        together = embedder.embed(TEXTS)
        alone = np.concatenate([embedder.embed([text]) for text in TEXTS])
        assert together.shape == (len(TEXTS), embedder.width)
        assert together.dtype == np.float32
        np.testing.assert_allclose(together, alone, atol=2e-3)
        # The tolerance tells texts apart: no other text's vector is as near.
        distinct = sorted(set(TEXTS))
        vectors = {text: alone[TEXTS.index(text)] for text in distinct}
        for text in distinct[:20]:
            row = together[TEXTS.index(text)]
            assert min(distinct, key=lambda other: float(np.abs(vectors[other] - row).max())) == text

    def test_every_row_is_of_length_one(self, embedder: Embedder) -> None:
        lengths = np.linalg.norm(embedder.embed(TEXTS[:20]), axis=1)
        np.testing.assert_allclose(lengths, 1.0, atol=1e-5)

    def test_the_order_of_the_texts_is_the_order_of_the_rows(self, embedder: Embedder) -> None:
        there = embedder.embed(TEXTS[:30])
        back = embedder.embed(TEXTS[:30][::-1])
        np.testing.assert_allclose(there, back[::-1], atol=2e-3)

    def test_no_texts_have_no_rows(self, embedder: Embedder) -> None:
        assert embedder.embed([]).shape == (0, embedder.width)

    def test_an_empty_text_has_a_row(self, embedder: Embedder) -> None:
        rows = embedder.embed(["", "cat"])
        assert np.isfinite(rows).all()
        assert np.linalg.norm(rows[1]) == pytest.approx(1.0, abs=1e-5)

    def test_a_text_that_names_control_tokens_is_text(self, embedder: Embedder) -> None:
        rows = embedder.embed(["cat [SEP] <|im_end|>", "cat"])
        assert np.abs(rows[0] - rows[1]).max() > 1e-3


class TestLongTexts:
    def test_they_are_cut_and_counted(self, file: Path) -> None:
        with Embedder(file, n_ctx=32, threads=1) as embedder:
            long = "cat " * 500
            rows = embedder.embed([long, "dog", long + "paris"])
            assert embedder.truncated == 2
            np.testing.assert_allclose(rows[0], rows[2], atol=2e-3)  # what differs was cut off
            embedder.embed(["dog"])
            assert embedder.truncated == 2

    def test_the_token_that_ends_a_text_is_not_cut_off(self, tmp_path: Path) -> None:
        """The last token's vector is the text's: it must be the one that the model was trained to end with."""
        path = write_gguf(tmp_path / "last.gguf", "qwen3", pooling=gguf.PoolingType.LAST)
        with Embedder(path, n_ctx=16, threads=1) as embedder:
            assert embedder._tokens("cat " * 100)[-1] == embedder._tokens("dog")[-1]
            assert len(embedder._tokens("cat " * 100)) == 16


class TestPooling:
    def test_it_can_be_chosen(self, tmp_path: Path) -> None:
        path = write_bert(tmp_path / "bert.gguf", pooling=None)
        found: dict[Pooling, np.ndarray] = {}
        poolings: tuple[Pooling, ...] = ("mean", "cls", "last")
        for pooling in poolings:
            with Embedder(path, pooling=pooling, threads=1) as embedder:
                found[pooling] = embedder.embed(["the cat sat on the mat"])[0]
        assert np.abs(found["mean"] - found["cls"]).max() > 1e-2
        assert np.abs(found["last"] - found["cls"]).max() > 1e-2

    def test_a_chat_model_is_refused_unless_a_pooling_is_named(self, tmp_path: Path) -> None:
        path = write_gguf(tmp_path / "chat.gguf", "llama")
        with pytest.raises(ModelLoadError, match="no embedding model"):
            Embedder(path, threads=1)
        with Embedder(path, pooling="mean", threads=1) as embedder:
            assert embedder.embed(["cat"]).shape == (1, embedder.width)

    def test_a_reranker_is_refused(self, tmp_path: Path) -> None:
        path = write_bert(tmp_path / "rank.gguf", pooling=gguf.PoolingType.RANK)
        with pytest.raises(ModelLoadError):
            Embedder(path, threads=1)


class TestLife:
    @pytest.mark.parametrize(
        "content", [None, b"", b"no model at all", b"GGUF\x03\x00\x00\x00" + b"\xff" * 16]
    )
    def test_what_is_no_model_is_refused(self, tmp_path: Path, content: bytes | None) -> None:
        path = tmp_path / "broken.gguf"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ModelLoadError, match=r"broken\.gguf"):
            Embedder(path)

    def test_a_closed_one_says_so(self, file: Path) -> None:
        embedder = Embedder(file, threads=1)
        embedder.close()
        embedder.close()
        with pytest.raises(ModelConnectionError, match="closed"):
            embedder.embed(["cat"])

    def test_threads_may_ask_at_once(self, embedder: Embedder) -> None:
        expected = embedder.embed(TEXTS[:40])
        failures: list[BaseException] = []

        def ask() -> None:
            try:
                np.testing.assert_allclose(embedder.embed(TEXTS[:40]), expected, atol=2e-3)
            except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
                failures.append(error)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failures

    def test_after_a_fork_it_refuses(self, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(ModelLoadError, match="fork"):
            embedder.embed(["cat"])
        monkeypatch.undo()
        assert embedder.embed(["cat"]).shape == (1, embedder.width)


def test_it_is_in_the_books_from_its_making_to_its_end(file: Path) -> None:
    before = RESIDENCY.held()
    with Embedder(file, threads=1):
        assert RESIDENCY.held() - before >= file.stat().st_size // 2
    assert RESIDENCY.held() == before
    with pytest.raises(ModelLoadError):
        Embedder(file.with_name("none.gguf"))
    assert RESIDENCY.held() == before


def test_what_no_room_is_for_is_refused_with_the_numbers(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RESIDENCY, "_room", lambda: Room(total=1 << 20, available=1 << 20))
    before = RESIDENCY.held()
    with pytest.raises(ModelLoadError, match=r"needs .* of memory"):
        Embedder(file, threads=1)
    assert RESIDENCY.held() == before
