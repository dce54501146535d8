"""Wherever putting the new database in the old one's place ends, one of the two is there, whole."""

import errno
import itertools
import os
import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from support.kill_points import DurableSteps, in_process

from obuilder._core.checker.rebuild import _Entry, _replace
from obuilder._core.database.connection import connect
from obuilder._core.database.reader import read_known
from obuilder.errors import DatabaseError
from obuilder.types import Id

TIME = "2026-01-01 00:00:00"
OLD = ["old"]
NEW = [f"{number}" * 6000 for number in range(3)]
"""So long that there are pages of every kind, and more of them than in the old one."""


class _Full(DurableSteps):
    """No room for the last step, which fails; the process goes on."""

    failed_at: str | None = None

    def step(self, what: str) -> None:
        if self._begun and not what.startswith("sqlite"):
            self.count += 1
        if self.count == self._last and self.failed_at is None:
            self.failed_at = what
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), what)


def _crashed(steps: DurableSteps, database: Path) -> None:
    """The old database, all of whose rows are in its `-wal`."""
    del steps
    connection = connect(database)
    connection.execute("INSERT INTO builds VALUES ('old', ?, ?, 0, NULL)", (TIME, TIME))
    for part in ("", "-wal"):
        shutil.copy(f"{database}{part}", f"{database}{part}.kept")
    connection.close()
    for part in ("", "-wal"):
        Path(f"{database}{part}.kept").rename(f"{database}{part}")


def _pages_of_8_kib(database: Path) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA page_size = 8192")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE builds (id TEXT PRIMARY KEY, rc, parent)")
        connection.execute("INSERT INTO builds VALUES ('old', 0, NULL)")


def _replaced(steps: DurableSteps, database: Path, ids: Iterable[str]) -> None:
    entry = _Entry(parent=None, record=None, created=TIME, used=TIME)
    steps.begin()
    with suppress(OSError):
        _replace(database, {Id(id): entry for id in ids})


def _fails(steps: DurableSteps, database: Path, ids: Iterable[str], last: int) -> str | None:
    del steps
    full = _Full([database.parent], last=last, tell=print)
    _replaced(full, database, ids)
    full.end()
    return full.failed_at


def rows(database: Path) -> list[str] | None:
    """As any program reads them; None: it is no database."""
    try:
        with closing(sqlite3.connect(database)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            return [id for (id,) in connection.execute("SELECT id FROM builds ORDER BY id")]
    except sqlite3.DatabaseError:
        return None


def known(database: Path) -> list[str] | None:
    """As a check reads them, which changes nothing."""
    try:
        found = read_known(database, thorough=True)
    except DatabaseError:
        return None
    return sorted(found.rows) if found and not found.troubles else None


def make(old: str, directory: Path) -> list[str] | None:
    """A database in `directory`; the rows that it has."""
    directory.mkdir()
    database = directory / "db.sqlite"
    match old:
        case "in its -wal":
            in_process(_crashed, database, watched=[])
        case "of other pages":
            _pages_of_8_kib(database)
        case "damaged":
            database.write_bytes(b"no database\n" * 1000)
            return None
    return OLD


@pytest.mark.parametrize("old", ["in its -wal", "of other pages", "damaged"])
@pytest.mark.parametrize("way", ["killed", "no room"])
def test_the_old_database_is_there_with_its_log_or_the_new_one(
    tmp_path: Path, old: str, way: str
) -> None:
    before = make(old, tmp_path / "before")
    seen = []
    for last in itertools.count(1):
        database = shutil.copytree(tmp_path / "before", tmp_path / str(last)) / "db.sqlite"
        if way == "killed":
            watched = [database.parent]
            place = in_process(_replaced, database, NEW, last=last, watched=watched).killed_at
        else:
            place = in_process(_fails, database, NEW, last, watched=[]).value
        kept = list(database.parent.glob("db.sqlite.damaged-*"))
        assert not any(each.samefile(database) for each in kept), f"step {last}, {place}"
        read = known(database)
        found = rows(database)
        # Of a damaged file it looks at no `-wal`: it tells of that, as before.
        assert read == found or (before is read is None), f"step {last}, {place}"
        assert found in (before, NEW), f"step {last}, {place}"
        seen.append(found == NEW)
        if way == "no room" and found == before:
            left = {path.name for path in database.parent.iterdir()}
            assert left <= {"db.sqlite", "db.sqlite-wal", "db.sqlite-shm"}
        if place is None:
            assert {each.read_bytes() for each in kept} >= {
                (tmp_path / "before" / "db.sqlite").read_bytes()
            }
            break
    if way == "killed":
        assert seen == sorted(seen)  # once it is the new one it stays that
    assert seen.count(False) > 5
    assert seen.count(True) > 4
