"""Documents in a cache that are damaged, or that somebody made to do harm: each ends in IntegrityError, and soon."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import COMMIT, TINY, open_local, publish

from ttbert.cache.cache import ACTION_SCHEMA, Cache, action_key, manifest_key
from ttbert.cache.digest import Digest, blake3_of
from ttbert.cache.document import LARGEST, canonical
from ttbert.cache.manifest import Manifest, Outline
from ttbert.cache.refs import LogEntry
from ttbert.errors import IncompatibleError, IntegrityError

DIGEST = f"blake3:{'0' * 64}"
TENSOR: dict[str, Any] = {
    "name": "embeddings.word",
    "shape": [32, 32],
    "dtype": "bfloat8_b",
    "layout": "tile",
    "tile": [32, 32],
    "memory": "dram",
    "digest": DIGEST,
    "offset": 0,
    "size": 1024,
}
SECOND: dict[str, Any] = {**TENSOR, "name": "embeddings.position", "offset": 1024, "size": 2048}
MANIFEST: dict[str, Any] = {
    "schema": "ttbert.manifest/2",
    "action": DIGEST,
    "architecture": "BertModel",
    "policy": "bfp8",
    "packs": [{"name": "embeddings", "blob": DIGEST, "size": 3072, "tensors": [TENSOR, SECOND]}],
    "files": [{"name": "config.json", "blob": f"blake3:{'1' * 64}", "size": 10}],
    "provenance": {
        "repo": "someone/tiny",
        "commit": None,
        "sources": [{"name": "model.safetensors", "digest": f"sha256:{'0' * 64}", "size": 1}],
        "versions": {"ttbert": "0"},
    },
}
REF: dict[str, Any] = {
    "schema": "ttbert.ref/2",
    "ref": "someone%2Ftiny@main:bfp8",
    "number": 2,
    "before": DIGEST,
    "means": {"manifest": DIGEST, "repo": "someone/tiny", "commit": COMMIT},
    "created": "2026-01-01T00:00:00+00:00",
}
ACTION: dict[str, Any] = {"schema": ACTION_SCHEMA, "manifest": DIGEST}

Parse = Callable[[bytes, str], object]
DOCUMENTS: list[tuple[Parse, dict[str, Any]]] = [(Manifest.parse, MANIFEST), (LogEntry.parse, REF)]

FIRST = ("packs", 0, "tensors", 0)

NEARLY_TOO_DEEP = (254, 255, 300, 900)
"""Depths that one of the two JSON libraries still reads, or writes, and the other one does not."""

OF_ANY_TYPE = [None, True, 0, -1, 1.5, 10**30, "", "text", [], [1], {}, {"a": 1}, [[[]]], "\ud800", "\x1b[2J", "a\nb"]


def refuse(parse: Parse, content: bytes) -> None:
    start = time.monotonic()
    with pytest.raises(IntegrityError) as caught:
        parse(content, "the/place")
    assert time.monotonic() - start < 5
    assert "the/place" in caught.value.message and caught.value.hint
    assert caught.value.message.isprintable(), "an error must not steer the terminal"
    assert len(caught.value.message) < 500


def paths(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every field and element, however deep."""
    items = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from paths(value, (*path, key))


