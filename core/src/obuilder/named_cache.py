"""Caches for stores that keep them as directories: private copies, first release wins.

A store gives the three operations that differ (create, clone, remove); who
wins, how names become file names, and what is busy is decided here, once. A
store whose caches are no plain directories also overrides what `NamedCaches`
has as public methods for it.
"""

import json
import logging
import os
import re
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

import anyio
import anyio.to_thread

from obuilder._cache_naming import CacheNaming, escape_name, unescape_name
from obuilder.durable import exchange, sync_file_system, write_file
from obuilder.errors import CacheBusy, StoreError
from obuilder.locks import Locks, Trace
from obuilder.types import Leftover, LeftoverKind, User

__all__ = [
    "CacheNaming",
    "CacheOperations",
    "NamedCaches",
    "damaged_records",
    "escape_name",
    "remove_record",
    "remove_unfinished",
    "unescape_name",
]

RELEASE_S = 1.0
"""How long a cancelled step may wait for its cache, which another is copying, to release it."""

_logger = logging.getLogger(__name__)

_RECORDS = "caches"
# What `write_file` names the file that is to become the record.
_UNFINISHED = re.compile(r"\.(.+)\.[0-9]+\.tmp")


class CacheOperations(Protocol):
    """What a store does for its caches; all three may raise StoreError."""

    async def create_cache(self, path: Path, user: User) -> None:
        """Make an empty cache owned by `user`, mode 0755."""

    async def clone_cache(self, source: Path, target: Path) -> None:
        """Make `target` a writable copy of `source`."""

    async def remove_cache(self, path: Path) -> None:
        """Remove a cache or a copy of one; nothing if it is gone."""


