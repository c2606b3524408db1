"""The README's commands, configuration and figures are what they say they are."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from router import Budget, HostedModel, LocalModel, Policy, Recovery, RouterConfig
from router.catalogue.providers import PROVIDERS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, containing: str) -> str:
    """The code block of a language that contains a text."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return str(next(found for found in blocks if containing in found))


def test_there_are_two_commands_and_each_does_all_its_set_up() -> None:
    commands = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert len(commands) == 2
    quickstart, tests = commands
    assert quickstart.endswith("examples/quickstart.py")
    assert tests.endswith("pytest")
    assert "--require-hashes -r requirements.lock" in tests


def test_ci_runs_the_readmes_own_test_command() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "README.md" in script
    assert "pytest$" in script


def test_the_example_configuration_has_every_key_and_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = block("toml", "[[models]]")
    file = tmp_path / "router.toml"
    file.write_text(text, encoding="utf-8")
    monkeypatch.setenv("MY_KEY", "secret")
    config = RouterConfig.from_file(file)
    assert [model.name for model in config.models] == ["qwen3-4b", "kimi-k2", "mine"]
    assert config.ledger == tmp_path / "router.db"

    data = tomllib.loads(text)
    shown: dict[type[BaseModel], set[str]] = {
        RouterConfig: set(data),
        LocalModel: {"lora", "sha256", "chat_template", "session_dir", *data["models"][0]},
        HostedModel: {"api_key", *data["models"][1], *data["models"][2]},
        Policy: {"utility", *data["policy"]},
        Recovery: set(data["recovery"]),
        Budget: {"task", "model", *data["budget"][0]},
    }
    for declared, keys in shown.items():
        assert set(declared.model_fields) <= keys, declared.__name__


def test_commented_out_keys_are_mentioned() -> None:
    text = block("toml", "[[models]]")
    for key in ("lora", "sha256", "chat_template", "api_key"):
        assert f"{key} = " in text


def test_every_provider_that_the_issue_names_is_in_the_table() -> None:
    named = set(re.findall(r"`([a-z-]+)`", README[README.index("a row of the provider table") :][:600]))
    assert named <= set(PROVIDERS)
    assert {"moonshot", "dashscope", "openrouter", "llama-server"} <= named


def test_nothing_is_left_to_fill_in() -> None:
    assert "@@" not in README


def test_the_python_examples_are_python() -> None:
    for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        ast.parse(code)


def test_the_test_that_it_shows_passes(no_network: list[str]) -> None:
    scope: dict[str, Any] = {}
    exec(block("python", "def test_my_app"), scope)
    scope["test_my_app_survives_an_outage"](no_network)
