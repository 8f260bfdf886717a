"""What is fed with hostile bytes, and what must hold whatever they are: for the fuzzer, and for quick tests.

Every target is given bytes and says whether it took them. It may refuse them with an error of ours that can be printed;
anything else that it raises is a fault. What it takes must be written again as the very same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from models import TINY, publish

from ttbert.cache.cache import open_cache
from ttbert.cache.digest import blake3_of
from ttbert.cache.document import LARGEST, canonical
from ttbert.cache.keys import parse_public_line
from ttbert.cache.manifest import DTYPES, LAYOUTS, Manifest, TensorEntry
from ttbert.cache.refs import LogEntry
from ttbert.errors import IncompatibleError, InputError, IntegrityError, TtbertError
from ttbert.recipe.recipe import payload_size
from ttbert.recipe.tensorbin import HEADER_SIZE, check_header, header

Target = Callable[[bytes], bool]


def target(data: bytes) -> bool:
    """One of all targets, chosen by the first byte; whether it took the rest."""
    return bool(data) and TARGETS[data[0] % len(TARGETS)](data[1:])


def seeds() -> Iterator[bytes]:
    """Inputs that are taken: a manifest, the entries of a ref, headers, keys; as they are, and for the other targets."""
    cache = open_cache("memory://ttbert-fuzz", accept_weak=True)
    publish(cache)
    cache.remove_ref(TINY)
    found = [cache.store.get(entry.key) for entry in cache.store.list() if entry.key.split("/")[0] in ("manifests", "refs")]
    for shape in ((2,) * outer + (64,) for outer in range(8)):
        sizes = b"".join(each.to_bytes(4, "little") for each in shape)
        found.append(bytes([1, 0, len(shape)]) + sizes + header(shape, "bfloat8_b", "tile"))
        found.append(bytes([0, 1, len(shape)]) + sizes + header(shape, "bfloat16", "row_major"))
    found += [b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHqb8oGiik2JX7Ht1SA/FqjZNELWZo/PNrE6rZV+XB4Q alice"]
    for number in range(len(TARGETS)):
        yield from (bytes([number]) + content for content in found)


def _document(parse: Callable[[bytes, str], Any]) -> Target:
    def check(data: bytes) -> bool:
        document = _refusing(lambda: parse(data, "the/place"))
        if document is None:
            return False
        assert document.to_bytes() == data
        assert parse(document.to_bytes(), "") == document
        return True

    return check


def _rewritten(check: Target) -> Target:
    """The same with the bytes brought into canonical form first, if they are JSON: so that more gets past the first look."""

    def check_rewritten(data: bytes) -> bool:
        try:
            data = canonical(json.loads(data))
        except (ValueError, RecursionError):
            return False
        return len(data) <= LARGEST and check(data)

    return check_rewritten


def _header(data: bytes) -> bool:
    """The first bytes say what the manifest says, the rest is the file."""
    dtype, layout = DTYPES[data[0] % len(DTYPES)] if data else "bfloat16", LAYOUTS[data[1] % 2] if data[1:] else "tile"
    rank = data[2] % 10 if data[2:] else 0
    words, content = data[3 : 3 + 4 * rank], data[3 + 4 * rank :]
    shape = tuple(int.from_bytes(words[i : i + 4], "little") % (1 << 31) or 1 for i in range(0, len(words), 4))
    tile = (32, 32) if layout == "tile" else None
    size = HEADER_SIZE + (payload_size(shape, dtype, layout) if shape else 0)
    entry = TensorEntry("weight", shape, dtype, layout, tile, "dram_interleaved", blake3_of(b""), size)
    if not _refusing(lambda: check_header(content, entry, "the/place") or True):
        return False
    # Read in another way: the payload's size stands at 208, rank and shape at the end.
    assert content[:HEADER_SIZE] == header(shape, dtype, layout)
    assert int.from_bytes(content[208:216], "little") == payload_size(shape, dtype, layout)
    assert b"".join(each.to_bytes(4, "little") for each in (rank, *shape)) in content[320:HEADER_SIZE]
    return True


def _public_key(data: bytes) -> bool:
    key = _refusing(lambda: parse_public_line(data.decode("utf-8", "replace"), "the/place", "name", "hint"))
    if key is None:
        return False
    assert parse_public_line(key.line(), "", "", "") == key and len(key.raw) == 32
    return True


def _refusing(parse: Callable[[], Any]) -> Any:
    """What `parse` gives, or None where it refuses."""
    try:
        return parse()
    except (IntegrityError, IncompatibleError, InputError) as error:
        _check_error(error)
        return None


def _check_error(error: TtbertError) -> None:
    assert len(error.message) < 600 and error.message.isprintable() and error.hint


TARGETS: list[Target] = [
    _document(Manifest.parse),
    _document(LogEntry.parse),
    _rewritten(_document(Manifest.parse)),
    _rewritten(_document(LogEntry.parse)),
    _header,
    _public_key,
]
