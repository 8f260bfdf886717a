"""Manifests keep what was put into them, in one canonical form."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from models import TENSORS, open_local, publish

from ttbert.cache.digest import Digest, blake3_of
from ttbert.cache.document import canonical
from ttbert.cache.manifest import DTYPES, LAYOUTS, FileEntry, Manifest, Provenance, SourceEntry, TensorEntry

blake3s = st.binary(min_size=32, max_size=32).map(lambda value: Digest("blake3", value.hex()))
sha256s = st.binary(min_size=32, max_size=32).map(lambda value: Digest("sha256", value.hex()))
names = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,30}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=30)
sizes = st.integers(0, (1 << 50) - 1)
dimensions = st.integers(1, (1 << 31) - 1)
tiles = st.none() | st.tuples(dimensions, dimensions)
shapes = st.lists(dimensions, min_size=1, max_size=8).map(tuple)
tensors = st.builds(TensorEntry, names, shapes, st.sampled_from(DTYPES), st.sampled_from(LAYOUTS), tiles, texts, blake3s, sizes)
files = st.builds(FileEntry, names, blake3s, sizes)
sources = st.lists(st.builds(SourceEntry, texts, blake3s | sha256s, sizes), max_size=3).map(tuple)
provenances = st.builds(Provenance, texts, st.none() | texts, sources, st.dictionaries(texts, texts, max_size=3))


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    entries = draw(st.lists(tensors | files, max_size=6, unique_by=lambda entry: entry.name))
    return Manifest(
        action=draw(blake3s),
        architecture=draw(texts),
        policy=draw(texts),
        tensors=tuple(each for each in entries if isinstance(each, TensorEntry)),
        files=tuple(each for each in entries if isinstance(each, FileEntry)),
        provenance=draw(provenances),
    )


@settings(deadline=None)
@given(manifests())
def test_a_manifest_survives_the_way_through_its_bytes(manifest: Manifest) -> None:
    content = manifest.to_bytes()
    again = Manifest.parse(content, "here")
    assert again == manifest and again.to_bytes() == content


@settings(deadline=None)
@given(manifests(), manifests())
def test_equal_manifests_and_only_those_have_one_name(one: Manifest, other: Manifest) -> None:
    assert (blake3_of(one.to_bytes()) == blake3_of(other.to_bytes())) is (one == other)


def test_the_order_of_a_dictionary_changes_nothing(tmp_path: Path) -> None:
    manifest = publish(open_local(tmp_path)).manifest
    content = manifest.to_bytes()
    shuffled = dict(reversed(json.loads(content).items()))
    assert canonical(shuffled) == content and content.isascii() and b" " not in content


def test_a_blob_that_two_tensors_share_counts_once(tmp_path: Path) -> None:
    manifest = publish(open_local(tmp_path), tensors={"one": TENSORS["head"], "two": TENSORS["head"]}).manifest
    assert len(list(manifest.entries())) == 4 and len(manifest.blobs()) == 3
    assert manifest.size == len(TENSORS["head"]) + sum(each.size for each in manifest.files)


def test_files_are_found_by_name(tmp_path: Path) -> None:
    manifest = publish(open_local(tmp_path)).manifest
    assert manifest.file("config.json") == manifest.files[0]
    assert manifest.file("embeddings") is None and manifest.file("") is None
