"""What type checkers are told of the declarations is what pydantic takes."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
from pydantic import BaseModel

from router import HostedModel, LocalModel, RouterConfig, RoutingOptions
from router.testing import ScriptedModel


@pytest.mark.parametrize("declared", [LocalModel, HostedModel, RoutingOptions, RouterConfig, ScriptedModel])
def test_the_signature_for_type_checkers_has_every_field_and_no_other(declared: type[BaseModel]) -> None:
    tree = ast.parse(Path(inspect.getfile(declared)).read_text(encoding="utf-8"))
    body = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == declared.__name__)
    signature = next(n for n in ast.walk(body) if isinstance(n, ast.FunctionDef) and n.name == "__init__")
    names = {argument.arg for argument in (*signature.args.args, *signature.args.kwonlyargs)} - {"self"}
    assert names == set(declared.model_fields)


def test_what_the_readme_passes_is_taken(tmp_path: Path) -> None:
    local = LocalModel("a", path="a.gguf", languages={"en"}, capabilities=["tools"])
    hosted = HostedModel("b", base_url="http://127.0.0.1/v1", api_key="text", headers={"X-Team": "support"})
    config = RouterConfig(models=[local, hosted], ledger=str(tmp_path / "router.db"))
    assert [model.name for model in config.models] == ["a", "b"]
    assert RoutingOptions(models=["a"], exclude=["b"]).models == ("a",)
