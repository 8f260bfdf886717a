"""Loading a converted model into host memory from an S3 server on this machine, with nothing of it here before.

As for `load`, imports are not counted, every case ends with the same payloads in memory and every page of them touched,
which bytes those are is compared by digest afterwards, and only ttbert checks digests while the clock runs.

The server is Ceph's radosgw with its objects in memory, and moto's for small inputs: never read a time off that one. It
shares the processor with the clients. The peers, each with its own default settings:
- s3fs: `cat` of an object for each tensor, as ttnn.dump_tensor writes it;
- obstore: a `get` for each of them, 64 at once;
- boto3: `get_object` of each of them, in 8 threads;
- Run:ai model streamer: one safetensors file with all the payloads.
The limit is that same file in ranges over 8 connections into one buffer, without a check or a copy. What the disk takes for
as many bytes, fsynced, is a row beside it: a load does not wait for that, but whoever ends the process does.

Then one process loads alone, and eight at once, each for itself, as on eight machines that start together. Their limit has
one or two connections each: the server is not at its best with 64.
"""

from __future__ import annotations

import asyncio
import http.client
import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from ttbert.cache.places import Places
from ttbert.errors import TtbertError
from ttbert.recipe.recipe import TensorRecipe
from ttbert.runtime.loader import CachedModel
from ttbert.tt import host_ttnn

from .inputs import make_cache, make_checkpoint, shape_of
from .load import SAFETENSORS, cached_model, facts, file_name, make_files, payload_of, recipe_of, touch
from .measure import Case, Clock, compare, environment
from .report import Limit, Report, Table

_TESTS = Path(__file__).parent.parent / "tests"
_PEERS = (
    ("s3fs cat, a tensor an object", "load_s3fs", ("s3fs",)),
    ("obstore, the same, 64 at once", "load_obstore", ("obstore",)),
    ("boto3, the same, 8 threads", "load_boto3", ("boto3",)),
    ("Run:ai streamer, one safetensors", "load_runai", ("runai_model_streamer", "runai_model_streamer_s3")),
)
_MACHINES = 8
_CONNECTIONS, _RANGE = 8, 16 << 20


def run(folder: Path, small: bool, rounds: int) -> Report:
    checkpoint = make_checkpoint(folder, shape_of(small))
    cache = make_cache(folder, checkpoint)
    files = make_files(folder / f"files-{checkpoint.name}", Places(str(cache)).open())
    size = sum(each.size for each in cached_model(Places(str(cache)).open()).manifest.packs)
    with _server(small) as server:
        bucket = server.bucket()
        settings = {
            **server.env,
            # Run:ai's streamer does not read AWS_ENDPOINT_URL_S3, and would look for the bucket as a host.
            "AWS_ENDPOINT_URL": server.endpoint,
            "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
        }
        _upload(server, bucket, files, checkpoint, settings)
        places = {"cache": str(cache), "bucket": bucket}

        def case(name: str, function: str, at_once: int = 1, **others: Any) -> Case:
            return Case(name, f"s3:{function}", {**places, **others}, settings, at_once)

        alone = [
            case("ttbert, into an empty local tier", "load_ttbert", local=str(folder)),
            case("ttbert, the same until it is fsynced", "load_ttbert", local=str(folder), lasting=True),
            case("ttbert --no-local", "load_ttbert"),
            *(case(name, function) for name, function, packages in _PEERS if _installed(packages)),
            case("writing a file of as much, fsynced", "write_file", local=str(folder), file=str(files / SAFETENSORS)),
            case(f"one file in ranges, {_CONNECTIONS} connections", "load_ranges", connections=_CONNECTIONS),
        ]
        *rows, limit = compare(alone, rounds)
        together = [
            case("ttbert --no-local, alone", "load_ttbert"),
            case(f"ttbert --no-local, each of {_MACHINES}", "load_ttbert", _MACHINES),
            case(f"one file in ranges, alone, {_CONNECTIONS} connections", "load_ranges", connections=_CONNECTIONS),
            *(
                case(f"the same, each of {_MACHINES}, {count} each", "load_ranges", _MACHINES, connections=count)
                for count in (1, 2)
            ),
        ]
        machines = compare(together, rounds)
    title = f"loading {size / 1e6:,.0f} MB to host memory from {'moto' if small else 'radosgw'}"
    missing = [
        f"{name}: not compared, since its packages are not installed (pip install 'ttbert[benchmarks]')"
        for name, _, packages in _PEERS
        if not _installed(packages)
    ]
    return Report(
        "s3",
        (
            Table(title, tuple(rows), Limit(limit.name, limit.seconds)),
            Table(f"the same by one machine, and by {_MACHINES} at once", tuple(machines)),
        ),
        tuple(missing),
    )


