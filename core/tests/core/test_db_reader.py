"""The database is read whatever a crash left beside it, and nothing is changed by that."""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from support.builds import ScriptedSandbox, open_parts, stage
from support.filesystems import mounted_tmpfs
from support.store_damage import tree

from obuilder import Checker, process
from obuilder._core.database.connection import naming_errors
from obuilder._core.database.reader import read_known
from obuilder.errors import DatabaseError
from obuilder_store_rsync import RsyncStore

pytestmark = pytest.mark.anyio

SPEC = "((from b) (run (shell one)))"
WAL_HEADER_BYTES = 32
SHM = {"no index": None, "empty": 0, "cut off": 3, "zeros": 32768}


@pytest.fixture
async def root(tmp_path: Path) -> Path:
    async with open_parts(tmp_path / "store") as parts:
        await parts.builder.build(stage(SPEC))
    return tmp_path / "store"


@asynccontextmanager
async def checker(root: Path) -> AsyncIterator[Checker]:
    async with RsyncStore.open(str(root), RsyncStore.Config()) as store:
        yield Checker(store, ScriptedSandbox())


def crash(root: Path, *statements: str) -> Path:
    """Leave what a writer leaves that is killed: its changes are in the `-wal` alone."""
    path = root / "state/db/db.sqlite"
    live = root / "state/live"
    path.parent.rename(live)
    path.parent.mkdir()
    with closing(sqlite3.connect(live / path.name, isolation_level=None)) as writer:
        for statement in statements or ("PRAGMA user_version = 1",):
            writer.execute(statement)
        for part in ("", "-wal"):
            shutil.copyfile(live / f"{path.name}{part}", path.with_name(path.name + part))
    shutil.rmtree(live)
    return path


def index(path: Path, size: int | None) -> None:
    if size is not None:
        path.with_name(f"{path.name}-shm").write_bytes(bytes(size))


@pytest.mark.parametrize("shm", SHM)
@pytest.mark.parametrize("wal", ["a header", "a strange header", "a torn header", "zeros"])
async def test_a_log_without_changes_is_no_damage_and_stays(root: Path, wal: str, shm: str) -> None:
    path = crash(root)
    log = path.with_name("db.sqlite-wal")
    header = log.read_bytes()[:WAL_HEADER_BYTES]
    rest = {
        "a header": header,
        "a strange header": b"garbage!" * 1000,
        "a torn header": header[:12] + b"\1" * 8000,
        "zeros": bytes(8000),
    }
    log.write_bytes(rest[wal])
    index(path, SHM[shm])
    before = tree(root)
    async with checker(root) as opened:
        report = await opened.check()
    assert report.findings == ()
    assert report.rows == 2
    assert tree(root) == before


@pytest.mark.parametrize("shm", SHM)
async def test_changes_that_a_crash_left_in_the_log_are_read_and_stay_there(
    root: Path, shm: str
) -> None:
    row = "INSERT INTO builds VALUES ('{}', 'now', 'now', 0, NULL)"
    path = crash(root, *(row.format(str(number) * 64) for number in range(3)))
    index(path, SHM[shm])
    before = tree(root)
    known = read_known(path, thorough=True)
    assert known is not None
    assert known.troubles == ()
    assert len(known.rows) == 5
    assert {str(number) * 64 for number in range(3)} < set(known.rows)
    assert tree(root) == before


async def test_a_database_that_a_crash_left_too_short_is_whole_with_its_log(root: Path) -> None:
    # The first page, which says how long it is, is moved from the log before the last one.
    path = crash(root, "CREATE TABLE large AS SELECT zeroblob(50000)")
    old = path.read_bytes()
    whole = path.with_name("whole")
    for part in ("", "-wal"):
        shutil.copyfile(path.with_name(path.name + part), whole.with_name(f"whole{part}"))
    sqlite3.connect(whole).execute("PRAGMA wal_checkpoint").close()
    first = whole.read_bytes()[:4096]
    for left in path.parent.glob("whole*"):
        left.unlink()
    path.write_bytes(first + old[4096:])
    known = read_known(path, thorough=True)
    assert known is not None
    assert (len(known.rows), known.troubles) == (2, ())
    assert sorted(os.listdir(path.parent)) == ["db.sqlite", "db.sqlite-wal"]


async def test_what_is_changed_while_it_is_read_is_read_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = root / "state/db/db.sqlite"
    torn = root / "torn"
    whole = path.read_bytes()
    for each in (path, torn):
        each.write_bytes(b"torn" * 1000)
    with pytest.raises(DatabaseError, match="not a database"):
        read_known(path)
    connect = sqlite3.connect

    def connect_early(_uri: str, **options: Any) -> sqlite3.Connection:
        monkeypatch.setattr(sqlite3, "connect", connect)
        path.write_bytes(whole)  # its writer comes to the end while it is read
        read: sqlite3.Connection = connect(f"{torn.as_uri()}?mode=ro&immutable=1", **options)
        return read

    monkeypatch.setattr(sqlite3, "connect", connect_early)
    known = read_known(path)
    assert known is not None
    assert len(known.rows) == 2


async def test_what_is_closed_by_the_last_just_before_it_is_opened_is_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = crash(root)
    index(path, 32768)
    connect = sqlite3.connect

    def connect_late(*args: Any, **options: Any) -> sqlite3.Connection:
        monkeypatch.setattr(sqlite3, "connect", connect)
        with closing(connect(path)) as last:
            last.execute("SELECT * FROM builds")
        assert os.listdir(path.parent) == [path.name]
        late: sqlite3.Connection = connect(*args, **options)
        return late

    monkeypatch.setattr(sqlite3, "connect", connect_late)
    known = read_known(path)
    assert known is not None
    assert len(known.rows) == 2


def test_a_race_that_was_lost_is_no_damage(tmp_path: Path) -> None:
    error = sqlite3.OperationalError("locking protocol")
    error.sqlite_errorcode = sqlite3.SQLITE_PROTOCOL
    with pytest.raises(DatabaseError) as caught, naming_errors(tmp_path / "db.sqlite"):
        raise error
    assert caught.value.code == "database.locked"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A directory with room for a few pages."""
    with mounted_tmpfs(tmp_path / "small", "size=16k") as mounted:
        yield mounted


@pytest.mark.parametrize("room", ["for the file", "for a few pages", "none"])
async def test_no_room_for_a_copy_is_not_taken_for_a_full_store(
    root: Path, small: Path, monkeypatch: pytest.MonkeyPatch, room: str
) -> None:
    path = crash(root, *[f"CREATE TABLE t{number} (id)" for number in range(3)])
    before = tree(root / "state/db")
    needed = path.stat().st_size + path.with_name("db.sqlite-wal").stat().st_size
    if room == "for the file":  # but not for the index that SQLite makes of its log
        await process.run(["mount", "-o", f"remount,size={needed + 4096}", str(small)])
    if room == "none":
        (small / "fills").write_bytes(bytes(16384))
    monkeypatch.setattr(tempfile, "tempdir", str(small))
    async with checker(root) as opened:
        for work in (opened.check, opened.rebuild_database):
            with pytest.raises(DatabaseError) as caught:
                await work()
            assert caught.value.code == "database.copy"
            assert str(small) in caught.value.what
            assert "TMPDIR" in (caught.value.hint or "")
    assert tree(root / "state/db") == before
    assert {each.name for each in small.iterdir()} <= {"fills"}
    monkeypatch.undo()
    known = read_known(path)
    assert known
    assert known.rows