def changed(document: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    """A copy of a document, changed at one place."""
    copy = json.loads(json.dumps(document))
    parent = copy
    for key in path[:-1]:
        parent = parent[key]
    change(parent, path[-1])
    return copy


def put(value: Any) -> Callable[[Any, Any], None]:
    def change(parent: Any, key: Any) -> None:
        parent[key] = value

    return change


FIELDS = [(parse, document, path) for parse, document in DOCUMENTS for path in paths(document)]
FIELD_IDS = [".".join(map(str, path)) for _, _, path in FIELDS]
ELEMENTS_OF_FREE_LISTS = {("packs", 0), ("files", 0), ("provenance", "sources", 0), ("provenance", "versions", "ttbert")}


@pytest.mark.parametrize("parse,document", DOCUMENTS, ids=["manifest", "ref"])
def test_the_documents_changed_below_are_sound(parse: Parse, document: dict[str, Any]) -> None:
    parse(canonical(document), "here")


@pytest.mark.parametrize("parse,document,path", FIELDS, ids=FIELD_IDS)
def test_a_missing_field_is_refused(parse: Parse, document: Any, path: tuple[Any, ...]) -> None:
    if path in ELEMENTS_OF_FREE_LISTS or path[-2:-1] == ("shape",):
        return  # a list may be shorter
    refuse(parse, canonical(changed(document, path, lambda parent, key: parent.pop(key))))


@pytest.mark.parametrize("parse,document,path", FIELDS, ids=FIELD_IDS)
def test_a_field_of_another_type_is_refused(parse: Parse, document: Any, path: tuple[Any, ...]) -> None:
    before = document
    for key in path:
        before = before[key]
    for value in OF_ANY_TYPE:
        free = (type(value) is type(before) and value not in ("\ud800", "\x1b[2J", "a\nb")) or (
            value is None and path[-1] in ("commit", "tile", "means")
        )
        if not free and not (path[-1] == "commit" and value in ("", "text")):
            refuse(parse, canonical(changed(document, path, put(value))))


@pytest.mark.parametrize("parse,document,path", FIELDS, ids=FIELD_IDS)
def test_an_extra_field_is_refused(parse: Parse, document: Any, path: tuple[Any, ...]) -> None:
    if isinstance(path[-1], str) and path[-2:-1] != ("versions",):
        refuse(parse, canonical(changed(document, path, lambda parent, key: parent.update(extra=1))))


@pytest.mark.parametrize(
    "path,value",
    [
        (("schema",), "ttbert.ref/2"),
        (("schema",), "ttbert.manifest"),
        (("schema",), "ttbert.manifest/x"),
        (("action",), "blake3:" + "0" * 63),
        (("action",), "blake3:" + "A" * 64),
        (("action",), "md5:" + "0" * 64),
        (("action",), DIGEST + "\n"),
        (("action",), "sha256:" + "0" * 64),
        (("packs", 0, "blob"), "sha256:" + "0" * 64),
        (("packs", 0, "blob"), "blake3:../../../../etc/passwd"),
        (("packs", 0, "blob"), f"blake3:{'1' * 64}"),  # which the file has, too, in another size
        (("packs", 0, "size"), 0),
        (("packs", 0, "size"), 3071),
        (("packs", 0, "size"), 3073),
        (("packs", 0, "tensors"), []),
        (("packs", 0, "tensors"), [SECOND]),
        (("packs", 0, "tensors"), [SECOND, TENSOR]),
        (("packs", 0, "name"), "config.json"),
        ((*FIRST, "digest"), "sha256:" + "0" * 64),
        ((*FIRST, "digest"), "blake3:../../../../etc/passwd"),
        ((*FIRST, "size"), -1),
        ((*FIRST, "size"), 1 << 50),
        ((*FIRST, "size"), True),
        ((*FIRST, "size"), 1023),  # a gap
        ((*FIRST, "size"), 1025),  # an overlap
        ((*FIRST, "offset"), 1),
        ((*FIRST, "offset"), -1),
        ((*FIRST, "offset"), False),
        ((*FIRST, "offset"), 0.0),
        (("packs", 0, "tensors", 1, "offset"), 0),
        (("packs", 0, "tensors", 1, "offset"), 1023),
        (("packs", 0, "tensors", 1, "offset"), 1025),
        (("packs", 0, "tensors", 1, "offset"), 1 << 49),
        (("packs", 0, "tensors", 1, "size"), 1 << 49),
        (("packs", 0, "tensors", 1, "name"), "embeddings.word"),
        (("files", 0, "size"), 10**18),
        ((*FIRST, "shape"), []),
        ((*FIRST, "shape"), [0]),
        ((*FIRST, "shape"), [-32, 32]),
        ((*FIRST, "shape"), [True, 32]),
        ((*FIRST, "shape"), [32.0, 32]),
        ((*FIRST, "shape"), [1 << 31]),
        ((*FIRST, "shape"), [1] * 9),
        ((*FIRST, "tile"), []),
        ((*FIRST, "tile"), [32]),
        ((*FIRST, "tile"), [32, 32, 32]),
        ((*FIRST, "tile"), [0, 32]),
        ((*FIRST, "dtype"), "float64"),
        ((*FIRST, "layout"), "TILE"),
        (("provenance", "versions"), {"ttbert": 1}),
        (("provenance", "versions"), {"\x1b[2J": "0"}),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(path: tuple[Any, ...], value: Any) -> None:
    refuse(Manifest.parse, canonical(changed(MANIFEST, path, put(value))))


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../config.json", "/etc/passwd", "a/b", "a\\b", ".hidden", "a\0b", "é", "x" * 201]
)
@pytest.mark.parametrize("place", [("packs", 0), ("files", 0), FIRST], ids=["pack", "file", "tensor"])
def test_names_that_are_no_plain_names_are_refused(place: tuple[Any, ...], name: str) -> None:
    refuse(Manifest.parse, canonical(changed(MANIFEST, (*place, "name"), put(name))))


def test_a_name_that_appears_twice_is_refused() -> None:
    for place in ("packs", "files"):
        for parse in (Manifest.parse, Outline.parse):
            refuse(parse, canonical({**MANIFEST, place: MANIFEST[place] * 2}))


def test_two_packs_may_be_of_the_same_bytes_and_not_of_the_same_tensor_names() -> None:
    (pack,) = MANIFEST["packs"]
    again = {**pack, "name": "again"}
    renamed = {**again, "tensors": [{**each, "name": f"{each['name']}.again"} for each in pack["tensors"]]}
    manifest = Manifest.parse(canonical({**MANIFEST, "packs": [pack, renamed]}), "here")
    assert len(manifest.tensors) == 4 and manifest.size == 3072 + 10
    refuse(Manifest.parse, canonical({**MANIFEST, "packs": [pack, again]}))


def test_an_outline_refuses_all_but_what_is_wrong_with_a_tensor() -> None:
    for path in paths(MANIFEST):
        broken = canonical(changed(MANIFEST, path, put(0.5)))
        if path[:3] == ("packs", 0, "tensors") and len(path) > 3:
            assert len(list(Outline.parse(broken, "here").entries())) == 2
        else:
            refuse(Outline.parse, broken)


@pytest.mark.parametrize("schema", ["ttbert.manifest/1", "ttbert.manifest/3", "ttbert.manifest/999"])
def test_a_manifest_of_another_version_is_said_to_be_one(schema: str) -> None:
    with pytest.raises(IncompatibleError) as caught:
        Manifest.parse(canonical({"schema": schema, "whatever": 1}), "the/place")
    assert caught.value.message == (
        f"the/place: written by another version of ttbert: it is {schema}, and this one reads ttbert.manifest/2"
    )
    assert caught.value.hint == "convert the model again; both results can stay in the cache"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b"{",
        b"NaN",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        *(b"[" * depth + b"]" * depth for depth in NEARLY_TOO_DEEP),
        *(b'{"schema":' * depth + b"1" + b"}" * depth for depth in NEARLY_TOO_DEEP),
        b"9" * 100_000,
        b'{"size":' + b"9" * 100_000 + b"}",
        b"1e999",
        bytes(1000),
    ],
    ids=lambda content: f"{content[:8]!r}x{len(content)}",
)
@pytest.mark.parametrize("parse", [Manifest.parse, LogEntry.parse], ids=["manifest", "ref"])
def test_what_is_no_document_is_refused(parse: Parse, content: bytes) -> None:
    refuse(parse, content)


