"""Packs that are written before it is known that they are wanted: seen by nobody until they are, and gone if they are not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tiny
from forks import Forks
from models import flip_bit, open_local
from program import command, environment, objects, ttbert
from s3_server import MotoServer

from ttbert.cache.cache import Cache, blob_key
from ttbert.cache.digest import blake3_of
from ttbert.cache.places import Places
from ttbert.cache.stores.local import LocalStore
from ttbert.cache.tiered_cache import TieredCache
from ttbert.convert.convert import Plan, plan_conversion
from ttbert.convert.digests import notes_folder
from ttbert.convert.maker import Maker
from ttbert.convert.publisher import Publisher
from ttbert.convert.wanted import Wanted
from ttbert.errors import CheckpointError, NoSpaceError, StoreUnavailable

KILLED = -signal.SIGKILL
CONTENT = bytes(range(256)) * 40
LAYERS = 20
"""So many that there are more packs than the maker holds at once."""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    deep = tiny.checkpoint(tiny.arrays(layers=LAYERS), num_hidden_layers=LAYERS)
    return plan_conversion(Wanted(str(tiny.write(tmp_path_factory.mktemp("deep") / "deep", deep))))


@contextmanager
def publisher(plan: Plan, cache: Cache) -> Iterator[Publisher]:
    with (
        Maker(plan.source, plan.recipe, lambda entry: None, lambda text: None) as maker,
        Publisher(maker, cache) as started,
    ):
        started.start(drafts=cache.drafts is not None)
        yield started


def wait_for_drafts(started: Publisher) -> None:
    wait(started._written)


# A draft


def test_a_draft_is_no_blob_until_it_is_published(cache: Cache) -> None:
    draft = cache.draft_blob(CONTENT)
    assert draft.digest == blake3_of(CONTENT)
    assert not [*cache.store.list()] and sum(entry.size for entry in cache.store.debris()) == len(CONTENT)
    draft.publish()
    assert cache.store.get(blob_key(draft.digest)) == CONTENT
    draft.close()
    assert len([*cache.store.list()]) == 1 and not [*cache.store.debris()]


def test_a_draft_that_is_closed_leaves_nothing(cache: Cache) -> None:
    draft = cache.draft_blob(CONTENT)
    draft.close()
    assert not [*cache.store.list()] and not [*cache.store.debris()]


def test_the_age_of_a_draft_begins_when_it_is_published(cache: Cache) -> None:
    draft = cache.draft_blob(CONTENT)
    key = blob_key(draft.digest)
    # What was deleted meanwhile may still be condemned, with all that is older.
    cache.store.put("probes/later", b"")
    later = cache.store.head("probes/later")
    draft.publish()
    published = cache.store.head(key)
    assert later and published and published.modified >= later.modified


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_draft_of_what_was_published_meanwhile_heals_it_if_need_be(cache: Cache, is_damaged: bool) -> None:
    draft = cache.draft_blob(CONTENT)
    key = blob_key(cache.publish_blob(CONTENT))
    if is_damaged:
        flip_bit(Path(cache.store.url, key))
    draft.publish()
    draft.close()
    assert cache.store.get(key) == CONTENT
    assert len([*cache.store.list("quarantine")]) == is_damaged and not [*cache.store.debris()]


def test_a_draft_that_somebody_deletes_is_an_error_and_publishes_nothing(cache: Cache) -> None:
    draft = cache.draft_blob(CONTENT)
    (entry,) = cache.store.debris()
    assert cache.store.remove_debris(entry)
    with pytest.raises(StoreUnavailable):
        draft.publish()
    draft.close()
    assert not [*cache.store.list()] and not [*cache.store.debris()]


def test_there_are_drafts_only_on_a_disk_of_this_machine(tmp_path: Path) -> None:
    assert Places(str(tmp_path / "cache")).open().drafts
    assert not Places("memory://drafts").open().drafts
    assert not Places(str(tmp_path / "cache"), read_only=True).open().drafts
    assert not TieredCache(LocalStore(tmp_path / "far"), LocalStore(tmp_path / "near")).drafts


# The packs of a model


def test_packs_are_written_before_they_are_wanted_and_seen_only_then(plan: Plan, cache: Cache, tmp_path: Path) -> None:
    with publisher(plan, cache) as started:
        wait_for_drafts(started)
        assert not [*cache.store.list()] and len([*cache.store.debris()]) == len(plan.recipe.packs) > 40
        packs = started.publish()
    assert [pack.name for pack in packs] == [pack.name for pack in plan.recipe.packs]
    assert {entry.key: entry.size for entry in cache.store.list()} == {blob_key(pack.blob): pack.size for pack in packs}
    assert all(cache.hash(blob_key(pack.blob)) == (pack.blob, pack.size) for pack in packs)
    assert not [*cache.store.debris()]


def test_packs_that_nobody_wants_are_gone(plan: Plan, cache: Cache, tmp_path: Path) -> None:
    with publisher(plan, cache) as started:
        wait_for_drafts(started)
    assert not objects(Path(cache.store.url))
    with publisher(plan, open_local(tmp_path / "at once")):
        pass
    assert not objects(tmp_path / "at once")


def test_where_there_are_no_drafts_packs_wait_in_memory(plan: Plan) -> None:
    cache = Places("memory://waiting", accept_weak=True).open()
    with publisher(plan, cache) as started:
        assert not [*cache.store.list()]
        packs = started.publish()
    assert {entry.key for entry in cache.store.list()} == {blob_key(pack.blob) for pack in packs}
    with publisher(plan, Places("memory://unwanted").open()):
        pass


def test_packs_that_cannot_be_made_are_an_error_when_they_are_wanted(tmp_path: Path, cache: Cache) -> None:
    bad = {name: np.full_like(array, np.nan) for name, array in tiny.arrays(layers=LAYERS).items()}
    folder = tiny.write(tmp_path / "bad", tiny.checkpoint(bad, num_hidden_layers=LAYERS))
    with pytest.raises(CheckpointError, match="NaN"), publisher(plan_conversion(Wanted(str(folder))), cache) as started:
        wait_for_drafts(started)
        started.publish()
    assert not objects(Path(cache.store.url))


def test_packs_that_do_not_fit_are_an_error_when_they_are_wanted(plan: Plan, small_disk: Path) -> None:
    with pytest.raises(NoSpaceError), publisher(plan, open_local(small_disk)) as started:
        wait_for_drafts(started)
        started.publish()
    assert not [path for path in objects(small_disk) if "/." in path]


# A whole conversion, of weights that were not met before


def test_packs_are_written_while_the_weights_are_hashed(tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "tiny", tiny.checkpoint())
    packs = len(plan_conversion(Wanted(str(folder))).recipe.packs)
    add_pooler(folder / "model.safetensors", 1 << 40)  # which takes minutes to hash
    store = LocalStore(tmp_path / "cache")
    end = time.monotonic() + 60
    with subprocess.Popen(command("convert", folder, "--cache", tmp_path / "cache"), env=environment()) as process:
        while len([*store.debris()]) < packs and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        written = len([*store.debris()])
        assert process.poll() is None
        process.kill()
    assert written == packs


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose weights are so large that their digest is noted."""
    weights = tiny.arrays(layers=1)
    weights["bert.embeddings.word_embeddings.weight"] = np.random.default_rng(0).random((70_000, tiny.HIDDEN), np.float32)
    wide = tiny.checkpoint(weights, num_hidden_layers=1, vocab_size=70_000)
    return tiny.write(tmp_path_factory.mktemp("wide") / "wide", wide)


