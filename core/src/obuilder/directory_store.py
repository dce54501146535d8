"""A store whose results are directories of one file system: all but how to clone and to remove.

For authors of stores. Layout, shared with OBuilder::

    ROOT/result/ID       saved, never changed again
    ROOT/result-tmp/ID   being built, or left by a builder that died
    ROOT/cache/NAME      the newest version of each cache
    ROOT/cache-tmp/…     private copies of caches
    ROOT/state/          the database, locks, records of the caches

A result is saved by one rename from `result-tmp` to `result`, once all of it is on
the disk: after a crash, a power cut too, it is whole or not there. It is
deleted by the rename back, then removed.
"""

import errno
import os
from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from obuilder._mounts import mounted_at
from obuilder.durable import sync_file_system
from obuilder.errors import ConfigError, ProcessError, StoreError
from obuilder.interfaces import Store
from obuilder.named_cache import CacheNaming, NamedCaches
from obuilder.process import run
from obuilder.types import Id, Leftover, LeftoverKind, User

__all__ = ["DirectoryStore", "absolute_location", "refuse_mounted", "run_tool"]

C = TypeVar("C")


def absolute_location(location: str, *, driver: str) -> Path:
    """The path that a location names. ConfigError if it is not absolute."""
    if "\0" in location:
        raise ConfigError("the location holds a zero byte", where="store", code="store.location")
    path = Path(location)
    if location.startswith("~"):
        # No shell expands it after `driver:`.
        with suppress(RuntimeError):  # no such user: then it is not absolute either
            path = path.expanduser()
    if not path.is_absolute():
        raise ConfigError(
            f"the location {location!r} is not an absolute path",
            where="store",
            hint=f"write {driver}:{path.absolute()}",
            code="store.location",
        )
    return path


def refuse_mounted(path: Path) -> None:
    """StoreError if something is mounted at a directory or in it. Blocking.

    For who is about to remove it: what a bind mount shows lies elsewhere, and would be emptied. To
    `rm --one-file-system` it is another file system only if it comes from one.
    """
    place = mounted_at(path)
    if place is not None:
        raise StoreError(
            f"cannot remove {path}: {place} is mounted",
            hint=f"umount {place}; then: obuilder fsck --repair",
        )


async def run_tool(argv: Sequence[str], *, doing: str, hint: str | None = None) -> bytes:
    """Run a store's helper program and return what it printed.

    StoreError, with what was being done and the program's own words, if it fails.
    """
    try:
        return (await run(argv, hint=hint)).stdout
    except ProcessError as error:
        raise StoreError(f"{doing}: {error.what}", hint=error.hint) from error


