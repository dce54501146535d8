"""The rsync store: results are plain directories, a clone is a full copy. Any file system."""

import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self

import anyio

from obuilder.directory_store import DirectoryStore, absolute_location, run_tool
from obuilder.errors import ConfigError, StoreError
from obuilder.process import run
from obuilder.types import Id
from obuilder_store_rsync.acls import repair_acls

__all__ = ["RsyncStore"]

_MODES = ("copy",)
_CLOCK_REALTIME_COARSE = 5  # linux/time.h: the clock of ctime
_TICK_S = 0.001
_BLOCK_BYTES = 512  # of find's %b

_PRINT_BLOCKS = ("-printf", "%i %b\\n")

# Everything a tree can have: -a owner, group, mode, times, links, devices; -H hard links;
# -A ACLs; -X extended attributes; -S holes. Without the window, a time that is right to the
# second passes for right, and what is copied within a second of its making loses the rest.
_COPY = ("rsync", "-aHAXS", "--numeric-ids", "--modify-window=-1", "--")


class RsyncStore(DirectoryStore["RsyncStore.Config"]):
    """Results as plain directories on any file system, cloned by rsync."""

    API: ClassVar[int] = 1

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Options of the rsync store.

        mode: how a result is cloned. `copy`: a full copy, which shares nothing.
        """

        mode: Literal["copy"] = "copy"

    @classmethod
    @asynccontextmanager
    async def open(cls, location: str, config: Config) -> AsyncIterator[Self]:
        if config.mode not in _MODES:
            raise ConfigError(
                f"the rsync store has no mode {config.mode!r}",
                where="rsync.mode",
                hint=f"modes: {', '.join(_MODES)}",
                code="config.value",
            )
        if shutil.which(_COPY[0]) is None:
            raise ConfigError(
                "the rsync store needs the program rsync, which is not in PATH",
                where="store",
                hint="apt-get install rsync",
                code="store.program",
            )
        store = cls(absolute_location(location, driver="rsync"))
        _check_one_file_system(store.root)
        yield store

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._cloned_at_ns: dict[Id, int] = {}

    @asynccontextmanager
    async def build(self, id: Id, *, base: Id | None = None) -> AsyncIterator[Path]:
        async with super().build(id, base=base) as temporary:
            self._cloned_at_ns[id] = 0 if base is None else await _ctime_boundary_ns()
            try:
                yield temporary
            finally:
                del self._cloned_at_ns[id]

    async def create_tree(self, path: Path) -> None:
        _make_directory(path)

    async def clone_tree(self, source: Path, target: Path) -> None:
        await run_tool([*_COPY, f"{source}/", f"{target}/"], doing=f"cannot copy {source}")
        await repair_acls(source, target)

    async def remove_tree(self, path: Path) -> None:
        if not await anyio.Path(path).exists():
            return
        if os.geteuid() != 0:
            # An ordinary user cannot empty a directory that he may not write; rm tells the rest.
            await run(["chmod", "-R", "u+rwx", "--", str(path)], ok=range(256))
        # A mount that somebody forgot inside must not be emptied.
        await run_tool(
            ["rm", "-rf", "--one-file-system", "--", str(path)], doing=f"cannot remove {path}"
        )

    async def size_added(self, id: Id) -> int | None:
        since_ns = self._cloned_at_ns.get(id)
        if since_ns is None:
            return None
        newer = f"@{since_ns // 10**9}.{since_ns % 10**9:09}"
        found = await run_tool(
            ("find", str(self._temporary / id), "-type", "f", "-newerct", newer, *_PRINT_BLOCKS),
            doing=f"cannot measure {id}",
        )
        # By inode: a file with several names is counted once.
        blocks = dict(line.split() for line in found.splitlines())
        return _BLOCK_BYTES * sum(map(int, blocks.values()))


def _make_directory(path: Path) -> None:
    try:
        path.mkdir()
        path.chmod(0o755)  # whatever the umask
    except OSError as error:
        raise StoreError(f"cannot create {path}: {error.strerror}") from error


async def _ctime_boundary_ns() -> int:
    """A time that no file has been changed after yet, and every later change is after."""
    boundary = time.time_ns()
    # ctime comes from a clock that stands still for up to 10 ms.
    while time.clock_gettime_ns(_CLOCK_REALTIME_COARSE) <= boundary:  # noqa: ASYNC110 - a clock
        await anyio.sleep(_TICK_S)
    return boundary


def _check_one_file_system(root: Path) -> None:
    for one, other in (("result", "result-tmp"), ("cache", "cache-tmp")):
        if (root / one).stat().st_dev != (root / other).stat().st_dev:
            raise ConfigError(
                f"{root / one} and {root / other} are on different file systems",
                where="store",
                hint="a result is saved by a rename: mount the file system at the whole store",
                code="store.location",
            )
