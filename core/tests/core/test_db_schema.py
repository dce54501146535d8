"""The schema is brought up to date whole or not at all, and a newer one is never changed."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from obuilder._core.database.connection import connect
from obuilder._core.database.schema import MIGRATIONS, SCHEMA_VERSION, Migration, migrate
from obuilder.errors import DatabaseError

PROCESSES = 4
ROUNDS = 5
NEXT: Migration = ("CREATE TABLE more (x)", "INSERT INTO more VALUES (1)")
FAULTY: Migration = ("CREATE TABLE more (x)", "INSERT INTO missing VALUES (1)")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "db").mkdir()
    return tmp_path / "db" / "db.sqlite"


@pytest.fixture
def theirs(path: Path) -> Path:
    """A database as OBuilder leaves it, with one row."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in MIGRATIONS[0][:2]:
            connection.execute(statement)
        connection.execute("INSERT INTO builds VALUES ('a', '2020', '2020', 0, NULL)")
    return path


@pytest.fixture
def ours(path: Path) -> Path:
    connect(path).close()
    return path


def ask(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def tables(path: Path) -> set[object]:
    return {row[0] for row in ask(path, "SELECT name FROM sqlite_schema WHERE type = 'table'")}


def version(path: Path) -> object:
    return ask(path, "PRAGMA user_version")[0][0]


@pytest.mark.parametrize("with_table", [False, True])
def test_a_database_of_obuilder_becomes_ours(*, with_table: bool, theirs: Path) -> None:
    if with_table:
        with closing(sqlite3.connect(theirs)) as connection:
            connection.execute(MIGRATIONS[0][2])
    connect(theirs).close()
    assert version(theirs) == SCHEMA_VERSION
    assert tables(theirs) == {"builds", "obuilder_steps"}
    assert ask(theirs, "SELECT * FROM builds") == [("a", 2020, 2020, 0, None)]


def test_migrations_are_applied_in_order_and_once(ours: Path) -> None:
    migrations = (*MIGRATIONS, ("CREATE TABLE more (x)",), ("INSERT INTO more VALUES (2)",))
    for _ in range(2):
        with closing(sqlite3.connect(ours, isolation_level=None)) as connection:
            migrate(connection, ours, migrations=migrations)
    assert version(ours) == SCHEMA_VERSION + 2
    assert ask(ours, "SELECT * FROM more") == [(2,)]


def test_a_migration_that_fails_leaves_the_version_before_whole(theirs: Path) -> None:
    with closing(sqlite3.connect(theirs, isolation_level=None)) as connection:
        with pytest.raises(sqlite3.OperationalError, match="missing"):
            migrate(connection, theirs, migrations=(*MIGRATIONS, FAULTY))
        assert not connection.in_transaction
    assert version(theirs) == SCHEMA_VERSION
    assert tables(theirs) == {"builds", "obuilder_steps"}
    with closing(sqlite3.connect(theirs, isolation_level=None)) as connection:
        migrate(connection, theirs, migrations=(*MIGRATIONS, NEXT))
    assert ask(theirs, "SELECT * FROM more") == [(1,)]


def at_once(program: str, path: Path) -> list[str]:
    """Run a program in several processes, ready before the first begins; what each complained."""
    prelude = (
        "import sqlite3, sys; from pathlib import Path\n"
        "from obuilder._core.database.connection import connect\n"
        "from obuilder._core.database.schema import MIGRATIONS, migrate\n"
        "path = Path(sys.argv[1]); print(flush=True); sys.stdin.readline()\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", prelude + program, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(PROCESSES)
    ]
    for process in processes:
        assert process.stdout
        process.stdout.readline()
    for process in processes:
        assert process.stdin
        process.stdin.write(b"\n")
        process.stdin.flush()
    return [process.communicate(timeout=60)[1].decode() for process in processes]


@pytest.mark.parametrize("round", range(ROUNDS))
def test_processes_that_make_a_database_at_once_all_open_it(round: int, path: Path) -> None:
    assert at_once("connect(path).close()", path) == [""] * PROCESSES
    assert version(path) == SCHEMA_VERSION


@pytest.mark.parametrize("round", range(ROUNDS))
def test_processes_that_start_at_once_migrate_once(round: int, theirs: Path) -> None:
    program = (
        "connection = sqlite3.connect(path, timeout=30, isolation_level=None)\n"
        f"migrate(connection, path, migrations=(*MIGRATIONS, {NEXT!r}))\n"
    )
    assert at_once(program, theirs) == [""] * PROCESSES
    assert version(theirs) == SCHEMA_VERSION + 1
    assert ask(theirs, "SELECT * FROM more") == [(1,)]


def test_a_newer_database_is_refused_and_not_changed(ours: Path) -> None:
    with closing(sqlite3.connect(ours)) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    refused(ours)


def test_what_a_newer_program_that_crashed_left_is_not_changed_either(
    ours: Path, tmp_path: Path
) -> None:
    left = tmp_path / "left"
    left.mkdir()
    with closing(sqlite3.connect(ours)) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        # A copy taken now is what a crash leaves: the change is in the -wal alone.
        for each in list(ours.parent.iterdir()):
            (left / each.name).write_bytes(each.read_bytes())
    assert (left / "db.sqlite-wal").stat().st_size > 0
    refused(left / "db.sqlite")


def refused(path: Path) -> None:
    before = contents(path.parent)
    with pytest.raises(DatabaseError, match=str(path)) as caught:
        connect(path)
    assert caught.value.code == "database.newer"
    assert "upgrade" in (caught.value.hint or "")
    assert contents(path.parent) == before


def contents(directory: Path) -> dict[str, bytes]:
    # The index of a -wal is made anew by whoever reads it.
    files = (each for each in directory.iterdir() if not each.name.endswith("-shm"))
    return {each.name: each.read_bytes() for each in files}


@pytest.fixture
def unwritable(btrfs_root: Path) -> Iterator[Path]:
    """A database in a file that not even root may write."""
    path = btrfs_root / "db.sqlite"
    connect(path).close()
    subprocess.run(["chattr", "+i", str(path)], check=True)
    yield path
    subprocess.run(["chattr", "-i", str(path)], check=True)


def test_a_database_that_cannot_be_written_is_an_error_that_says_so(unwritable: Path) -> None:
    with pytest.raises(DatabaseError, match=str(unwritable)) as caught:
        connect(unwritable)
    assert caught.value.code == "database.read-only"
    assert "writable" in (caught.value.hint or "")
    assert os.listdir(unwritable.parent) == ["db.sqlite"]


def test_a_directory_in_its_place_is_an_error_that_says_so(path: Path) -> None:
    path.mkdir()
    with pytest.raises(DatabaseError, match="is not a file") as caught:
        connect(path)
    assert "moved away" in (caught.value.hint or "")
    assert path.is_dir()


def test_a_place_that_cannot_be_made_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(DatabaseError, match=str(tmp_path)):
        connect(tmp_path / "state" / "db.sqlite")
