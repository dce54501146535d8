"""Mounting, unmounting and finding overlays, by the system calls themselves.

The options of a mount are one page of text, and each layer's path is in it.
Here a path starts at an open descriptor of a directory, by way of /proc, so
that it is as short for a store that lies deep, and what stands in the store's
own path (a colon, a comma) need not be escaped.
"""

import ctypes
import errno
import os
import re
from collections.abc import Sequence
from pathlib import Path

from obuilder.errors import StoreError

__all__ = ["is_mounted", "mount_layers", "mount_overlay", "mounted_in", "unmount"]

_MS_RDONLY, _MS_NOSUID, _MS_NODEV = 1, 2, 4  # linux/mount.h
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_OPTIONS_BYTES = 4095  # a page, less its last byte

# `index`: what is one file under several names stays one when it is written. `redirect_dir`:
# directories of lower layers can be renamed. `metacopy`: a layer has its files' data.
_WRITABLE = "index=on,redirect_dir=on,metacopy=off,nfs_export=off"
_READABLE = "redirect_dir=follow,metacopy=off"


def mount_overlay(target: Path, *, home: Path, lower: Sequence[str], upper: str, work: str) -> None:
    """Mount writable layers at `target`; their paths are relative to `home`. OSError."""
    options = f"{_WRITABLE},upperdir={{}}/{upper},workdir={{}}/{work},lowerdir="
    _mount(target, options, home=home, lower=lower, flags=0)


def mount_layers(target: Path, *, home: Path, lower: Sequence[str]) -> None:
    """Mount layers to be read at `target`. OSError."""
    flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV
    _mount(target, f"{_READABLE},lowerdir=", home=home, lower=lower, flags=flags)


def _mount(target: Path, options: str, *, home: Path, lower: Sequence[str], flags: int) -> None:
    descriptor = os.open(home, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        short = f"/proc/self/fd/{descriptor}"
        text = options.replace("{}", short) + ":".join(f"{short}/{path}" for path in lower)
        if len(text) > _OPTIONS_BYTES:
            raise StoreError(f"{len(lower)} layers are too many for one mount")
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"obuilder", os.fsencode(target), b"overlay", flags, text.encode()) != 0:
            raise _os_error(target)
    finally:
        os.close(descriptor)


def unmount(target: Path, *, busy_ok: bool) -> None:
    """Unmount whatever is mounted at `target`, all of it. OSError.

    `busy_ok`: also if somebody still has a file of it open; they keep it, but
    no new one can be opened there.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    while is_mounted(target):
        if libc.umount2(os.fsencode(target), _UMOUNT_NOFOLLOW) == 0:
            continue
        error = _os_error(target)
        if error.errno != errno.EBUSY or not busy_ok:
            raise error
        if libc.umount2(os.fsencode(target), _UMOUNT_NOFOLLOW | _MNT_DETACH) != 0:
            raise _os_error(target)


def is_mounted(path: Path) -> bool:
    """Whether something is mounted at a directory; False if it is not there."""
    try:
        return path.lstat().st_dev != path.parent.lstat().st_dev
    except (FileNotFoundError, NotADirectoryError):
        return False


def mounted_in(directory: Path) -> list[Path]:
    """All places below a directory, in this process's view, where something is mounted."""
    prefix = os.fsencode(directory.resolve()) + b"/"
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        place = re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), line.split(b" ")[4])
        if place.startswith(prefix):
            found.append(directory / os.fsdecode(place.removeprefix(prefix)))
    return found


def _os_error(target: Path) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code), str(target))
