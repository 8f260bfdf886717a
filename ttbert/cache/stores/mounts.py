"""What kind of file system a folder is on, as Linux tells it."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from ...frozen import Frozen

_NETWORK = re.compile(r"nfs4?|cifs|smb3|9p|virtiofs|ceph|glusterfs|lustre|beegfs|gpfs|wekafs|afs|fuse(\..*)?")
_LEASED = {"ext2", "ext3", "ext4", "xfs", "btrfs", "bcachefs", "f2fs", "zfs", "tmpfs", "overlay"}
_TEMPORARY = {"tmpfs", "ramfs"}
_CACHED_BY_CLIENTS = 60.0
"""Seconds for which an NFS client may show an old listing: acdirmax, where nothing else is said."""

_SAID = ("acdirmax", "actimeo")
"""The options that say it. CIFS shows the second one alone where the times of folders and of files are the same."""

_OCTAL = re.compile(r"\\([0-7]{3})")


class Mount(Frozen):
    """A mounted file system: where, of which type, with which options."""

    point: Path
    type: str
    options: tuple[str, ...]

    @property
    def is_temporary(self) -> bool:
        """Whether all of it is gone when the machine restarts."""
        return self.type in _TEMPORARY

    @property
    def is_container_layer(self) -> bool:
        """Whether all of it is gone with the container, if this is one."""
        return self.type == "overlay"

    @property
    def is_read_only(self) -> bool:
        return "ro" in self.options

    @property
    def asks_for_leases(self) -> bool:
        """Whether nobody changes a file there without this kernel, which has them wait for leases on it to be given back."""
        return self.type in _LEASED

    @property
    def seen_within(self) -> float:
        """Seconds after which a listing here shows what another machine has done."""
        if not _NETWORK.fullmatch(self.type):
            return 0.0
        said = [float(value) for name, _, value in (each.partition("=") for each in self.options) if name in _SAID]
        return max([_CACHED_BY_CLIENTS, *said])


def find_mount(path: Path, table: Path = Path("/proc/self/mounts")) -> Mount:
    """The file system that a path is on, or would be on."""
    place = nearest_existing(path).resolve()
    found = Mount(Path("/"), "unknown", ())
    with contextlib.suppress(OSError):
        for line in table.read_text(errors="surrogateescape").splitlines():
            _, point, kind, options, *_ = line.split(" ")
            mount = Mount(Path(_OCTAL.sub(lambda match: chr(int(match[1], 8)), point)), kind, tuple(options.split(",")))
            # Of two on the same point the later one hides the earlier one.
            if place.is_relative_to(mount.point) and len(mount.point.parts) >= len(found.point.parts):
                found = mount
    return found


def nearest_existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that is there and can be seen."""
    for each in (path, *path.parents):
        with contextlib.suppress(OSError):  # below a folder that may not be looked into
            if each.exists():
                return each
    return path
