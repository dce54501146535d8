"""Reading the database without changing a byte of it, whatever state it is in."""

import sqlite3
import struct
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from obuilder._core.database.connection import naming_errors
from obuilder._core.database.schema import refuse_newer
from obuilder._core.disk import OPEN_FILES, trouble_of
from obuilder.errors import DatabaseError
from obuilder.types import Id

__all__ = ["Known", "Row", "read_known"]

_BUSY_S = 30.0
_ATTEMPTS = 100
_MOST_TROUBLES = 20
_PRIMARY = 0xFF  # of an extended error code
_OF_THE_DISK = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
_IMMUTABLE = "mode=ro&immutable=1"
_WAL_HEADER = struct.Struct(">8I")  # sqlite.org/fileformat2.html#the_write_ahead_log
_WAL_MAGIC = 0x377F0682


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What the table `builds` says of a result."""

    rc: object
    parent: Id | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """All that the database knew at one moment; `troubles` is what SQLite says of the file."""

    rows: Mapping[Id, Row]
    parents: frozenset[Id | None]
    records: frozenset[Id]
    troubles: tuple[str, ...] = ()


def read_known(path: Path, *, thorough: bool = False) -> Known | None:
    """What a database knows, also one of OBuilder's; None if there is no file. Blocking.

    `thorough`: SQLite examines every page. DatabaseError if it cannot be read.
    """
    for _ in range(_ATTEMPTS):
        if not path.exists():
            return None
        before = _state(path)
        try:
            with naming_errors(path):
                known = _read_as(before.how, path, thorough=thorough)
        except DatabaseError as error:
            # The last who had it open may have closed it, and removed what lay beside it.
            if error.code == "database.locked" or before == _state(path):
                raise
        else:
            if before.is_kept(path):
                return known
    raise DatabaseError(f"database {path} is always being opened by others", code="database.locked")


class _How(Enum):
    """How a database is read without making or changing a file beside it, as SQLite would."""

    WHOLE = "all of it is in the file itself: as from a disc that nobody changes"
    LOCKED = "somebody may have it open: SQLite's locks keep it as it is"
    COPIED = "a crash left a log of changes without an index: SQLite makes that beside a copy"


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    how: _How
    stamps: tuple[tuple[int, ...] | None, ...]

    def is_kept(self, path: Path) -> bool:
        """Whether what was read without locks was changed by nobody meanwhile."""
        return self.how is _How.LOCKED or self == _state(path)


def _state(path: Path) -> _State:
    wal, shm = (path.with_name(f"{path.name}-{end}") for end in ("wal", "shm"))
    stamps = (_stamp(path), _stamp(wal))
    if not _has_frames(wal):
        return _State(how=_How.WHOLE, stamps=stamps)
    return _State(how=_How.LOCKED if shm.exists() else _How.COPIED, stamps=stamps)


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _has_frames(wal: Path) -> bool:
    """Whether a `-wal` has any changes: more than a header, and that one whole. OSError.

    Of one that has none SQLite (3.40) says "locking protocol" when it may make no index for it.
    SQLite has no locks on this file that closing it could drop.
    """
    try:
        with wal.open("rb") as file:
            start = file.read(_WAL_HEADER.size + 1)
    except FileNotFoundError:
        return False
    if len(start) <= _WAL_HEADER.size:
        return False
    magic, *_, first_sum, second_sum = _WAL_HEADER.unpack_from(start)
    if magic & ~1 != _WAL_MAGIC:
        return False
    # https://sqlite.org/fileformat2.html#checksum_algorithm
    summed = struct.unpack(">6I" if magic & 1 else "<6I", start[:24])
    first = second = 0
    for one, other in zip(summed[::2], summed[1::2], strict=True):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return (first, second) == (first_sum, second_sum)


def _read_as(how: _How, path: Path, *, thorough: bool) -> Known:
    match how:
        case _How.WHOLE:
            return _read(path, _IMMUTABLE, thorough=thorough)
        case _How.LOCKED:
            # With an index that a crash left SQLite makes its own in memory, and leaves that.
            return _read(path, "mode=ro&readonly_shm=1", thorough=thorough)
        case _How.COPIED:
            with closing(_connect(path, _IMMUTABLE)) as reader:
                # By SQLite itself: if we closed the file, all locks on it of this process would
                # go. A crash while the changes were being moved into it may have left it too short.
                reader.execute("PRAGMA writable_schema = ON")
                parts = {"": reader.serialize()}
            parts["-wal"] = path.with_name(f"{path.name}-wal").read_bytes()
            with _temporary_directory(path) as directory:
                copy = directory / path.name
                for end, data in parts.items():
                    copy.with_name(copy.name + end).write_bytes(data)
                return _read(copy, "mode=rw", thorough=thorough, said=path)


@contextmanager
def _temporary_directory(path: Path) -> Iterator[Path]:
    """For a copy of a database, and for it alone; DatabaseError if it cannot be made or kept."""
    try:
        with tempfile.TemporaryDirectory(prefix="obuilder-database-") as directory:
            yield Path(directory)
    except (OSError, sqlite3.Error) as error:
        if isinstance(error, sqlite3.Error):
            if getattr(error, "sqlite_errorcode", 0) & _PRIMARY not in _OF_THE_DISK:
                raise
        elif trouble_of(error) is OPEN_FILES:
            raise
        # Before Python has found a directory, which then is what fails, it has no name for one.
        place = tempfile.tempdir or "a temporary directory"
        reason = getattr(error, "strerror", None) or error
        raise DatabaseError(
            f"cannot copy database {path}, which a crash left, to {place} to read it: {reason}",
            hint="make room there, or name another directory in TMPDIR",
            code="database.copy",
        ) from error


def _connect(path: Path, how: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?{how}"
    return sqlite3.connect(uri, uri=True, timeout=_BUSY_S, isolation_level=None)


def _read(path: Path, how: str, *, thorough: bool, said: Path | None = None) -> Known:
    with closing(_connect(path, how)) as reader:
        reader.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        refuse_newer(reader, said or path)
        reader.execute("BEGIN")
        troubles = _examine(reader) if thorough else []
        tables = {name for (name,) in reader.execute("SELECT name FROM sqlite_schema")}
        rows: dict[Id, Row] = {}
        records: set[Id] = set()
        if "builds" in tables:
            for id, rc, parent in reader.execute("SELECT id, rc, parent FROM builds"):
                if _is_text(id) and (parent is None or _is_text(parent)):
                    rows[Id(id)] = Row(rc=rc, parent=parent)
                else:
                    troubles.append(f"a row has id {id!r:.80} and parent {parent!r:.80}")
        if "obuilder_steps" in tables:
            records = {Id(id) for (id,) in reader.execute("SELECT id FROM obuilder_steps")}
        return Known(
            rows=rows,
            parents=frozenset(row.parent for row in rows.values()),
            records=frozenset(records),
            troubles=tuple(troubles),
        )


def _examine(reader: sqlite3.Connection) -> list[str]:
    found = reader.execute(f"PRAGMA integrity_check({_MOST_TROUBLES})").fetchall()
    return [str(text) for (text,) in found if text != "ok"]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.isascii()
