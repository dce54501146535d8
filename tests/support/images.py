"""Root file system tarballs for tests, made once and kept: busybox and a Debian."""

import fcntl
import os
import tarfile
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path

import anyio

from obuilder.process import run

__all__ = ["PATH_VARIABLE", "busybox_tarball", "debian_tarball"]

PATH_VARIABLE = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""The whole environment of both images; golden/README.md."""

_ROOT = Path(__file__).resolve().parents[2]


def busybox_tarball() -> Path:
    """A static busybox with a link for every applet in /bin, and root's name."""
    return _kept("busybox-root.tar", _make_busybox)


def debian_tarball() -> Path:
    """A minimal Debian bookworm from the machine's mirrors; made in about 30 s."""
    return _kept("debian-bookworm.tar", _make_debian)


def _kept(name: str, make: Callable[[Path], None]) -> Path:
    given = os.environ.get("XDG_CACHE_HOME")
    directory = Path(given, "obuilder-tests") if given else _ROOT / ".cache"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    # Several test processes may want it at once.
    with (directory / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            unfinished = directory / f"unfinished-{name}"
            make(unfinished)
            unfinished.rename(path)
    return path


def _make_busybox(path: Path) -> None:
    program = Path("/bin/busybox")
    applets = anyio.run(partial(run, [str(program), "--list"])).stdout.decode().split()
    with tarfile.open(path, "w") as archive:
        for directory in ("bin", "etc", "root", "tmp"):
            archive.addfile(_directory(directory))
        _add(archive, "bin/busybox", program.read_bytes(), mode=0o755)
        _add(archive, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
        _add(archive, "etc/group", b"root:x:0:\n")
        for applet in applets:
            if applet == "busybox":
                continue
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "/bin/busybox"
            archive.addfile(link)


def _add(archive: tarfile.TarFile, name: str, data: bytes, *, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, BytesIO(data))


def _directory(name: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
    return entry


def _make_debian(path: Path) -> None:
    anyio.run(partial(run, ["mmdebstrap", "--variant=minbase", "bookworm", str(path)]))
