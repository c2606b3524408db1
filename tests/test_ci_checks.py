"""Each of the checks that follow the tests can fail."""

from __future__ import annotations

import importlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from router.testing import LoopbackServer, Reply

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".ci" / "checks"
NAMES = ("common", "lock", "advisories", "packages")
HASH = "--hash=sha256:" + "a" * 64
LOCK = f"One_b==1.0 \\\n    {HASH} \\\n    {HASH}\n    # via two\ntwo==2.10.1 ; sys_platform != 'moon' \\\n    {HASH}\n"
OTHER = f"three==3 ; sys_platform == 'moon' {HASH}\n"
PROJECT: dict[str, Any] = {
    "project": {
        "dependencies": ["one-b>=1,<2"],
        "optional-dependencies": {
            "dev": ["multimodel-router[local]", "two[x]>=2.9 ; python_version >= '3.0'"]
        },
    },
    "build-system": {"requires": ["one.b==1"]},
}
ROW = {
    "ids": ["GHSA-x"],
    "package": "Two",
    "affected": "<2.11",
    "source": "https://x.invalid",
    "seen": "2026-01-01",
}


@pytest.fixture(scope="module")
def checks() -> Iterator[Any]:
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in NAMES}
    finally:
        sys.path.remove(str(FOLDER))
        for name in NAMES:
            sys.modules.pop(name, None)


def fails(checks: Any, what: Callable[[], object], said: str) -> None:
    with pytest.raises(checks["common"].CheckError, match=said):
        what()


def test_the_projects_own_lock_is_hashed_and_meets_its_requirements(checks: Any) -> None:
    import tomllib

    locked = checks["lock"].read_lock((ROOT / "requirements.lock").read_text())
    checks["lock"].check_wanted(tomllib.loads((ROOT / "pyproject.toml").read_text()), locked)
    assert len(locked) > 40


def test_a_lock_is_read(checks: Any) -> None:
    locked = checks["lock"].read_lock(LOCK + OTHER)
    assert locked == [("one-b", "1.0"), ("two", "2.10.1")]
    checks["lock"].check_wanted(PROJECT, locked)
    checks["lock"].check_installed(
        locked, {"one-b": "1.0", "two": "2.10.1", "pip": "1", "multimodel-router": "1"}
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("one==1.0\n", "no SHA-256"),
        (f"one==1.0 {HASH[:-1]}\n", "no SHA-256"),
        (f"one==1.0 {HASH} --hash=md5:abc\n", "no SHA-256"),
        (f"one>=1.0 {HASH}\n", "one version"),
        (f"one @ https://x.invalid/one.whl {HASH}\n", "one version"),
        ("-e .\n", "one version"),
        (f"one==1.0 {HASH}\nOne==1.1 {HASH}\n", "twice"),
        (f"one==1.0 ; extra == 'a' {HASH}\n", "not understood"),
    ],
)
def test_a_lock_without_hashes_or_with_anything_but_versions_fails(checks: Any, text: str, said: str) -> None:
    fails(checks, lambda: checks["lock"].read_lock(text), said)


@pytest.mark.parametrize(
    ("installed", "said"),
    [
        ({"one-b": "1.1", "two": "2.10.1"}, "one-b: 1.1 installed, 1.0 locked"),
        ({"two": "2.10.1"}, "one-b: not installed"),
        ({"one-b": "1.0", "two": "2.10.1", "four": "4"}, "four: installed, and not in the lock"),
    ],
)
def test_an_environment_that_is_not_the_locks_fails(
    checks: Any, installed: dict[str, str], said: str
) -> None:
    locked = checks["lock"].read_lock(LOCK)
    fails(checks, lambda: checks["lock"].check_installed(locked, installed), said)


@pytest.mark.parametrize("wanted", ["one-b>1", "one-b>=2", "two<2.9", "two!=2.10.1", "three", "two>=2.10.2"])
def test_a_requirement_that_the_lock_does_not_meet_fails(checks: Any, wanted: str) -> None:
    locked = checks["lock"].read_lock(LOCK)
    project = {**PROJECT, "project": {"dependencies": [wanted]}}
    fails(checks, lambda: checks["lock"].check_wanted(project, locked), "does not give")


def test_what_this_environment_holds_is_told(checks: Any) -> None:
    told = checks["lock"].installed_in(sys.executable)
    assert told["pydantic"] == importlib.import_module("pydantic").VERSION


def test_a_version_in_the_table_fails_unless_it_is_accepted(checks: Any) -> None:
    locked = checks["lock"].read_lock(LOCK)
    table = checks["advisories"].check_table
    fails(checks, lambda: table({"advisory": [ROW]}, locked), "two 2.10.1: GHSA-x|Two 2.10.1: GHSA-x")
    assert table({"advisory": [{**ROW, "accepted": "for a reason"}]}, locked) == {"GHSA-x"}
    assert table({"advisory": [{**ROW, "affected": "<2.10"}]}, locked) == frozenset()
    fails(checks, lambda: table({"advisory": [{**ROW, "source": ""}]}, locked), "no source")


def answering(told: object) -> Reply:
    return Reply(raw=[json.dumps(told).encode()], content_type="application/json")


