"""A session_dir that cannot be used is noticed when the model is loaded, not hours later."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from adapters.local.batching.disk.folder import Folder
from tests.adapters.local.batching.kit import engine_of, job_of
from tests.adapters.local.conftest import Tiny


@pytest.mark.gguf
def test_a_file_in_the_folders_place_is_told_once_when_the_model_is_loaded(
    tiny: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "sessions").write_text("not a folder")
    engine = engine_of(tiny("qwen3"), session_dir=tmp_path / "sessions", n_ctx=1024)
    caplog.set_level(logging.WARNING, logger="router.local")
    for prompt in ("hi", "hello " * 300):  # the second one is long enough to be saved
        job, heard = job_of(prompt, 2)
        engine.submit(job)
        assert heard.text is not None
        assert [record.getMessage() for record in caplog.records if "sessions" in record.getMessage()] == [
            f"m: sessions are not saved: [Errno 17] File exists: '{tmp_path / 'sessions'}'"
        ]
    engine.close(wait=20)
    assert (tmp_path / "sessions").read_text() == "not a folder"


@pytest.mark.gguf
def test_a_folder_that_is_not_there_is_made_for_this_user_alone(tiny: Tiny, tmp_path: Path) -> None:
    engine = engine_of(tiny("qwen3"), session_dir=tmp_path / "a" / "sessions", n_ctx=1024)
    job, heard = job_of("hi", 2)
    engine.submit(job)
    assert heard.text is not None
    assert (tmp_path / "a" / "sessions").stat().st_mode & 0o777 == 0o700
    engine.close(wait=20)


def test_a_folder_that_nobody_may_write_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def access(_path: Path, mode: int) -> bool:
        asked.append(mode)
        return False

    monkeypatch.setattr(os, "access", access)  # the one who tests may be root, who may do anything
    with pytest.raises(PermissionError, match="sessions"):
        Folder(tmp_path / "sessions").prepare()
    assert asked[0] & os.W_OK
