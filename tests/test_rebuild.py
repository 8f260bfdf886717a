"""What `ttbert convert --rebuild` promises: the same bytes or an error, damage healed, and nothing right ever replaced."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from forks import Forks
from hub_server import HubServer
from models import blob_path, files, flip_bit, open_local
from program import ttbert
from s3_server import MotoServer

from ttbert.cache.cache import Cache, Cached, blob_key, manifest_key
from ttbert.cache.digest import Digest, blake3_of
from ttbert.cache.manifest import PackEntry, TensorEntry
from ttbert.cache.places import Places
from ttbert.cache.refs import Ref

REF = Ref("local/tiny", None, "bfp8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.write(tmp_path / "tiny", tiny.checkpoint())


def model(cache: Cache) -> Cached:
    found = cache.resolve(REF)
    assert found
    return found


def test_what_comes_out_the_same_is_said_to_be_and_nothing_is_written(forks: Forks, folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = forks.ttbert("convert", folder, "--json", cache=cache).succeeded().document
    assert (first["hit"], first["rebuilt"], first["healed"]) == (False, False, [])
    before = files(cache)
    for option in ((), ("--read-only",)):
        again = forks.ttbert("convert", folder, "--rebuild", "--json", *option, cache=cache).succeeded().document
        assert (again["hit"], again["rebuilt"], again["healed"]) == (True, True, [])
        assert again["manifest"] == first["manifest"] and files(cache) == before
    assert "the very bytes that are stored" in forks.ttbert("convert", folder, "--rebuild", cache=cache).succeeded().out


def test_damaged_and_missing_blobs_are_healed_and_the_damaged_kept(forks: Forks, folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    forks.ttbert("convert", folder, cache=cache).succeeded()
    before = files(cache)
    (first, second, *_), (file, *_) = model(open_local(cache)).manifest.packs, model(open_local(cache)).manifest.files
    damaged = flip_bit(cache / blob_key(first.blob), 600)
    (cache / blob_key(second.blob)).unlink()
    (cache / blob_key(file.blob)).write_bytes(b"")
    forks.ttbert("convert", folder, "--rebuild", "--read-only", cache=cache).failed(9, "for reading only")
    done = forks.ttbert("convert", folder, "--rebuild", cache=cache).succeeded()
    assert f"healed    {file.name}, {first.name}, {second.name}: damaged or missing" in done.out
    after = files(cache)
    kept = [after.pop(path) for path in list(after) if path.startswith("quarantine/")]
    assert sorted(kept) == [b"", damaged] and after == before


def test_another_result_is_an_error_that_names_it_and_replaces_nothing(forks: Forks, folder: Path, tmp_path: Path) -> None:
    """The stored one is sound in all its digests, of this very recipe, and was made wrongly."""
    forks.ttbert("convert", folder, cache=tmp_path / "right").succeeded()
    right, wrong = open_local(tmp_path / "right"), open_local(tmp_path / "wrong")
    manifest = model(right).manifest
    for entry in manifest.entries():
        wrong.publish_blob(right.store.get(blob_key(entry.blob)))
    first = manifest.packs[0]
    content = bytearray(right.store.get(blob_key(first.blob)))
    content[-1] ^= 1
    pack = PackEntry(first.name, wrong.publish_blob(content), _entries(first.tensors, bytes(content)))
    made = wrong.publish_manifest(replace(manifest, packs=(pack, *manifest.packs[1:])))
    wrong.move_ref(REF, made, str(folder), None)
    # What is also damaged there is healed all the same, since what belongs there is known.
    flip_bit(blob_path(tmp_path / "wrong", right.store.get(blob_key(manifest.packs[1].blob))))
    before = files(tmp_path / "wrong")

    assert forks.ttbert("convert", folder, "--json", cache=tmp_path / "wrong").succeeded().document["hit"]
    done = forks.ttbert("convert", folder, "--rebuild", cache=tmp_path / "wrong")
    done.failed(
        7, f"{REF} came out otherwise", f"{first.name} ({first.blob.short}, stored as {pack.blob.short})", "another machine"
    )
    after = files(tmp_path / "wrong")
    assert {path: after[path] for path in before if after[path] != before[path]}.keys() == {blob_key(manifest.packs[1].blob)}
    assert forks.ttbert("convert", folder, "--rebuild", "--json", cache=tmp_path / "wrong").document["error"]["exit_code"] == 7


def _entries(tensors: tuple[TensorEntry, ...], content: bytes) -> tuple[TensorEntry, ...]:
    """The same tensors, of other bytes."""
    made, start = [], 0
    for each in tensors:
        made.append(replace(each, digest=blake3_of(content[start : start + each.size])))
        start += each.size
    return tuple(made)


def test_where_nothing_is_stored_it_is_a_conversion(forks: Forks, folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    done = forks.ttbert("convert", folder, "--rebuild", "--json", cache=cache).succeeded().document
    assert (done["hit"], done["rebuilt"]) == (False, False)
    before = files(cache)
    damaged = flip_bit(cache / manifest_key(Digest.parse(done["manifest"])), 30)
    again = forks.ttbert("convert", folder, "--rebuild", "--json", cache=cache).succeeded().document
    assert (again["hit"], again["manifest"]) == (False, done["manifest"])
    after = files(cache)
    assert [after.pop(path) for path in list(after) if path.startswith("quarantine/")] == [damaged] and after == before


def test_in_a_bucket_what_is_damaged_is_replaced_there_and_here(
    moto: MotoServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    url, local = f"s3://{moto.bucket()}/ttbert", tmp_path / "local"
    ttbert("convert", folder, "--cache", url, "--local", local).succeeded()
    store = Places(url).open().store
    pack = model(Places(url).open()).manifest.packs[1]
    content = store.get(blob_key(pack.blob))
    store.delete(blob_key(pack.blob))
    store.put(blob_key(pack.blob), content[:-1])
    (local / blob_key(pack.blob)).unlink()
    done = ttbert("convert", folder, "--rebuild", "--json", "--cache", url, "--local", local).succeeded()
    assert done.document["healed"] == [pack.name]
    assert store.get(blob_key(pack.blob)) == content == (local / blob_key(pack.blob)).read_bytes()
    (kept,) = store.list("quarantine")
    assert store.get(kept.key) == content[:-1]


def test_a_checkpoint_is_needed_and_a_plan_is_not_enough(folder: Path, tmp_path: Path, hub: HubServer) -> None:
    cache = tmp_path / "cache"
    ttbert("convert", folder, "--rebuild", "--dry-run", "--cache", cache).failed_at_once(2, "--dry-run")
    hub.add("org/tiny", tiny.checkpoint())
    env = hub.env(tmp_path / "hf")
    ttbert("convert", "org/tiny", "--cache", cache, env=env).succeeded()
    shutil.rmtree(tmp_path / "hf")
    assert ttbert("convert", "org/tiny", "--offline", "--cache", cache, env=env).succeeded()
    ttbert("convert", "org/tiny", "--offline", "--rebuild", "--cache", cache, env=env).failed(6, "org/tiny")