def url_of(server: LoopbackServer) -> str:
    return f"{server.base_url}/chat/completions"


def test_what_the_online_source_knows_fails_unless_it_is_accepted(
    checks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    locked = checks["lock"].read_lock((ROOT / "requirements.lock").read_text())
    names = [one.name for one in locked]
    clean: list[dict[str, object]] = [{} for _ in names]
    clean[names.index("diskcache")] = {"vulns": [{"id": "GHSA-w8v5-vhqr-4h9v"}]}
    bad = [*clean[:-1], {"vulns": [{"id": "PYSEC-1"}]}]
    with LoopbackServer([answering({"results": clean}), answering({"results": bad})]) as server:
        told = checks["advisories"].check_advisories("", url_of(server))
        assert f"nothing of {len(names)} versions" in told
        fails(checks, lambda: checks["advisories"].check_advisories("", url_of(server)), "PYSEC-1")
        assert [q["package"]["name"] for q in server.requests[0].body["queries"]] == names  # type: ignore[attr-defined]  # JSON


@pytest.mark.parametrize(
    "reply", [Reply(status=500), Reply(fault="html"), answering({"results": []}), answering([])]
)
def test_an_online_source_that_cannot_be_asked_is_told_and_is_no_success(
    checks: Any, monkeypatch: pytest.MonkeyPatch, reply: Reply
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("CI_NEEDS_ADVISORIES", raising=False)
    with LoopbackServer(reply) as server:
        assert checks["advisories"].check_advisories("", url_of(server)).startswith("NOT CHECKED against OSV")
        monkeypatch.setenv("CI_NEEDS_ADVISORIES", "1")
        fails(checks, lambda: checks["advisories"].check_advisories("", url_of(server)), "cannot be asked")


FILES = {
    "router/__init__.py": b"",
    "router/py.typed": b"",
    "router/data/o200k_base.zlib": b"vocabulary",
    "router/data/providers.toml": b"rows",
    "adapters/py.typed": b"",
}
META = {
    "r-1.dist-info/METADATA": b"Name: r\nLicense-Expression: Apache-2.0\n",
    "r-1.dist-info/licenses/LICENSE": b"the licence",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    config = b'[tool.hatch.build.targets.sdist]\ninclude = ["/router", "/adapters", "/LICENSE"]\n'
    ignored = {
        "router/__pycache__/x.cpython-311.pyc": b"x",
        "LICENSE": b"the licence",
        "pyproject.toml": config,
    }
    for name, content in {**FILES, **ignored}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def wheel_of(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "r-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("git", [False, True])
def test_a_wheel_that_holds_the_tree_passes(checks: Any, tree: Path, tmp_path: Path, git: bool) -> None:
    if git:
        subprocess.run(["git", "init", "-q", str(tree)], check=True)
        (tree / ".gitignore").write_text("__pycache__/\n")
    checks["packages"].check_wheel(wheel_of(tmp_path, {**FILES, **META}), tree)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"router/py.typed": None}, "py.typed: missing"),
        ({"router/data/o200k_base.zlib": b"other"}, "o200k_base.zlib: differs"),
        ({"tests/test_x.py": b""}, "tests/test_x.py: not in the tree"),
        ({"router/__pycache__/x.cpython-311.pyc": b"x"}, "not in the tree"),
        ({"r-1.dist-info/licenses/LICENSE": None}, "licence"),
        ({"r-1.dist-info/METADATA": b"Name: r\n"}, "names no licence"),
    ],
)
def test_a_wheel_that_holds_anything_else_fails(
    checks: Any, tree: Path, tmp_path: Path, change: dict[str, bytes | None], said: str
) -> None:
    files = {name: data for name, data in {**FILES, **META, **change}.items() if data is not None}
    fails(checks, lambda: checks["packages"].check_wheel(wheel_of(tmp_path, files), tree), said)


def test_a_wheel_without_what_it_needs_fails_even_if_the_tree_lacks_it(
    checks: Any, tree: Path, tmp_path: Path
) -> None:
    (tree / "router/data/providers.toml").unlink()
    files = {name: data for name, data in {**FILES, **META}.items() if "providers" not in name}
    fails(
        checks, lambda: checks["packages"].check_wheel(wheel_of(tmp_path, files), tree), "lacks .*providers"
    )


@pytest.mark.parametrize("extra", [None, "router/secret.pem"])
def test_a_source_archive_that_holds_anything_else_fails(
    checks: Any, tree: Path, tmp_path: Path, extra: str | None
) -> None:
    path = tmp_path / "r-1.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {
            **FILES,
            "LICENSE": b"the licence",
            "PKG-INFO": b"x",
            extra or "PKG-INFO": b"x",
        }.items():
            member = tarfile.TarInfo(f"r-1/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    if extra is None:
        checks["packages"].check_sdist(path, tree)
    else:
        fails(checks, lambda: checks["packages"].check_sdist(path, tree), "secret.pem: not in the tree")


def test_a_failed_check_is_a_failed_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER), "--python", str(tmp_path / "nothing"), "lock"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "lock: FAILED" in done.stdout


def test_the_checks_follow_the_tests() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert any(line.endswith("python .ci/checks") for line in lines)
