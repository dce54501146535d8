"""The store's database: OBuilder's table `builds`, and ours beside it.

Times are UTC, `YYYY-MM-DD HH:MM:SS`; `rc` is the number of children. OBuilder
leaves `user_version` at 0 and never looks at it; we keep our schema's there.
"""

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from obuilder._core.record import StepRecord
from obuilder.errors import DatabaseError
from obuilder.types import Id

__all__ = ["SCHEMA_VERSION", "Database"]

T = TypeVar("T")

SCHEMA_VERSION = 1
_BUSY_S = 30.0

# DATETIME has NUMERIC affinity: only text that is no number is compared as text.
_NEVER = "9999-12-31"
_PRIMARY = 0xFF  # of an extended error code
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

# The text is OBuilder 0.7's to the blank, so that `.schema` shows no difference.
_BUILDS = """CREATE TABLE IF NOT EXISTS builds (
                       id       TEXT PRIMARY KEY,
                       created  DATETIME NOT NULL,
                       used     DATETIME NOT NULL,
                       rc       INTEGER NOT NULL,
                       parent   TEXT,
                       FOREIGN KEY (parent) REFERENCES builds (id) ON DELETE RESTRICT
                     )"""
_LRU = """CREATE INDEX IF NOT EXISTS lru
                     ON builds (rc, used) """
_STEPS = """CREATE TABLE IF NOT EXISTS obuilder_steps (
  id TEXT PRIMARY KEY REFERENCES builds (id) ON DELETE CASCADE,
  op TEXT NOT NULL,
  context TEXT NOT NULL,
  preimage TEXT NOT NULL,
  duration_s REAL NOT NULL,
  size_bytes INTEGER,
  digest TEXT,
  platform TEXT
)"""
_COLUMNS = "op, context, preimage, duration_s, size_bytes, digest, platform"


class Database:
    """One connection, used by one thread at a time; every method may raise DatabaseError."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._one_at_a_time = anyio.CapacityLimiter(1)

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator["Database"]:
        """Open or create; refuses a schema newer than ours and changes nothing then."""
        connection = await anyio.to_thread.run_sync(_connect, path)
        database = cls(connection, path)
        try:
            yield database
        finally:
            # The last one to close checkpoints and removes `-wal` and `-shm`. In its
            # turn: a client that was not waited for may be using the connection.
            with anyio.CancelScope(shield=True):
                await database._run(connection.close)

    async def touch(self, id: Id) -> bool:
        """Note that a result was used now; False if the database does not know it."""

        def work() -> bool:
            with self._transaction() as db:
                cursor = db.execute("UPDATE builds SET used = ? WHERE id = ?", (_now(), id))
                return cursor.rowcount == 1

        return await self._run(work)

    async def add(self, id: Id, *, parent: Id | None, record: StepRecord | None) -> None:
        """Add a result, count it as its parent's child, and keep its record, at once."""

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
                    "INSERT INTO builds VALUES (?, ?, ?, 0, ?)"
                    " ON CONFLICT (id) DO UPDATE SET used = excluded.used",
                    (id, now, now, parent if known else None),
                )
                if record is not None:
                    values = [getattr(record, name.strip()) for name in _COLUMNS.split(",")]
                    db.execute(
                        "INSERT OR REPLACE INTO obuilder_steps VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                        (id, *values),
                    )

        await self._run(work)

    async def record(self, id: Id) -> StepRecord | None:
        """What we know of a result; None for one that OBuilder made."""

        def work() -> StepRecord | None:
            row = self._connection.execute(
                f"SELECT {_COLUMNS} FROM obuilder_steps WHERE id = ?",  # noqa: S608 - a constant
                (id,),
            ).fetchone()
            names = [name.strip() for name in _COLUMNS.split(",")]
            return StepRecord(**dict(zip(names, row, strict=True))) if row else None

        return await self._run(work)

    async def remove(self, id: Id) -> None:
        """Forget a result without children; its parent has one child fewer."""

        def work() -> None:
            with self._transaction() as db:
                db.execute(
                    "UPDATE builds SET rc = rc - 1 WHERE id ="
                    " (SELECT parent FROM builds WHERE id = ?)",
                    (id,),
                )
                db.execute("DELETE FROM builds WHERE id = ?", (id,))

        await self._run(work)

    async def children(self, id: Id) -> list[Id]:
        """What was built directly on a result."""
        return await self._ids("SELECT id FROM builds WHERE parent = ?", (id,))

    async def unused(self, *, before: datetime | None, limit: int) -> list[Id]:
        """Results without children, last used before a time (None: any), oldest first."""
        time = _text(before) if before else _NEVER
        return await self._ids(
            "SELECT id FROM builds WHERE rc = 0 AND used < ? ORDER BY used, id LIMIT ?",
            (time, limit),
        )

    async def count(self) -> int:
        """How many results the database knows."""

        def work() -> int:
            return int(self._connection.execute("SELECT count(*) FROM builds").fetchone()[0])

        return await self._run(work)

    async def _ids(self, query: str, values: tuple[object, ...]) -> list[Id]:
        return await self._run(
            lambda: [Id(row[0]) for row in self._connection.execute(query, values).fetchall()]
        )

    async def _run(self, work: Callable[[], T]) -> T:
        def guarded() -> T:
            with _errors(self._path):
                return work()

        return await anyio.to_thread.run_sync(guarded, limiter=self._one_at_a_time)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")


def _connect(path: Path) -> sqlite3.Connection:
    with _errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            # Read-only: closing a connection that may write would empty a crash's `-wal` into it.
            uri = f"{path.absolute().as_uri()}?mode=ro"
            with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_S)) as reader:
                _refuse_newer(reader, path)
        connection = sqlite3.connect(
            path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
        return connection


def _refuse_newer(connection: sqlite3.Connection, path: Path) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise DatabaseError(
            f"database {path} has schema {version}, this obuilder knows {SCHEMA_VERSION}",
            code="database.newer",
            hint="upgrade obuilder: a newer one has used this store",
        )
    return version


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    version = _refuse_newer(connection, path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")
    if version < SCHEMA_VERSION:
        connection.execute("BEGIN IMMEDIATE")
        for statement in (_BUILDS, _LRU, _STEPS, f"PRAGMA user_version = {SCHEMA_VERSION}"):
            connection.execute(statement)
        connection.execute("COMMIT")


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code, hint = "database.failed", None
        number = getattr(error, "sqlite_errorcode", 0) & _PRIMARY  # misuse has none
        if number in _LOCKED:
            code, hint = "database.locked", "another program holds it open"
        elif number in _DAMAGED:
            code, hint = "database.damaged", f"move {path} away: results are found again by builds"
        raise DatabaseError(f"database {path}: {error}", code=code, hint=hint) from error
    except OSError as error:
        raise DatabaseError(f"database {path}: {error.strerror}") from error


def _now() -> str:
    return _text(datetime.now(UTC))


def _text(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
