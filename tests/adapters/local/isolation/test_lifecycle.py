"""The engine's process belongs to the app's: it ends with it, and hears nothing that is meant for it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.adapters.local.conftest import Tiny
from tests.adapters.local.isolation.conftest import Ear, job, opened, pid_of
from tests.adapters.local.kit import until
from tests.helpers import run_script

pytestmark = [
    pytest.mark.gguf,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are another matter on this system"),
]

BEGIN = """
import asyncio, os, signal, sys, time
from pathlib import Path
from adapters.local import create
from router.adapter import AdapterSettings, Call
from router.models import LocalModel
from router.request import ChatRequest

def asking(**params):
    return Call(request=ChatRequest(messages=[{"role": "user", "content": "hi"}], params=params))

adapter = create(LocalModel("m", path=Path(sys.argv[1]), n_ctx=8192, isolation="process"), AdapterSettings())
asyncio.run(adapter.complete(asking(max_tokens=2)))
print(adapter._engine.pid, flush=True)
"""


def run(rest: str, *arguments: object, begin: str = BEGIN) -> list[str]:
    done = run_script(begin + rest, *map(str, arguments))
    assert done.stderr == ""
    return done.stdout.split()


def is_gone(pid: int | str) -> bool:
    try:
        return psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_it_ends_with_an_interpreter_that_ends(tiny: Tiny) -> None:
    (pid,) = run("", tiny("qwen3"))
    assert is_gone(pid)


def test_it_ends_with_an_interpreter_that_ends_in_the_middle_of_an_answer(tiny: Tiny) -> None:
    rest = """
async def main():
    stream = adapter.stream(asking(max_tokens=7000))
    await anext(stream)
    sys.stream = stream
asyncio.new_event_loop().run_until_complete(main())
"""
    (pid,) = run(rest, tiny("qwen3"))
    assert is_gone(pid)


@pytest.mark.parametrize("busy", [False, True])
def test_it_ends_when_the_app_is_killed(tiny: Tiny, *, busy: bool) -> None:
    rest = """
async def main():
    stream = adapter.stream(asking(max_tokens=7000))
    await anext(stream)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    (pid,) = run(rest + ("asyncio.run(main())" if busy else "os.kill(os.getpid(), 9)"), tiny("qwen3"))
    until(lambda: is_gone(pid))


def test_it_ends_when_the_app_is_killed_though_a_fork_of_the_app_lives_on(tiny: Tiny) -> None:
    rest = """
child = os.fork()
if not child:
    for stream in (0, 1, 2):
        os.close(stream)  # the test waits for them to end
    time.sleep(30)
    os._exit(0)
print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    pid, fork = run(rest, tiny("qwen3"))
    try:
        until(lambda: is_gone(pid))
        assert not is_gone(fork)
    finally:
        os.kill(int(fork), signal.SIGKILL)


def test_a_fork_of_the_app_refuses_at_once_and_the_app_goes_on(tiny: Tiny) -> None:
    rest = """
child = os.fork()
if not child:
    try:
        asyncio.run(adapter.complete(asking(max_tokens=2)))
    except Exception as error:
        print(type(error).__name__, "forked" in str(error), adapter.load().resident, flush=True)
    asyncio.run(adapter.aclose())
    sys.exit(0)
print(os.waitpid(child, 0)[1], asyncio.run(adapter.complete(asking(max_tokens=2))).usage.completion_tokens)
print(adapter._engine.pid)
"""
    pid, *told = run(rest, tiny("qwen3"))
    assert told == ["ModelLoadError", "True", "False", "0", "2", pid]


def test_a_fork_before_the_first_request_does_no_harm(tiny: Tiny) -> None:
    begin = BEGIN.replace("asyncio.run(adapter.complete(asking(max_tokens=2)))\n", "", 1).replace(
        "print(adapter._engine.pid, flush=True)\n", ""
    )
    rest = """
child = os.fork()
print(asyncio.run(adapter.complete(asking(max_tokens=2))).usage.completion_tokens, flush=True)
if child:
    print(os.waitpid(child, 0)[1])
"""
    assert run(rest, tiny("qwen3"), begin=begin) == ["2", "2", "0"]


def test_an_interrupt_is_not_for_it(tiny: Tiny, engines: Any) -> None:
    engine = engines(tiny("qwen3"))
    opened(engine)
    pid = pid_of(engine)
    assert os.getpgid(pid) != os.getpgid(0)  # the terminal does not interrupt it
    os.kill(pid, signal.SIGINT)
    for _ in range(2):
        ear = Ear()
        engine.submit(job(ear, max_tokens=3))
        until(lambda ear=ear: ear.over)  # type: ignore[misc]  # mypy cannot infer a lambda's default
        assert ear.error is None
    assert pid_of(engine) == pid


def test_it_reads_nothing_of_the_apps_input_and_holds_none_of_its_files(
    tiny: Tiny, engines: Any, tmp_path: Path
) -> None:
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        engine = engines(tiny("qwen3"))
        opened(engine)
        process = psutil.Process(pid_of(engine))
        assert str(tmp_path / "open") not in [held.path for held in process.open_files()]
        assert process.net_connections() == []
    if sys.platform == "linux":
        assert (Path("/proc") / str(process.pid) / "fd" / "0").resolve() == Path(os.devnull)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's own")
def test_when_memory_runs_out_it_is_taken_before_the_app(tiny: Tiny, engines: Any) -> None:
    engine = engines(tiny("qwen3"))
    opened(engine)
    own, theirs = (
        int((Path("/proc") / str(pid) / "oom_score_adj").read_text()) for pid in (os.getpid(), pid_of(engine))
    )
    assert theirs > own


def test_the_apps_main_module_is_not_run_again(tiny: Tiny, tmp_path: Path) -> None:
    script = tmp_path / "app.py"
    script.write_text('print("main", flush=True)\n' + BEGIN)
    rest = "import runpy; sys.argv[0] = sys.argv[2]; runpy.run_path(sys.argv[2], run_name='__main__')"
    told = run(f"import sys\n{rest}", tiny("qwen3"), script, begin="")
    assert told[0] == "main"
    assert len(told) == 2


def test_what_the_app_can_import_the_child_can(tiny: Tiny, tmp_path: Path) -> None:
    """Even where the import path was changed at run time, and the working directory has odd names."""
    (tmp_path / "json.py").write_text("raise ImportError('shadowed')\n")
    begin = f"import os, sys, json\nsys.path = [os.path.abspath(p) for p in sys.path if p]\nos.chdir({str(tmp_path)!r})\n{BEGIN}"
    (pid,) = run("", tiny("qwen3"), begin=begin)
    assert is_gone(pid)


def test_native_code_is_not_even_loaded_into_the_app(tiny: Tiny) -> None:
    assert run("print('llama_cpp' in sys.modules)", tiny("qwen3"))[1:] == ["False"]


def test_the_apps_environment_is_its_environment(
    tiny: Tiny, engines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "777")
    monkeypatch.delenv("GGML_NO_BACKTRACE", raising=False)
    engine = engines(tiny("qwen3"))
    opened(engine)
    environment = psutil.Process(pid_of(engine)).environ()
    assert (environment["GOMP_SPINCOUNT"], environment["GGML_NO_BACKTRACE"]) == ("777", "1")