def load_ttbert(clock: Clock, bucket: str, cache: str, local: str | None = None, lasting: bool = False) -> Any:
    """With `local`, through a local tier in a new folder below it, to which all is copied on its way.

    With `lasting`, until that is fsynced, and what leads to it is there, too.
    """
    for package in ("botocore.configprovider", "botocore.session", "obstore.store"):
        importlib.import_module(package)

    ttnn = host_ttnn()
    with tempfile.TemporaryDirectory(prefix="tier-", dir=local) as tier:
        places = Places(f"s3://{bucket}/ttbert", tier if local else None)
        with clock:
            opened = places.open()
            (ref,) = opened.list_refs()
            cached = opened.resolve(ref)
            assert cached
            opened.fetch_as_read(cached, ref)
            tensors = {entry.name: tensor for entry, tensor in CachedModel(opened, cached).tensors()}
            payloads = {name: payload_of(ttnn, tensor) for name, tensor in tensors.items()}
            touch(payloads)
            if lasting:
                opened.flush()
        opened.flush()
        fetched = opened.counters.document()["bytes"]["cache"]  # type: ignore[index]
        if fetched != sum(cached.manifest.blobs.values()):
            raise AssertionError(f"{fetched:,} bytes were fetched of {sum(cached.manifest.blobs.values()):,}")
        return facts(payloads)


def load_s3fs(clock: Clock, bucket: str, cache: str) -> Any:
    import s3fs

    tensors = _tensors(cache)
    with clock:
        found = s3fs.S3FileSystem().cat([f"{bucket}/files/{file_name(each)}" for each in tensors])
        payloads = _payloads(tensors, (found[f"{bucket}/files/{file_name(each)}"] for each in tensors))
        touch(payloads)
    return facts(payloads)


def load_obstore(clock: Clock, bucket: str, cache: str) -> Any:
    import obstore
    from obstore.store import S3Store

    tensors = _tensors(cache)

    found: dict[str, Any] = {}

    async def get_all() -> None:  # gives nothing back: asyncio.run makes a text of what it gives, for an error it hides
        store = S3Store(bucket, endpoint=os.environ["AWS_ENDPOINT_URL_S3"], client_options={"allow_http": True})
        free = asyncio.Semaphore(64)

        async def get(tensor: TensorRecipe) -> None:
            async with free:
                found[tensor.name] = await (await obstore.get_async(store, f"files/{file_name(tensor)}")).buffer_async()

        await asyncio.gather(*map(get, tensors))

    with clock:
        asyncio.run(get_all())
        payloads = _payloads(tensors, (found[each.name] for each in tensors))
        touch(payloads)
    return facts(payloads)


def load_boto3(clock: Clock, bucket: str, cache: str) -> Any:
    import boto3

    tensors = _tensors(cache)
    with clock, ThreadPoolExecutor(8) as threads:
        client = boto3.client("s3", region_name=os.environ["AWS_REGION"])

        def get(tensor: TensorRecipe) -> bytes:
            return client.get_object(Bucket=bucket, Key=f"files/{file_name(tensor)}")["Body"].read()

        payloads = _payloads(tensors, threads.map(get, tensors))
        touch(payloads)
    return facts(payloads)


