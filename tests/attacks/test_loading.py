"""Models whose every digest is right and whose tensors lie: refused before TT-NN is given the file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ttbert.cache.cache import Cache, Cached, manifest_key
from ttbert.cache.digest import blake3_of
from ttbert.cache.manifest import Manifest, Outline
from ttbert.cache.places import Places
from ttbert.convert.convert import convert, plan_conversion
from ttbert.convert.wanted import BUNDLED, Wanted
from ttbert.errors import IntegrityError
from ttbert.runtime.loader import CachedModel


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Places(str(tmp_path_factory.mktemp("cache"))).open()


@pytest.fixture(scope="module")
def cached(cache: Cache) -> Cached:
    return convert(plan_conversion(Wanted(BUNDLED)), cache).cached


def number(position: int, value: int, size: int = 4) -> Callable[[bytes], bytes]:
    return lambda content: content[:position] + value.to_bytes(size, "little") + content[position + size :]


LIES: dict[str, Callable[[bytes], bytes]] = {
    "a header of no length": number(0, 0, 8),
    "a header longer than all memory": number(0, (1 << 63) - 1, 8),
    "a root far away": number(8, 0x7FFFFFFF),
    "a payload larger than all memory": number(208, (1 << 62) + 384, 8),
    "a payload of nothing": number(208, 0, 8),
    "bytes that begin before the file": number(200, (1 << 64) - 384, 8),
    "billions of dimensions": number(348, 0xFFFFFFFF),
    "other dimensions": lambda content: number(360, 32)(number(364, 384)(content)),
    "another type": lambda content: content[:278] + b"\0" + content[279:],
    "no header at all": lambda content: bytes(len(content)),
}


def test_a_tensor_of_another_size_is_refused_before_it_is_read_into_memory(cache: Cache, cached: Cached) -> None:
    first, *others = cached.manifest.packs
    tensors = (replace(first.tensors[0], size=1 << 48), *first.tensors[1:])
    manifest = replace(cached.manifest, packs=(replace(first, tensors=tensors), *others))
    with pytest.raises(IntegrityError, match=r"embeddings\.word should be: that takes [0-9,]+ bytes, not 281,474,976,710,656"):
        CachedModel(cache, Cached(blake3_of(manifest.to_bytes()), manifest))


def test_a_file_that_would_fill_the_memory_is_refused_before_it_is_read(cache: Cache, cached: Cached) -> None:
    config, *others = cached.manifest.files
    manifest = replace(cached.manifest, files=(replace(config, blob=blake3_of(b"large"), size=1 << 40), *others))
    content = manifest.to_bytes()
    for kind in (Manifest, Outline):
        with pytest.raises(IntegrityError, match=r"config\.json has 1,099,511,627,776 bytes"):
            kind.parse(content, "it")
    cache.store.put(manifest_key(blake3_of(content)), content)
    with pytest.raises(IntegrityError, match="which is no file that goes beside tensors"):
        cache.manifest(blake3_of(content))


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_header_that_lies_under_right_digests_is_refused(
    cache: Cache, cached: Cached, lie: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As somebody can publish it who may write into the store: manifest, pack and tensor all bear their own digests."""
    import ttnn

    pack = cached.manifest.packs[-1]
    assert pack.name == "answer"
    with cache.open(pack) as stream:
        whole = stream.read()
    weight = pack.tensors[0]
    lying = lie(whole[: weight.size])
    assert len(lying) == weight.size and lying != whole[: weight.size]
    content = lying + whole[weight.size :]
    tensors = (replace(weight, digest=blake3_of(lying)), *pack.tensors[1:])
    packs = (*cached.manifest.packs[:-1], replace(pack, blob=cache.publish_blob(content), tensors=tensors))
    manifest = replace(cached.manifest, packs=packs)
    opened: list[Any] = []
    load = ttnn.load_tensor
    monkeypatch.setattr(ttnn, "load_tensor", lambda path: (opened.append(Path(path).read_bytes()), load(path))[1])
    with pytest.raises(IntegrityError, match=r"answer\.weight.* its header differs from byte"):
        for _ in CachedModel(cache, Cached(blake3_of(manifest.to_bytes()), manifest)).tensors():
            pass
    assert len(opened) == len(manifest.tensors) - 2 and lying not in opened
