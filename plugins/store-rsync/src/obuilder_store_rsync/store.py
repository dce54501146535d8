"""The rsync store: results are plain directories, a clone is a full copy. Any file system."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self

from obuilder.directory_store import absolute_location, run_tool
from obuilder.errors import ConfigError
from obuilder.plain_store import PlainStore, require_program
from obuilder_store_rsync.acls import repair_acls

__all__ = ["RsyncStore"]

_MODES = ("copy",)

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
        require_program("rsync", package="rsync", driver="rsync")
        yield cls(absolute_location(location, driver="rsync"))

    async def clone_tree(self, source: Path, target: Path) -> None:
        await run_tool([*_COPY, f"{source}/", f"{target}/"], doing=f"cannot copy {source}")
        await repair_acls(source, target)
