"""Caches for stores that keep them as directories: private copies, first release wins.

A store gives the three operations that differ (create, clone, remove); who
wins, how names become file names, and what is busy is decided here, once. A
store whose caches are no plain directories also overrides what `NamedCaches`
has as public methods for it.
"""

import hashlib
import json
import os
import re
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import anyio
import anyio.to_thread

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

_LONGEST = 200
_KEPT = 150
_DIGEST_BYTES = 1 + 2 * hashlib.sha256().digest_size
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


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheNaming:
    """How the names of caches become file names: bytes outside `[-._A-Za-z0-9]` as `%xx`.

    With a prefix (btrfs: `c-`) a leading dot stays, as OBuilder has it; without
    one it is escaped, and the empty name is `%`, which nothing else becomes. A
    name over 200 bytes escaped keeps its first 150 and a SHA-256 of the whole.
    """

    prefix: str = ""
    mark: str = "%"
    """What stands before the two digits: `:` where the file system knows no `%`."""
    room_bytes: int = 255
    """The most that a file name may take, prefix included; at least 80."""

    def escape(self, name: str) -> str:
        """A cache's file name."""
        raw, mark = name.encode("utf-8", "surrogateescape"), self.mark.encode()
        escaped = re.sub(rb"[^-._A-Za-z0-9]", lambda m: b"%s%02x" % (mark, m.group()[0]), raw)
        text = escaped.decode()
        if not self.prefix:
            if text.startswith("."):
                text = f"{self.mark}2e{text[1:]}"
            text = text or self.mark
        room = self.room_bytes - len(self.prefix)
        if len(text) > min(_LONGEST, room):
            kept = min(_KEPT, room - _DIGEST_BYTES)
            text = f"{text[:kept]}-{hashlib.sha256(raw).hexdigest()}"
        return self.prefix + text

    def unescape(self, file_name: str) -> str:
        """The cache's name; of a shortened one, what can be read of it."""
        escaped = file_name.removeprefix(self.prefix)
        if escaped == self.mark:
            return ""
        pattern = re.escape(self.mark.encode()) + rb"([0-9a-f]{2})"
        raw = re.sub(pattern, lambda m: bytes([int(m.group(1), 16)]), escaped.encode())
        return raw.decode("utf-8", "surrogateescape")


def escape_name(name: str, *, prefix: str = "") -> str:
    """A cache's file name by the usual naming."""
    return CacheNaming(prefix=prefix).escape(name)


def unescape_name(file_name: str, *, prefix: str = "") -> str:
    """The name of the cache that a file name is of."""
    return CacheNaming(prefix=prefix).unescape(file_name)


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
                    await self._store.remove_cache(copy)

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
        """Remove a cache. CacheBusy while a copy of it is in use."""
        file_name = self._naming.escape(name)
        with self._locks.try_hold(f"users-{file_name}") as free:
            if not free:
                raise CacheBusy(f"cache {name!r} is in use", hint="try again when its steps ended")
            async with self._locks.hold(f"cache-{file_name}"):
                # The record stays: its generation must never be used twice.
                await self._store.remove_cache(self._current / file_name)
                # What OBuilder called so without escaping or shortening it; no step uses these.
                for other in await self._files():
                    if other != file_name and self._name(other) == name:
                        await self._store.remove_cache(self._current / other)

    async def names(self) -> Sequence[str]:
        """The names of all caches that exist."""
        return sorted({self._name(file_name) for file_name in await self._files()})

    async def _files(self) -> list[str]:
        names = await self.files(self._current)
        return sorted(name for name in names if name.startswith(self._naming.prefix))

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
            with anyio.CancelScope(shield=True):
                await self.salvage(copy, self._current / file_name)
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
