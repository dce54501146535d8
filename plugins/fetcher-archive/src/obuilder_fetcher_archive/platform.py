"""Which machine the programs of a root file system are for, read from one of them."""

import stat
from pathlib import Path

__all__ = ["platform_of"]

_PROGRAMS = ("bin/sh", "usr/bin/env", "bin/busybox", "usr/bin/bash", "sbin/init")
_MOST_LINKS = 40
_ELF = b"\x7fELF"
_HEADER_BYTES = 20

# (e_machine, 64 bit, little endian) of elf(5), in Go's names.
_MACHINES = {
    (3, False, True): "386",
    (8, False, False): "mips",
    (8, False, True): "mipsle",
    (8, True, True): "mips64le",
    (21, True, False): "ppc64",
    (21, True, True): "ppc64le",
    (22, True, False): "s390x",
    (40, False, True): "arm",
    (62, True, True): "amd64",
    (183, True, True): "arm64",
    (243, True, True): "riscv64",
    (258, True, True): "loong64",
}


def platform_of(rootfs: Path) -> str | None:
    """`linux/ARCH` of the first program found, None if there is none that is known.

    Nothing else may be changing `rootfs`. Links are followed as they would be
    with `rootfs` as the root directory.
    """
    for program in _PROGRAMS:
        path = _resolve(rootfs, program)
        if path is None:
            continue
        with path.open("rb") as file:
            arch = _arch(file.read(_HEADER_BYTES))
        if arch is not None:
            return f"linux/{arch}"
    return None


def _resolve(rootfs: Path, name: str) -> Path | None:
    """The regular file that `name` stands for inside `rootfs`."""
    todo = name.split("/")[::-1]
    found: list[str] = []
    links = 0
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            del found[-1:]
            continue
        path = rootfs.joinpath(*found, part)
        try:
            mode = path.lstat().st_mode
        except OSError:
            return None  # no such program, or a name that no file can have
        if not stat.S_ISLNK(mode):
            found.append(part)
            continue
        links += 1
        if links > _MOST_LINKS:
            return None
        target = str(path.readlink())
        if target.startswith("/"):
            found.clear()
        todo.extend(target.split("/")[::-1])
    path = rootfs.joinpath(*found)
    return path if stat.S_ISREG(path.lstat().st_mode) else None


def _arch(header: bytes) -> str | None:
    if len(header) < _HEADER_BYTES or not header.startswith(_ELF):
        return None
    little = header[5] == 1
    machine = int.from_bytes(header[18:20], "little" if little else "big")
    return _MACHINES.get((machine, header[4] == 2, little))  # noqa: PLR2004 - ELFCLASS64