class NamedCaches:
    """The caches of one store.

    `current` holds the newest version of each, `copies` the private copies,
    `records` one small file a cache with its full name and its generation: a
    number that grows with each release, so that a copy knows whether it is
    still the newest when its turn comes. All three on one file system.
    """

    def __init__(
        self,
        store: CacheOperations,
        root: Path,
        state_dir: Path,
        *,
        naming: CacheNaming | None = None,
    ) -> None:
        self._store = store
        self._current = root / "cache"
        self._copies = root / "cache-tmp"
        self._records = state_dir / _RECORDS
        self._records.mkdir(parents=True, exist_ok=True)
        self._locks = Locks(state_dir / "locks")
        self._naming = naming or CacheNaming()
        self._lost: set[Path] = set()

    async def exists(self, cache: Path) -> bool:
        """Whether a cache, or a copy of one, is there."""
        return cache.exists()

    async def files(self, directory: Path) -> Sequence[str]:
        """The names of what is in the directory of caches, or of copies."""
        return [entry.name for entry in os.scandir(directory)]

    async def replace(self, copy: Path, current: Path) -> None:
        """Make a copy the current version, under the cache's lock. StoreError or OSError.

        A version that was there is replaced, and may lie at `copy` afterwards,
        where it is removed next. A crash, or a power cut, must leave one or the other whole.
        """
        await anyio.to_thread.run_sync(sync_file_system, self._copies)
        if current.exists():
            _exchange(copy, current)
        else:
            copy.rename(current)

    async def withdraw(self, current: Path, copy: Path) -> None:
        """Make the current version a copy, or remove it at once, under the cache's lock.

        StoreError or OSError. What lies at `copy` afterwards is removed next. A crash must leave
        it whole, or gone, or among the copies. Nothing if there is no current version.
        """
        with suppress(FileNotFoundError):
            current.rename(copy)

    async def salvage(self, copy: Path, current: Path) -> None:
        """End or undo what a crash left of `replace`, under the cache's lock. StoreError.

        What lies at `copy` afterwards is removed next.
        """

    @asynccontextmanager
    async def use(self, name: str, *, user: User) -> AsyncIterator[Path]:
        """A private copy for the block; the promise is `Store.cache`'s."""
        file_name = self._naming.escape(name)
        current = self._current / file_name
        copy = self._copies / f"{secrets.token_hex(6)}-{file_name}"
        async with (
            self._locks.hold(f"users-{file_name}", shared=True),
            self._locks.hold(f"copy-{copy.name}"),
        ):
            try:
                async with self._locks.hold(f"cache-{file_name}"):
                    generation = self._generation(file_name)
                    if await self.exists(current):
                        await self._store.clone_cache(current, copy)
                    else:
                        await self._store.create_cache(copy, user)
                try:
                    yield copy
                finally:
                    await self._release(name, copy, generation)
            finally:
                with anyio.CancelScope(shield=True):
                    # The copy that lost, or the version that was replaced.
                    await self._remove_used(copy)

    async def _remove_used(self, copy: Path) -> None:
        try:
            await self._store.remove_cache(copy)
        except StoreError as error:
            # What the step did, or a step before it, counts more; the cache has been released.
            _logger.warning("%s stays, and the next to open the store removes it: %s", copy, error)

    async def _release(self, name: str, copy: Path, generation: int) -> None:
        file_name = self._naming.escape(name)
        async with AsyncExitStack() as held:
            has_lock = False
            try:
                await held.enter_async_context(self._locks.hold(f"cache-{file_name}"))
                has_lock = True
            except anyio.get_cancelled_exc_class():
                # Before this wait, or in it.
                with anyio.move_on_after(RELEASE_S, shield=True):
                    await held.enter_async_context(self._locks.hold(f"cache-{file_name}"))
                    has_lock = True
                raise
            finally:
                with anyio.CancelScope(shield=True):
                    if has_lock and self._generation(file_name) == generation:
                        await self._publish(name, copy, generation=generation + 1)
                    else:
                        self._lost.add(copy)

    def was_kept(self, copy: Path) -> bool:
        """Whether a copy, whose block has ended, became the newest version. Asked once."""
        kept = copy not in self._lost
        self._lost.discard(copy)
        return kept

    async def delete(self, name: str) -> None:
        """Remove a cache. CacheBusy while a copy of it is in use.

        It is a leftover from the moment on that it is no cache any more: however long the
        removal takes, and however it ends, nobody finds half of one. StoreError.
        """
        file_name = self._naming.escape(name)
        async with AsyncExitStack() as held:
            copies: list[Path] = []
            with self._locks.try_hold(f"users-{file_name}") as free:
                if not free:
                    hint = "try again when its steps ended"
                    raise CacheBusy(f"cache {name!r} is in use", hint=hint)
                async with self._locks.hold(f"cache-{file_name}"):
                    # The record stays: its generation must never be used twice.
                    # What OBuilder called so without escaping or shortening it no step uses.
                    also = [each for each in await self._files() if self._is_of(each, name)]
                    for each in {file_name, *also}:
                        copy = self._copies / f"{secrets.token_hex(6)}-{file_name}"
                        await held.enter_async_context(self._locks.hold(f"copy-{copy.name}"))
                        copies.append(copy)
                        await self._withdraw(self._current / each, copy)
            for copy in copies:
                await self._store.remove_cache(copy)

    async def _withdraw(self, current: Path, copy: Path) -> None:
        try:
            await self.withdraw(current, copy)
        except OSError as error:
            raise StoreError(f"cannot rename {current} to {copy}: {error.strerror}") from error

    async def names(self) -> Sequence[str]:
        """The names of all caches that exist."""
        return sorted({self._name(file_name) for file_name in await self._files()})

    async def _files(self) -> list[str]:
        names = await self.files(self._current)
        return sorted(name for name in names if name.startswith(self._naming.prefix))

    def _is_of(self, file_name: str, name: str) -> bool:
        try:
            return self._name(file_name) == name
        except StoreError:  # another cache's record is damaged, which `names` tells
            return False

    def _name(self, file_name: str) -> str:
        name = self._naming.unescape(file_name)
        return self._record(file_name).get("name", name)

    async def leftovers(self) -> Sequence[Leftover]:
        """The copies that exist now; a key is the name of the lock that its user holds."""
        return [
            Leftover(kind=LeftoverKind.CACHE, key=f"copy-{name}", path=self._copies / name)
            for name in await self.files(self._copies)
        ]

    async def discard(self, copy: Path) -> None:
        """Remove a copy, whose user is dead. CacheBusy while another is copying the cache."""
        file_name = copy.name.partition("-")[2]
        with self._locks.try_hold(f"cache-{file_name}") as free:
            if not free:
                raise CacheBusy(
                    f"{copy.name} stays: its cache is just being copied or released",
                    hint="the next command that opens the store removes it",
                )
            # Cancelled, it is as a crash left it, and salvaged again.
            await self.salvage(copy, self._current / file_name)
        # Without that lock, which every step with the cache needs; the copy's own, which the
        # caller holds, keeps others off.
        await self._store.remove_cache(copy)

    async def _publish(self, name: str, copy: Path, *, generation: int) -> None:
        file_name = self._naming.escape(name)
        current = self._current / file_name
        record = {"name": name, "generation": str(generation)}
        try:
            # The record first: a crash between the two makes other copies lose, never win twice.
            write_file(self._records / file_name, json.dumps(record).encode())
            await self.replace(copy, current)
        except OSError as error:
            raise StoreError(f"cannot release cache {name!r}: {error.strerror}") from error

    def _generation(self, file_name: str) -> int:
        return int(self._record(file_name).get("generation", "0"))

    def _record(self, file_name: str) -> dict[str, str]:
        path = self._records / file_name
        try:
            return _read_record(path)
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"cache record {path} is damaged: {error}",
                hint=f"remove {path} and the cache {self._current / file_name}",
            ) from error


