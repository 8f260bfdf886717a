"""What a virtual machine of `trial.py` does; it is the first process there.

The server exports a disk and lets the clients wait for one another. The clients, for NFS 4.2 and then 3:

1. race: both publish the same keys with different contents at the same time; each key has exactly one winner, and both
   then read the winner's bytes whole.
2. see: one publishes, and the other, which looked for the key before and did not find it, looks again and again; how long
   it takes is reported. Publishing there must lose, whatever it saw, and must leave the other's object alone.
3. publish: both publish the same blobs and manifests, through the cache; one copy of each is left, none torn.
4. (NFS 4.2 only, last) one machine is switched off while it publishes; the other one finds nothing torn, and publishes.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

SERVER = "10.77.0.1"
PORT = 7711
EXPORT, MOUNT = Path("/mnt/export"), Path("/mnt/shared")


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")


def tell(text: str) -> None:
    print(text, flush=True)


def result(trial: str, **found: object) -> None:
    tell("RESULT " + json.dumps({"trial": trial, **found}))


def check(promise: str, held: bool, detail: object = "") -> None:
    if not held:
        tell(f"BROKEN {promise}: {detail}")


def main() -> None:
    settings = dict(word.removeprefix("trial.").split("=", 1) for word in sys.argv[1:] if word.startswith("trial."))
    os.environ.update(PATH="/usr/sbin:/usr/bin:/sbin:/bin", HOME="/root")
    try:
        socket.sethostname(settings["name"])
        # The kernel asks for modules by itself, too, and looks for them here.
        run("mount", "-t", "tmpfs", "tmpfs", "/mnt")
        run("mkdir", "-p", "/lib/modules")
        run("mount", "--bind", f"{settings['kernel']}/lib/modules", "/lib/modules")
        for module in ("virtio_net", "virtio_blk", *(("nfsd",) if settings["name"] == "server" else ("nfsv4", "nfsv3"))):
            run("modprobe", module)
        run("ip", "link", "set", "lo", "up")
        device = next(path.name for path in Path("/sys/class/net").iterdir() if path.name != "lo")
        run("ip", "addr", "add", f"10.77.0.{settings['number']}/24", "dev", device)
        run("ip", "link", "set", device, "up")
        run("mount", "-t", "tmpfs", "tmpfs", "/tmp")
        serve() if settings["name"] == "server" else Client(settings).run()
    except BaseException:
        tell("BROKEN the trial itself: " + traceback.format_exc())
    finally:
        subprocess.run(["/bin/busybox", "poweroff", "-f"], check=False)


def serve() -> None:
    EXPORT.mkdir()
    run("mount", "/dev/vda", str(EXPORT))
    (EXPORT / "cache").mkdir(mode=0o777)
    for folder in ("/run", "/var/lib/nfs"):
        run("mount", "-t", "tmpfs", "tmpfs", folder)
    for name in ("rpc_pipefs", "v4recovery", "nfsdcltrack", "sm", "sm.bak"):
        Path("/var/lib/nfs", name).mkdir()
    for name in ("etab", "rmtab", "xtab", "state"):
        Path("/var/lib/nfs", name).touch()
    run("mount", "-t", "nfsd", "nfsd", "/proc/fs/nfsd")
    run("rpcbind", "-w")
    run("exportfs", "-o", "rw,sync,no_root_squash,no_subtree_check,fsid=0", f"10.77.0.0/24:{EXPORT}")
    run("rpc.nfsd", "4")
    run("rpc.mountd")
    run("rpc.statd", "--no-notify")
    waiting: dict[str, list[socket.socket]] = {}
    with socket.create_server(("", PORT)) as listener:
        tell("SERVER READY")
        while True:
            connection, _ = listener.accept()
            name = connection.recv(200).decode()
            waiting.setdefault(name, []).append(connection)
            if len(waiting[name]) == 2:
                for each in waiting.pop(name):
                    each.sendall(b"go")
                    each.close()


def together(name: str) -> None:
    """Go on when the other client has come to the same place."""
    with socket.create_connection((SERVER, PORT)) as connection:
        connection.sendall(name.encode())
        if connection.recv(2) != b"go":
            raise RuntimeError(f"the server is gone while waiting for {name}")


class Client:
    def __init__(self, settings: dict[str, str]) -> None:
        self.me = settings["name"]
        self.keys = int(settings["keys"])
        sys.path.insert(0, settings["ttbert"])
        MOUNT.mkdir()
        run("mount", "-t", "tmpfs", "tmpfs", "/run")
        run("rpcbind", "-w")
        run("mount", "-t", "tmpfs", "tmpfs", "/var/lib/nfs")
        for name in ("sm", "sm.bak"):
            Path("/var/lib/nfs", name).mkdir()
        run("rpc.statd", "--no-notify")

    def run(self) -> None:
        for version in ("4.2", "3"):
            source = f"{SERVER}:/cache" if version == "4.2" else f"{SERVER}:{EXPORT}/cache"
            run("mount", "-t", "nfs", "-o", f"vers={version},hard", source, str(MOUNT))
            together(f"mounted {version}")
            self.race(version)
            self.see(version)
            self.publish(version)
            together(f"done {version}")
            run("umount", str(MOUNT))
        run("mount", "-t", "nfs", "-o", "vers=4.2,hard", f"{SERVER}:/cache", str(MOUNT))
        self.lose_a_client()

    def race(self, version: str) -> None:
        store = self.store(f"race-{version}")
        won = 0
        for number in range(self.keys):
            key = f"blobs/{number % 256:02x}/key{number}"
            content = f"{self.me} {number} ".encode() * 5000
            together(f"{key} {version}")
            mine = store.put(key, content)
            won += mine
            together(f"{key} {version} put")
            found = store.get(key)
            check("the winner's bytes are whole", len(found) == len(content) and len(set(found.split())) == 2, key)
            check("who won reads their own, and who lost the other's", (found == content) == mine, (key, mine, found[:30]))
        result("race", nfs=version, keys=self.keys, won=won)

    def see(self, version: str) -> None:
        """How long a client that did not find a key goes on not finding it: if it only looks, and if it publishes."""
        store = self.store(f"see-{version}")
        waited: dict[bool, list[float]] = {False: [], True: []}
        for number in range(6):
            key, publishes = f"refs/name/{number:08d}", bool(number % 2)
            looks = self.me == "client2"
            if looks:
                check("a key that nobody wrote is not there", store.head(key) is None, key)
            together(f"looked {number} {version}")
            if not looks:
                check("a key that nobody wrote can be published", store.put(key, b"first"), key)
            together(f"published {number} {version}")
            if looks:
                began = time.monotonic()
                if publishes:
                    check("who did not find it cannot publish over it", not store.put(key, b"second"), key)
                while store.head(key) is None and time.monotonic() < began + 90:
                    time.sleep(0.05)
                waited[publishes].append(round(time.monotonic() - began, 1))
                check("what is there is what was published first", store.get(key) == b"first", key)
            together(f"seen {number} {version}")
        if waited[True]:
            result("see", nfs=version, seconds_if_it_looks=waited[False], seconds_if_it_publishes=waited[True])

    def publish(self, version: str) -> None:
        from ttbert.cache.cache import Cache

        store = self.store(f"cache-{version}")
        cache = Cache(store)
        together(f"publish {version}")
        digests = [cache.publish_blob(blob(number)) for number in range(self.keys)]
        together(f"published {version}")
        for number, digest in enumerate(digests):
            found = cache.hash(f"blobs/{digest.hex[:2]}/{digest.hex}")
            check("every blob is whole", found == (digest, len(blob(number))), digest)
        together(f"read {version}")
        listed = list(store.list("blobs"))
        check("there is one copy of each", len(listed) == self.keys, len(listed))
        check("nothing is left behind", not list(store.debris()), list(store.debris()))
        result("publish", nfs=version, blobs=self.keys, bytes=sum(entry.size for entry in listed))

    def lose_a_client(self) -> None:
        from ttbert.cache.cache import Cache

        store = self.store("lost")
        cache = Cache(store)
        together("lose a client")
        if self.me == "client1":
            tell("PULL THE PLUG")
            while True:
                for number in range(10_000):
                    cache.publish_blob(blob(number))
        time.sleep(20)
        listed = list(store.list("blobs"))
        for entry in listed:
            found = cache.hash(entry.key)
            check("what is visible is whole", found is not None and entry.key.endswith(found[0].hex), entry)
        left = list(store.debris())
        again = [cache.publish_blob(blob(number)) for number in range(len(listed) + 5)]
        for number, digest in enumerate(again):
            found = cache.hash(f"blobs/{digest.hex[:2]}/{digest.hex}")
            check("another client goes on", found == (digest, len(blob(number))), digest)
        result("after the loss of a client", visible=len(listed), left_behind=len(left), published_since=len(again))

    def store(self, folder: str) -> Any:
        from ttbert.cache.stores.local import LocalStore

        return LocalStore(MOUNT / folder)


def blob(number: int) -> bytes:
    """100 kB that differ by number."""
    return f"{number:08d}".encode() * 12_500


main()
