"""Python processes that ttbert starts of itself, for what has to be settled anew or must not stay in memory."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


def python_command(program: str, *arguments: str) -> list[str]:
    """The command that runs a program with this process's interpreter, finding modules where this process finds them.

    `python -m` and `python -c` alone look into the current folder first, where a user may keep a numpy.py of their own,
    or a clone that is called ttbert.
    """
    return [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{program}", *arguments]


def end_with(parent: int) -> None:
    """Have this process interrupted when the thread of `parent`, a process's number, that started it has ended, however it did.

    For a process in a session of its own, which nothing else would tell.
    """
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGINT)
    if os.getppid() != parent:  # it ended before that
        os.kill(os.getpid(), signal.SIGINT)
