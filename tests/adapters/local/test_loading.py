"""Files that are no models, processes that fork, and an end without noise."""

from __future__ import annotations

import asyncio
import hashlib
import random
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from router.errors import ModelLoadError
from tests.adapters.local.conftest import Make, Tiny
from tests.adapters.local.kit import asking, until
from tests.gguf_files import write_gguf

pytestmark = pytest.mark.gguf


async def refusal(make: Make, path: Path, **options: object) -> str:
    with pytest.raises(ModelLoadError) as caught:
        await make(path, **options).complete(asking())
    return str(caught.value)


async def test_a_missing_file_is_named(tmp_path: Path, make: Make) -> None:
    assert "no such file" in await refusal(make, tmp_path / "none.gguf")


async def test_a_directory_is_no_model(tmp_path: Path, make: Make) -> None:
    assert "directory" in await refusal(make, tmp_path)


async def test_another_kind_of_file_is_no_model(tmp_path: Path, make: Make) -> None:
    (tmp_path / "a.gguf").write_bytes(b"PK\x03\x04" + bytes(100))
    assert "no GGUF file" in await refusal(make, tmp_path / "a.gguf")
    (tmp_path / "b.gguf").write_bytes(b"")
    assert "no GGUF file" in await refusal(make, tmp_path / "b.gguf")
    (tmp_path / "c.gguf").write_bytes(b"GGUF\x03")
    assert "ends after 5 bytes" in await refusal(make, tmp_path / "c.gguf")


@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.9, 0.999])
async def test_a_truncated_file_says_so_and_the_process_lives(
    tiny: Tiny, tmp_path: Path, make: Make, share: float
) -> None:
    whole = tiny("qwen3").read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[: int(len(whole) * share)])
    assert "download it again" in await refusal(make, cut)


@pytest.mark.parametrize("place", [8, 16])
async def test_absurd_counts_are_refused(tiny: Tiny, tmp_path: Path, make: Make, place: int) -> None:
    data = bytearray(tiny("qwen3").read_bytes())
    data[place : place + 8] = (2**62).to_bytes(8, "little")
    (tmp_path / "absurd.gguf").write_bytes(data)
    assert "damaged" in await refusal(make, tmp_path / "absurd.gguf")


async def test_an_unknown_architecture_says_what_to_do(tiny: Tiny, tmp_path: Path, make: Make) -> None:
    data = tiny("qwen3").read_bytes().replace(b"qwen3", b"qwen9")
    (tmp_path / "new.gguf").write_bytes(data)
    assert "update llama-cpp-python" in await refusal(make, tmp_path / "new.gguf")


async def test_the_declared_hash_must_be_the_files(tiny: Tiny, make: Make) -> None:
    right = hashlib.sha256(tiny("qwen3").read_bytes()).hexdigest()
    assert "not the declared file" in await refusal(make, tiny("qwen3"), sha256="0" * 64)
    assert (await make(tiny("qwen3"), sha256=right.upper()).complete(asking(max_tokens=2))).usage


async def test_a_lora_that_is_none_is_refused(tiny: Tiny, tmp_path: Path, make: Make) -> None:
    (tmp_path / "lora.gguf").write_bytes(b"nothing of the kind")
    assert "lora.gguf is no GGUF file" in await refusal(make, tiny("qwen3"), lora=tmp_path / "lora.gguf")
    assert "LoRA" in await refusal(make, tiny("qwen3"), lora=tiny("llama"))