class DirectoryStore(Store[C]):
    """The promises of `Store`, over four operations on directories that a store gives.

    `create_tree`, `clone_tree` and `remove_tree` must be given; `publish` and
    `withdraw` may be replaced by a store that does more than rename, and
    `named_caches` by one whose caches are no plain directories.
    """

    def __init__(
        self, root: Path, *, cache_prefix: str = "", temporary: str = "result-tmp"
    ) -> None:
        """Make what is missing of the layout. ConfigError if that cannot be, or not written.

        `temporary` is where results are built: `result` if a store makes one in
        its place; it then tells itself what is saved and what is left over.
        """
        self._root = root
        self._results = root / "result"
        self._temporary = root / temporary
        try:
            for path in (*self._parts(), self.state_dir):
                path.mkdir(parents=True, exist_ok=True)
            self._caches = self.named_caches(cache_prefix)
        except OSError as error:
            raise ConfigError(
                f"cannot make a store in {root}: {error.strerror}",
                where=str(error.filename or root),
                hint="name another location, or run as a user who may write there",
                code="store.location",
            ) from error
        for path in (*self._parts(), self.state_dir):
            if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
                read_only = os.statvfs(path).f_flag & os.ST_RDONLY
                number = errno.EROFS if read_only else errno.EACCES
                raise ConfigError(
                    f"the store's directory {path} cannot be written",
                    where=str(path),
                    hint="mount it writable, or run as a user who may write there",
                    code="store.location",
                ) from OSError(number, os.strerror(number), str(path))

    def _parts(self) -> tuple[Path, ...]:
        named = ("cache", "cache-tmp")
        return (self._results, self._temporary, *(self._root / name for name in named))

    def named_caches(self, prefix: str) -> NamedCaches:
        """The caches of this store. OSError."""
        naming = CacheNaming(prefix=prefix)
        return NamedCaches(self, self._root, self.state_dir, naming=naming)

    @abstractmethod
    async def create_tree(self, path: Path) -> None:
        """Make an empty directory, mode 0755. StoreError."""

    @abstractmethod
    async def clone_tree(self, source: Path, target: Path) -> None:
        """Make `target`, which does not exist, a writable copy of `source`. StoreError.

        May be cancelled, or fail, at any point: `target` is removed then.
        """

    @abstractmethod
    async def remove_tree(self, path: Path) -> None:
        """Remove a directory whole; nothing if it is gone. StoreError."""

    async def publish(self, temporary: Path, result: Path) -> None:
        """Make a finished build a result. StoreError; then there is no result.

        All of it is on the disk first: a file system may keep the rename through a power cut
        and lose what was in the files.
        """
        try:
            await anyio.to_thread.run_sync(sync_file_system, temporary.parent)
        except OSError as error:
            raise StoreError(f"cannot write {temporary} to disk: {error.strerror}") from error
        _rename(temporary, result)

    async def withdraw(self, result: Path, temporary: Path) -> None:
        """Make a result a temporary one again, to be removed. StoreError; then it is whole."""
        _rename(result, temporary)

    @property
    def root(self) -> Path:
        return self._root

    @property
    def state_dir(self) -> Path:
        return self._root / "state"

    @asynccontextmanager
    async def build(self, id: Id, *, base: Id | None = None) -> AsyncIterator[Path]:
        temporary = self._temporary / id
        # What a builder that was killed left here must not become part of the result.
        await self.remove_tree(temporary)
        try:
            if base is None:
                await self.create_tree(temporary)
            else:
                await self.clone_tree(await self._base(base), temporary)
            yield temporary
            with anyio.CancelScope(shield=True):
                await self.publish(temporary, self._results / id)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await self._abandon(temporary, error)
            raise

    async def _base(self, id: Id) -> Path:
        path = await self.result(id)
        if path is None:
            raise StoreError(f"the base {id} is not in the store {self._root}")
        return path

    async def _abandon(self, temporary: Path, reason: BaseException) -> None:
        try:
            await self.remove_tree(temporary)
        except StoreError as error:
            # Why the build ended matters more; the next to open the store finds the leftover.
            reason.add_note(f"{temporary} remains: {error}")

    async def result(self, id: Id) -> Path | None:
        # In this thread: one stat, and this is called for every step.
        path = self._results / id
        return path if _is_directory(path) else None

    async def results(self) -> Sequence[Id]:
        def work() -> list[Id]:
            return [Id(entry.name) for entry in os.scandir(self._results) if entry.is_dir()]

        return await anyio.to_thread.run_sync(work)

    async def log_file(self, id: Id) -> Path:
        running = self._temporary / id
        return (running if _is_directory(running) else self._results / id) / "log"

    async def delete(self, id: Id) -> None:
        with anyio.CancelScope(shield=True):
            await self.remove_tree(self._temporary / id)
            if _is_directory(self._results / id):
                await self.withdraw(self._results / id, self._temporary / id)
                await self.remove_tree(self._temporary / id)

    def cache(self, name: str, *, user: User) -> AbstractAsyncContextManager[Path]:
        return self._caches.use(name, user=user)

    def cache_was_kept(self, copy: Path) -> bool | None:
        return self._caches.was_kept(copy)

    async def caches(self) -> Sequence[str]:
        return await self._caches.names()

    async def delete_cache(self, name: str) -> None:
        await self._caches.delete(name)

    async def df(self) -> float:
        space = await anyio.to_thread.run_sync(os.statvfs, self._root)
        return 100.0 * space.f_bavail / max(space.f_blocks, 1)

    async def complete_deletes(self) -> None:
        await anyio.lowlevel.checkpoint()

    async def leftovers(self) -> Sequence[Leftover]:
        results = [
            Leftover(kind=LeftoverKind.RESULT, key=entry.name, path=Path(entry.path))
            for entry in os.scandir(self._temporary)
        ]
        return [*results, *await self._caches.leftovers()]

    async def discard(self, leftover: Leftover) -> None:
        path = self._temporary / leftover.key if leftover.path is None else leftover.path
        if path.parent not in (self._temporary, self._root / "cache-tmp"):
            raise StoreError(f"{path} is not a leftover of the store {self._root}")
        if path.parent != self._temporary:
            await self._caches.discard(path)
        else:
            # Whoever is cancelled leaves a rest that is found again.
            await self.remove_tree(path)

    async def create_cache(self, path: Path, user: User) -> None:
        await self.create_tree(path)
        try:
            os.chown(path, user.uid, user.gid)
        except OSError as error:
            raise StoreError(f"cannot give {path} to {user.uid}: {error.strerror}") from error

    async def clone_cache(self, source: Path, target: Path) -> None:
        await self.clone_tree(source, target)

    async def remove_cache(self, path: Path) -> None:
        await self.remove_tree(path)


def _is_directory(path: Path) -> bool:
    return path.is_dir()


def _rename(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        raise StoreError(f"cannot rename {source} to {target}: {error.strerror}") from error
