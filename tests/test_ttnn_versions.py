"""TT-NN of several versions: the same blobs, whichever packs them, and what one wrote another reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from program import environment

from ttbert.cache.cache import Cache
from ttbert.cache.digest import blake3_of
from ttbert.cache.places import Places
from ttbert.child import python_command
from ttbert.convert.convert import convert, plan_conversion
from ttbert.convert.wanted import BUNDLED, Wanted

BLOBS = {
    "bfp8": "f001e97a230e537f4c23814351c42b9a95c1f8f0c4d79d428375a1dbcb61b8ee",
    "bf16": "3d641f42a16df97e89655a25dca5839fb93144830891659c8c1231b1ea21fc64",
    "bfp4": "f16711a3a55fcc6a859c15bce245c479a06e7d5dcd4c3645b65155265ca37505",
}
"""BLAKE3 of the digests of all blobs of the bundled model, line by line."""

READ = """
import json, sys
from importlib.metadata import version
from ttbert.cache.digest import Digest, blake3_of
from ttbert.cache.places import Places
from ttbert.runtime.loader import CachedModel
from ttbert.tt import host_ttnn

host_ttnn()
cache = Places(sys.argv[1]).open()
model = CachedModel(cache, cache.manifest(Digest.parse(sys.argv[2])))
values = {entry.name: blake3_of(host.to_torch().float().numpy().tobytes()).hex for entry, host in model.tensors()}
print("answer:" + json.dumps([version("ttnn"), values]))
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Places(str(tmp_path_factory.mktemp("cache"))).open()


@pytest.mark.parametrize("policy", BLOBS)
def test_blobs_of_the_bundled_model_stay_whichever_ttnn_packs_them(cache: Cache, policy: str) -> None:
    cached = convert(plan_conversion(Wanted(BUNDLED, policy=policy)), cache).cached
    blobs = "".join(f"{pack.blob}\n" for pack in cached.manifest.packs)
    assert blake3_of(blobs.encode()).hex == BLOBS[policy]


def test_another_ttnn_reads_what_this_one_wrote(cache: Cache) -> None:
    """Either of those that scripts/with_ttnn.sh has installed, or, in a run with one of them, the environment's own."""
    cached = convert(plan_conversion(Wanted(BUNDLED)), cache).cached
    places = ["", *(str(path) for path in sorted(Path(sys.prefix).glob("ttnn-*/site-packages")))]
    read = dict(_read(cache, str(cached.digest), place) for place in places)
    if len(read) < 2:
        pytest.skip("only one TT-NN is installed; make test TTNN=0.80.0 installs another")
    assert version("ttnn") in read
    assert all(values == read[version("ttnn")] for values in read.values())


def _read(cache: Cache, manifest: str, place: str) -> tuple[str, dict[str, str]]:
    """The version of the TT-NN in a folder, and the digests of the values that it reads."""
    done = subprocess.run(
        [sys.executable, "-c", READ, cache.store.url, manifest],
        env={**os.environ, "PYTHONPATH": place},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found, values = json.loads(done.stdout.rpartition("answer:")[2])
    return found, values


def test_a_ttnn_that_cannot_be_imported_leaves_no_complaints_at_the_end() -> None:
    """Its bindings, which are there then, list what is left of them on stderr, hundreds of lines."""
    program = """
import contextlib, sys
import ttbert.__main__, ttbert.cli

def command():
    from ttbert.tt import host_ttnn
    sys.modules["ttnn.operations"] = None
    with contextlib.suppress(ImportError):
        host_ttnn()
    assert "ttnn" not in sys.modules and "ttnn._ttnn" in sys.modules

ttbert.cli.main = command
ttbert.__main__.main()
"""
    done = subprocess.run(python_command(program), env=environment(), capture_output=True, text=True, timeout=200, check=True)
    assert done.stderr == ""
