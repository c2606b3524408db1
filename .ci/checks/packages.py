"""The wheel and the source archive: what they hold is the tree, and the wheel works."""

# ruff: noqa: INP001 - a folder that is run, not a package
from __future__ import annotations

import os
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from common import ROOT, CheckError, run

#: Files that a wheel must have, whatever the tree says: without them it is of no use.
NEEDED = ("router/py.typed", "adapters/py.typed", "router/data/o200k_base.zlib", "router/data/providers.toml")
#: Files that hatchling adds to a source archive.
ADDED = frozenset({"PKG-INFO", "pyproject.toml", ".gitignore"})


def tree_of(root: Path, tops: Sequence[str]) -> dict[str, bytes]:
    """The files below some folders, and single files, by path; without what git ignores."""
    if (root / ".git").exists():
        listed = run(["git", "-C", str(root), "ls-files", "-zco", "--exclude-standard", "--", *tops])
        paths = [root / name for name in listed.split("\0") if name]
    else:
        starts = [root / top for top in tops]
        paths = [path for start in starts for path in (start.rglob("*") if start.is_dir() else [start])]
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in paths
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }


def check_same(what: str, held: Mapping[str, bytes], tree: Mapping[str, bytes]) -> None:
    """Compares what a package holds with the tree.

    Raises:
        CheckError: for every file that is missing, too much or different.
    """
    wrong = [f"{name}: missing" for name in tree if name not in held]
    wrong += [f"{name}: not in the tree" for name in held if name not in tree]
    wrong += [f"{name}: differs" for name in tree if name in held and held[name] != tree[name]]
    if wrong:
        raise CheckError(f"the {what} is not the tree:\n  " + "\n  ".join(sorted(wrong)))


def check_wheel(wheel: Path, root: Path) -> None:
    """Compares a wheel with the tree.

    Raises:
        CheckError: if it holds something else, or not what it needs.
    """
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    about = {name for name in held if ".dist-info/" in name}
    check_same("wheel", {n: held[n] for n in held if n not in about}, tree_of(root, ["router", "adapters"]))
    licences = [held[name] for name in about if name.endswith("/licenses/LICENSE")]
    if licences != [(root / "LICENSE").read_bytes()]:
        raise CheckError("the wheel does not hold the licence")
    if missing := [name for name in NEEDED if name not in held]:
        raise CheckError(f"the wheel lacks {', '.join(missing)}")
    if "License-Expression: " not in next(held[n] for n in about if n.endswith("/METADATA")).decode():
        raise CheckError("the wheel's metadata names no licence")


def check_sdist(sdist: Path, root: Path) -> None:
    """Compares a source archive with the tree.

    Raises:
        CheckError: if it holds something else.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text())
    tops = [top.strip("/") for top in project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]]
    held = {}
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None:
                held[member.name.partition("/")[2]] = file.read()
    check_same("source archive", {n: held[n] for n in held if n not in ADDED}, tree_of(root, tops))


#: Run in an environment that holds the wheel alone; the other distributions are reached by PYTHONPATH.
_TRY = """
import pathlib, sys
import adapters.hosted, router
assert pathlib.Path(router.__file__).is_relative_to(sys.prefix), router.__file__
llm = router.Router([router.HostedModel("m", provider="openai", model="gpt-5-mini", api_key="none")])
print(llm.route(messages=[{"role": "user", "content": "How many tokens?"}]).features.prompt_tokens)
"""


def try_wheel(wheel: Path, python: str, folder: Path) -> None:
    """Installs a wheel into an environment of its own, without its requirements, and uses it.

    Raises:
        CheckError: if it cannot be imported from there, or decides nothing.
    """
    home = folder / "environment"
    run([python, "-m", "venv", "--without-pip", str(home)])
    own = next(home.glob("lib/python*/site-packages"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(own)  # noqa: S202 - what pip does with a wheel that brings no scripts
    others = run([python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]).strip()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(own), others])}
    told = run([str(home / "bin" / "python"), "-c", _TRY], env=environment, cwd=folder)
    if not told.strip().isdigit():
        raise CheckError(f"the wheel counts no tokens: {told[:200]!r}")


def check_packages(python: str) -> str:
    """See the module; returns what to print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run([python, "-m", "hatchling", "build", "-d", name], cwd=ROOT)
        (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
        check_wheel(wheel, ROOT)
        check_sdist(sdist, ROOT)
        try_wheel(wheel, python, folder)
        return f"{wheel.name} ({wheel.stat().st_size >> 10} KiB) and {sdist.name} hold what the tree holds"
