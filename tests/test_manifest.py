"""Manifests keep what was put into them, in one canonical form."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from models import TENSORS, open_local, publish

from ttbert.cache.digest import Digest, blake3_of
from ttbert.cache.document import Fields, canonical
from ttbert.cache.manifest import DTYPES, LAYOUTS, FileEntry, Manifest, Outline, PackEntry, Provenance, SourceEntry, TensorEntry
from ttbert.errors import IntegrityError

blake3s = st.binary(min_size=32, max_size=32).map(lambda value: Digest("blake3", value.hex()))
sha256s = st.binary(min_size=32, max_size=32).map(lambda value: Digest("sha256", value.hex()))
names = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,30}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=30)
sizes = st.integers(0, (1 << 48) - 1)
file_sizes = st.integers(0, 256 << 20)
dimensions = st.integers(1, (1 << 31) - 1)
tiles = st.none() | st.tuples(dimensions, dimensions)
shapes = st.lists(dimensions, min_size=1, max_size=8).map(tuple)
tensors = st.builds(TensorEntry, names, shapes, st.sampled_from(DTYPES), st.sampled_from(LAYOUTS), tiles, texts, blake3s, sizes)
sources = st.lists(st.builds(SourceEntry, texts, blake3s | sha256s, sizes), max_size=3).map(tuple)
provenances = st.builds(Provenance, texts, st.none() | texts, sources, st.dictionaries(texts, texts, max_size=3))


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    called = draw(st.lists(names, max_size=6, unique=True))
    blobs = draw(st.lists(blake3s, min_size=len(called), max_size=len(called), unique=True))
    held = draw(st.lists(st.lists(tensors, max_size=3), min_size=len(called), max_size=len(called)))
    held = [[replace(each, name=f"{each.name}.{i}.{j}") for j, each in enumerate(pack)] for i, pack in enumerate(held)]
    entries = list(zip(called, blobs, held, strict=True))  # what holds no tensor is to be a file
    return Manifest(
        action=draw(blake3s),
        architecture=draw(texts),
        policy=draw(texts),
        packs=tuple(PackEntry(name, blob, tuple(pack)) for name, blob, pack in entries if pack),
        files=tuple(FileEntry(name, blob, draw(file_sizes)) for name, blob, pack in entries if not pack),
        provenance=draw(provenances),
    )


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)
documents = st.dictionaries(st.text(max_size=3), values, max_size=4)


@settings(deadline=None)
@given(documents, st.integers(0), st.binary(max_size=3))
def test_only_the_canonical_form_of_a_document_is_read_and_as_python_reads_it(
    document: dict[str, Any], where: int, instead: bytes
) -> None:
    content = canonical(document)
    assert Fields.parse(content, "here").left == document
    at = where % len(content)
    changed = content[:at] + instead + content[at + 1 :]
    with suppress(IntegrityError):
        left = Fields.parse(changed, "here").left
        assert json.loads(changed) == left and canonical(left) == changed


@settings(deadline=None)
@given(manifests())
def test_a_manifest_survives_the_way_through_its_bytes(manifest: Manifest) -> None:
    content = manifest.to_bytes()
    again = Manifest.parse(content, "here")
    assert again == manifest and again.to_bytes() == content
    outline = Outline.parse(content, "here")
    assert outline.blobs == manifest.blobs and outline.size == manifest.size and outline.action == manifest.action
    assert [(each.name, each.blob, each.size) for each in outline.entries()] == [
        (each.name, each.blob, each.size) for each in manifest.entries()
    ]


@settings(deadline=None)
@given(manifests(), manifests())
def test_equal_manifests_and_only_those_have_one_name(one: Manifest, other: Manifest) -> None:
    assert (blake3_of(one.to_bytes()) == blake3_of(other.to_bytes())) is (one == other)


def test_the_order_of_a_dictionary_changes_nothing(tmp_path: Path) -> None:
    manifest = publish(open_local(tmp_path)).manifest
    content = manifest.to_bytes()
    shuffled = dict(reversed(json.loads(content).items()))
    assert canonical(shuffled) == content and content.isascii() and b" " not in content


def test_tensors_lie_in_their_pack_one_after_another(tmp_path: Path) -> None:
    pack = publish(open_local(tmp_path)).manifest.packs[1]
    assert [(tensor.name, tensor.size, offset) for tensor, offset in pack.places()] == [
        ("layer.weight", 1500, 0),
        ("layer.bias", 500, 1500),
    ]
    assert pack.size == 2000 and pack.blob == blake3_of(TENSORS["layer"])
    assert [tensor.digest for tensor in pack.tensors] == [blake3_of(b"l" * 1500), blake3_of(b"l" * 500)]


def test_a_blob_that_two_packs_share_counts_once(tmp_path: Path) -> None:
    manifest = publish(open_local(tmp_path), tensors={"one": TENSORS["head"], "two": TENSORS["head"]}).manifest
    assert len(list(manifest.entries())) == 4 and len(manifest.blobs) == 3
    assert manifest.size == len(TENSORS["head"]) + sum(each.size for each in manifest.files)


def test_files_are_found_by_name(tmp_path: Path) -> None:
    manifest = publish(open_local(tmp_path)).manifest
    assert manifest.file("config.json") == manifest.files[0]
    assert manifest.file("embeddings") is None and manifest.file("") is None
