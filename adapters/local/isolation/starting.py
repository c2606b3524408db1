"""Starts the process that an engine runs in: a fresh Python that shares nothing with the app but three pipes.

Not `multiprocessing`: its children import the app's main module again, and need one that bears it.
"""

from __future__ import annotations

import multiprocessing.spawn
import os
import subprocess
import sys
from collections.abc import Sequence

__all__ = ["StartError", "start"]

MODULE = "adapters.local.isolation.child"


class StartError(Exception):
    """No process can be started; the text says why."""


def start(keep: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Starts a process that speaks over its standard input and output.

    Args:
        keep: Descriptors that it keeps; all others are closed there.

    Raises:
        StartError: if it cannot be started.
    """
    if getattr(sys, "frozen", False):
        raise StartError("a frozen app has no Python interpreter to start: use isolation='thread'")
    interpreter = multiprocessing.spawn.get_executable()  # sys.executable, unless the app set another
    if not interpreter:
        raise StartError("the path of the Python interpreter is unknown: call multiprocessing.set_executable")
    command = [os.fsdecode(interpreter), "-P", "-m", MODULE]
    # In a process group of its own: Ctrl-C is the app's to hear, and the app's to act on.
    windows = sys.platform == "win32"
    try:
        return subprocess.Popen(  # noqa: S603 - this interpreter, and a module of ours
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=_environment(),
            pass_fds=keep,
            process_group=None if windows else 0,
            creationflags=_NEW_GROUP if windows else 0,
        )
    except (OSError, ValueError) as error:
        raise StartError(f"{interpreter}: {error}") from error


#: `subprocess.CREATE_NEW_PROCESS_GROUP`, which exists on Windows only.
_NEW_GROUP = 0x200


#: What the app's own environment overrides. ggml's backtrace starts a debugger, which may take minutes; an
#: error should be told at once. And OpenMP's threads spin for milliseconds after a step, on cores whose turn
#: is another process's by then: two models at once were 0.6 times as fast as one after the other with its
#: default of 300,000 rounds, 0.98 times with 10,000; one alone was as fast (2 cores, llama.cpp of 2026).
_DEFAULTS = {"GGML_NO_BACKTRACE": "1", "GOMP_SPINCOUNT": "10000"}


def _environment() -> dict[str, str]:
    """The app's, with its import path: what the app can import, the child can."""
    paths = [os.path.abspath(path) for path in sys.path if os.pathsep not in path]  # noqa: PTH100 - "" is the working directory
    return {**_DEFAULTS, **os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
