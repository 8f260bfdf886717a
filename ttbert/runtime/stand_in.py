"""A stand-in for the compiler of TT-NN's kernels, so that a mock device needs no SFPI and no other compiler.

TT-NN compiles the kernels of a program for the RISC-V processors of a core before it runs the program, also on a mock
device, where no kernel ever runs. There the stand-in serves: it answers every call as the compiler would, and whatever
the source, the result is the same tiny kernel that returns at once. What TT-NN asks of a result was taken from its
build and its ELF loader (tt-metal `jit_build/build.cpp` and `llrt/tt_elffile.cpp`):

- asked for `--version`, a line that names the version; it becomes part of the kernel cache's key
- a precompiled header or an object: any file, and for an object a list of dependencies that exist
- a linked kernel or firmware: a 32-bit little-endian RISC-V executable with program headers, section headers and a
  string table; a loadable segment, word-aligned, that begins at the entry; and a relocation section for it, here empty,
  since a kernel must be movable

What this leaves unproved: the size of real kernels, so that a program whose kernels are too large for a core's kernel
buffer is accepted here, and all that compiling would find.

TT-NN calls its compiler hundreds of times for one model, each time as a new process. So the stand-in is a script for
`sh` that starts no other program: 2 ms a call where Python takes 15. A module because the bytes need explaining.
"""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

VERSION = "riscv-tt-elf-g++ (ttbert stand-in, for mock devices only) 15.1.0"

_TEXT_ADDRESS = 0x1000
"""Any would do: TT-NN moves a kernel to where it fits."""

_RETURN = 0x00008067
"""The RISC-V instruction `ret`."""

_SCRIPT = r"""#!/bin/sh
# A stand-in for the RISC-V compiler, for mock devices only: every kernel becomes the same, which returns at once.
[ "$1" = --version ] && { echo "@VERSION@"; exit; }
made=linked out= depends=
while [ $# -gt 0 ]; do
    case $1 in
    -o) out=$2; shift ;;
    -MF) depends=$2; shift ;;
    -c | c++-header) made=unlinked ;;
    esac
    shift
done
[ -n "$out" ] || { echo "$0: no output named" >&2; exit 1; }
if [ $made = linked ]; then
    printf '@KERNEL@' >"$out" || exit
else
    : >"$out" || exit
fi
[ -z "$depends" ] || printf '%s: %s\n' "$out" "$0" >"$depends"
"""


def kernel() -> bytes:
    """A 32-bit RISC-V executable of one instruction that TT-NN's loader accepts as a kernel, and as firmware."""
    header_size, segment_size, section_size = 52, 32, 40
    text = struct.pack("<I", _RETURN)
    symbols = bytes(16)  # the null symbol alone
    names = b"\0.text\0.rela.text\0.symtab\0.strtab\0"

    text_at = header_size + segment_size
    symbols_at = text_at + len(text)
    names_at = symbols_at + len(symbols)
    sections_at = _aligned(names_at + len(names))

    def section(name: bytes, kind: int, at: int, size: int, **fields: int) -> bytes:
        where = names.index(b"\0" + name + b"\0") + 1 if name else 0
        rest = [fields.get(field, 0) for field in ("link", "info", "align", "entry")]
        return struct.pack("<10I", where, kind, fields.get("flags", 0), fields.get("address", 0), at, size, *rest)

    sections = [
        bytes(section_size),
        section(b".text", 1, text_at, len(text), flags=6, address=_TEXT_ADDRESS, align=4),  # allocated, executable
        section(b".rela.text", 4, symbols_at, 0, link=3, info=1, align=4, entry=12),
        section(b".symtab", 2, symbols_at, len(symbols), link=4, info=1, align=4, entry=16),
        section(b".strtab", 3, names_at, len(names), align=1),
    ]
    header = b"\x7fELF\1\1\1".ljust(16, b"\0") + struct.pack(
        "<HHIIIIIHHHHHH",
        2,  # executable
        243,  # RISC-V
        1,
        _TEXT_ADDRESS,
        header_size,
        sections_at,
        0,
        header_size,
        segment_size,
        1,
        section_size,
        len(sections),
        len(sections) - 1,
    )
    segment = struct.pack("<8I", 1, text_at, _TEXT_ADDRESS, _TEXT_ADDRESS, len(text), len(text), 5, 4)
    body = header + segment + text + symbols + names
    return body.ljust(sections_at, b"\0") + b"".join(sections)


def write_stand_in(path: Path) -> None:
    """Make an executable script at `path` that TT-NN can use as its compiler, `riscv-tt-elf-g++`.

    One that is there and the same is left alone, and another is replaced at once, since TT-NN may be calling it.
    """
    octal = "".join(f"\\{byte:03o}" for byte in kernel())
    script = _SCRIPT.replace("@VERSION@", VERSION).replace("@KERNEL@", octal)
    if path.exists() and path.read_text() == script:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".write-", dir=path.parent) as scratch:
        fresh = Path(scratch, path.name)
        fresh.write_text(script)
        fresh.chmod(0o755)
        fresh.replace(path)


def _aligned(offset: int) -> int:
    return -(-offset // 4) * 4
