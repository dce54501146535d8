"""Opening the database, and saying what is wrong with one that cannot be used."""

import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import anyio.from_thread

from obuilder._core.database.schema import migrate, refuse_newer
from obuilder._core.disk import (
    FULL,
    FULL_HINT,
    Trouble,
    disk_trouble,
    is_full,
    trouble_of,
    update_in_place,
)
from obuilder.errors import DatabaseError

__all__ = ["begin_writing", "check_disk", "check_room", "connect", "naming_errors"]

_BUSY_S = 30.0
_TELL_AFTER_S = 1.0
_AGAIN_S = 0.01
_TORN_S = 1.0
"""How long a database may look damaged."""
_PRIMARY = 0xFF  # of an extended error code
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_LOST_RACES = sqlite3.SQLITE_PROTOCOL  # it tried for 10 s: others were always quicker
_NO_FILE = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_logger = logging.getLogger(__name__)


def connect(path: Path) -> sqlite3.Connection:
    """Open or create, with today's schema. DatabaseError; a newer one is not changed."""
    with naming_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        update_in_place(path.parent)
        if path.exists():
            _examine(path)
        connection = sqlite3.connect(
            path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            refuse_newer(connection, path)
            _use_wal(connection)
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA foreign_keys = ON")
            migrate(connection, path)
        except BaseException:
            connection.close()
            raise
        return connection


def begin_writing(connection: sqlite3.Connection, path: Path) -> None:
    """Begin a transaction that writes; told if another has the database for long. Blocking.

    In a worker thread of anyio's: a cancelled task waits on for a second at most.
    sqlite3.OperationalError if the other does not let go of it within 30 s.
    """
    deadline, told = time.monotonic() + _BUSY_S, False
    while True:
        try:
            with _waiting_at_most(connection, min(_TELL_AFTER_S, _BUSY_S)):
                connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & _PRIMARY not in _LOCKED:
                raise
            if not told:
                _logger.warning("waiting for database %s, which another program has locked", path)
                told = True
            if time.monotonic() > deadline:
                raise
        else:
            return
        anyio.from_thread.check_cancelled()


@contextmanager
def _waiting_at_most(connection: sqlite3.Connection, time_s: float) -> Iterator[None]:
    connection.execute(f"PRAGMA busy_timeout = {int(time_s * 1000)}")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA busy_timeout = {int(_BUSY_S * 1000)}")


def check_room(path: Path) -> None:
    """DatabaseError if the disk is full. Asked before each use; why: `disk.is_full`.

    OSError if the disk fails.
    """
    check_disk(path)
    if is_full(path.parent):
        raise DatabaseError(f"database {path}: its disk is full", code=FULL, hint=FULL_HINT)


def check_disk(path: Path) -> None:
    """OSError if the kernel has shut its file system down: then too SQLite's `-shm` is SIGBUS."""
    # Not the database itself: closing that would drop all of SQLite's locks on it.
    with suppress(FileNotFoundError):
        os.close(os.open(path.with_name(f"{path.name}-wal"), os.O_RDONLY | os.O_CLOEXEC))


def _use_wal(connection: sqlite3.Connection) -> None:
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # Others are making the database too: here SQLite itself does not wait.
            if error.sqlite_errorcode & _PRIMARY not in _LOCKED or time.monotonic() > deadline:
                raise
            time.sleep(_AGAIN_S)
        else:
            return


def _examine(path: Path) -> None:
    """Refuse what cannot be used, and touch nothing then."""
    if not path.is_file():
        raise DatabaseError(
            f"{path} is not a file",
            code="database.failed",
            hint="the database is made anew if it is moved away: results are found again by builds",
        )
    if not os.access(path, os.R_OK | os.W_OK):
        raise _read_only(path)
    deadline = time.monotonic() + _TORN_S
    while True:
        try:
            _read_version(path)
        except sqlite3.DatabaseError as error:
            # It may have been read while another process, which makes or closes it, was writing.
            code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY
            if code not in _DAMAGED or time.monotonic() > deadline:
                raise
            time.sleep(_AGAIN_S)
        else:
            return


def _read_version(path: Path) -> None:
    wal = path.with_name(f"{path.name}-wal")
    # Read-only: closing a connection that may write would empty a crash's `-wal` into the
    # database. Where there is none, reading as if on a disc that nobody changes makes none.
    immutable = "" if wal.exists() and wal.stat().st_size else "&immutable=1"
    uri = f"{path.absolute().as_uri()}?mode=ro{immutable}"
    with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_S)) as reader:
        refuse_newer(reader, path)


def _read_only(path: Path) -> DatabaseError:
    return DatabaseError(
        f"database {path} cannot be written",
        code="database.read-only",
        hint="make it and its file system writable, or run as a user who may write there",
    )


@contextmanager
def naming_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite and the file system say into DatabaseError."""
    try:
        yield
    except sqlite3.Error as error:
        code, hint = "database.failed", None
        number = getattr(error, "sqlite_errorcode", 0) & _PRIMARY  # misuse has none
        if number == sqlite3.SQLITE_READONLY:
            raise _read_only(path) from error
        if number == sqlite3.SQLITE_FULL:
            code, hint = FULL, FULL_HINT
        elif number in _NO_FILE and (trouble := disk_trouble(path.parent)):
            raise _of_disk(trouble, f"database {path}: {error}") from error
        elif number in (*_LOCKED, _LOST_RACES):
            code, hint = "database.locked", "another program holds it open"
        elif number in _DAMAGED:
            code, hint = (
                "database.damaged",
                f"obuilder fsck --rebuild-db makes it anew; or move {path} away",
            )
        raise DatabaseError(f"database {path}: {error}", code=code, hint=hint) from error
    except OSError as error:
        what = f"database {path}: {error.strerror}"
        if trouble := trouble_of(error):
            raise _of_disk(trouble, what) from error
        raise DatabaseError(what) from error


def _of_disk(trouble: Trouble, what: str) -> DatabaseError:
    return DatabaseError(f"{trouble.what}: {what}", code=trouble.code, hint=trouble.hint)
