"""Whether a place can hold layers: tried once for each kernel and file system, then remembered."""

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio.to_thread

from obuilder.durable import write_file
from obuilder.errors import ConfigError, StoreError
from obuilder.locks import Locks
from obuilder.types import Holder
from obuilder_store_overlayfs import mounts

__all__ = ["check_location"]

_TRIED = Path("state", "overlay-tried")
_LOCK = "overlay-trying"

_HINT = (
    "it takes a kernel with overlayfs (modprobe overlay), and a file system that can hold"
    " its upper layer: ext4, xfs (with ftype=1), btrfs or tmpfs, but no other overlay"
    " (in a container, use a volume) and no network; or use --store=rsync:DIRECTORY"
)

_logger = logging.getLogger(__name__)


async def check_location(root: Path) -> None:
    """ConfigError if layers cannot be mounted here, or would not behave as one tree.

    StoreError if the lock for trying it cannot be had.
    """
    if (root / "in-progress").is_dir() and (root / "merged").is_dir():
        raise ConfigError(
            f"{root} is a store of OBuilder's overlayfs, whose layers are not the same",
            where="store",
            hint="name another directory; what that store holds is built anew",
            code="store.location",
        )
    with _naming_errors(root):
        if _is_tried(root):
            return
        # Not while another process tries, nor beside what one that was killed has left.
        async with Locks(root / "state" / "locks").hold(_LOCK, on_wait=_tell):
            if not _is_tried(root):
                await anyio.to_thread.run_sync(_try, root)


async def _tell(holder: Holder) -> None:
    _logger.warning("waiting to try whether layers can be mounted, which %s", holder)


@contextmanager
def _naming_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, StoreError) as error:
        cause = error.__cause__ if isinstance(error, StoreError) else error
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return  # says nothing of layers, and `prune` must be able to open the store
        if isinstance(error, StoreError):
            raise
        raise ConfigError(
            f"layers cannot be mounted in {root}: {error.strerror}",
            where="store",
            hint=_HINT,
            code="store.location",
        ) from error


def _is_tried(root: Path) -> bool:
    tried = root / _TRIED
    return tried.is_file() and tried.read_bytes() == _here(root)


def _here(root: Path) -> bytes:
    return f"{os.uname().release} {root.stat().st_dev}\n".encode()


def _try(root: Path) -> None:
    home = root / "state" / "trying"
    with _removed(home):
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
    write_file(root / _TRIED, _here(root))


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
