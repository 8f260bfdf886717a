"""Feed the readers of hostile bytes with inputs that atheris finds by coverage.

    pip install ttbert[fuzz]
    python tests/fuzz/fuzz.py CORPUS -max_total_time=3600

CORPUS is a folder that keeps what was found; it may be new. What is added are options of libFuzzer. A fault is printed and
kept as `crash-...` in the folder that one is in; give that file as the only argument to see it again.

Bytes changed at random are hardly ever a document. So every other time the document itself is changed: a value anywhere in it
is replaced, removed or repeated, and it is written in canonical form again.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))

with atheris.instrument_imports(
    include=["ttbert.cache", "ttbert.model", "ttbert.recipe", "ttbert.settings", "stored", "targets"]
):
    from targets import seeds, target

    from ttbert.cache.digest import blake3_of
    from ttbert.cache.document import canonical

VALUES: list[Any] = [
    *(None, True, False, "", "x", "\x1b", "\ud800", "..", "a/b", "config.json", "tile", "row_major", "bfloat16", "bfloat8_b"),
    *(0, 1, -1, 2, 31, 32, 1 << 31, (1 << 50) - 1, 1 << 50, 1 << 64, 10**40, 0.5, 1e300),
    *([], {}, [[]], [1], [32, 32], {"": None}, "blake3:" + "0" * 64, "blake3:" + "f" * 64, "sha256:" + "0" * 64),
]


def change(data: bytes, max_size: int, seed: int) -> bytes:
    """Another input made of one: libFuzzer's own way, or by changing the document in it."""
    chance = random.Random(seed)
    if chance.random() < 0.5:
        try:
            document = json.loads(data[1:])
            for _ in range(chance.choice((1, 1, 1, 2, 4))):
                change_document(document, chance)
            changed = data[:1] + canonical(document)
            if len(changed) <= max_size:
                return changed
        except (ValueError, RecursionError):
            pass  # no document, or one with a number that JSON does not have
    return atheris.Mutate(data, max_size)


def change_document(document: Any, chance: random.Random) -> None:
    places = list(places_in(document))
    if not places:
        return
    parent, key = chance.choice(places)
    what = chance.randrange(6)
    if what == 0:
        del parent[key]
    elif what == 1 and isinstance(parent, list):
        parent.insert(key, parent[chance.randrange(len(parent))])
    elif what == 2 and isinstance(parent, dict):
        parent[chance.choice([*parent, "x"])] = parent.pop(key)
    elif what == 3 and isinstance(parent[key], int):
        parent[key] = int(parent[key]) + chance.choice((-1, 1, 384, -384, 1 << 30))
    elif what == 4:
        other, place = chance.choice(places)
        parent[key] = json.loads(json.dumps(other[place]))
    else:
        parent[key] = chance.choice(VALUES)


def places_in(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from places_in(inner)


def main() -> None:
    arguments = sys.argv[1:]
    corpus = Path(arguments[0]) if arguments and not arguments[0].startswith("-") else None
    if corpus and not corpus.is_file():
        corpus.mkdir(parents=True, exist_ok=True)
        for seed in seeds():
            (corpus / f"seed-{blake3_of(seed).short}").write_bytes(seed)
    # An input that takes 5 seconds or 1 GB is a fault, too.
    options = ["-max_len=8192", "-timeout=5", "-rss_limit_mb=1024", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, *arguments], target, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
