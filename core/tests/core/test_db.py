"""The database is OBuilder's to the blank, counts children, and is never left half written."""

import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from obuilder._core.database.db import Database
from obuilder._core.record import StepRecord
from obuilder.errors import DatabaseError
from obuilder.types import Id

pytestmark = pytest.mark.anyio

GOLDEN = (Path(__file__).parents[3] / "tests/golden/store-db.txt").read_text()
DUMPS = re.findall(
    r"^PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n(.*?)^COMMIT;",
    GOLDEN,
    re.MULTILINE | re.DOTALL,
)
RECORD = StepRecord(
    op="(run (shell x))",
    context="((workdir /))",
    preimage="((base b))",
    duration_s=1.5,
    size_bytes=7,
    digest="sha256:0",
    platform="linux/amd64",
)


def rows(path: Path, query: str = "SELECT * FROM builds ORDER BY id") -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def schema(path: Path, table: str = "builds") -> list[tuple[object, ...]]:
    query = f"SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE tbl_name = '{table}'"
    return rows(path, query)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "db" / "db.sqlite"


@asynccontextmanager
async def chain(path: Path, *ids: str) -> AsyncIterator[Database]:
    """An open database in which each id is built on the one before."""
    async with Database.open(path) as database:
        parent = None
        for id in ids:
            await database.add(Id(id), parent=parent, record=RECORD)
            parent = Id(id)
        yield database


def children(path: Path) -> dict[object, object]:
    return dict(rows(path, "SELECT id, rc FROM builds"))  # type: ignore[arg-type]  # pairs


@pytest.mark.parametrize("dump", DUMPS, ids=range(len(DUMPS)))
async def test_the_schema_is_the_text_that_obuilder_writes(
    dump: str, path: Path, tmp_path: Path
) -> None:
    async with Database.open(path):
        pass
    theirs = tmp_path / "theirs.sqlite"
    with closing(sqlite3.connect(theirs)) as connection:
        connection.executescript(dump)
    assert schema(path) == schema(theirs)
    assert rows(path, "PRAGMA journal_mode") == [("wal",)]


@pytest.mark.parametrize("dump", DUMPS, ids=range(len(DUMPS)))
async def test_rows_are_those_that_obuilder_has_after_the_same_build(dump: str, path: Path) -> None:
    inserted = re.findall(r"VALUES\('(\w+)','[^']*','[^']*',(\d+),(?:'(\w+)'|NULL)\)", dump)
    async with Database.open(path) as database:
        for id, _, parent in inserted:
            await database.add(Id(id), parent=Id(parent) if parent else None, record=None)
    ours = rows(path, "SELECT id, rc, parent FROM builds ORDER BY rowid")
    assert ours == [(id, int(rc), parent or None) for id, rc, parent in inserted]


@pytest.mark.parametrize("dump", DUMPS, ids=range(len(DUMPS)))
async def test_a_database_of_obuilder_is_taken_over_and_stays_readable(
    dump: str, path: Path
) -> None:
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(dump)
        before, made = schema(path), rows(path)
    async with Database.open(path) as database:
        (first, *_) = [Id(str(row[0])) for row in made]
        assert await database.count() == len(made)
        assert await database.record(first) is None
        assert await database.touch(first)
    assert schema(path) == before
    assert [row[0] for row in rows(path)] == [row[0] for row in made]


