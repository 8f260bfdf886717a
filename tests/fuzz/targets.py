"""What is fed with hostile bytes, and what must hold whatever they are: for the fuzzer, and for quick tests.

Every target is given bytes and says whether it took them. It may refuse them with an error of ours that can be printed;
anything else that it raises is a fault. What it takes must be written again as the very same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import stored
import tiny
from models import TINY, publish

from ttbert.cache.digest import blake3_of
from ttbert.cache.document import LARGEST, canonical
from ttbert.cache.keys import parse_public_line
from ttbert.cache.lease import Failure
from ttbert.cache.manifest import DTYPES, LAYOUTS, Manifest, TensorEntry
from ttbert.cache.places import Places
from ttbert.cache.refs import LogEntry
from ttbert.cache.stores.store import is_key
from ttbert.cache.trust import find_signature_problem
from ttbert.errors import CheckpointError, IncompatibleError, InputError, IntegrityError, TtbertError
from ttbert.model import parse_config
from ttbert.recipe.recipe import payload_size
from ttbert.recipe.tensorbin import HEADER_SIZE, check_header, header
from ttbert.settings import KINDS, parse_settings

Target = Callable[[bytes], bool]


def target(data: bytes) -> bool:
    """One of all targets, chosen by the first byte; whether it took the rest."""
    return bool(data) and TARGETS[data[0] % len(TARGETS)](data[1:])


def seeds() -> Iterator[bytes]:
    """Inputs that are taken: a manifest, the entries of a ref, headers, keys; as they are, and for the other targets."""
    cache = Places("memory://ttbert-fuzz", accept_weak=True).open()
    publish(cache)
    cache.remove_ref(TINY)
    found = [cache.store.get(entry.key) for entry in cache.store.list() if entry.key.split("/")[0] in ("manifests", "refs")]
    for shape in ((2,) * outer + (64,) for outer in range(8)):
        sizes = b"".join(each.to_bytes(4, "little") for each in shape)
        found.append(bytes([1, 0, len(shape)]) + sizes + header(shape, "bfloat8_b", "tile"))
        found.append(bytes([0, 1, len(shape)]) + sizes + header(shape, "bfloat16", "row_major"))
    found += [b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHqb8oGiik2JX7Ht1SA/FqjZNELWZo/PNrE6rZV+XB4Q alice"]
    found += [b"\n".join(content for content in found if b"ttbert.ref/" in content), *stored.seeds(), *_signatures()]
    found += [b'cache = "s3://lab/ttbert"\nread_only = true\n', canonical(tiny.config())]
    for number in range(len(TARGETS)):
        yield from (bytes([number]) + content for content in found)


def _signatures() -> Iterator[bytes]:
    """One that is right, by a key made of zeros."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key, what = Ed25519PrivateKey.from_private_bytes(bytes(32)), blake3_of(b"manifest")
    name = f"signatures/manifest/{what.hex}/{key.public_key().public_bytes_raw().hex()}"
    yield name.encode() + b"\n" + key.sign(f"ttbert.signature/1\nmanifest\n{what}\n".encode())


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
    except (CheckpointError, IntegrityError, IncompatibleError, InputError) as error:
        _check_error(error)
        return None


def _check_error(error: TtbertError) -> None:
    assert len(error.message) < 600 and error.message.isprintable() and error.hint


def _settings(data: bytes) -> bool:
    found = _refusing(lambda: parse_settings(data.decode("utf-8", "replace"), Path("config.toml")))
    if found is None:
        return False
    assert all(type(value) is KINDS[name] for name, value in found.items())
    return True


def _config(data: bytes) -> bool:
    shape = _refusing(lambda: parse_config(data, "config.json"))
    if shape is None:
        return False
    assert shape.hidden % 32 == shape.intermediate % 32 == shape.head_size % 32 == 0 and shape.heads % shape.spread == 0
    return True


def _signature(data: bytes) -> bool:
    """The key of the object is what comes before the first line ends."""
    key, content = data.partition(b"\n")[0].decode("utf-8", "replace"), data.partition(b"\n")[2]
    return is_key(key) and _refusing(lambda: [find_signature_problem(key, content)]) == [None]


def _stored(read: Target) -> Target:
    return lambda data: bool(_refusing(lambda: read(data)))


TARGETS: list[Target] = [
    _document(Manifest.parse),
    _document(LogEntry.parse),
    _rewritten(_document(Manifest.parse)),
    _rewritten(_document(LogEntry.parse)),
    _header,
    _public_key,
    _document(Failure.parse),
    _settings,
    _config,
    _signature,
    *map(
        _stored,
        (stored.record, stored.reprieve, stored.sweeping, stored.holder, stored.action, stored.history, stored.name),
    ),
]
