"""The store's database: OBuilder's table `builds`, and ours beside it.

Times are UTC, `YYYY-MM-DD HH:MM:SS`; `rc` is the number of children.
"""

import ctypes
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Self, TypeVar

import anyio
import anyio.to_thread

from obuilder._core.database.connection import (
    begin_writing,
    check_disk,
    check_room,
    connect,
    naming_errors,
)
from obuilder._core.database.guard import sharing
from obuilder._core.record import StepRecord
from obuilder.types import Id

__all__ = [
    "ALL_PAGES",
    "NEW_DATABASE",
    "Database",
    "database_file",
    "remove_new",
    "time_text",
]

NEW_DATABASE = ".new"
"""Behind the name of a database that is being made to take its place."""

ALL_PAGES = "-all-pages"
"""Behind that: its `-wal`, with every page of it, once it is complete."""

T = TypeVar("T")

# DATETIME has NUMERIC affinity: only text that is no number is compared as text.
_NEVER = "9999-12-31"

_ONE_CHILD_FEWER = (
    "UPDATE builds SET rc = rc - 1 WHERE id = (SELECT parent FROM builds WHERE id = ?)"
)
_COLUMNS = "op, context, preimage, duration_s, size_bytes, digest, platform"


def database_file(state_dir: Path) -> Path:
    """Where a store has its database."""
    return state_dir / "db" / "db.sqlite"


def remove_new(path: Path) -> None:
    """Remove what there is of one that is to take the place of the database. OSError."""
    for part in ("-wal", "-shm", "-journal", ALL_PAGES, ""):
        path.with_name(f"{path.name}{NEW_DATABASE}{part}").unlink(missing_ok=True)


