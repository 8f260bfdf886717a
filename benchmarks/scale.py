"""How cost grows: with the layers of a model, for converting and loading it; with the models in a cache, for looking after it.

Layers are BERT-large's. The caches are synthetic, of models with six layers (see `synthetic.py`). All but the load are whole
processes. A cost that is linear, with something constant before it, falls in the last column and never rises.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from .inputs import LARGE, SMALL, make_cache, make_checkpoint
from .load import load_ttbert
from .measure import Case, Clock, compare, environment
from .report import Report, Table
from .synthetic import fill_cache

_LAYERS = {False: (2, 6, 12, 24, 48), True: (1, 2)}
_MODELS = {False: (10, 100, 1_000, 10_000), True: (2, 4)}
_MODEL_LAYERS = 6


def run(folder: Path, small: bool, rounds: int) -> Report:
    shape = SMALL if small else LARGE
    checkpoints = {count: make_checkpoint(folder, replace(shape, layers=count)) for count in _LAYERS[small]}
    converted = {count: make_cache(folder, each) for count, each in checkpoints.items()}
    filled = {
        count: fill_cache(folder / f"models-{count}-of-{_MODEL_LAYERS}", count, replace(shape, layers=_MODEL_LAYERS))
        for count in _MODELS[small]
    }
    works: list[tuple[str, str, str, Mapping[int, object]]] = [
        ("ttbert convert", "layer", "scale:convert", checkpoints),
        ("loading, page cache warm", "layer", "scale:load", converted),
        ("ttbert cache ls", "model", "scale:list_models", filled),
        ("ttbert cache verify --fast", "model", "scale:verify", filled),
        ("ttbert cache gc --dry-run", "model", "scale:plan_pruning", filled),
    ]
    tables = []
    for title, unit, function, places in works:
        cases = [Case(f"{count:,} {unit}s", function, {"place": str(place)}) for count, place in places.items()]
        tables.append(Table(title, tuple(compare(cases, rounds)), grows_by=unit, counts=tuple(places)))
    return Report("scale", tuple(tables))


def convert(clock: Clock, place: str) -> None:
    with tempfile.TemporaryDirectory(dir=Path(place).parent) as cache:
        _run(clock, "convert", place, "--cache", cache)


def load(clock: Clock, place: str) -> None:
    load_ttbert(clock, place)


def list_models(clock: Clock, place: str) -> None:
    _run(clock, "cache", "ls", "--cache", place)


def verify(clock: Clock, place: str) -> None:
    _run(clock, "cache", "verify", "--fast", "--cache", place)


def plan_pruning(clock: Clock, place: str) -> None:
    _run(clock, "cache", "gc", "--dry-run", "--cache", place)


def _run(clock: Clock, *arguments: str) -> None:
    with clock:
        subprocess.run([sys.executable, "-m", "ttbert", *arguments], env=environment(), stdout=subprocess.DEVNULL, check=True)
