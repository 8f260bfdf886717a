"""Python processes that ttbert starts of itself, for what has to be settled anew or must not stay in memory."""

from __future__ import annotations

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


def end_with(parent: int, how: int = signal.SIGINT) -> None:
    """Have this process get a signal once the thread that started it has ended, however it did; `parent` is its process.

    For a process in a session of its own, which nothing else would tell, or one that no usual signal ends.
    """
    import ctypes  # which the process that starts others does without

    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, how)
    if os.getppid() != parent:  # it ended before that
        os.kill(os.getpid(), how)
