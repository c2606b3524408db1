"""What the library hands out, and what it does not load, checked against its own files."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType

import pytest

import adapters
import router
from router import errors

ROOT = Path(router.__file__).parent.parent
HEAVY = (
    "openai",
    "llama_cpp",
    "numpy",
    "tiktoken",
    "genai_prices",
    "sqlite3",
    "tenacity",
    "httpx2",
    "jinja2",
    "adapters",
)

DESIGNED = [
    "Router",
    "AsyncRouter",
    "LocalModel",
    "HostedModel",
    "Price",
    "Policy",
    "Recovery",
    "Budget",
    "RoutingOptions",
    "RoutedCompletion",
    "Decision",
    "RouterConfig",
    "RouterError",
    "ConfigurationError",
    "InvalidRequestError",
    "NoEligibleModelError",
    "BudgetExceededError",
    "OverloadedError",
    "DeadlineExceededError",
    "AllModelsFailedError",
    "RouterClosedError",
    "StreamInterruptedError",
    "ModelError",
    "ModelHTTPError",
    "ModelConnectionError",
    "ModelTimeoutError",
    "ModelProtocolError",
    "ContextWindowExceededError",
    "ModelLoadError",
]

#: Who may import what. `*` stands for one or more letters of a path.
IMPORTERS = {
    "openai": ("router/completion.py", "adapters/*", "router/testing/*", "router/fields.py"),
    "llama_cpp": ("adapters/local/*",),
    "tenacity": ("router/backoff.py",),
    "tiktoken": ("router/vocabulary.py",),
    "genai_prices": ("router/catalogue/prices.py",),
    "httpx2": ("adapters/hosted/*", "router/testing/*"),
    "sqlite3": ("router/ledger/*",),
    "jinja2": ("adapters/local/*",),
}


def test_all_lists_exactly_the_public_names() -> None:
    tree = ast.parse(Path(router.__file__).read_text(encoding="utf-8"))
    handed_on = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("router.")
        for alias in node.names
    }
    assert set(router.__all__) == handed_on
    assert list(router.__all__) == sorted(set(router.__all__))


def test_the_designed_surface_is_there() -> None:
    assert set(DESIGNED) <= set(router.__all__)


@pytest.mark.parametrize("name", router.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert inspect.getdoc(getattr(router, name))


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Routr'"):
        router.Routr  # noqa: B018 - the look-up is the test


def modules(package: ModuleType) -> Iterator[str]:
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        yield found.name


@pytest.mark.parametrize("name", [name for name in modules(router) if "plugin" not in name])
def test_every_module_of_the_library_says_what_it_hands_on(name: str) -> None:
    module = importlib.import_module(name)
    for public in getattr(module, "__all__", ()):
        assert hasattr(module, public), f"{name}.{public}"
    assert module.__doc__


def loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60, cwd=ROOT
    )
    return set(done.stdout.split())


def test_importing_the_library_loads_nothing_heavy() -> None:
    assert not loaded_after("import router") & set(HEAVY)


def test_reading_a_configuration_loads_nothing_heavy(tmp_path: Path) -> None:
    file = tmp_path / "router.toml"
    file.write_text('[[models]]\nname = "m"\nprovider = "openai"\n[[models]]\nname = "l"\npath = "x.gguf"\n')
    code = f"import router; router.RouterConfig.from_file({str(file)!r})"
    assert not loaded_after(code) & set(HEAVY)


def test_deciding_loads_no_sdk() -> None:
    code = (
        "from router import *; from router.testing import ScriptedModel\n"
        "r = Router([ScriptedModel('m')]); r.route(messages=[{'role': 'user', 'content': 'hi'}]); r.close()"
    )
    assert not loaded_after(code) & {"llama_cpp", "numpy", "genai_prices", "tenacity"}


def test_the_error_tree_is_the_one_that_is_drawn() -> None:
    drawn: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.fullmatch(r"    ([│ ]*)(?:[├└]── )?(\w+Error)\b.*", line)
        if found is None:
            continue
        depth = 0 if "──" not in line else len(found[1]) // 4 + 1
        above[depth:] = [found[2]]
        if depth:
            drawn[found[2]] = above[depth - 1]
    real = {
        name: kind.__bases__[0].__name__
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, errors.RouterError) and kind is not errors.RouterError
    }
    assert len(drawn) > 10
    assert drawn == real


def test_every_error_is_public_and_a_wrong_request_is_a_value_error() -> None:
    kinds = {name for name, kind in vars(errors).items() if inspect.isclass(kind) and name.endswith("Error")}
    assert kinds <= set(router.__all__)
    assert issubclass(router.InvalidRequestError, ValueError)


def sources() -> list[Path]:
    return sorted(
        file for package in (router, adapters) for file in Path(package.__file__ or "").parent.rglob("*.py")
    )


def imports(tree: ast.AST, *, everywhere: bool) -> Iterator[str]:
    """Modules that a file imports: when it runs, or only when it is itself imported. Types do not count."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from imports(other, everywhere=everywhere)
        elif everywhere or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports(node, everywhere=everywhere)


@pytest.mark.parametrize("file", sources(), ids=lambda file: file.relative_to(ROOT).as_posix())
def test_only_its_own_modules_import_an_sdk(file: Path) -> None:
    where = file.relative_to(ROOT).as_posix()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for name in imports(tree, everywhere=True):
        top = name.partition(".")[0]
        if top in IMPORTERS:
            assert any(fnmatch(where, pattern) for pattern in IMPORTERS[top]), f"{where} imports {name}"


@pytest.mark.parametrize(
    "file", [file for file in sources() if "adapters" not in file.parts], ids=lambda file: file.name
)
def test_the_library_never_imports_an_adapter_by_itself(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert not [name for name in imports(tree, everywhere=True) if name.partition(".")[0] == "adapters"]
