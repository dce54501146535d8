"""The reflink store: results are plain directories, a clone shares their blocks until it writes."""

import fcntl
import os
import shlex
import struct
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import anyio
import anyio.to_thread

from obuilder.directory_store import absolute_location, run_tool
from obuilder.errors import ConfigError, ProcessError, StoreError
from obuilder.plain_store import PlainStore, require_program
from obuilder.process import run

__all__ = ["ReflinkStore"]

_FICLONE = 0x40049409  # linux/fs.h
_XFS_IOC_FREE_EOFBLOCKS = 0x8080583A  # xfs/xfs_fs.h
_EVERY_FILE = struct.pack("=II120x", 1, 1)  # struct xfs_fs_eofblocks: version, flags: wait

# Each file's blocks are shared, or it is an error: never a full copy that nobody asked for.
# Not `-a`, which is silent where attributes cannot be kept. ACLs go with the mode.
_CLONE = (
    "cp",
    "--recursive",
    "--no-dereference",
    "--no-target-directory",
    "--preserve=mode,ownership,timestamps,links,xattr",
    "--reflink=always",
    "--",
)


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
        await self.create_tree(target)
        descriptor = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Names from the two directories on, so that paths in a tree may be as long as
            # a program inside could make them, wherever the store lies.
            argv = (*_CLONE, ".", f"/proc/self/fd/{descriptor}/.")
            await run(argv, cwd=source, pass_fds=(descriptor,))
        except ProcessError as error:
            raise StoreError(
                f"cannot clone {source} to {target}: {error.what}",
                hint=f"is there room? try: df {shlex.quote(str(self.root))}",
            ) from error
        finally:
            os.close(descriptor)

    async def complete_deletes(self) -> None:
        # What is unlinked is freed with the transaction (btrfs) or in the background (xfs).
        doing = f"cannot wait for deletes in {self.root}"
        await run_tool(("sync", "--file-system", str(self.root)), doing=doing)
        await anyio.to_thread.run_sync(_free_unlinked_on_xfs, self.root)


def _free_unlinked_on_xfs(root: Path) -> None:
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Meant for preallocated blocks; it also waits until the unlinked inodes are gone.
        fcntl.ioctl(descriptor, _XFS_IOC_FREE_EOFBLOCKS, _EVERY_FILE)
    except OSError:
        # Another file system, or not root: then it is done some milliseconds later.
        pass
    finally:
        os.close(descriptor)


def _try_clone(root: Path) -> None:
    place = root / "result-tmp"
    try:
        # Files without a name: nobody takes them for a build's.
        with tempfile.TemporaryFile(dir=place) as one, tempfile.TemporaryFile(dir=place) as other:
            one.write(b"x" * os.statvfs(place).f_bsize)
            one.flush()
            fcntl.ioctl(other.fileno(), _FICLONE, one.fileno())
    except OSError as error:
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