def load_runai(clock: Clock, bucket: str, cache: str) -> Any:
    from runai_model_streamer import SafetensorsStreamer

    with clock, SafetensorsStreamer() as streamer:
        streamer.stream_file(f"s3://{bucket}/files/{SAFETENSORS}")
        payloads = {name: tensor.numpy() for name, tensor in streamer.get_tensors()}
        touch(payloads)
    return facts(payloads)


def load_ranges(clock: Clock, bucket: str, cache: str, connections: int) -> Any:
    """Over plain sockets; who asks is in the URL already."""
    import botocore.session
    from safetensors.numpy import load

    client = botocore.session.Session().create_client("s3", region_name=os.environ["AWS_REGION"])
    name = {"Bucket": bucket, "Key": f"files/{SAFETENSORS}"}
    size = client.head_object(**name)["ContentLength"]
    url = urlsplit(client.generate_presigned_url("get_object", name))
    content = np.empty(size, np.uint8)

    def fetch(starts: range) -> None:
        assert url.hostname
        connection = http.client.HTTPConnection(url.hostname, url.port)
        for start in starts:
            part = memoryview(content[start : start + _RANGE].data)
            wanted = {"Range": f"bytes={start}-{start + len(part) - 1}"}
            connection.request("GET", f"{url.path}?{url.query}", headers=wanted)
            answer = connection.getresponse()
            while part:
                count = answer.readinto(part)
                if not count:
                    raise OSError(f"{url.hostname} says {answer.status}, and stops {len(part):,} bytes early")
                part = part[count:]
            answer.read()
        connection.close()

    with clock, ThreadPoolExecutor(connections) as threads:
        list(threads.map(fetch, [range(i * _RANGE, size, connections * _RANGE) for i in range(connections)]))
    return facts(load(content.tobytes()))


def write_file(clock: Clock, bucket: str, cache: str, local: str, file: str) -> Any:
    from safetensors.numpy import load

    content = Path(file).read_bytes()
    with tempfile.NamedTemporaryFile(dir=local) as written, clock:
        written.write(content)
        os.fsync(written.fileno())
    return facts(load(content))


def _installed(packages: Sequence[str]) -> bool:
    return all(importlib.util.find_spec(each) for each in packages)


@contextmanager
def _server(small: bool) -> Iterator[Any]:
    """The server that the tests of stores use."""
    sys.path.insert(0, str(_TESTS))
    from ceph_server import CephServer
    from s3_server import MotoServer

    why_not = CephServer.why_not()
    if why_not and not small:
        raise TtbertError(f"there is no S3 server to measure: {why_not}", "moto's is for --small alone")
    with MotoServer() if small else CephServer() as server:
        yield server


def _upload(server: Any, bucket: str, files: Path, checkpoint: Path, settings: dict[str, str]) -> None:
    """The model as ttbert has it, and as its peers want it."""
    place = f"s3://{bucket}/ttbert"
    command = [sys.executable, "-m", "ttbert", "convert", str(checkpoint), "--cache", place, "--no-local"]
    subprocess.run(command, env={**environment(), **settings}, stdout=subprocess.DEVNULL, check=True)
    client = server.client()
    for path in files.iterdir():
        client.put_object(Bucket=bucket, Key=f"files/{path.name}", Body=path.read_bytes())


def _tensors(cache: str) -> tuple[TensorRecipe, ...]:
    return recipe_of(Places(cache).open()).tensors


def _payloads(tensors: Sequence[TensorRecipe], found: Iterable[Any]) -> Any:
    """The packed bytes at the end of each tensor's file, where they are."""
    return {each.name: np.frombuffer(file, np.uint8)[-each.payload :] for each, file in zip(tensors, found, strict=True)}
