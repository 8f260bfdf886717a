"""Ceph's S3 server, radosgw, with all that it stands on, in a temporary folder and on the loopback device alone.

Debian's packages radosgw, ceph-mon, ceph-osd and ceph-common are enough. The objects are in memory. It authenticates
(cephx on, secrets checked), which moto does not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path
from types import TracebackType

from s3_server import S3Server, free_port, wait_for_port

_PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "ceph-authtool", "monmaptool")
_CONF = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = {folder}/keyring
public addr = 127.0.0.1
cluster addr = 127.0.0.1
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 2147483648
osd data = {folder}/osd
mon data = {folder}/mon
mon allow pool size one = true
# Small requests take ten times as long without it.
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw data = {folder}/rgw
"""


class CephServer(S3Server):
    """A server, running inside `with`."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        """Started by `with`. Another host than the loopback device is for network namespaces."""
        self._port = free_port()
        super().__init__(f"http://{host}:{self._port}", "ttbert", uuid.uuid4().hex)
        self._host = host
        self._processes: list[subprocess.Popen[bytes]] = []

    @staticmethod
    def why_not() -> str | None:
        """What is missing on this machine, if anything."""
        missing = [program for program in _PROGRAMS if shutil.which(program) is None]
        return f"{', '.join(missing)} not found; apt-get install radosgw ceph-mon ceph-osd ceph-common" if missing else None

    def __enter__(self) -> CephServer:
        self._folder = Path(tempfile.mkdtemp(prefix="ttbert-ceph-"))
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def _start(self) -> None:
        folder, fsid, v2, v1 = self._folder, str(uuid.uuid4()), free_port(), free_port()
        conf = _CONF.format(folder=folder, fsid=fsid, v2=v2, v1=v1, port=self._port)
        (folder / "ceph.conf").write_text(conf.replace("endpoint=127.0.0.1", f"endpoint={self._host}"))
        for name in ("mon", "osd", "rgw"):
            (folder / name).mkdir()
        keyring, monmap = folder / "keyring", folder / "monmap"
        self._run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        for who in ("client.admin", "client.rgw"):
            self._run(
                *("ceph-authtool", keyring, "--gen-key", "-n", who),
                *("--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *"),
            )
        addresses = f"[v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]"
        self._run("monmaptool", "--create", "--addv", "a", addresses, "--fsid", fsid, monmap)
        self._run("ceph-mon", *self._as("mon.a"), "--mkfs", "--monmap", monmap)
        self._begin("ceph-mon", "mon.a")
        self._run("ceph", *self._as("client.admin"), "--connect-timeout", "30", "osd", "new", fsid)
        self._run("ceph-authtool", keyring, "--gen-key", "-n", "osd.0")
        self._run(
            *("ceph", *self._as("client.admin"), "auth", "add", "osd.0"),
            *("mon", "allow profile osd", "osd", "allow *", "-i", keyring),
        )
        self._run("ceph-osd", *self._as("osd.0"), "--mkfs", "--osd-uuid", fsid)
        self._begin("ceph-osd", "osd.0")
        self._begin("radosgw", "client.rgw")
        wait_for_port(self._port, self._processes[-1], self._host)
        self._run(
            *("radosgw-admin", *self._as("client.admin"), "user", "create", "--uid", "ttbert", "--display-name", "ttbert"),
            *("--access-key", self.key, "--secret-key", self.secret),
        )

    def _as(self, who: str) -> tuple[str, ...]:
        return ("-c", str(self._folder / "ceph.conf"), "-n", who)

    def _run(self, *command: object) -> None:
        done = subprocess.run([str(part) for part in command], env=_environment(), capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed with {done.returncode}: {done.stderr[-2000:]}")

    def _begin(self, program: str, who: str) -> None:
        """Run a daemon in the foreground, as a child whose end can be waited for."""
        self._processes.append(
            subprocess.Popen(
                [program, *self._as(who), "-f"], env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        )

    def _stop(self) -> None:
        for process in reversed(self._processes):  # radosgw before what it stands on, or it hangs
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._folder)


def _environment() -> dict[str, str]:
    """Without what would lead Debian's own Python astray."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CEPH", "VIRTUAL_ENV"))}
