"""A trial of a cache on NFS: a real server and two real clients, each a virtual machine, on this machine.

    apt-get install qemu-system-x86 nfs-kernel-server nfs-common busybox-static cpio kmod e2fsprogs
    apt-get download linux-image-cloud-amd64's kernel package, and unpack it: dpkg -x linux-image-6*.deb KERNEL
    python tests/nfs/trial.py KERNEL [--keys 200]

Needs root, no /dev/kvm and no network: the machines are emulated, see this machine's files read-only through virtiofs, and
talk to each other over multicast on the loopback device. What they do is in `guest.py`; the last line is the result
as JSON, and the exit code is 1 if a promise did not hold. Takes some minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

GUEST = Path(__file__).with_name("guest.py")
VIRTIOFSD = Path("/usr/lib/qemu/virtiofsd")
MODULES = ("virtio_pci", "virtiofs", "overlay")

_INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev
for module in $($b cat /modules); do $b insmod /$module; done
$b mount -t virtiofs -o ro host /host
$b mount -t tmpfs scratch /scratch; $b mkdir /scratch/upper /scratch/work
$b mount -t overlay -o lowerdir=/host,upperdir=/scratch/upper,workdir=/scratch/work root /root
for each in proc sys dev; do $b mount --move /$each /root/$each; done
exec $b switch_root /root @PYTHON@ -P @GUEST@ $($b cat /root/proc/cmdline)
"""


class Machine:
    """A virtual machine; `results` are the documents it has printed, `said` all that it wrote to its console."""

    def __init__(self, name: str, number: int, folder: Path, kernel: Path, settings: dict[str, str], disk: Path | None) -> None:
        self.name = name
        self.said: list[str] = []
        socket = folder / f"{name}.socket"
        self._files = subprocess.Popen(
            [str(VIRTIOFSD), f"--socket-path={socket}", "-o", "source=/,sandbox=chroot,cache=always"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not socket.exists():
            if self._files.poll() is not None:
                raise SystemExit(f"{VIRTIOFSD} ended with {self._files.returncode}")
            time.sleep(0.1)
        words = " ".join(f"trial.{key}={value}" for key, value in {"name": name, "number": str(number), **settings}.items())
        command = f"""
            qemu-system-x86_64 -accel tcg -m 1024 -nographic -no-reboot
            -object memory-backend-memfd,id=memory,size=1024M,share=on -numa node,memdev=memory
            -chardev socket,id=files,path={socket} -device vhost-user-fs-pci,chardev=files,tag=host
            -netdev socket,id=net,mcast=230.77.1.1:17711,localaddr=127.0.0.1
            -device virtio-net-pci,netdev=net,mac=52:54:00:77:00:0{number}
            -kernel {next(kernel.glob("boot/vmlinuz-*"))} -initrd {folder / "initrd"}
        """.split()
        drive = ["-drive", f"file={disk},if=virtio,format=raw"] if disk else []
        self._machine = subprocess.Popen(
            [*command, *drive, "-append", f"console=ttyS0 quiet panic=-1 {words}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def results(self) -> list[dict[str, Any]]:
        return [json.loads(line.partition("RESULT ")[2]) for line in list(self.said) if "RESULT " in line]

    def wait(self, seconds: float) -> None:
        self._machine.wait(seconds)

    def wait_for(self, text: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not any(text in line for line in list(self.said)):
            if time.monotonic() > end or self._machine.poll() is not None:
                raise SystemExit(f"{self.name} never said {text!r}:\n" + "\n".join(self.said[-40:]))
            time.sleep(0.2)

    def pull_the_plug(self) -> None:
        self._machine.send_signal(signal.SIGKILL)

    def close(self) -> None:
        for process in (self._machine, self._files):
            process.kill()
            process.wait()

    def _listen(self) -> None:
        assert self._machine.stdout
        for line in self._machine.stdout:
            self.said.append(line.decode(errors="replace").rstrip())


def make_initrd(folder: Path, kernel: Path) -> None:
    """A first root file system that brings the machine to this machine's files."""
    release = next(kernel.glob("lib/modules/*")).name
    tree = folder / "tree"
    for name in ("bin", "proc", "sys", "dev", "host", "scratch", "root"):
        (tree / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin")
    needed: list[Path] = []
    for module in MODULES:
        show = ["modprobe", "--show-depends", "--set-version", release, "--dirname", str(kernel), module]
        lines = subprocess.run(show, capture_output=True, text=True, check=True).stdout.splitlines()
        needed += [Path(line.split()[1]) for line in lines if line.startswith("insmod ")]
    for path in dict.fromkeys(needed):
        shutil.copy(path, tree)
    (tree / "modules").write_text("\n".join(path.name for path in dict.fromkeys(needed)))
    init = _INIT.replace("@PYTHON@", sys.executable).replace("@GUEST@", str(GUEST))
    (tree / "init").write_text(init)
    (tree / "init").chmod(0o755)
    with (folder / "initrd").open("wb") as file:
        names = "\0".join(str(path.relative_to(tree)) for path in tree.rglob("*"))
        subprocess.run(["cpio", "-o", "-0", "-H", "newc", "--quiet"], cwd=tree, input=names.encode(), stdout=file, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernel", type=Path)
    parser.add_argument("--keys", type=int, default=200, help="keys that are raced for, with each version of NFS")
    given = parser.parse_args()
    kernel = given.kernel.resolve()
    subprocess.run(["depmod", "-b", str(kernel), next(kernel.glob("lib/modules/*")).name], check=True)
    with tempfile.TemporaryDirectory(prefix="ttbert-nfs-") as name:
        folder = Path(name)
        make_initrd(folder, kernel)
        disk = folder / "export.img"
        with disk.open("wb") as file:
            os.truncate(file.fileno(), 2 << 30)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", str(disk)], check=True)
        settings = {"kernel": str(kernel), "keys": str(given.keys), "ttbert": str(GUEST.parents[2])}
        machines = [Machine("server", 1, folder, kernel, settings, disk)]
        try:
            machines[0].wait_for("SERVER READY", 180)
            machines += [Machine(f"client{n}", n + 1, folder, kernel, settings, None) for n in (1, 2)]
            first, second = machines[1:]
            first.wait_for("PULL THE PLUG", 1800)
            time.sleep(3)
            first.pull_the_plug()
            second.wait(900)
            report(first, second, given.keys)
        finally:
            for each in machines:
                each.close()


def report(first: Machine, second: Machine, keys: int) -> None:
    results = {each.name: each.results for each in (first, second)}
    failures = [line for each in (first, second) for line in each.said if "BROKEN" in line]
    if not any(result.get("trial") == "after the loss of a client" for result in second.results):
        failures.append("client2 did not finish:\n" + "\n".join(second.said[-40:]))
    for version in ("4.2", "3"):
        races = [each for each in (*first.results, *second.results) if (each["trial"], each.get("nfs")) == ("race", version)]
        if len(races) != 2 or sum(each["won"] for each in races) != keys:
            failures.append(f"BROKEN each of {keys} keys has exactly one winner with NFS {version}: {races}")
    for line in failures:
        print(line, file=sys.stderr)
    print(json.dumps({"held": not failures, **results}, indent=2))
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()
