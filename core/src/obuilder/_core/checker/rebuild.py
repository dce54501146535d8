"""Makes the database anew from the results alone, when the old one cannot be used."""

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from obuilder._core.checker.judging import is_id
from obuilder._core.checker.survey import can_list
from obuilder._core.database.connection import connect, naming_errors
from obuilder._core.database.db import (
    ALL_PAGES,
    NEW_DATABASE,
    database_file,
    remove_new,
    time_text,
)
from obuilder._core.database.guard import others_have_open, taking_over
from obuilder._core.database.reader import read_known
from obuilder._core.disk import FULL, disk_errors
from obuilder._core.record import SIDE_FILE, StepRecord, read_side_file
from obuilder._core.recovery import parents_first
from obuilder._core.reserve import Reserve
from obuilder.durable import exchange, sync_directory
from obuilder.errors import BackendError, DatabaseError, StoreError
from obuilder.interfaces import Store
from obuilder.locks import Locks
from obuilder.types import Id

__all__ = ["rebuild"]

_LOGS = ("-wal", "-journal")
"""What belongs to the old database: the `-shm` is but an index of its `-wal`."""

_NO_ROOM = "free some space on the disk by hand: `prune` deletes nothing without the database"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    parent: Id | None
    record: StepRecord | None
    created: str
    used: str


async def rebuild(store: Store[Any], locks: Locks) -> Sequence[str]:
    """Put the old database aside and make a new one; returns what there is to tell.

    DatabaseError `database.in-use` if somebody else has it open or works in the
    store, `database.newer` for one of a newer obuilder; StoreError if the store
    cannot list its results. Then nothing has changed. `store.full` if there is no
    room for it, not in the store's reserve either.
    """
    if not can_list(store):
        raise StoreError(
            "this store cannot list its results, so that no database can be made from them",
            code="store.cannot-list",
        )
    reserve = Reserve(store.state_dir)
    try:
        with disk_errors(store.state_dir):
            await anyio.to_thread.run_sync(reserve.give_up_if_full)
            return await _rebuilt(store, locks)
    except BackendError as error:
        if error.code == FULL:
            error.hint = _NO_ROOM
        raise
    finally:
        if reserve.is_given_up:
            with anyio.CancelScope(shield=True), suppress(StoreError, OSError):
                # Where there is no room for it, whoever builds next is told so.
                await anyio.to_thread.run_sync(reserve.keep)


async def _rebuilt(store: Store[Any], locks: Locks) -> Sequence[str]:
    path = database_file(store.state_dir)
    with ExitStack() as alone:
        with naming_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            alone.enter_context(taking_over(path.parent))
            _refuse_others(path)
        traces = locks.abandoned()
        for name in locks.names():
            if not alone.enter_context(locks.try_hold(name, trace=traces.get(name))):
                raise _in_use(f"somebody works in the store: {name} is locked")
        await anyio.to_thread.run_sync(_refuse_newer, path)
        entries, notes = await _entries(store)
        with naming_errors(path):
            aside = await anyio.to_thread.run_sync(_replace, path, entries)
    if aside:
        notes.append(f"the old database is {aside}")
    return notes


def _refuse_others(path: Path) -> None:
    if others_have_open(path):
        raise _in_use(f"another program has {path} open")


def _in_use(what: str) -> DatabaseError:
    return DatabaseError(what, code="database.in-use", hint="end every program that uses the store")


def _refuse_newer(path: Path) -> None:
    try:
        read_known(path)
    except DatabaseError as error:
        if error.code in ("database.newer", "database.copy"):
            raise
        # It cannot be read: that is what the new one is for.


