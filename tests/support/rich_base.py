"""A root file system tarball with owners, hard modes and links, and what is to come of it."""

import shutil
import stat
import tarfile
from io import BytesIO
from pathlib import Path

from support.images import busybox_tarball

__all__ = ["ENTRIES", "FILES", "LINKS", "make_rich_tarball"]

FILES = {"etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n", "etc/group": b"root:x:0:\n"}

_ADDED = {
    "etc/shadow": (0o640, 0, 42),
    "usr/bin/passwd": (0o4755, 0, 0),
    "usr/bin/wall": (0o2755, 0, 5),
    "home/user/note": (0o600, 1000, 1001),
}

ENTRIES = {
    "tmp": (stat.S_IFDIR | 0o1777, 0, 0),
    "home/user": (stat.S_IFDIR | 0o700, 1000, 1001),
    **{name: (stat.S_IFREG | mode, uid, gid) for name, (mode, uid, gid) in _ADDED.items()},
}

LINKS = {
    "bin/sh": "/bin/busybox",
    "etc/localtime": "../usr/share/zoneinfo/Etc/UTC",
    "home/user/again": "home/user/note",  # a hard one
}


def make_rich_tarball(path: Path) -> None:
    """Busybox, with some files more."""
    shutil.copy(busybox_tarball(), path)
    with tarfile.open(path, "a") as archive:
        for directory in ("home", "usr", "usr/bin"):
            archive.addfile(_entry(directory, tarfile.DIRTYPE, 0o755))
        archive.addfile(_entry("home/user", tarfile.DIRTYPE, 0o700, 1000, 1001))
        for name, (mode, uid, gid) in _ADDED.items():
            file = _entry(name, tarfile.REGTYPE, mode, uid, gid)
            file.size = len(name)
            archive.addfile(file, BytesIO(name.encode()))
        symbolic = _entry("etc/localtime", tarfile.SYMTYPE, 0o777)
        symbolic.linkname = LINKS["etc/localtime"]
        archive.addfile(symbolic)
        hard = _entry("home/user/again", tarfile.LNKTYPE, 0o600, 1000, 1001)
        hard.linkname = LINKS["home/user/again"]
        archive.addfile(hard)


def _entry(name: str, kind: bytes, mode: int, uid: int = 0, gid: int = 0) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.uid, entry.gid = kind, mode, uid, gid
    return entry
