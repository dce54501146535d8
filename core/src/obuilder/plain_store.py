"""A directory store whose results are ordinary directories: all but how to clone one.

For authors of stores. Made with `mkdir`, removed with `rm`, and what a step
added is told from what was cloned by the time of its last change, because a
copy is older than whatever is written after it.
"""

import os
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import anyio

from obuilder.directory_store import DirectoryStore, run_tool
from obuilder.errors import ConfigError, StoreError
from obuilder.process import run
from obuilder.types import Id

__all__ = ["PlainStore", "require_program"]

C = TypeVar("C")

_CLOCK_REALTIME_COARSE = 5  # linux/time.h: the clock of ctime
_TICK_S = 0.001
_BLOCK_BYTES = 512  # of find's %b

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
        async with super().build(id, base=base) as temporary:
            self._cloned_at_ns[id] = 0 if base is None else await _ctime_boundary_ns()
            try:
                yield temporary
            finally:
                del self._cloned_at_ns[id]

    async def create_tree(self, path: Path) -> None:
        try:
            path.mkdir()
            path.chmod(0o755)  # whatever the umask
        except OSError as error:
            raise StoreError(f"cannot create {path}: {error.strerror}") from error

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


async def _ctime_boundary_ns() -> int:
    """A time that no file has been changed after yet, and every later change is after."""
    boundary = time.time_ns()
    # ctime comes from a clock that stands still for up to 10 ms.
    while time.clock_gettime_ns(_CLOCK_REALTIME_COARSE) <= boundary:  # noqa: ASYNC110 - a clock
        await anyio.sleep(_TICK_S)
    return boundary
