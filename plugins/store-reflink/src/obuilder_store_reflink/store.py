"""The reflink store: results are plain directories, a clone shares their blocks until it writes."""

import errno
import fcntl
import os
import shlex
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from obuilder.directory_store import absolute_location
from obuilder.errors import ConfigError
from obuilder.plain_store import PlainStore, copy_tree, require_program

__all__ = ["ReflinkStore"]

_FICLONE = 0x40049409  # linux/fs.h


class ReflinkStore(PlainStore["ReflinkStore.Config"]):
    """Results as plain directories of a file system with reflinks, cloned by sharing blocks.

    The layout is that of OBuilder's xfs store.
    """

    API: ClassVar[int] = 1

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """The reflink store has no options."""

    @classmethod
    @asynccontextmanager
    async def open(cls, location: str, config: Config) -> AsyncIterator[Self]:
        del config
        root = absolute_location(location, driver="reflink")
        require_program("cp", package="coreutils", driver="reflink")
        store = cls(root)
        _try_clone(root)
        yield store

    async def clone_tree(self, source: Path, target: Path) -> None:
        # Always: never a full copy that nobody asked for.
        await copy_tree(source, target, share="always")


def _try_clone(root: Path) -> None:
    place = root / "result-tmp"
    try:
        # Files without a name: nobody takes them for a build's.
        with tempfile.TemporaryFile(dir=place) as one, tempfile.TemporaryFile(dir=place) as other:
            one.write(b"x" * os.statvfs(place).f_bsize)
            one.flush()
            fcntl.ioctl(other.fileno(), _FICLONE, one.fileno())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return  # says nothing of clones, and `prune` must be able to open the store
        target = shlex.quote(str(root))
        image = shlex.quote(f"/var/lib/{root.name or 'pool'}.xfs")
        raise ConfigError(
            f"the file system of {root} cannot clone a file: {error.strerror}",
            where="store",
            hint="it takes an xfs made with reflink=1, a btrfs or a bcachefs:"
            f" mkfs.xfs -m reflink=1 DEVICE && mkdir -p {target} && mount DEVICE {target}\n"
            f"  or, in a file: truncate -s 50G {image} && mkfs.xfs -m reflink=1 {image}"
            f" && mkdir -p {target} && mount -o loop {image} {target}",
            code="store.location",
        ) from error
