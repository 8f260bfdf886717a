"""What a store in a bucket promises of its own: when answers are lost, when the server fails, when it promises too much."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from concurrent.futures import CancelledError, ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from threading import Event

import pytest
from fault_proxy import (
    Exchange,
    Fault,
    FaultProxy,
    conflict,
    forgets_condition,
    refused_as_damaged,
    reset_after,
    reset_before,
    silent,
    stalled,
    together,
    truncated,
    unavailable,
    wrong_bytes,
    wrong_somewhere,
)
from machines import Lab
from models import COMMIT, TENSORS, TINY, load, publish
from program import command, environment, ttbert
from s3_server import MotoServer, S3Server, free_port

from ttbert.cache.cache import Cache, blob_key
from ttbert.cache.census import take_census
from ttbert.cache.condemned import Objections, Sweeper, condemn
from ttbert.cache.digest import blake3_of
from ttbert.cache.history import read_log
from ttbert.cache.places import Places
from ttbert.cache.stores import objects
from ttbert.cache.stores.access import Patience
from ttbert.cache.stores.local import LocalStore
from ttbert.cache.stores.objects import CONNECTS, TRIES, ObjectStore
from ttbert.cache.stores.store import read_twice
from ttbert.cache.tiered_cache import TieredCache
from ttbert.cache.verify import verify
from ttbert.errors import CacheError, InputError, IntegrityError, Interrupted, StoreReadOnly, StoreUnavailable
from ttbert.threads import check_wanted, map_ahead

KEY = "blobs/aa/one"
CONTENT = bytes(range(256)) * 40
IMPATIENT = Patience(connect=1, silence=1, total=3, pause=0.05)


@pytest.fixture
def url(proxy: FaultProxy, bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place of its own in a bucket, reached through the proxy."""
    use(proxy, monkeypatch)
    proxy.calm()
    return f"s3://{bucket}/{uuid.uuid4().hex}"


def use(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)


# Faults on the way


@pytest.mark.parametrize("fault", [unavailable, reset_before, reset_after, conflict, refused_as_damaged, silent])
def test_a_write_that_meets_a_fault_is_published_once(url: str, proxy: FaultProxy, fault: Fault) -> None:
    """Whether it was carried out before the fault or not: this call published it, and says so."""
    retries = []
    store = ObjectStore(url, IMPATIENT, on_retry=lambda: retries.append(1))
    proxy.meet(fault, "PUT")
    assert store.put(KEY, CONTENT) is True
    assert store.get(KEY) == CONTENT and len(retries) == 1 and proxy.count("PUT") == 2
    assert store.put(KEY, b"another") is False and store.get(KEY) == CONTENT


