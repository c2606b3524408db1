"""What cannot be simulated is refused, with the field that is wrong; what is imported stays light."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from router import HostedModel, simulate
from router.errors import ConfigurationError
from router.simulate import (
    Backend,
    Conversation,
    Outages,
    Poisson,
    PromptCache,
    Recorded,
    Task,
    Workload,
    compare,
    run,
)
from tests.simulate.making import backend, hosted, task, workload

ONE = Task(name="a")


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: run(workload(), ()), "backends"),
        (lambda: run(workload(), (backend("a"), backend("a"))), "backends.1.model.name"),
        (lambda: run(workload(), [backend(), hosted("b")]), "backends.1"),  # type: ignore[list-item]
        (lambda: run(workload(), backend()), "backends"),  # type: ignore[arg-type]
        (lambda: run([workload()], [backend()]), "workload"),  # type: ignore[arg-type]
        (lambda: run(workload(), (backend(),), chooser="bset"), "chooser"),
        (lambda: run(workload(), (backend(),), until=0.0), "until"),
        (lambda: run(workload(), (backend(),), until=float("nan")), "until"),
        (lambda: run(workload(), (backend(),), until=-3.0), "until"),
        (lambda: run(Workload(tasks=(ONE,), arrivals=Poisson(rate=1), requests=None), (backend(),)), "until"),
        (lambda: compare(workload(), (backend(),), choosers=()), "choosers"),
        (lambda: compare(workload(), (backend(),), seeds=()), "seeds"),
        (lambda: Workload(tasks=(), arrivals=Poisson(rate=1)), "tasks"),
        (
            lambda: Workload(tasks=(task(share=0.0), task("b", share=0.0)), arrivals=Poisson(rate=1)),
            "tasks.0.share",
        ),
        (lambda: Workload(tasks=(ONE, ONE), arrivals=Poisson(rate=1)), "tasks.1.name"),
        (lambda: Workload(tasks=(ONE,), arrivals=Poisson(rate=1), requests=0), "requests"),
        (lambda: task(share=-1.0), "share"),
        (lambda: task(share=float("nan")), "share"),
        (lambda: task(output_sigma=50.0), "output_sigma"),
        (lambda: task(prompt_tokens=0.0), "prompt_tokens"),
        (lambda: task(name=""), "name"),
        (lambda: task(otput_tokens=3), "otput_tokens"),
        (lambda: task(needs=frozenset({"telepathy"})), "needs"),
        (lambda: Conversation(turns=0.5), "turns"),
        (lambda: backend(decode=0.0), "decode"),
        (lambda: backend(decode=float("inf")), "decode"),
        (lambda: backend(failure=1.5), "failure"),
        (lambda: backend(slots=0), "slots"),
        (lambda: backend(ttft=-0.1), "ttft"),
        (lambda: backend(verbosity=True), "verbosity"),
        (lambda: backend(failure_kind="tired"), "failure_kind"),
        (lambda: backend(latency_over_time=(3,)), "latency_over_time.0"),
        (lambda: PromptCache(hit=2.0), "hit"),
    ],
)
def test_nonsense_is_refused_with_the_field_named(build: Callable[[], object], field: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build()
    assert caught.value.field == field


@pytest.mark.parametrize("declared", [Backend, Outages, Poisson, Recorded, Task, Workload])
def test_type_checkers_are_told_every_option_with_its_default(declared: Any) -> None:
    source = ast.parse(textwrap.dedent(inspect.getsource(declared)))
    (init,) = (
        node for node in ast.walk(source) if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    )
    assert [argument.arg for argument in init.args.kwonlyargs] == list(declared.model_fields)
    for argument, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True):
        field = declared.model_fields[argument.arg]
        told = None if default is None else eval(ast.unparse(default), {})
        if told is not ...:  # made anew for each
            assert (default is None) == field.is_required(), argument.arg
            assert field.is_required() or told == field.default, argument.arg


def test_the_first_example_runs_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    text = simulate.__doc__ or ""
    code = text.partition("made up::")[2].partition("\nModels, prices")[0]
    exec(textwrap.dedent(code), {})
    shown = capsys.readouterr().out
    assert "answered" in shown
    assert "100.0%" in shown


def test_an_unknown_chooser_is_told_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'cheapest'"):
        run(workload(), (backend(),), chooser="cheepest")


def test_keys_are_neither_needed_nor_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOONSHOT_API_KEY", raising=False)
    kimi = HostedModel("kimi-k2", provider="moonshot", model="kimi-k2-0905-preview")
    report = run(workload(), (Backend(model=kimi),))
    assert report.answered == report.requests
    assert report.cost > 0


def test_a_model_of_unknown_price_is_not_eligible_as_in_the_router() -> None:
    unknown = Backend(model=HostedModel("x", base_url="http://x.invalid/v1"))
    assert run(workload(), (unknown,)).lost == {"not eligible": 10}
    assert run(workload(), (unknown, Backend(model=hosted("y")))).shares["y"] == 1.0


def test_extreme_but_legal_figures_stay_finite() -> None:
    wild = backend(decode=1e-3, prefill=1e-3, noise=5.0, verbosity=1e9, token_ratio=1e9)
    report = run(workload(task(prompt_sigma=5.0, output_sigma=5.0, output_grows=2.0), requests=50), (wild,))
    assert report.requests == 50
    assert report.answered + sum(report.lost.values()) == 50


def test_importing_the_simulator_loads_nothing_heavy_and_the_library_does_not_load_it() -> None:
    code = """
import sys, router
assert not any(name.startswith("router.simulate") for name in sys.modules)
import router.simulate
heavy = ("openai", "llama_cpp", "numpy", "tiktoken", "genai_prices", "sqlite3", "tenacity", "httpx2", "jinja2", "adapters")
found = [name for name in heavy if name in sys.modules]
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_run_opens_no_socket_starts_no_thread_and_loads_no_engine() -> None:
    code = """
import socket, sys, threading
def refuse(*_): raise AssertionError("a socket")
socket.socket.connect = refuse
from router import LocalModel
from router.simulate import Backend, Poisson, Task, Workload, run
engine = Backend(model=LocalModel("engine", path="nowhere.gguf", preload=True), slots=1, load=1.0)
run(Workload(tasks=(Task(name="a"),), arrivals=Poisson(rate=1.0), requests=200), (engine,))
assert threading.active_count() == 1, threading.enumerate()
found = [name for name in ("openai", "llama_cpp", "adapters", "sqlite3", "asyncio.runners_") if name in sys.modules]
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
