"""The btrfs store: results are read-only subvolumes, a clone is a snapshot."""

import os
import re
import shlex
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import anyio

from obuilder.directory_store import DirectoryStore, absolute_location, run_tool
from obuilder.errors import ConfigError, StoreError
from obuilder.named_cache import CacheNaming, NamedCaches
from obuilder.types import Id, Leftover, LeftoverKind
from obuilder_store_btrfs import stream, subvolume
from obuilder_store_btrfs.usage import free_percent

__all__ = ["BtrfsStore"]

_DELETES_LIMIT_S = 600.0
"""How long freeing the space of deleted subvolumes may take before that is an error."""

_EXTENT = re.compile(rb"^inode \d+ file offset \d+ len (\d+) ", re.MULTILINE)


class BtrfsStore(DirectoryStore["BtrfsStore.Config"]):
    """Results as read-only subvolumes of a btrfs, cloned by snapshot.

    A result is renamed into place and then made read-only: the other order is
    refused by the kernel. `state/publishing/ID` exists while that is under way,
    so that after a crash in between the next `open` ends it.
    """

    API: ClassVar[int] = 1
    stream_formats: ClassVar[tuple[str, ...]] = (stream.FORMAT,)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """The btrfs store has no options."""

    @classmethod
    @asynccontextmanager
    async def open(cls, location: str, config: Config) -> AsyncIterator[Self]:
        del config
        root = absolute_location(location, driver="btrfs")
        if os.geteuid() != 0:
            raise ConfigError(
                "the btrfs store must be run by root: others may not delete subvolumes",
                where="store",
                hint="run obuilder with sudo, or use --store=rsync:DIRECTORY",
                code="store.not-root",
            )
        if shutil.which("btrfs") is None:
            raise ConfigError(
                "the btrfs store needs the program btrfs, which is not in PATH",
                where="store",
                hint="apt-get install btrfs-progs",
                code="store.program",
            )
        _check_btrfs(root)
        store = cls(root, cache_prefix="c-")
        await store._finish_publishing()
        yield store

    def __init__(self, root: Path, *, cache_prefix: str = "") -> None:
        super().__init__(root, cache_prefix=cache_prefix)
        self._publishing = self.state_dir / "publishing"
        self._publishing.mkdir(exist_ok=True)

    def named_caches(self, prefix: str) -> NamedCaches:
        naming = CacheNaming(prefix=prefix)
        return _Caches(self, self._root, self.state_dir, naming=naming)

    async def create_tree(self, path: Path) -> None:
        await subvolume.create(path)
        path.chmod(0o755)

    async def clone_tree(self, source: Path, target: Path) -> None:
        await subvolume.snapshot(source, target)

    async def remove_tree(self, path: Path) -> None:
        if subvolume.is_subvolume(path):
            await subvolume.delete(path)
        elif await anyio.Path(path).exists():  # a store that was copied here by other means
            argv = ("rm", "-rf", "--one-file-system", "--", str(path))
            await run_tool(argv, doing=f"cannot remove {path}")

    async def publish(self, temporary: Path, result: Path) -> None:
        # A snapshot shows them as empty directories, and the flag does not reach into them.
        if subvolume.has_children(temporary):
            raise StoreError(
                f"the step left btrfs subvolumes in {temporary.name}, which no snapshot keeps",
                hint="delete them at the end of the command, or use --store=rsync:DIRECTORY",
                code="store.nested-subvolume",
            )
        marker = self._publishing / result.name
        _touch(marker)
        await super().publish(temporary, result)
        try:
            await subvolume.set_read_only(result, value=True)
        except StoreError:
            await self.remove_tree(result)
            marker.unlink(missing_ok=True)
            raise
        marker.unlink(missing_ok=True)

    async def withdraw(self, result: Path, temporary: Path) -> None:
        if subvolume.is_subvolume(result):
            await subvolume.set_read_only(result, value=False)
        await super().withdraw(result, temporary)

    async def result(self, id: Id) -> Path | None:
        path = await super().result(id)
        if path is not None:
            await _protect(path)
        return path

    async def delete(self, id: Id) -> None:
        path = self._results / id
        if subvolume.is_subvolume(path) and not subvolume.has_children(path):
            with anyio.CancelScope(shield=True):
                await self.remove_tree(self._temporary / id)
                await subvolume.delete(path)  # at once, so there is nothing to withdraw for
        else:
            await super().delete(id)

    async def discard(self, leftover: Leftover) -> None:
        await super().discard(leftover)
        if leftover.kind is LeftoverKind.RESULT:
            (self._publishing / leftover.key).unlink(missing_ok=True)

    async def complete_deletes(self) -> None:
        with anyio.move_on_after(_DELETES_LIMIT_S) as limit:
            # The first wakes the cleaner, which else sleeps for up to 30 s; the last ends the
            # transaction with which it freed the data.
            for what in ("filesystem", "subvolume", "filesystem"):
                await self._btrfs(what, "sync")
        if limit.cancelled_caught:
            raise StoreError(
                f"btrfs has not freed the deleted subvolumes within {_DELETES_LIMIT_S:.0f} s",
                hint=f"see `btrfs subvolume list -d {self.root}`",
                code="store.deletes-pending",
            )

    async def df(self) -> float:
        printed = await self._btrfs("filesystem", "usage", "-b")
        try:
            return free_percent(printed.decode("utf-8", "replace"))
        except ValueError as error:
            raise StoreError(f"cannot tell the free space of {self.root}: {error}") from error

    async def clone_cache(self, source: Path, target: Path) -> None:
        await _make_movable(source)  # it could not be replaced when the copy is released
        await super().clone_cache(source, target)

    async def size_added(self, id: Id) -> int | None:
        path = self._temporary / id
        since = subvolume.first_own_generation(path)
        argv = ("btrfs", "subvolume", "find-new", str(path), str(since))
        printed = await run_tool(argv, doing=f"cannot measure {path}")
        return sum(map(int, _EXTENT.findall(printed)))

    async def export(self, id: Id, sink: int, *, format: str, base: Id | None) -> None:
        if format != stream.FORMAT:
            raise StoreError(f"btrfs sends no {format!r}", code="store.stream")
        source = None if base is None else await self._base(base)
        await stream.send(await self._base(id), sink, base=source)

    @asynccontextmanager
    async def import_(
        self, id: Id, source: int, *, format: str, base: Id | None
    ) -> AsyncIterator[Path]:
        del base  # the stream says which of the subvolumes here it goes on from
        if format != stream.FORMAT:
            raise StoreError(f"btrfs receives no {format!r}", code="store.stream")
        temporary = self._temporary / id
        await self.remove_tree(temporary)
        try:
            await self.create_tree(temporary)
            received = await stream.receive(temporary, source)
            yield received
            with anyio.CancelScope(shield=True):
                # Not renamed: the kernel moves no read-only subvolume. A snapshot keeps what
                # `btrfs receive` knows it by, so that others can be received on it.
                await subvolume.snapshot(received, self._results / id, read_only=True)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await self._abandon(temporary, error)
            raise
        with anyio.CancelScope(shield=True):
            await self.remove_tree(temporary)

    async def _btrfs(self, *command: str) -> bytes:
        argv = ("btrfs", *command, str(self.root))
        return await run_tool(argv, doing=f"cannot examine {self.root}")

    async def _finish_publishing(self) -> None:
        for marker in list(self._publishing.iterdir()):
            # Without a result its builder may be alive, before the rename.
            if await self.result(Id(marker.name)) is not None:
                marker.unlink(missing_ok=True)


