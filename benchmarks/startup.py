"""Starting up: what a user waits for before anything happens, each a whole process.

`ttbert --help`, and `ttbert cache ls` over a cache of 100 models, beside the interpreter alone and the import of ttnn, which
every program that uses TT-NN pays. Models of the cache are of BERT-large's shape, and synthetic: see `synthetic.py`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from .inputs import shape_of
from .measure import Case, Clock, compare, environment
from .report import Limit, Report, Table
from .synthetic import fill_cache

_MODELS = 100


def run(folder: Path, small: bool, rounds: int) -> Report:
    models = 5 if small else _MODELS
    shape = shape_of(small)
    cache = fill_cache(folder / f"models-{models}-of-{shape.layers}", models, shape)
    program = [sys.executable, "-m", "ttbert"]
    cases = [
        _case("ttbert --help", [*program, "--help"]),
        _case(f"ttbert cache ls, {models} models", [*program, "cache", "ls", "--cache", str(cache)]),
        _case("import ttnn", [sys.executable, "-c", "import ttnn"]),
        _case("import torch", [sys.executable, "-c", "import torch"]),
        _case("the interpreter", [sys.executable, "-c", "pass"]),
    ]
    *rows, limit = compare(cases, rounds)
    return Report("startup", (Table("starting up, whole processes", tuple(rows), Limit(limit.name, limit.seconds)),))


def run_command(clock: Clock, command: list[str]) -> Any:
    with clock:
        subprocess.run(command, env=environment(), stdout=subprocess.DEVNULL, check=True)


def _case(name: str, command: list[str]) -> Case:
    return Case(name, "startup:run_command", {"command": command})