async def _entries(store: Store[Any]) -> tuple[dict[Id, _Entry], list[str]]:
    found: dict[Id, _Entry] = {}
    notes = []
    for id in await store.results():
        path = await store.result(id) if is_id(id) else None
        if path is None:
            continue
        parent, record, side = None, None, None
        try:
            own = await anyio.to_thread.run_sync(read_side_file, path, id)
        except StoreError as error:
            notes.append(f"{id} has no parent now: {error.what}")
        else:
            if own is None:
                notes.append(f"{id} has no parent now: OBuilder made it, and keeps no record of it")
            else:
                (parent, record), side = own, path / SIDE_FILE
        created, used = _times(path, side)
        found[id] = _Entry(parent=parent, record=record, created=created, used=used)
    return found, notes


def _times(path: Path, side: Path | None) -> tuple[str, str]:
    """When the result was made, and last used as far as the file system tells: its log was read."""
    now = time.time()
    try:
        log = (path / "log").stat()
        created = (side or path / "log").stat().st_mtime
        used = max(created, log.st_atime)
    except OSError:  # a damaged result, which the check tells of
        created = used = path.stat().st_mtime
    first, last = (datetime.fromtimestamp(min(now, each), UTC) for each in (created, used))
    return time_text(first), time_text(last)


def _replace(path: Path, entries: Mapping[Id, _Entry]) -> Path | None:
    """Write the new one beside the old, then let it take its place; where the old one is now.

    Wherever this ends, SQLite finds the old one whole, with its `-wal`, or the new one; a kill
    just as they change places may cost the old one.
    """
    new = path.with_name(path.name + NEW_DATABASE)
    remove_new(path)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    existed = os.path.lexists(path)
    try:
        _write(new, entries)
        _refuse_others(path)  # reading the results may have taken long
        for part in _LOGS:  # of which then only these names remain
            if path.with_name(path.name + part).is_file():
                os.link(path.with_name(path.name + part), aside.with_name(aside.name + part))
        if path.is_file() and path.stat().st_size:
            # Where a `-wal` has every page SQLite takes none from the file itself: this makes the
            # old file the new database, at once. The file then replaced is the same without it.
            new.with_name(new.name + ALL_PAGES).rename(path.with_name(f"{path.name}-wal"))
    except BaseException:
        with suppress(OSError):  # the next rebuild does it; more names of the old one do no harm
            remove_new(path)
            for part in _LOGS:
                aside.with_name(aside.name + part).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
    if path.is_file() and path.stat().st_size and exchange(new, path):
        new.rename(aside)
    else:
        # There is none, or one that SQLite takes for none; or, for a moment, there is none.
        with suppress(FileNotFoundError):
            path.rename(aside)
        _remove_beside(path)
        new.rename(path)
    _remove_beside(path)
    new.with_name(new.name + ALL_PAGES).unlink(missing_ok=True)
    sync_directory(path.parent)
    return aside if existed else None


def _remove_beside(path: Path) -> None:
    for part in ("-journal", "-shm", "-wal"):  # before the `-wal` goes the others can do no harm
        path.with_name(path.name + part).unlink(missing_ok=True)


def _write(path: Path, entries: Mapping[Id, _Entry]) -> None:
    order = parents_first({id: entry.parent for id, entry in entries.items()})
    earlier: set[Id] = set()
    parents: dict[Id, Id | None] = {}
    for id in order:
        # Of a circle, which only damage can make, one is left without.
        parent = entries[id].parent
        parents[id] = parent if parent in earlier else None
        earlier.add(id)
    children = Counter(parents.values())
    with closing(connect(path)) as db:
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute("BEGIN IMMEDIATE")
        for id in order:
            entry = entries[id]
            row = (id, entry.created, entry.used, children[id], parents[id])
            db.execute("INSERT INTO builds VALUES (?, ?, ?, ?, ?)", row)
            if entry.record:
                db.execute(
                    "INSERT INTO obuilder_steps VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (id, *astuple(entry.record)),
                )
        db.execute("COMMIT")
        # A new database has no page that was not changed. Closing removes the other name.
        os.link(path.with_name(f"{path.name}-wal"), path.with_name(path.name + ALL_PAGES))
        db.execute("PRAGMA wal_checkpoint(FULL)")  # closing would not say that the disk is full