async def test_one_failed_load_is_told_to_all_and_tried_again_later(
    tiny: Tiny, tmp_path: Path, make: Make
) -> None:
    adapter = make(tmp_path / "late.gguf")
    outcomes = await asyncio.gather(*(adapter.complete(asking()) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(outcome, ModelLoadError) for outcome in outcomes)
    assert len({id(outcome) for outcome in outcomes}) == 3
    assert not adapter.load().resident
    write_gguf(tmp_path / "late.gguf")
    assert (await adapter.complete(asking(max_tokens=2))).usage
    assert adapter.load().resident


async def test_a_model_loads_on_first_use_or_when_it_is_told_to(tiny: Tiny, make: Make) -> None:
    lazy, eager = make(tiny("qwen3")), make(tiny("qwen3"), preload=True)
    await asyncio.to_thread(until, lambda: eager.load().resident)
    assert not lazy.load().resident


async def test_the_event_loop_goes_on_while_a_model_loads(smollm: Path, make: Make) -> None:
    adapter = make(smollm, n_ctx=512)
    task = asyncio.create_task(adapter.complete(asking(max_tokens=1)))
    turns = 0
    while not task.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert turns > 10


def run(code: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Runs a program of its own: what it prints at its end counts."""
    program = textwrap.dedent(
        """
        import asyncio, os, sys, threading
        from pathlib import Path
        from adapters.local import create
        from router.adapter import AdapterSettings, Call
        from router.models import LocalModel
        from router.request import ChatRequest

        def asking(**params):
            return Call(request=ChatRequest(messages=[{"role": "user", "content": "hi"}], params=params))

        adapter = create(LocalModel("m", path=Path(sys.argv[1])), AdapterSettings())
        """
    ) + textwrap.dedent(code)
    return subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-W",
            "ignore::DeprecationWarning",
            "-W",
            "ignore::ResourceWarning",
            "-c",
            program,
            *map(str, args),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[3],
        check=False,
    )


def test_a_forked_child_refuses_at_once(tiny: Tiny) -> None:
    done = run(
        """
        asyncio.run(adapter.complete(asking(max_tokens=2)))
        child = os.fork()
        if child == 0:
            try:
                asyncio.run(adapter.complete(asking(max_tokens=2)))
            except Exception as error:
                print(type(error).__name__, "forked after the model was loaded" in str(error), adapter.load())
            asyncio.run(adapter.aclose())
            sys.exit(0)
        _, status = os.waitpid(child, 0)
        print(status, asyncio.run(adapter.complete(asking(max_tokens=2))).usage.completion_tokens)
        """,
        tiny("qwen3"),
    )
    assert done.stderr == ""
    assert done.stdout.split("\n")[:2] == [
        "ModelLoadError True Load(resident=False, running=0, waiting=0, full=False, slots=8)",
        "0 2",
    ]


def test_a_fork_before_the_first_load_does_no_harm(tiny: Tiny) -> None:
    done = run(
        """
        child = os.fork()
        if child == 0:
            print(asyncio.run(adapter.complete(asking(max_tokens=2))).usage.completion_tokens, flush=True)
            asyncio.run(adapter.aclose())
            sys.exit(0)
        print(os.waitpid(child, 0)[1])
        """,
        tiny("qwen3"),
    )
    assert (done.stdout, done.stderr) == ("2\n0\n", "")


def test_a_process_ends_quietly_in_the_middle_of_an_answer(smollm: Path) -> None:
    done = run(
        """
        async def main():
            stream = adapter.stream(asking(temperature=0))
            print(bool(await anext(stream)))
            os.environ["LEFT"] = str(stream)
            sys.stream = stream
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        """,
        smollm,
    )
    assert (done.stdout, done.returncode) == ("True\n", 0)
    assert "llama" not in done.stderr
    assert "Fatal" not in done.stderr


def test_loading_and_closing_print_nothing(smollm: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(smollm.read_bytes()[:500_000])
    done = run(
        """
        asyncio.run(adapter.complete(asking(max_tokens=2)))
        bad = create(LocalModel("bad", path=Path(sys.argv[2])), AdapterSettings())
        try:
            asyncio.run(bad.complete(asking(max_tokens=2)))
        except Exception as error:
            assert type(error).__name__ == "ModelLoadError"
        asyncio.run(adapter.aclose())
        assert not [thread for thread in threading.enumerate() if thread is not threading.main_thread()
                    and thread.name != "router-local-bad"], threading.enumerate()
        """,
        smollm,
        tmp_path / "bad.gguf",
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_importing_the_adapter_does_not_import_llama_cpp(tiny: Tiny) -> None:
    done = run(
        "print('llama_cpp' in sys.modules, 'openai' in sys.modules, threading.active_count())", tiny("qwen3")
    )
    assert (done.stdout, done.stderr) == ("False False 1\n", "")


async def test_damaged_headers_never_kill_the_process(tiny: Tiny, tmp_path: Path) -> None:
    """Each damage is tried in a process of its own, several at a time in one."""
    data = tiny("qwen3").read_bytes()
    chance = random.Random(7)
    paths = []
    for number in range(12):
        damaged = bytearray(data)
        for _ in range(4):
            damaged[chance.randrange(24, 12_000)] = chance.randrange(256)
        path = tmp_path / f"damaged-{number}.gguf"
        path.write_bytes(damaged)
        paths.append(path)
    done = await asyncio.to_thread(
        run,
        """
        from router.errors import ModelError
        for name in sys.argv[2:]:
            damaged = create(LocalModel("d", path=Path(name)), AdapterSettings())
            try:
                asyncio.run(damaged.complete(asking(max_tokens=2)))
            except ModelError:
                pass
            asyncio.run(damaged.aclose())
        print("alive")
        """,
        tiny("qwen3"),
        *paths,
    )
    assert done.stdout == "alive\n", done.stderr
    assert threading.active_count() < 20


async def test_a_context_that_no_memory_holds_says_what_to_lower(tiny: Tiny, make: Make) -> None:
    assert "lower n_ctx" in await refusal(make, tiny("qwen3"), n_ctx=2**31 - 1)
