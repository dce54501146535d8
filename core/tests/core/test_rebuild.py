"""The database is made anew from the results alone, and never taken from anybody."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.builds import Events, ScriptedSandbox, open_parts, stage

from obuilder import Checker
from obuilder._core.database.guard import sharing
from obuilder.errors import DatabaseError, StoreError
from obuilder.interfaces import Store
from obuilder.locks import Locks
from obuilder.types import Id
from obuilder_store_rsync import RsyncStore

pytestmark = pytest.mark.anyio

SPEC = "((from b) (run (shell one)) (run (shell two)))"
NEWER = "PRAGMA user_version = 999"
A_YEAR_AGO_S = 1_764_000_000
TIME = "2025-11-24 16:00:00"


@asynccontextmanager
async def checker(root: Path) -> AsyncIterator[Checker]:
    async with RsyncStore.open(str(root), RsyncStore.Config()) as store:
        yield Checker(store, ScriptedSandbox())


async def rebuild(root: Path) -> tuple[str, ...]:
    async with checker(root) as opened:
        notes = await opened.rebuild_database()
        assert (await opened.check()).findings == ()
        return notes


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def database(root: Path) -> Path:
    return root / "state/db/db.sqlite"


@pytest.fixture
async def ids(root: Path) -> list[Id]:
    return [id for id, _ in await built(root)]


async def built(root: Path) -> list[tuple[Id, bool]]:
    seen = Events()
    async with open_parts(root) as parts:
        await parts.builder.build(stage(SPEC), seen.context())
    return seen.steps


def everything(database: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        builds = connection.execute("SELECT id, rc, parent FROM builds ORDER BY id").fetchall()
        steps = connection.execute("SELECT * FROM obuilder_steps ORDER BY id").fetchall()
        schema = connection.execute("SELECT sql FROM sqlite_schema ORDER BY name").fetchall()
        return [*builds, *steps, *schema, *connection.execute("PRAGMA user_version")]


@pytest.mark.parametrize("state", ["healthy", "missing", "damaged", "cut off", "a directory"])
async def test_what_the_results_tell_is_in_the_new_database(
    ids: list[Id], root: Path, database: Path, state: str
) -> None:
    before, old = everything(database), database.read_bytes()
    match state:
        case "missing":
            database.unlink()
        case "damaged":
            database.write_bytes(b"no database\n" * 1000)
        case "cut off":
            database.write_bytes(old[: len(old) // 2])
        case "a directory":
            database.unlink()
            (database / "in").mkdir(parents=True)
    was = database.read_bytes() if database.is_file() else None
    notes = await rebuild(root)
    assert everything(database) == before
    kept = list(database.parent.glob("db.sqlite.damaged-*"))
    assert len(kept) == (state != "missing")
    assert [f"the old database is {path}" for path in kept] == list(notes)
    if was is not None:
        assert kept[0].read_bytes() == was
    assert {path.name for path in database.parent.iterdir()} == {
        "db.sqlite",
        *(path.name for path in kept),
    }
    assert [cached for _, cached in await built(root)] == [True] * 3


@pytest.mark.parametrize("state", ["missing", "damaged"])
async def test_the_check_tells_that_there_is_no_database_and_repairs_the_rest_only(
    ids: list[Id], root: Path, database: Path, state: str
) -> None:
    database.unlink()
    if state == "damaged":
        database.write_bytes(b"no database\n" * 1000)
    code = {"missing": "fsck.no-database", "damaged": "fsck.database"}[state]
    (root / "result-tmp" / ids[0]).mkdir()
    async with checker(root) as opened:
        report = await opened.check(repair=True)
        assert [each.code.value for each in report.faults] == [code]
        assert [each.code.value for each in report.findings if each.repaired] == [
            "fsck.leftover-result"
        ]
        assert database.exists() == (state == "damaged")


async def test_sqlites_own_examination_is_told(ids: list[Id], root: Path, database: Path) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_schema SET rootpage = 2 WHERE name = 'lru'")
    before = database.read_bytes()
    async with checker(root) as opened:
        report = await opened.check(repair=True)
        assert {each.code.value for each in report.faults} == {"fsck.database"}
    assert database.read_bytes() == before
    await rebuild(root)


async def test_times_are_those_of_the_results(ids: list[Id], root: Path, database: Path) -> None:
    for id in ids[:2]:
        result = root / "result" / id
        os.utime(result / "obuilder.json", (A_YEAR_AGO_S, A_YEAR_AGO_S))
        os.utime(result / "log", (A_YEAR_AGO_S, A_YEAR_AGO_S))
    os.utime(root / "result" / ids[1] / "log", (A_YEAR_AGO_S + 60, A_YEAR_AGO_S))
    os.utime(root / "result" / ids[2] / "obuilder.json", (2**32, 2**32))  # a clock was wrong
    await rebuild(root)
    with closing(sqlite3.connect(database)) as connection:
        times = connection.execute("SELECT created, used FROM builds ORDER BY rowid").fetchall()
    assert times[:2] == [(TIME, TIME), (TIME, "2025-11-24 16:01:00")]
    assert times[2][0].startswith("202")


async def test_a_result_without_a_record_has_no_parent_and_is_told(
    ids: list[Id], root: Path, database: Path
) -> None:
    # As OBuilder makes it on a result of ours: with the record of that.
    record = root / "result" / ids[1] / "obuilder.json"
    record.write_bytes((root / "result" / ids[0] / "obuilder.json").read_bytes())
    notes = await rebuild(root)
    assert notes[0].startswith(f"{ids[1]} has no parent now")
    found = {row[0]: row[1:3] for row in everything(database)[:3]}
    assert found == {ids[0]: (0, None), ids[1]: (1, None), ids[2]: (0, ids[1])}


async def test_a_damaged_record_costs_the_parent_of_that_one(
    ids: list[Id], root: Path, database: Path
) -> None:
    (root / "result" / ids[1] / "obuilder.json").write_bytes(b"{}")
    (root / "result" / "hello").mkdir()
    async with checker(root) as opened:
        notes = await opened.rebuild_database()
        report = await opened.check()
    assert ids[1] in notes[0]
    found = {(each.code.value, each.key) for each in report.faults}
    assert found == {("fsck.damaged-record", ids[1]), ("fsck.foreign-result", "hello")}
    assert len(everything(database)[:3]) == 3


def refused(before: bytes, database: Path, error: DatabaseError, code: str) -> None:
    assert error.code == code
    assert database.read_bytes() == before
    assert [path.name for path in database.parent.glob("*.damaged-*")] == []


async def test_nobody_who_has_it_open_loses_it(ids: list[Id], root: Path, database: Path) -> None:
    async with open_parts(root), checker(root) as opened:
        before = database.read_bytes()
        with pytest.raises(DatabaseError) as caught:
            await opened.rebuild_database()
    refused(before, database, caught.value, "database.in-use")
    await rebuild(root)


@contextmanager
def another_program(database: Path) -> Iterator[None]:
    """OBuilder, or a person: it has the database open and knows nothing of our locks."""
    program = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]);"
        "c.execute('SELECT * FROM builds').fetchall(); print('open', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == "open\n"
        yield
        child.communicate("\n")


async def test_another_program_that_has_it_open_is_noticed(
    ids: list[Id], root: Path, database: Path
) -> None:
    async with checker(root) as opened:
        with another_program(database):
            before = database.read_bytes()
            with pytest.raises(DatabaseError) as caught:
                await opened.rebuild_database()
        refused(before, database, caught.value, "database.in-use")
        await opened.rebuild_database()


async def test_another_program_that_opens_it_meanwhile_is_noticed(
    ids: list[Id], root: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = database.read_bytes()
    with ExitStack() as others:
        async with checker(root) as opened:
            list_results = opened._store.results

            async def results() -> Sequence[Id]:
                others.enter_context(another_program(database))
                return await list_results()

            monkeypatch.setattr(opened._store, "results", results)
            with pytest.raises(DatabaseError) as caught:
                await opened.rebuild_database()
            refused(before, database, caught.value, "database.in-use")
            assert list(database.parent.glob("*.new*")) == []
            monkeypatch.undo()
            others.close()
            await opened.rebuild_database()


async def test_a_lock_that_somebody_holds_refuses_it(
    ids: list[Id], root: Path, database: Path
) -> None:
    before = database.read_bytes()
    os.mkfifo(root / "state/locks/dead")
    async with checker(root) as opened:
        async with Locks(root / "state/locks").hold("copy-1-c"):
            with pytest.raises(DatabaseError) as caught:
                await opened.rebuild_database()
        refused(before, database, caught.value, "database.in-use")
        await opened.rebuild_database()
        assert os.listdir(root / "state/locks") == ["dead"]


async def test_a_database_of_a_newer_obuilder_is_not_put_aside(
    ids: list[Id], root: Path, database: Path
) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(NEWER)
    before = database.read_bytes()
    async with checker(root) as opened:
        for work in (opened.rebuild_database, opened.check):
            with pytest.raises(DatabaseError) as caught:
                await work()
            refused(before, database, caught.value, "database.newer")


async def test_a_store_that_cannot_list_its_results_makes_no_database(
    ids: list[Id], root: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RsyncStore, "results", Store.results, raising=False)
    database.unlink()
    async with checker(root) as opened:
        with pytest.raises(StoreError) as caught:
            await opened.rebuild_database()
        assert caught.value.code == "store.cannot-list"
        assert not database.exists()


async def test_a_rebuild_that_was_interrupted_is_done_again(
    ids: list[Id], root: Path, database: Path
) -> None:
    before = everything(database)
    database.with_name("db.sqlite.new").write_bytes(b"half")
    database.with_name("db.sqlite.new-wal").write_bytes(b"half")
    await rebuild(root)
    assert everything(database) == before


async def test_nobody_opens_it_while_it_is_made(ids: list[Id], root: Path) -> None:
    async with checker(root) as opened:
        store = opened._store
        results = store.results
        refusals = []

        async def try_to_open() -> Any:
            with pytest.raises(DatabaseError) as caught:
                async with open_parts(root):
                    pass
            refusals.append(caught.value.code)
            with pytest.raises(DatabaseError) as caught:
                await opened.check()
            refusals.append(caught.value.code)
            return await results()

        store.results = try_to_open  # type: ignore[method-assign]  # called in the middle of it
        await opened.rebuild_database()
    assert refusals == ["database.locked"] * 2
    with sharing(root / "state/db"), sharing(root / "state/db"):
        pass


async def test_records_that_go_round_in_a_circle_are_cut(
    ids: list[Id], root: Path, database: Path
) -> None:
    record = root / "result" / ids[0] / "obuilder.json"
    record.write_text(record.read_text().replace('"parent": null', f'"parent": "{ids[2]}"'))
    async with checker(root) as opened:
        await opened.rebuild_database()
    assert sorted(row[1] for row in everything(database)[:3]) == [0, 1, 1]
    async with open_parts(root) as parts:
        assert await parts.builder.clean() == 3
