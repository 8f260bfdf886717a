"""Python processes that ttbert starts of itself, for what has to be settled anew or must not stay in memory."""

from __future__ import annotations

import sys


def python_command(program: str, *arguments: str) -> list[str]:
    """The command that runs a program with this process's interpreter, finding modules where this process finds them.

    `python -m` and `python -c` alone look into the current folder first, where a user may keep a numpy.py of their own,
    or a clone that is called ttbert.
    """
    return [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{program}", *arguments]
