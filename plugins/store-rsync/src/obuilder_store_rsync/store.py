"""The rsync store: results are plain directories, a clone is a full copy. Any file system.

A step never works on files that a result has too: also in the modes that share
files between results its clone is a full copy, and what it left unchanged is
linked to the base's just before it is saved.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, Self

import anyio
import anyio.to_thread

from obuilder.directory_store import absolute_location, run_tool
from obuilder.errors import ConfigError, StoreError
from obuilder.plain_store import PlainStore, require_program
from obuilder.types import Id
from obuilder_store_rsync.acls import repair_acls
from obuilder_store_rsync.sharing import share_unchanged

__all__ = ["RsyncStore"]

_MODES = ("copy", "hardlink", "hardlink_unsafe")

# Everything a tree can have: -a owner, group, mode, times, links, devices; -H hard links;
# -A ACLs; -X extended attributes; -S holes. Without the window, a time that is right to the
# second passes for right, and what is copied within a second of its making loses the rest.
_COPY = ("rsync", "-aHAXS", "--numeric-ids", "--modify-window=-1", "--")


class RsyncStore(PlainStore["RsyncStore.Config"]):
    """Results as plain directories on any file system, cloned by rsync."""

    API: ClassVar[int] = 1

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Options of the rsync store.

        mode: what results share. `copy`: nothing. `hardlink`: the files that a step
        did not change are hard links to its base's; their bytes are compared.
        `hardlink_unsafe`: so too, but the same size and time pass for the same bytes.
        """

        mode: Literal["copy", "hardlink", "hardlink_unsafe"] = "copy"

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
        require_program("rsync", package="rsync", driver="rsync")
        yield cls(absolute_location(location, driver="rsync"), mode=config.mode)

    def __init__(self, root: Path, *, mode: str = "copy") -> None:
        super().__init__(root)
        self._mode = mode
        self._bases: dict[str, Id | None] = {}

    @asynccontextmanager
    async def build(self, id: Id, *, base: Id | None = None) -> AsyncIterator[Path]:
        self._bases[id] = base
        try:
            async with super().build(id, base=base) as temporary:
                yield temporary
        finally:
            del self._bases[id]

    async def publish(self, temporary: Path, result: Path) -> None:
        base = self._bases.get(result.name)
        shared = None if base is None or self._mode == "copy" else await self.result(base)
        if shared is not None:
            compare = self._mode == "hardlink"
            share = partial(share_unchanged, shared, temporary, compare_content=compare)
            try:
                await anyio.to_thread.run_sync(share)
            except OSError as error:
                raise StoreError(
                    f"cannot share the files of {shared} with {temporary}: {error.strerror}"
                ) from error
        await super().publish(temporary, result)

    async def clone_tree(self, source: Path, target: Path) -> None:
        await run_tool([*_COPY, f"{source}/", f"{target}/"], doing=f"cannot copy {source}")
        await repair_acls(source, target)
