"""llama.cpp's own server, as xllamacpp packages it, on the chats of `tests.benchmarks.local`.

Run by that benchmark with an interpreter that has xllamacpp: `python local_server.py REQUESTS.json`. The file says
which model, how many slots and threads, and what to ask; printed is a JSON object for each configuration.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Any


def started(asked: dict[str, Any], *, unified: bool) -> Any:
    """A server that has answered once."""
    xllamacpp: Any = import_module("xllamacpp")

    params = xllamacpp.CommonParams()
    params.model.path = asked["model"]
    params.n_parallel = asked["slots"]
    params.n_ctx = asked["n_ctx"]
    params.kv_unified = unified
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = asked["threads"]
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    params.cont_batching = params.cache_prompt = True
    server = xllamacpp.Server(params)
    server.handle_chat_completions({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1})
    return server


def at_once(server: Any, asked: dict[str, Any]) -> tuple[float, list[float]]:
    """Tokens/s of all chats at once, and each one's seconds to the first token."""
    began, firsts, counts = time.perf_counter(), [], []

    def ask(messages: list[dict[str, Any]]) -> None:
        first, count = 0.0, 0

        def heard(data: Any) -> None:
            nonlocal first, count
            for chunk in data if isinstance(data, list) else [data]:
                if chunk.get("choices") and chunk["choices"][0]["delta"].get("content"):
                    first = first or time.perf_counter() - began
                    count += 1

        server.handle_chat_completions(
            {"messages": messages, "max_tokens": asked["tokens"], "temperature": 0, "stream": True}, heard
        )
        firsts.append(first)
        counts.append(count)

    threads = [threading.Thread(target=ask, args=(one,)) for one in asked["chats"]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began), firsts


def main() -> None:
    """Prints what each configuration reached."""
    asked = json.loads(Path(sys.argv[1]).read_text())
    for unified in (False, True):
        server = started(asked, unified=unified)
        rate, firsts = at_once(server, asked)
        print(json.dumps({"unified": unified, "rate": rate, "firsts": firsts}), flush=True)
        del server


if __name__ == "__main__":
    main()
