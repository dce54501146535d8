"""A directory store whose results are ordinary directories: all but how to clone one.

For authors of stores. Made with `mkdir`, removed with `rm`, and what a step
added is told from what was cloned by the time of its last change, because a
copy is older than whatever is written after it.
"""

import fcntl
import os
import shlex
import shutil
import struct
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Literal, TypeVar

import anyio
import anyio.to_thread

from obuilder._removal import remove_directory
from obuilder.directory_store import DirectoryStore, refuse_mounted, run_tool
from obuilder.errors import ConfigError, ProcessError, StoreError
from obuilder.process import run
from obuilder.types import Id

__all__ = ["PlainStore", "Share", "copy_entries", "copy_tree", "require_program"]

C = TypeVar("C")

Share = Literal["always", "auto"]

_XFS_IOC_FREE_EOFBLOCKS = 0x8080583A  # xfs/xfs_fs.h
_EVERY_FILE = struct.pack("=II120x", 1, 1)  # struct xfs_fs_eofblocks: version, flags: wait
_BTRFS_IOC_SYNC = 0x9408  # linux/btrfs.h
_CLOCK_REALTIME_COARSE = 5  # linux/time.h: the clock of ctime
_TICK_S = 0.001
_BLOCK_BYTES = 512  # of find's %b

# Not `-a`, which is silent where attributes cannot be kept. ACLs go with the mode.
_COPY = (
    "cp",
    "--recursive",
    "--no-dereference",
    "--preserve=mode,ownership,timestamps,links,xattr",
)
_PRINT_BLOCKS = ("-type", "f", "-printf", "%i %b\\n")


def require_program(program: str, *, package: str, driver: str) -> None:
    """ConfigError, with what to install, if a program that a store needs is missing."""
    if shutil.which(program) is None:
        raise ConfigError(
            f"the {driver} store needs the program {program}, which is not in PATH",
            where="store",
            hint=f"apt-get install {package}",
            code="store.program",
        )


async def copy_tree(source: Path, target: Path, *, share: Share) -> None:
    """Copy a directory to `target`, which is made if it is missing. StoreError.

    With all that a tree holds but access times. `share`: whether files must
    share their blocks with the source's, or do where the file system can.
    """
    await _copy(source, target, "--no-target-directory", f"--reflink={share}", "--", ".")


async def copy_entries(source: Path, names: Sequence[str], target: Path, *, share: Share) -> None:
    """Copy some entries of a directory to another, as `copy_tree` does. StoreError."""
    if names:
        await _copy(source, target, f"--reflink={share}", "--", *(f"./{name}" for name in names))


async def _copy(source: Path, target: Path, *words: str) -> None:
    try:
        target.mkdir(exist_ok=True)
        descriptor = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(f"cannot create {target}: {error.strerror}") from error
    try:
        # Names from the two directories on, so that paths in a tree may be as long as
        # a program inside could make them, wherever the store lies.
        argv = (*_COPY, *words, f"/proc/self/fd/{descriptor}/.")
        await run(argv, cwd=source, pass_fds=(descriptor,))
    except ProcessError as error:
        raise StoreError(
            f"cannot copy {source} to {target}: {error.what}",
            hint=f"is there room? try: df {shlex.quote(str(target.parent))}",
        ) from error
    finally:
        os.close(descriptor)


class PlainStore(DirectoryStore[C]):
    """The promises of `Store`, over `clone_tree` alone, which must be given.

    ConfigError if the layout is spread over several file systems.
    """

    def __init__(self, root: Path, *, cache_prefix: str = "") -> None:
        super().__init__(root, cache_prefix=cache_prefix)
        for one, other in (("result", "result-tmp"), ("cache", "cache-tmp")):
            if (root / one).stat().st_dev != (root / other).stat().st_dev:
                raise ConfigError(
                    f"{root / one} and {root / other} are on different file systems",
                    where="store",
                    hint="a result is saved by a rename: mount the file system at the whole store",
                    code="store.location",
                )
        self._cloned_at_ns: dict[Id, int] = {}

    @asynccontextmanager
    async def build(self, id: Id, *, base: Id | None = None) -> AsyncIterator[Path]:
        try:
            async with super().build(id, base=base) as temporary:
                self._cloned_at_ns[id] = 0 if base is None else await _ctime_boundary_ns()
                yield temporary
        finally:
            self._cloned_at_ns.pop(id, None)

    async def create_tree(self, path: Path) -> None:
        try:
            path.mkdir()
            path.chmod(0o755)  # whatever the umask
        except OSError as error:
            raise StoreError(f"cannot create {path}: {error.strerror}") from error

    async def remove_tree(self, path: Path) -> None:
        if not os.path.lexists(path):
            return
        await anyio.to_thread.run_sync(refuse_mounted, path)
        if os.geteuid() != 0:
            # An ordinary user cannot empty a directory that he may not write; rm tells the rest.
            await run(["chmod", "-R", "u+rwx", "--", str(path)], ok=range(256))
        try:
            await remove_directory(path)
        except ProcessError as error:
            raise StoreError(
                f"cannot remove {path}: {error.what}",
                hint="let go of what is protected (chattr -R -i); then: obuilder fsck --repair",
            ) from error

    async def complete_deletes(self) -> None:
        await anyio.to_thread.run_sync(_free_deleted, self.root)

    async def size_added(self, id: Id) -> int | None:
        since_ns = self._cloned_at_ns.get(id)
        if since_ns is None:
            return None
        newer = f"@{since_ns // 10**9}.{since_ns % 10**9:09}"
        places = map(str, self.written_places(id))
        found = await run_tool(
            ("find", *places, "-xdev", "-newerct", newer, *_PRINT_BLOCKS),
            doing=f"cannot measure {id}",
        )
        # By inode: a file with several names is counted once.
        blocks = dict(line.split() for line in found.splitlines())
        return _BLOCK_BYTES * sum(map(int, blocks.values()))

    def written_places(self, id: Id) -> Sequence[Path]:
        """The directories in which the running build `id` writes, on one file system."""
        return (self._temporary / id,)


def _free_deleted(root: Path) -> None:
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # xfs frees in the background, btrfs at the end of a transaction. The first call is
        # meant for preallocated blocks, and waits also until unlinked inodes are gone.
        for request, argument in ((_XFS_IOC_FREE_EOFBLOCKS, _EVERY_FILE), (_BTRFS_IOC_SYNC, b"")):
            # Another file system; or not root, and then it is done some milliseconds later.
            with suppress(OSError):
                fcntl.ioctl(descriptor, request, argument)
    finally:
        os.close(descriptor)


async def _ctime_boundary_ns() -> int:
    """A time that no file has been changed after yet, and every later change is after."""
    boundary = time.time_ns()
    # ctime comes from a clock that stands still for up to 10 ms.
    while time.clock_gettime_ns(_CLOCK_REALTIME_COARSE) <= boundary:
        boundary = min(boundary, time.time_ns())  # it may be set back by hours just now
        await anyio.sleep(_TICK_S)
    return boundary