def test_no_request_of_a_deletion_is_sent_after_its_time(url: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else may rely on it by then. So a deletion is given up that a retry would still have carried out."""
    monkeypatch.setattr("ttbert.cache.stores.objects._DELETING", 0.5)
    store = ObjectStore(url, IMPATIENT)
    store.put(KEY, CONTENT)
    for method, deletions in (("HEAD", 0), ("POST", 1)):  # to S3 a deletion is a POST
        proxy.calm()
        proxy.meet(silent, method)
        with pytest.raises(StoreUnavailable, match="no answer in time"):
            store.delete(KEY)
        assert proxy.count("HEAD") == 1 and proxy.count("POST") == deletions


def test_a_large_write_without_an_answer_is_tried_again_in_bounded_time(url: str, proxy: FaultProxy) -> None:
    content = os.urandom(2 << 20)
    proxy.meet(silent, "PUT")
    started = time.monotonic()
    assert ObjectStore(url, IMPATIENT).put(KEY, content) is True
    assert time.monotonic() - started < 20 and ObjectStore(url).get(KEY) == content


def test_a_write_whose_every_answer_is_lost_is_read_back(url: str, proxy: FaultProxy) -> None:
    proxy.meet(reset_after, "PUT", times=TRIES)
    assert ObjectStore(url, IMPATIENT).put(KEY, CONTENT) is True
    assert proxy.count("PUT") == TRIES and ObjectStore(url).get(KEY) == CONTENT


def test_a_lost_answer_does_not_hide_that_another_won(url: str, proxy: FaultProxy) -> None:
    store = ObjectStore(url)
    store.put(KEY, b"theirs")
    for fault in (reset_after, reset_before, unavailable):
        proxy.meet(fault, "PUT")
        assert store.put(KEY, CONTENT) is False and store.get(KEY) == b"theirs"


def test_what_nobody_waits_for_is_not_tried_again(proxy: FaultProxy, url: str) -> None:
    refused = Event()

    def wait_until_unwanted() -> None:
        refused.set()
        with pytest.raises(CancelledError):
            while True:
                check_wanted()

    store = ObjectStore(url, IMPATIENT, on_retry=wait_until_unwanted)
    proxy.meet(unavailable, "GET", KEY, times=1000)

    def read(key: str) -> bytes:
        if key == KEY:
            return store.get(key)
        assert refused.wait(60)
        raise KeyError(key)

    with pytest.raises(KeyError, match="absent"):
        list(map_ahead(2, read, ["absent", KEY]))
    assert proxy.count("GET", KEY) == 1


@pytest.mark.parametrize("fault", [unavailable, reset_before, reset_after, silent, truncated, stalled])
def test_a_read_that_meets_a_fault_gives_the_right_bytes(url: str, proxy: FaultProxy, fault: Fault) -> None:
    store = ObjectStore(url, IMPATIENT)
    store.put(KEY, CONTENT)
    proxy.meet(fault, "GET")
    assert store.get(KEY) == CONTENT
    proxy.meet(fault, "GET")
    with store.open(KEY) as stream:
        assert stream.read() == CONTENT


def test_an_answer_that_breaks_off_is_gone_on_with_where_it_ended(url: str, proxy: FaultProxy) -> None:
    store = ObjectStore(url)
    content = os.urandom(5 << 20)
    store.put(KEY, content)
    asked = []

    async def look_and_cut(exchange: Exchange) -> None:
        asked.append(re.search(rb"(?i)\r\nrange: *bytes=(\d+)-\r\n", exchange.request))
        await truncated(exchange)

    proxy.calm()
    proxy.meet(look_and_cut, "GET", times=3)
    with store.open(KEY) as stream:
        assert stream.read() == content
    starts = [int(each[1]) if each else 0 for each in asked]
    cuts = [start + (len(content) - start) // 2 for start in starts]
    lost = [cut - start for cut, start in zip(cuts, starts[1:], strict=False)]
    assert starts[0] == 0 and proxy.count("GET") == 4
    assert all(0 <= each < 1 << 20 for each in lost), "what was on its way when the connection broke off may be gone"


def test_a_server_that_keeps_failing_is_reported_after_a_bounded_number_of_attempts(
    url: str, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    store = ObjectStore(url, IMPATIENT)
    proxy.meet(unavailable, times=1000)
    calls = [
        lambda: store.get(KEY),
        lambda: store.open(KEY),
        lambda: store.head(KEY),
        lambda: list(store.list("blobs")),
        lambda: store.delete(KEY),
        lambda: store.quarantine(KEY),
    ]
    for call in calls:
        proxy.seen.clear()
        with pytest.raises(StoreUnavailable, match="the server says 503"):
            call()
        assert len(proxy.seen) == TRIES
    with pytest.raises(StoreUnavailable, match="503"):
        store.put(KEY, CONTENT)
    assert "trying again (2 of 5)" in caplog.messages[0] and not any("6 of" in each for each in caplog.messages)


def test_silence_is_told_of_and_ends(url: str, proxy: FaultProxy, caplog: pytest.LogCaptureFixture) -> None:
    store = ObjectStore(url, Patience(connect=0.3, silence=0.3, total=1, pause=0.05))
    proxy.meet(silent, "GET", times=TRIES)
    with pytest.raises(StoreUnavailable, match="no answer in time"):
        store.get(KEY)
    assert "no answer in time; trying again" in caplog.messages[0]


def test_nobody_listening_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = S3Server(f"http://127.0.0.1:{free_port()}", "key", "secret")
    use(nowhere, monkeypatch)
    with pytest.raises(StoreUnavailable, match=f"{nowhere.endpoint}.*connection refused"):
        ObjectStore("s3://lab", IMPATIENT).get(KEY)


NOWHERE = """
ip link add here type veth peer name there
ip addr add 198.18.0.1/24 dev here
ip link set here up
ip link set there up
ip neigh add 198.18.0.2 lladdr 02:00:00:00:00:01 dev here
exec "$0" -c "$1"
"""
"""A network in which what is sent to 198.18.0.2 vanishes, for the python `$0` and its code `$1`."""


@pytest.mark.parametrize("call", ["get(KEY)", "put(KEY, CONTENT)"])
def test_a_host_that_swallows_everything_is_told_of_and_given_up_soon(call: str) -> None:
    why_not = Lab.why_not()
    if why_not:
        pytest.skip(why_not)
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_objects import CONTENT, KEY, ObjectStore, Patience
ObjectStore("s3://lab", Patience(connect=0.5, pause=0.05)).{call}
"""
    env = S3Server("http://198.18.0.2:9000", "key", "secret").env
    done = subprocess.run(
        ["unshare", "--net", "sh", "-ec", NOWHERE, sys.executable, code],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    told = [line for line in done.stderr.splitlines() if line.startswith("s3://lab: ")]
    tries = range(1, CONNECTS)
    assert told == [f"s3://lab: no answer in time; trying again ({number} of {CONNECTS - 1})" for number in tries]
    assert "StoreUnavailable: s3://lab at http://198.18.0.2:9000: no answer in time" in done.stderr


@pytest.mark.parametrize(
    "said", ['Connect,\n ConnectError(\n "tcp connect error", Custom { kind: TimedOut', "Connect,\n TimedOut,"]
)
def test_a_host_that_swallows_everything_has_met_nothing_whichever_clock_runs_out(said: str) -> None:
    text = f"Generic S3 error: error sending request\n\nsource: hyper_util::client::legacy::Error(\n {said}"
    assert objects._tries(Exception(text)) == CONNECTS
    assert objects._tries(Exception(text.replace("Connect,", "SendRequest,").replace("ConnectError", "Error"))) == TRIES


def test_wrong_bytes_are_never_used(url: str, proxy: FaultProxy) -> None:
    cached = publish(Places(url).open())
    proxy.meet(wrong_bytes, "GET", path="/blobs/")
    cache = Places(url).open()
    with pytest.raises(IntegrityError, match="is damaged"):
        load(cache, cached.manifest.packs[0])


def test_a_sound_object_stays_where_it_is_when_its_bytes_are_damaged_on_the_way(url: str, proxy: FaultProxy) -> None:
    cache = Places(url).open()
    digest = cache.publish_blob(CONTENT)
    for times in (1, 2, 5):  # other bits each time
        proxy.meet(wrong_somewhere, "GET", "/blobs/", times)
        assert cache.publish_blob(CONTENT) == digest
    assert not list(cache.store.list("quarantine")) and cache.store.head(blob_key(digest))


@pytest.mark.parametrize("how", ["deleted", "replaced", "cut short"])
def test_an_object_of_which_no_whole_answer_comes_is_not_taken_for_damaged(url: str, proxy: FaultProxy, how: str) -> None:
    """Its answer breaks off, and what follows is not the rest of it."""
    content = os.urandom(3 << 20)
    key = blob_key(blake3_of(content))
    cache, others = Places(url).open(), ObjectStore(url)
    cache.publish_blob(content)

    async def cut(exchange: Exchange) -> None:
        head, body = await exchange.forward()
        if how != "cut short":
            await asyncio.to_thread(others.delete, key)
        if how == "replaced":
            await asyncio.to_thread(others.put, key, content + b"more")
        await exchange.answer(head, body[: len(body) // 2])

    async def cut_short(exchange: Exchange) -> None:
        head, body = await exchange.forward()
        await exchange.answer(re.sub(rb"(?i)(\r\ncontent-length: *)\d+", rb"\g<1>1000", head), body[:1000])

    def look(repair: bool) -> None:
        (finding,) = verify(cache, take_census(cache), repair=repair).findings
        assert finding.exit_code == StoreUnavailable.exit_code and finding.moved is None
        raise StoreUnavailable(finding.problem)

    for use in (lambda: look(False), lambda: look(True), lambda: cache.publish_blob(content)):
        others.delete(key)
        others.put(key, content)
        proxy.calm()
        proxy.meet(cut, "GET", "/blobs/")
        if how == "cut short":
            proxy.meet(cut_short, "GET", "/blobs/")
        with pytest.raises(StoreUnavailable, match=f"{key}: the answer ends after|{key} was replaced or deleted"):
            use()
        assert not list(cache.store.list("quarantine"))


def test_repair_leaves_a_sound_object_whose_bytes_are_damaged_on_the_way(url: str, proxy: FaultProxy) -> None:
    cache = Places(url).open()
    publish(cache)
    proxy.meet(wrong_bytes, "GET", "/blobs/")
    (finding,) = verify(cache, take_census(cache), repair=True).findings
    assert finding.moved is None and not list(cache.store.list("quarantine"))
    proxy.meet(wrong_somewhere, "GET", "/blobs/", times=8)
    findings = verify(cache, take_census(cache), repair=True).findings
    assert findings and all("on its way here" in finding.problem and not finding.moved for finding in findings)
    proxy.calm()
    assert verify(cache, take_census(cache), repair=True).sound


async def sound(exchange: Exchange) -> None:
    await exchange.answer(*await exchange.forward())


@pytest.mark.parametrize("what", ["look again", "move it", "ask for it", "restore it"])
def test_a_repair_that_gets_no_answer_goes_on_with_what_is_left(url: str, proxy: FaultProxy, what: str, tmp_path: Path) -> None:
    """And forgets nothing of what it found: one is damaged, one is missing, and the server is silent of one of the two."""
    cache = TieredCache(ObjectStore(url, IMPATIENT), LocalStore(tmp_path))
    cached = publish(cache)
    flipped, gone = sorted(blob_key(pack.blob) for pack in cached.manifest.packs)[:2]
    for key in (flipped, gone):
        cache.store.delete(key)
    cache.store.put(flipped, b"other bytes")
    proxy.calm()
    if what == "look again":
        proxy.meet(sound, "GET", flipped)
    fault = {"look again": ("GET", flipped), "move it": ("PUT", "/quarantine/"), "ask for it": ("HEAD", gone)}
    proxy.meet(unavailable, *fault.get(what, ("PUT", gone)), times=TRIES)
    findings = {finding.key: finding for finding in verify(cache, take_census(cache.authority), repair=True).findings}
    assert findings.keys() == {flipped, gone}
    hurt = flipped if what in ("look again", "move it") else gone
    assert [key for key, finding in findings.items() if not finding.restored] == [hurt]
    assert findings[flipped].problem.startswith("its digest is") and ("503" in findings[flipped].problem) == (hurt == flipped)
    assert all(finding.exit_code == 7 for finding in findings.values())
    proxy.calm()
    verify(cache, take_census(cache.authority), repair=True)
    assert verify(cache, take_census(cache.authority)).sound


def test_an_entry_that_is_damaged_on_the_way_does_not_spoil_the_history_of_a_name(url: str, proxy: FaultProxy) -> None:
    """The next entry holds its digest, for good."""
    cache = Places(url).open()
    cached = publish(cache)
    for times in (1, 3):
        cache.remove_ref(TINY)
        proxy.meet(wrong_somewhere, "GET", "/refs/", times)
        cache.move_ref(TINY, cached, "someone/tiny", COMMIT)
    log = read_log(cache.store, TINY)
    assert len(log) == 5 and not any(line.problem for line in log)


def test_what_leads_to_a_model_is_not_copied_as_it_is_damaged_on_the_way(url: str, proxy: FaultProxy, tmp_path: Path) -> None:
    cached = publish(Places(url).open())
    Places(url).open().remove_ref(TINY)
    publish(Places(url).open())
    for times in (1, 3):
        near = LocalStore(tmp_path / str(times))
        proxy.meet(wrong_somewhere, "GET", "/00000001", times)
        proxy.meet(wrong_somewhere, "GET", "/actions/", times)
        TieredCache(ObjectStore(url), near).fetch(cached, TINY)
        assert verify(Cache(near), take_census(Cache(near))).findings == () and len(read_log(near, TINY)) == 3
        proxy.calm()


def test_a_record_that_is_damaged_on_the_way_is_obeyed_all_the_same(url: str, proxy: FaultProxy) -> None:
    """A writer reads what is condemned, and a collector what is reprieved."""
    cache = Places(url).open()
    key = blob_key(cache.publish_blob(CONTENT))
    record = condemn(cache.store, [], {key: "waste"})
    proxy.meet(wrong_somewhere, "GET", f"/{record.folder}/", times=3)
    assert Objections(cache.store).reprieve([key]) == {key}
    proxy.meet(wrong_somewhere, "GET", f"/{record.folder}/reprieved/", times=3)
    assert Sweeper(cache.store, record).reprieved() == {key}


def test_what_comes_otherwise_each_time_is_not_acted_on(url: str, proxy: FaultProxy) -> None:
    store = ObjectStore(url)
    store.put(KEY, CONTENT)
    proxy.meet(wrong_somewhere, "GET", "/blobs/", times=100)
    with pytest.raises(StoreUnavailable, match="other bytes come each time"):
        read_twice(store, KEY, len(CONTENT))
    proxy.calm()


def test_a_model_is_published_through_many_faults(url: str, proxy: FaultProxy) -> None:
    for fault in (reset_after, unavailable, reset_before):
        proxy.meet(fault, "PUT", times=3)
        proxy.meet(fault, "GET", times=2)
        proxy.meet(fault, "HEAD", times=1)
    publish(Places(url).open())
    proxy.calm()
    cache = Places(url).open()
    cached = cache.resolve(TINY)
    assert cached is not None
    assert {pack.name: load(cache, pack) for pack in cached.manifest.packs} == TENSORS


def test_all_blobs_of_a_model_are_looked_for_at_once(url: str, proxy: FaultProxy) -> None:
    store = ObjectStore(url, Patience(pause=0))
    keys = [f"{KEY}-{number:02}" for number in range(32)]
    proxy.meet(together(len(keys)), "HEAD", times=1000)
    assert list(store.map(store.head, keys)) == [None] * len(keys)


# Stores that promise too much


def test_a_store_that_overwrites_is_found_out(url: str, proxy: FaultProxy) -> None:
    assert ObjectStore(url).creates_exactly_once() is True
    proxy.meet(forgets_condition, "PUT", times=1000)
    store = ObjectStore(url)
    assert store.creates_exactly_once() is False
    seen = len(proxy.seen)
    assert store.creates_exactly_once() is False and len(proxy.seen) == seen


def test_a_store_is_tried_out_with_all_keys_at_once(url: str, proxy: FaultProxy) -> None:
    proxy.meet(together(3), "PUT", "/probes/", times=1000)
    assert ObjectStore(url).creates_exactly_once() is True


def test_a_store_that_overwrites_is_published_to_only_on_demand(url: str, proxy: FaultProxy) -> None:
    publish(Places(url).open())
    proxy.meet(forgets_condition, "PUT", times=1000)
    cache = Places(url).open()
    with pytest.raises(CacheError, match="overwrite") as caught:
        publish(cache, tensors={"new": b"new"}, recipe=b"new")
    assert "--accept-weak-store" in caught.value.hint
    assert cache.resolve(TINY) is not None
    publish(Cache(ObjectStore(url), accept_weak=True), tensors={"new": b"new"}, recipe=b"new")


# Where it is, and with which credentials


@pytest.mark.parametrize("url", ["s3://", "s3:///x", "s3://lab/../x", "s3://lab//x", "gs://", "az:///x"])
def test_a_url_without_a_bucket_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="names no place in a bucket"):
        Places(url).open()


def test_a_bucket_that_is_not_there_is_not_an_empty_cache(url: str, proxy: FaultProxy) -> None:
    store = ObjectStore("s3://nobody-has-made-this/x")
    for call in (lambda: store.get(KEY), lambda: list(store.list("refs")), lambda: store.put(KEY, b"1")):
        with pytest.raises(StoreUnavailable, match="there is no bucket nobody-has-made-this"):
            call()


def test_two_prefixes_are_two_stores(url: str) -> None:
    ObjectStore(f"{url}/a").put(KEY, b"a")
    assert ObjectStore(f"{url}/ab").head(KEY) is None and list(ObjectStore(f"{url}/ab").list()) == []
    assert [entry.key for entry in ObjectStore(url).list()] == [f"a/{KEY}"]
    assert ObjectStore(f"{url}/a/").get(KEY) == b"a"


def test_no_credentials_are_an_error_that_says_where_they_belong(monkeypatch: pytest.MonkeyPatch, proxy: FaultProxy) -> None:
    use(proxy, monkeypatch)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StoreUnavailable, match="no credentials") as caught:
        ObjectStore("s3://lab")
    assert "AWS_PROFILE" in caught.value.hint


def test_a_profile_gives_endpoint_region_and_credentials(
    moto: MotoServer, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the AWS tools read them, so that one setting serves all."""
    for name in moto.env:
        monkeypatch.delenv(name, raising=False)
    config, credentials = tmp_path / "config", tmp_path / "credentials"
    config.write_text(
        "[profile lab]\nregion = eu-west-1\nservices = ours\n"
        f"[services ours]\ns3 =\n  endpoint_url = {moto.endpoint}\n[default]\nregion = us-west-2\n"
    )
    credentials.write_text("[lab]\naws_access_key_id = AKLAB\naws_secret_access_key = hidden\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    store = ObjectStore(f"s3://{bucket}/{uuid.uuid4().hex}")
    assert store.put(KEY, CONTENT) is True and store.get(KEY) == CONTENT
    assert (store.access.endpoint, store.access.region) == (moto.endpoint, "eu-west-1")
    assert store.access.credentials == "~/.aws/credentials, profile lab"
    assert "hidden" not in repr(store.access)


def test_credentials_that_expire_are_asked_for_as_the_profile_says(
    moto: MotoServer, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in moto.env:
        monkeypatch.delenv(name, raising=False)
    soon = f"{datetime.now(timezone.utc) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
    answer = tmp_path / "answer.json"
    document = {"Version": 1, "AccessKeyId": "AKTEMP", "SecretAccessKey": "s", "SessionToken": "t", "Expiration": soon}
    answer.write_text(json.dumps(document))
    config = tmp_path / "config"
    config.write_text(f"[default]\nendpoint_url = {moto.endpoint}\ncredential_process = cat {answer}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    store = ObjectStore(f"s3://{bucket}/{uuid.uuid4().hex}")
    assert store.put(KEY, CONTENT) is True and store.get(KEY) == CONTENT
    assert store.access.credentials == "the credential_process in ~/.aws/config"


def test_the_environment_beats_the_profile(moto: MotoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config"
    config.write_text("[default]\nregion = eu-west-1\nendpoint_url = http://127.0.0.1:9\n")
    use(moto, monkeypatch)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    access = ObjectStore("s3://lab").access
    assert (access.endpoint, access.region, access.credentials) == (moto.endpoint, "us-east-1", "AWS_ACCESS_KEY_ID")


def test_a_wrong_secret_is_refused_and_not_printed(ceph: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    use(ceph, monkeypatch)
    url = f"s3://{ceph.bucket()}"
    ObjectStore(url).put(KEY, CONTENT)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guessed-secret")
    store = ObjectStore(url)
    for call in (lambda: store.get(KEY), lambda: store.put("blobs/aa/two", b"2"), lambda: list(store.list())):
        with pytest.raises(
            StoreUnavailable, match=r"refuses the credentials from AWS_ACCESS_KEY_ID.*SignatureDoesNotMatch"
        ) as caught:
            call()
        assert "guessed-secret" not in caught.value.message + caught.value.hint


def test_who_may_only_read_is_told_so_when_writing(ceph: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    use(ceph, monkeypatch)
    bucket = ceph.bucket()
    ObjectStore(f"s3://{bucket}").put(KEY, CONTENT)
    statement = (
        '{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*", '
        f'"Action": ["s3:PutObject", "s3:DeleteObject"], "Resource": "arn:aws:s3:::{bucket}/*"}}]}}'
    )
    ceph.client().put_bucket_policy(Bucket=bucket, Policy=statement)
    store = ObjectStore(f"s3://{bucket}")
    assert store.get(KEY) == CONTENT and [entry.key for entry in store.list()] == [KEY]
    for call in (lambda: store.put("blobs/aa/two", b"2"), lambda: store.delete(KEY), lambda: store.quarantine(KEY)):
        with pytest.raises(StoreReadOnly, match=f"s3://{bucket} may not be written to"):
            call()
    assert store.get(KEY) == CONTENT


def test_many_machines_create_one_key_once(ceph: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    use(ceph, monkeypatch)
    url = f"s3://{ceph.bucket()}"
    stores = [ObjectStore(url) for _ in range(8)]
    for number in range(10):
        with ThreadPoolExecutor(len(stores)) as machines:
            won = list(machines.map(lambda each, key=f"refs/x/{number}": each[1].put(key, b"%d" % each[0]), enumerate(stores)))  # type: ignore[misc]
        assert won.count(True) == 1
        assert stores[0].get(f"refs/x/{number}") == b"%d" % won.index(True)


@pytest.mark.parametrize(
    ("arguments", "ends_with"),
    [(("cache", "verify"), -signal.SIGINT), (("demo", "--model", "bundled", "--board", "cpu"), Interrupted.exit_code)],
    ids=["in threads", "in the main thread"],
)
def test_a_second_interrupt_does_not_wait_for_a_server_that_says_no_more(
    arguments: tuple[str, ...], ends_with: int, url: str, proxy: FaultProxy
) -> None:
    """Python has no say while the main thread waits, and there the first interrupt alone would be heard only after that."""
    ttbert("convert", "bundled", "--cache", url, "--no-local", **proxy.env).succeeded()
    met = Event()

    async def meet(exchange: Exchange) -> None:
        met.set()
        await silent(exchange)

    proxy.meet(meet, "GET", "/blobs/", times=100)
    running = subprocess.Popen(
        command(*arguments, "--cache", url, "--no-local"),
        env=environment(proxy.env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr and met.wait(60)
    running.send_signal(signal.SIGINT)
    assert any("Ctrl-C once more ends it at once" in line for line in running.stderr)
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=60)
    assert running.returncode == ends_with and out == ""
    proxy.calm()
    cache = Places(url).open()
    assert verify(cache, take_census(cache)).sound