def damaged_records(state_dir: Path, traces: Mapping[str, Trace]) -> dict[str, str]:
    """Which files among a store's records of caches are no records, and why. Blocking; OSError.

    Those of caches that are in use are left out. None if the store keeps its caches in
    another way. `traces` are those of `Locks.abandoned`, which are left.
    """
    directory = state_dir / _RECORDS
    names = sorted(os.listdir(directory)) if directory.is_dir() else []
    found = {}
    for name in names:
        if _fault(directory / name):
            with _unused(state_dir, name, traces) as free:
                why = _fault(directory / name)
            if free and why:
                found[name] = why
    return found


def remove_record(state_dir: Path, file_name: str) -> bool:
    """Remove one of `damaged_records`; False if the cache is in use. Blocking; OSError.

    The cache stays. Its generations begin anew, which no copy may live to see.
    """
    path = state_dir / _RECORDS / file_name
    with _unused(state_dir, file_name, {}) as free:
        if free and _fault(path):
            path.unlink()
        return free


def remove_unfinished(state_dir: Path) -> None:
    """Remove what processes that died left of records they were writing. Blocking; OSError.

    Those of caches that are in use are left: there one may be being written.
    """
    directory = state_dir / _RECORDS
    for name in os.listdir(directory) if directory.is_dir() else ():
        if _UNFINISHED.fullmatch(name):
            remove_record(state_dir, name)


@contextmanager
def _unused(state_dir: Path, file_name: str, traces: Mapping[str, Trace]) -> Iterator[bool]:
    locks = Locks(state_dir / "locks")
    unfinished = _UNFINISHED.fullmatch(file_name)
    cache = unfinished[1] if unfinished else file_name
    users, mutex = f"users-{cache}", f"cache-{cache}"
    with (
        locks.try_hold(users, trace=traces.get(users)) as unused,
        locks.try_hold(mutex, trace=traces.get(mutex)) as free,
    ):
        yield unused and free


def _fault(record: Path) -> str | None:
    if _UNFINISHED.fullmatch(record.name):
        return "a record that was not written to its end" if record.exists() else None
    try:
        _read_record(record)
    except FileNotFoundError:  # its cache is being released: another takes its place
        return None
    except (ValueError, KeyError, TypeError) as error:
        return f"a record that cannot be read: {error!r}"
    return None


def _read_record(path: Path) -> dict[str, str]:
    record = json.loads(path.read_bytes())
    return {"name": str(record["name"]), "generation": str(int(record["generation"]))}


def _exchange(one: Path, other: Path) -> None:
    """Swap two directories in one step, so that a crash finds one version or the other."""
    try:
        if exchange(one, other):
            return
    except OSError as error:
        raise StoreError(f"cannot replace {other} by {one}: {error.strerror}") from error
    # A file system without the exchange: the old version is the leftover if we crash here.
    aside = one.with_name(f"old-{one.name}")
    other.rename(aside)
    one.rename(other)
    with suppress(FileNotFoundError):  # another process took it for a dead one's copy
        aside.rename(one)
