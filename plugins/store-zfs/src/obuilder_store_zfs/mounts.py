"""What is mounted where, as this process sees it."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Mount", "mounted_at", "mounts"]

_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One whole file system that is mounted."""

    path: Path
    source: str
    type: str

    @property
    def is_zfs(self) -> bool:
        """Whether it is a ZFS data set, of the kernel or of zfs-fuse."""
        return self.type in ("zfs", "fuse.zfs")


def mounts() -> Sequence[Mount]:
    """All mounts of whole file systems, in the order they were made."""
    lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    return [mount for mount in map(_read, lines) if mount is not None]


def mounted_at(path: Path) -> Mount | None:
    """The mount that an existing path without links lies in; None if a part of one is bound."""
    while not os.path.ismount(path):
        path = path.parent
    # The last one that was mounted there covers the others.
    return next((mount for mount in reversed(mounts()) if mount.path == path), None)


def _read(line: bytes) -> Mount | None:
    before, _, after = line.partition(b" - ")
    root, path = before.split(b" ")[3:5]
    type, source = after.split(b" ")[:2]
    if root != b"/":
        return None
    return Mount(path=Path(_text(path)), source=_text(source), type=_text(type))


def _text(field: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda octal: bytes([int(octal.group(1), 8)]), field))