async def test_times_are_utc_to_the_second(path: Path) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    async with chain(path, "a"):
        pass
    ((_, created, used, rc, parent),) = rows(path)
    assert created == used
    found = datetime.strptime(str(created), "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    assert before <= found <= datetime.now(UTC)
    assert (rc, parent) == (0, None)


async def test_children_are_counted_once_each(path: Path) -> None:
    async with chain(path, "a", "b", "c") as database:
        await database.add(Id("d"), parent=Id("a"), record=None)
        await database.add(Id("d"), parent=Id("a"), record=None)
        assert sorted(await database.children(Id("a"))) == ["b", "d"]
        assert children(path) == {"a": 2, "b": 1, "c": 0, "d": 0}
        await database.remove(Id("d"))
        await database.remove(Id("d"))
        await database.remove(Id("c"))
        assert children(path) == {"a": 1, "b": 0}


async def test_a_parent_that_is_not_known_is_left_out(path: Path) -> None:
    async with Database.open(path) as database:
        await database.add(Id("b"), parent=Id("a"), record=RECORD)
    assert [row[4] for row in rows(path)] == [None]


async def test_a_parent_that_a_build_knows_is_filled_in_once(path: Path) -> None:
    async with chain(path, "a", "b") as database:
        await database.add(Id("c"), parent=Id("unknown"), record=None)
        for parent in ("unknown", "b", "b", "a"):
            assert await database.touch(Id("c"), parent=Id(parent))
        assert await database.parent(Id("c")) == "b"
        assert children(path) == {"a": 1, "b": 1, "c": 0}
        assert not await database.touch(Id("d"), parent=Id("a"))
    assert rows(path, "PRAGMA foreign_key_check") == []


async def test_an_adopted_result_has_the_children_that_came_before_it(path: Path) -> None:
    async with chain(path, "a", "b") as database:
        with closing(sqlite3.connect(path, isolation_level=None)) as theirs:
            theirs.execute("INSERT INTO builds VALUES ('d', '2020', '2020', 0, 'c')")
        await database.adopt(Id("c"), parent=Id("b"), record=None)
        await database.adopt(Id("c"), parent=Id("b"), record=None)
        assert children(path) == {"a": 1, "b": 1, "c": 1, "d": 0}


@pytest.mark.parametrize("record", [None, RECORD], ids=["unknown", "known"])
async def test_a_record_that_a_deletion_by_obuilder_left_goes_when_the_id_comes_back(
    record: StepRecord | None, path: Path
) -> None:
    async with chain(path, "a") as database:
        with closing(sqlite3.connect(path, isolation_level=None)) as theirs:
            theirs.execute("DELETE FROM builds")
            theirs.execute("UPDATE obuilder_steps SET digest = 'old'")
        await database.add(Id("a"), parent=None, record=record)
        assert await database.record(Id("a")) == record
    assert rows(path, "PRAGMA foreign_key_check") == []


async def test_records_without_a_result_are_swept(path: Path) -> None:
    async with chain(path, "a", "b") as database:
        with closing(sqlite3.connect(path, isolation_level=None)) as theirs:
            theirs.execute("DELETE FROM builds WHERE id = 'b'")
        await database.sweep()
        assert await database.record(Id("a")) == RECORD
        assert await database.record(Id("b")) is None


async def test_a_record_can_be_forgotten(path: Path) -> None:
    async with chain(path, "a") as database:
        await database.forget_record(Id("a"))
        assert await database.record(Id("a")) is None
        assert await database.touch(Id("a"))


async def test_a_result_with_children_cannot_be_removed(path: Path) -> None:
    async with chain(path, "a", "b") as database:
        with pytest.raises(DatabaseError, match="FOREIGN KEY"):
            await database.remove(Id("a"))
        assert children(path) == {"a": 1, "b": 0}


async def test_a_record_comes_back_and_goes_with_its_result(path: Path) -> None:
    async with chain(path, "a") as database:
        assert await database.record(Id("a")) == RECORD
        assert await database.record(Id("other")) is None
        await database.remove(Id("a"))
        assert await database.record(Id("a")) is None
    assert rows(path, "SELECT * FROM obuilder_steps") == []


async def test_using_a_result_moves_it_to_the_end_of_the_unused(path: Path) -> None:
    async with Database.open(path) as database:
        for id in ("a", "b"):
            await database.add(Id(id), parent=None, record=None)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE builds SET used = '2001-01-01 00:00:00'")
    async with Database.open(path) as database:
        assert await database.unused(before=None, limit=10) == ["a", "b"]
        assert await database.touch(Id("a"))
        assert not await database.touch(Id("c"))
        assert await database.unused(before=None, limit=10) == ["b", "a"]
        assert await database.unused(before=None, limit=1) == ["b"]
        hour_ago = datetime.now(UTC) - timedelta(hours=1)
        assert await database.unused(before=hour_ago, limit=10) == ["b"]
        assert await database.unused(before=datetime(2000, 12, 31, tzinfo=UTC), limit=10) == []


async def test_the_files_beside_it_are_gone_when_it_is_closed(path: Path) -> None:
    async with chain(path, "a", "b") as database:
        await database.record(Id("a"))
        assert len(list(path.parent.iterdir())) == 3
    assert [each.name for each in path.parent.iterdir()] == ["db.sqlite"]


async def test_they_are_gone_after_an_error_too(path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with chain(path, "a"):
            raise ZeroDivisionError
    assert [each.name for each in path.parent.iterdir()] == ["db.sqlite"]


@pytest.mark.parametrize("damage", ["header", "page"])
async def test_a_damaged_database_is_an_error_that_says_what_to_do(damage: str, path: Path) -> None:
    async with chain(path, *(f"{number:064}" for number in range(100))):
        pass
    data = bytearray(path.read_bytes())
    if damage == "header":
        data[:16] = b"not a database!!"
    else:
        data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(DatabaseError, match=str(path)) as caught:
        async with Database.open(path) as database:
            await database.add(Id("x"), parent=None, record=None)
    assert caught.value.code == "database.damaged"
    assert str(path) in (caught.value.hint or "")
    if damage == "header":
        assert path.read_bytes() == bytes(data)


async def test_many_tasks_and_two_connections_lose_nothing(path: Path) -> None:
    async with Database.open(path) as one, Database.open(path) as other:
        await one.add(Id("base"), parent=None, record=None)
        async with anyio.create_task_group() as tasks:
            for number in range(40):

                async def add(number: int = number) -> None:
                    database = one if number % 2 else other
                    await database.add(Id(f"{number}"), parent=Id("base"), record=RECORD)

                tasks.start_soon(add)
        assert await one.count() == await other.count() == 41
    assert children(path)["base"] == 40
    assert [each.name for each in path.parent.iterdir()] == ["db.sqlite"]