class _Caches(NamedCaches):
    async def withdraw(self, current: Path, copy: Path) -> None:
        await _make_movable(current)
        await super().withdraw(current, copy)


async def _make_movable(cache: Path) -> None:
    # OBuilder leaves its caches read-only, and the kernel renames no such subvolume.
    if subvolume.is_subvolume(cache) and subvolume.is_read_only(cache):
        await subvolume.set_read_only(cache, value=False)


async def _protect(result: Path) -> None:
    if subvolume.is_subvolume(result) and not subvolume.is_read_only(result):
        with anyio.CancelScope(shield=True):
            await subvolume.set_read_only(result, value=True)


def _touch(path: Path) -> None:
    try:
        path.touch()
    except OSError as error:
        raise StoreError(f"cannot create {path}: {error.strerror}") from error


def _check_btrfs(root: Path) -> None:
    existing = root
    while not existing.exists():
        existing = existing.parent
    try:
        if subvolume.is_btrfs(existing):
            return
    except OSError as error:
        raise ConfigError(
            f"cannot use {existing}: {error.strerror}",
            where="store",
            hint="name a directory on a mounted btrfs",
            code="store.location",
        ) from error
    target, image = shlex.quote(str(root)), shlex.quote(f"/var/lib/{root.name or 'pool'}.btrfs")
    raise ConfigError(
        f"{existing} is not on a btrfs file system",
        where="store",
        hint=f"mkfs.btrfs DEVICE && mkdir -p {target} && mount DEVICE {target}\n"
        f"  or, in a file: truncate -s 50G {image} && mkfs.btrfs {image}"
        f" && mkdir -p {target} && mount -o loop {image} {target}",
        code="store.location",
    )