@pytest.mark.parametrize("parse,document", DOCUMENTS, ids=["manifest", "ref"])
def test_only_the_canonical_form_is_read(parse: Parse, document: dict[str, Any]) -> None:
    content = canonical(document)
    first = min(document)
    for other in (
        content + b"\n",
        b" " + content,
        json.dumps(document).encode(),
        json.dumps(document, indent=1, sort_keys=True).encode(),
        json.dumps(dict(sorted(document.items(), reverse=True)), separators=(",", ":")).encode(),
        content[:-1] + b',"' + first.encode() + b'":' + json.dumps(document[first]).encode() + b"}",  # a field twice
        content.replace(b"ttbert", b"\\u0074tbert", 1),
        content + b"\0",
        content.decode().encode("utf-16"),
        content.decode().encode("utf-32"),
    ):
        assert other != content
        refuse(parse, other)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e400", "1e3", "1.0", "-0"])
def test_odd_numbers_are_refused(text: str) -> None:
    content = canonical(changed(MANIFEST, ("files", 0, "size"), put(123456789))).replace(b"123456789", text.encode())
    refuse(Manifest.parse, content)


@pytest.mark.parametrize("parse,document", DOCUMENTS, ids=["manifest", "ref"])
def test_a_document_cut_off_anywhere_is_refused(parse: Parse, document: dict[str, Any]) -> None:
    content = canonical(document)
    for length in range(len(content)):
        refuse(parse, content[:length])


def test_a_huge_document_is_refused_without_reading_it() -> None:
    refuse(Manifest.parse, b" " * (LARGEST + 1))


