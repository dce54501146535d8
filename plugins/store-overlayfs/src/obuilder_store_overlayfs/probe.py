"""Whether a place can hold layers: tried once for each kernel and file system, then remembered."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from obuilder.durable import write_file
from obuilder.errors import ConfigError
from obuilder_store_overlayfs import mounts

__all__ = ["check_location"]

_HINT = (
    "it takes a kernel with overlayfs (modprobe overlay), and a file system that can hold"
    " its upper layer: ext4, xfs (with ftype=1), btrfs or tmpfs, but no other overlay"
    " (in a container, use a volume) and no network; or use --store=rsync:DIRECTORY"
)


def check_location(root: Path) -> None:
    """ConfigError if layers cannot be mounted here, or would not behave as one tree."""
    if (root / "in-progress").is_dir() and (root / "merged").is_dir():
        raise ConfigError(
            f"{root} is a store of OBuilder's overlayfs, whose layers are not the same",
            where="store",
            hint="name another directory; what that store holds is built anew",
            code="store.location",
        )
    tried = root / "state" / "overlay-tried"
    here = f"{os.uname().release} {root.stat().st_dev}\n".encode()
    try:
        if tried.is_file() and tried.read_bytes() == here:
            return
        _try(root)
        write_file(tried, here)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return  # says nothing of layers, and `prune` must be able to open the store
        raise ConfigError(
            f"layers cannot be mounted in {root}: {error.strerror}",
            where="store",
            hint=_HINT,
            code="store.location",
        ) from error


def _try(root: Path) -> None:
    home = root / "state" / "trying"
    with _alone(root / "state"), _removed(home):
        for part in ("lower", "upper", "work", "merged"):
            (home / part).mkdir(parents=True)
        merged = home / "merged"
        (home / "lower" / "one").write_text("x")
        (home / "lower" / "two").hardlink_to(home / "lower" / "one")
        mounts.mount_overlay(merged, home=home, lower=["lower"], upper="upper", work="work")
        (merged / "one").write_text("y")
        joined = (merged / "two").read_text() == "y"
    if not joined:
        raise ConfigError(
            f"in layers in {root} a file with two names would become two files",
            where="store",
            hint=_HINT,
            code="store.location",
        )


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Not while another process tries, nor beside what one that was killed has left."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _removed(home: Path) -> Iterator[None]:
    """See to it that `home` is not there before the block, nor after it."""
    _remove(home)
    try:
        yield
    finally:
        _remove(home)


def _remove(home: Path) -> None:
    mounts.unmount(home / "merged", busy_ok=True)
    with suppress(FileNotFoundError):
        shutil.rmtree(home)
