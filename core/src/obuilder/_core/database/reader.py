"""Reading the database without changing a byte of it, whatever state it is in."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from obuilder._core.database.connection import naming_errors
from obuilder._core.database.schema import refuse_newer
from obuilder.errors import DatabaseError
from obuilder.types import Id

__all__ = ["Known", "Row", "read_known"]

_BUSY_S = 30.0
_ATTEMPTS = 100
_MOST_TROUBLES = 20


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
        with naming_errors(path):
            known = _read(path, thorough=thorough)
        # What is read as if nobody changed it may have been changed all the same.
        if before is None or before == _state(path):
            return known
    raise DatabaseError(f"database {path} is always being opened by others", code="database.locked")


def _state(path: Path) -> tuple[int, ...] | None:
    """What would show that the file was changed; None where SQLite's locks see to it."""
    if _locked_reading(path) is not None:
        return None
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _locked_reading(path: Path) -> str | None:
    """How to open a database that somebody may have open; None: nobody has."""
    wal, shm = (path.with_name(f"{path.name}-{end}") for end in ("wal", "shm"))
    if not wal.exists() or not (shm.exists() or wal.stat().st_size):
        return None
    # With an index that a crash left SQLite makes its own in memory, and leaves that as it is.
    return "&readonly_shm=1" if shm.exists() else ""


def _read(path: Path, *, thorough: bool) -> Known:
    # Else SQLite would make a `-wal` and a `-shm` to read it.
    how = _locked_reading(path)
    uri = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if how is None else how}"
    with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_S, isolation_level=None)) as reader:
        reader.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        refuse_newer(reader, path)
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