def test_a_large_list_of_rubbish_takes_bounded_time() -> None:
    refuse(Manifest.parse, canonical({**MANIFEST, "packs": [0] * 2_000_000}))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_bytes_at_random_never_raise_anything_else(content: bytes) -> None:
    for parse in (Manifest.parse, LogEntry.parse):
        with pytest.raises(IntegrityError):
            parse(content, "here")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_changed_byte_is_refused_or_makes_another_document(data: st.DataObject) -> None:
    content = bytearray(canonical(MANIFEST))
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] = data.draw(st.integers(0, 255).filter(lambda value: value != content[position]))
    try:
        again = Manifest.parse(bytes(content), "here")
    except IntegrityError:
        return
    assert again.to_bytes() == content


# In a cache


def replace_object(cache: Cache, key: str, content: bytes) -> None:
    cache.store.delete(key)
    assert cache.store.put(key, content)


def rubbish() -> list[bytes]:
    deep = [b"[" * 100_000, b"[" * 300 + b"]" * 300]
    return [b"", b"{}", *deep, canonical({**ACTION, "extra": 1}), canonical(REF), b"\xff", b" " * (LARGEST + 2)]


def test_a_damaged_action_is_a_miss_and_is_replaced(tmp_path: Path) -> None:
    cache = open_local(tmp_path)
    cached = publish(cache)
    action = cached.manifest.action
    wrong = [canonical({**ACTION, "manifest": value}) for value in (DIGEST, "sha256:" + cached.digest.hex, "../../x", 5)]
    for content in [*rubbish(), *wrong]:
        replace_object(cache, action_key(action), content)
        assert cache.find(action) is None
        assert publish(cache) == cached
        assert cache.find(action) == cached


def test_an_action_cannot_lead_to_the_manifest_of_another(tmp_path: Path) -> None:
    cache = open_local(tmp_path)
    mine = publish(cache)
    other = cache.publish_manifest(_like(mine.manifest, b"another recipe"))
    replace_object(cache, action_key(mine.manifest.action), canonical({**ACTION, "manifest": str(other.digest)}))
    assert cache.find(mine.manifest.action) is None
    assert publish(cache) == mine and cache.find(mine.manifest.action) == mine


def test_a_damaged_manifest_is_an_integrity_error_that_names_the_file(tmp_path: Path) -> None:
    cache = open_local(tmp_path)
    cached = publish(cache)
    key = manifest_key(cached.digest)
    for content in rubbish():
        replace_object(cache, key, content)
        with pytest.raises(IntegrityError, match=str(tmp_path / key)):
            cache.resolve(TINY)
        assert cache.find(cached.manifest.action) is None


def test_a_manifest_that_bears_its_right_digest_is_checked_all_the_same(tmp_path: Path) -> None:
    """Somebody who may write into the cache can name any bytes by their digest."""
    cache = open_local(tmp_path)
    for content in [*rubbish()[:-1], canonical(changed(MANIFEST, ("files", 0, "name"), put("../../x")))]:
        cache.store.put(manifest_key(blake3_of(content)), content)
        with pytest.raises(IntegrityError):
            cache.manifest(blake3_of(content))


def test_a_damaged_name_is_an_integrity_error_and_is_superseded(tmp_path: Path) -> None:
    cache = open_local(tmp_path)
    cached = publish(cache)
    (entry,) = cache.store.list("refs")
    for content in [*(each for each in rubbish() if each != canonical(REF)), canonical(ACTION)]:
        replace_object(cache, entry.key, content)
        with pytest.raises(IntegrityError, match=entry.key) as caught:
            cache.resolve(TINY)
        assert f"ttbert cache rm {TINY}` forgets the name" in caught.value.hint
    publish(cache)
    assert cache.resolve(TINY) == cached


def test_a_manifest_that_could_not_be_read_back_is_not_published(tmp_path: Path) -> None:
    cache = open_local(tmp_path)
    for repo in ("odd\nname", "\x1b[31mred", "surrogate \udcff"):
        with pytest.raises(IntegrityError, match="control characters"):
            publish(cache, repo=repo)
    assert list(cache.store.list("manifests")) == list(cache.store.list("actions")) == list(cache.list_refs()) == []


def _like(manifest: Manifest, recipe: bytes) -> Manifest:
    return Manifest(
        Digest("blake3", blake3_of(recipe).hex),
        manifest.architecture,
        manifest.policy,
        manifest.packs,
        manifest.files,
        manifest.provenance,
    )