class Database:
    """One connection, used by one thread at a time; every method may raise DatabaseError."""

    def __init__(
        self, connection: sqlite3.Connection, path: Path, *, may_lack: bool = False
    ) -> None:
        self.may_lack = may_lack
        """Whether it may have lost what it was told last, or be new beside results that are not."""
        self._connection = connection
        self._path = path
        self._one_at_a_time = anyio.CapacityLimiter(1)

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator[Self]:
        """Open or create; refuses a schema newer than ours and changes nothing then."""
        with ExitStack() as used:
            with naming_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                used.enter_context(sharing(path.parent))
            may_lack = not _was_closed(path)
            connection = await anyio.to_thread.run_sync(connect, path)
            database = cls(connection, path, may_lack=may_lack)
            try:
                yield database
            finally:
                # The last one to close checkpoints and removes `-wal` and `-shm`. In its
                # turn: a client that was not waited for may be using the connection.
                with anyio.CancelScope(shield=True):
                    await database._run(database._close, closing=True)

    def _close(self) -> None:
        try:
            check_disk(self._path)
        except OSError:
            # Closing would write; so would the interpreter, which closes what nobody refers to.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))
            raise
        self._connection.close()

    async def touch(self, id: Id, *, parent: Id | None = None) -> bool:
        """Note that a result was used now; False if the database does not know it.

        `parent` is what it was built on: kept if the database did not know that.
        """

        def work() -> bool:
            with self._transaction() as db:
                cursor = db.execute("UPDATE builds SET used = ? WHERE id = ?", (_now(), id))
                learned = parent and db.execute(
                    "UPDATE builds SET parent = :parent WHERE id = :id AND parent IS NULL"
                    " AND EXISTS (SELECT 1 FROM builds WHERE id = :parent)",
                    {"id": id, "parent": parent},
                )
                if learned and learned.rowcount:
                    db.execute("UPDATE builds SET rc = rc + 1 WHERE id = ?", (parent,))
                return cursor.rowcount == 1

        return await self._run(work)

    async def add(self, id: Id, *, parent: Id | None, record: StepRecord | None) -> None:
        """Add a result, count it as its parent's child, and keep its record, at once."""
        await self._add(id, parent=parent, record=record, children="0")

    async def adopt(self, id: Id, *, parent: Id | None, record: StepRecord | None) -> None:
        """Add a result that the database does not know, though others may have built on it.

        OBuilder does, with a `parent` that is no row, when whoever saved that one had died.
        """
        children = "(SELECT count(*) FROM builds WHERE parent = :id)"
        await self._add(id, parent=parent, record=record, children=children)

    async def _add(
        self, id: Id, *, parent: Id | None, record: StepRecord | None, children: str
    ) -> None:
        def work() -> None:
            with self._transaction() as db:
                known = (
                    parent
                    and db.execute(
                        "UPDATE builds SET rc = rc + 1 WHERE id = ? AND NOT EXISTS"
                        " (SELECT 1 FROM builds WHERE id = ?)",
                        (parent, id),
                    ).rowcount
                )
                now = _now()
                db.execute(
                    f"INSERT INTO builds VALUES (:id, :now, :now, {children}, :parent)"  # noqa: S608 - a constant
                    " ON CONFLICT (id) DO UPDATE SET used = excluded.used",
                    {"id": id, "now": now, "parent": parent if known else None},
                )
                # One may be left of a predecessor: OBuilder deletes without our table.
                db.execute("DELETE FROM obuilder_steps WHERE id = ?", (id,))
                if record is not None:
                    values = [getattr(record, name.strip()) for name in _COLUMNS.split(",")]
                    db.execute(
                        "INSERT INTO obuilder_steps VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                        (id, *values),
                    )

        await self._run(work)

    async def record(self, id: Id) -> StepRecord | None:
        """What was kept of a result, or of a predecessor that OBuilder has replaced; or None."""

        def work() -> StepRecord | None:
            row = self._connection.execute(
                f"SELECT {_COLUMNS} FROM obuilder_steps WHERE id = ?",  # noqa: S608 - a constant
                (id,),
            ).fetchone()
            names = [name.strip() for name in _COLUMNS.split(",")]
            return StepRecord(**dict(zip(names, row, strict=True))) if row else None

        return await self._run(work)

    async def forget_record(self, id: Id) -> None:
        """Drop what was kept of a result."""

        def work() -> None:
            with self._transaction() as db:
                db.execute("DELETE FROM obuilder_steps WHERE id = ?", (id,))

        await self._run(work)

    async def sweep(self) -> None:
        """Drop the records of results that OBuilder has deleted. Looks at every one."""

        def work() -> None:
            with self._transaction() as db:
                db.execute("DELETE FROM obuilder_steps WHERE id NOT IN (SELECT id FROM builds)")

        await self._run(work)

    async def remove(self, id: Id) -> None:
        """Forget a result without children; its parent has one child fewer."""

        def work() -> None:
            with self._transaction() as db:
                db.execute(_ONE_CHILD_FEWER, (id,))
                db.execute("DELETE FROM builds WHERE id = ?", (id,))

        await self._run(work)

    async def cut(self, id: Id) -> None:
        """Forget what a result was built on, which has one child fewer then."""

        def work() -> None:
            with self._transaction() as db:
                db.execute(_ONE_CHILD_FEWER, (id,))
                db.execute("UPDATE builds SET parent = NULL WHERE id = ?", (id,))

        await self._run(work)

    async def parent(self, id: Id) -> Id | None:
        """What a result was built on, if the database knows."""
        found = await self._ids("SELECT parent FROM builds WHERE id = ? AND parent NOT NULL", (id,))
        return found[0] if found else None

    async def children(self, id: Id) -> list[Id]:
        """What was built directly on a result."""
        return await self._ids("SELECT id FROM builds WHERE parent = ?", (id,))

    async def parents(self) -> dict[Id, Id | None]:
        """Every result that the database knows, with what it was built on."""

        def work() -> dict[Id, Id | None]:
            return dict(self._connection.execute("SELECT id, parent FROM builds").fetchall())

        return await self._run(work)

    async def remove_unfinished(self) -> None:
        """Remove what a rebuild that was killed left. None can be under way: this one is open."""
        await self._run(lambda: remove_new(self._path))

    async def unused(self, *, before: datetime | None, limit: int) -> list[Id]:
        """Results without children, last used before a time (None: any), oldest first."""
        time = time_text(before) if before else _NEVER
        return await self._ids(
            "SELECT id FROM builds WHERE rc = 0 AND used < ? ORDER BY used, id LIMIT ?",
            (time, limit),
        )

    async def count_later(self, time: datetime) -> int:
        """How many results without children were last used after a time."""

        def work() -> int:
            query = "SELECT count(*) FROM builds WHERE rc = 0 AND used > ?"
            return int(self._connection.execute(query, (time_text(time),)).fetchone()[0])

        return await self._run(work)

    async def count(self) -> int:
        """How many results the database knows."""

        def work() -> int:
            return int(self._connection.execute("SELECT count(*) FROM builds").fetchone()[0])

        return await self._run(work)

    async def _ids(self, query: str, values: tuple[object, ...]) -> list[Id]:
        return await self._run(
            lambda: [Id(row[0]) for row in self._connection.execute(query, values).fetchall()]
        )

    async def _run(self, work: Callable[[], T], *, closing: bool = False) -> T:
        def guarded() -> T:
            with naming_errors(self._path):
                if not closing:
                    check_room(self._path)
                return work()

        return await anyio.to_thread.run_sync(guarded, limiter=self._one_at_a_time)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        begin_writing(self._connection, self._path)
        try:
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # a full disk has rolled some back already
                self._connection.execute("ROLLBACK")
            raise


def _was_closed(path: Path) -> bool:
    # The last to close it writes all of it to the disk, and removes the `-wal`. While that is
    # there others have it open, or had; a rebuild that was killed leaves its unfinished one.
    if not path.exists() or path.stat().st_size == 0:
        return False
    return not any(path.with_name(path.name + end).exists() for end in ("-wal", NEW_DATABASE))


def _now() -> str:
    return time_text(datetime.now(UTC))


def time_text(time: datetime) -> str:
    """A time as OBuilder writes it."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