def add_pooler(weights: Path, size: int) -> None:
    """Let a file of weights end in so many bytes of nothing, in a tensor that is not converted."""
    content = weights.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    header["bert.pooler.dense.weight"] = {"dtype": "F32", "shape": [size // 4], "data_offsets": [len(data), len(data) + size]}
    start = json.dumps(header).encode()
    weights.write_bytes(len(start).to_bytes(8, "little") + start + data)
    os.truncate(weights, weights.stat().st_size + size)


def convert_unmet(forks: Forks, folder: Path, *options: str, cache: Path, **kill: int) -> tuple[int, str, int]:
    """Convert weights of which nothing is noted; exit code, manifest if there is one, steps."""
    shutil.rmtree(notes_folder(), ignore_errors=True)
    done, steps = forks.run("convert", folder, "--json", *options, cache=cache, **kill)  # type: ignore[arg-type]
    return done.exit_code, done.document.get("manifest", "") if done.out else "", steps


def test_conversion_killed_at_any_step_shows_no_half_and_is_finished_by_the_next(
    forks: Forks, wide: Path, tmp_path: Path
) -> None:
    code, manifest, steps = convert_unmet(forks, wide, cache=tmp_path / "whole")
    assert code == 0 and not [path for path in objects(tmp_path / "whole") if "/." in path]
    for step in range(1, steps - 4, 4):  # how many there are depends on what is written ahead, by a few
        cache = tmp_path / str(step)
        assert convert_unmet(forks, wide, cache=cache, kill_at=step)[0] == KILLED, step
        visible = [path for path in objects(cache) if "/." not in path]
        verified = forks.ttbert("cache", "verify", cache=cache)
        assert verified.exit_code == 0 or not visible, step
        assert convert_unmet(forks, wide, cache=cache)[:2] == (0, manifest), step
        forks.ttbert("cache", "verify", cache=cache).succeeded()
        shutil.rmtree(cache)


def test_interrupted_conversion_leaves_no_draft(forks: Forks, wide: Path, tmp_path: Path) -> None:
    for step in range(1, 40, 4):
        cache = tmp_path / str(step)
        code, _, _ = convert_unmet(forks, wide, cache=cache, kill_at=step, kill_with=signal.SIGINT)
        assert code == 130, step
        assert not [path for path in objects(cache) if "/." in path or path.startswith("refs")], step


def test_a_model_that_is_there_under_another_name_leaves_no_draft(forks: Forks, wide: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    code, manifest, _ = convert_unmet(forks, wide, cache=cache)
    before = objects(cache)
    assert convert_unmet(forks, wide, "--name", "other", cache=cache)[:2] == (code, manifest) == (0, manifest)
    new = objects(cache).keys() - before.keys()
    assert all(path.startswith("refs/other") for path in new) and objects(cache).items() >= before.items()


def test_a_disk_that_is_too_full_has_nothing_written_ahead_on_it(forks: Forks, wide: Path, small_disk: Path) -> None:
    shutil.rmtree(notes_folder(), ignore_errors=True)
    done = forks.ttbert("convert", wide, cache=small_disk / "cache")
    done.failed(10, "bytes needed", "free; nothing was written")
    assert not (small_disk / "cache").exists()


@pytest.mark.parametrize("where", ["read only", "no bucket"])
def test_a_place_that_cannot_be_written_to_is_told_before_the_work(where: str, tmp_path: Path, moto: MotoServer) -> None:
    folder = tiny.write(tmp_path / "tiny", tiny.checkpoint())
    size = 8 << 30  # of nothing, which takes much longer to hash than to be refused
    os.truncate(folder / "vocab.txt", size)
    if where == "read only":
        done = ttbert("convert", folder, "--cache", tmp_path / "cache", "--read-only")
        done.failed_at_once(9, "for reading only")
    else:
        done = ttbert("convert", folder, "--cache", "s3://absent/ttbert", "--local", tmp_path / "near", **moto.env)
        done.failed_at_once(11, "there is no bucket absent")
    assert not [*notes_folder().glob(f"{size}-*")]


def test_a_damaged_name_is_superseded(forks: Forks, wide: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    code, manifest, _ = convert_unmet(forks, wide, cache=cache)
    (entry,) = (cache / "refs").rglob("00000001")
    flip_bit(entry)
    assert convert_unmet(forks, wide, cache=cache)[:2] == (code, manifest) == (0, manifest)


def test_a_model_that_is_there_needs_no_room_for_drafts(forks: Forks, wide: Path, small_disk: Path, tmp_path: Path) -> None:
    code, manifest, _ = convert_unmet(forks, wide, cache=tmp_path / "cache")
    subprocess.run(["mount", "-o", "remount,size=10m", small_disk], check=True)
    subprocess.run(["cp", "-a", f"{tmp_path / 'cache'}/.", small_disk], check=True)
    subprocess.run(["mount", "-o", "remount,size=9600k", small_disk], check=True)
    assert convert_unmet(forks, wide, "--name", "other", cache=small_disk)[:2] == (code, manifest) == (0, manifest)
