"""A damaged store is told what is wrong with it, is repaired if asked, and then builds."""

import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from support.builds import Events, ScriptedSandbox, TinyFetcher, stage

from obuilder import Builder, Checker, Report
from obuilder.interfaces import Store
from obuilder.locks import Locks, use_lock
from obuilder.types import Id, Leftover, LeftoverKind
from obuilder_store_btrfs import BtrfsStore
from obuilder_store_rsync import RsyncStore

pytestmark = pytest.mark.anyio

SPEC = "((from b) (run (shell one)) (run (cache (c (target /c))) (shell two)))"
STRANGE = Id("5" * 64)
Faults = set[tuple[str, str]]


def open_store(root: Path) -> Any:
    if root.parts[-1] == "btrfs":
        return BtrfsStore.open(str(root), BtrfsStore.Config())
    return RsyncStore.open(str(root), RsyncStore.Config())


@asynccontextmanager
async def checker(root: Path, *, containers: tuple[Leftover, ...] = ()) -> AsyncIterator[Checker]:
    async with open_store(root) as store:
        yield Checker(store, ScriptedSandbox(containers=list(containers)))


async def check(root: Path, *, repair: bool = False) -> Report:
    async with checker(root) as opened:
        return await opened.check(repair=repair)


@asynccontextmanager
async def open_builder(root: Path) -> AsyncIterator[tuple[Builder, Store[Any]]]:
    async with (
        open_store(root) as store,
        Builder(store, ScriptedSandbox(), TinyFetcher()) as builder,
    ):
        yield builder, store


async def built(root: Path) -> list[tuple[Id, bool]]:
    """The ids of a build, and whether each came from the cache."""
    seen = Events()
    async with open_builder(root) as (builder, _):
        await builder.build(stage(SPEC), seen.context())
    return seen.steps


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "rsync"


@pytest.fixture(params=["rsync", "btrfs"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "btrfs":
        yield Path(request.getfixturevalue("btrfs_root")) / "btrfs"
    else:
        yield tmp_path / "rsync"


@pytest.fixture
async def ids(root: Path) -> list[Id]:
    return [id for id, _ in await built(root)]


def sql(root: Path, *statements: str, foreign_keys: bool = False) -> list[tuple[Any, ...]]:
    """Do something to the database as OBuilder would: it has foreign keys off."""
    path = root / "state/db/db.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"PRAGMA foreign_keys = {foreign_keys}")
        return [row for each in statements for row in database.execute(each).fetchall()]


def rows(root: Path) -> list[tuple[Any, ...]]:
    return sql(root, "SELECT id, rc, parent FROM builds ORDER BY id")


def tree(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a directory but the times of directories."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        is_file = path.is_file() and not path.is_symlink()
        contents = path.read_bytes() if is_file else b""
        times = status.st_mtime_ns if is_file else 0
        name = str(path.relative_to(root))
        found[name] = (status.st_mode, status.st_ino, status.st_uid, times, contents)
    return found


def faults(report: Report) -> Faults:
    return {(finding.code.value, finding.key) for finding in report.faults}


def remove(root: Path, id: Id) -> None:
    subvolume = root / "result" / id
    if root.parts[-1] == "btrfs":
        os.system(f"btrfs -q subvolume delete {subvolume} >/dev/null")
    shutil.rmtree(subvolume, ignore_errors=True)
    assert not subvolume.exists()


def forget(root: Path, *which: Id) -> None:
    for id in which:
        sql(
            root,
            f"UPDATE builds SET rc = rc - 1 WHERE id = (SELECT parent FROM builds WHERE id='{id}')",
            f"DELETE FROM obuilder_steps WHERE id = '{id}'",
            f"DELETE FROM builds WHERE id = '{id}'",
        )


def died_holding(root: Path, *names: str) -> None:
    for name in names:
        os.mkfifo(root / "state" / "locks" / name)


def orphan(root: Path, ids: list[Id]) -> None:
    columns = "op, context, preimage, duration_s, size_bytes, digest, platform"
    sql(root, f"INSERT INTO obuilder_steps SELECT '{STRANGE}', {columns} FROM obuilder_steps"
        f" WHERE id = '{ids[0]}'")  # fmt: skip


def hole(root: Path, ids: list[Id]) -> None:
    """As OBuilder deletes a row: the child is not asked."""
    remove(root, ids[1])
    sql(root, f"DELETE FROM builds WHERE id = '{ids[1]}'")


def unknown_parent(root: Path, ids: list[Id]) -> None:
    sql(
        root,
        f"DELETE FROM obuilder_steps WHERE id = '{ids[1]}'",
        f"DELETE FROM builds WHERE id = '{ids[1]}'",
    )


def directory(root: Path, place: str) -> None:
    (root / place / "rootfs").mkdir(parents=True)
    (root / place / "rootfs" / "stale").touch()


Damage = Callable[[Path, list[Id]], object]
Expected = Callable[[list[Id]], Faults]
DAMAGES: dict[str, tuple[Damage, Expected]] = {
    "a missing result": (
        lambda root, ids: remove(root, ids[2]),
        lambda ids: {("fsck.missing-result", ids[2])},
    ),
    "a missing result with a child": (
        lambda root, ids: remove(root, ids[1]),
        lambda ids: {("fsck.missing-result", ids[1])},
    ),
    "nothing but the database": (
        lambda root, ids: [remove(root, id) for id in ids],
        lambda ids: {("fsck.missing-result", id) for id in ids},
    ),
    "an unknown result": (
        lambda root, ids: forget(root, ids[2]),
        lambda ids: {("fsck.unknown-result", ids[2])},
    ),
    "nothing but results": (
        lambda root, ids: forget(root, *reversed(ids)),
        lambda ids: {("fsck.unknown-result", id) for id in ids},
    ),
    "an unknown result of obuilder": (
        lambda root, ids: (
            forget(root, ids[2]),
            (root / "result" / ids[2] / "obuilder.json").unlink(),
        ),
        lambda ids: {("fsck.unknown-result", ids[2])},
    ),
    "a wrong count": (
        lambda root, ids: sql(root, f"UPDATE builds SET rc = 5 WHERE id = '{ids[1]}'"),
        lambda ids: {("fsck.count", ids[1])},
    ),
    "a count that is no number": (
        lambda root, ids: sql(root, f"UPDATE builds SET rc = 'x' WHERE id = '{ids[2]}'"),
        lambda ids: {("fsck.count", ids[2])},
    ),
    "a parent that is gone": (
        hole,
        lambda ids: {
            ("fsck.missing-parent", ids[2]),
            ("fsck.count", ids[0]),
            ("fsck.orphan-record", ids[1]),
        },
    ),
    "a parent that only the store has": (
        unknown_parent,
        lambda ids: {
            ("fsck.missing-parent", ids[2]),
            ("fsck.unknown-result", ids[1]),
            ("fsck.count", ids[0]),
        },
    ),
    "a wrong parent": (
        lambda root, ids: sql(root, f"UPDATE builds SET parent = '{ids[0]}' WHERE id = '{ids[2]}'"),
        lambda ids: {
            ("fsck.wrong-parent", ids[2]),
            ("fsck.count", ids[0]),
            ("fsck.count", ids[1]),
        },
    ),
    "a record without a row": (orphan, lambda ids: {("fsck.orphan-record", STRANGE)}),
    "a row with a path for an id": (
        lambda root, ids: sql(
            root, "INSERT INTO builds SELECT '../..', created, used, 0, NULL FROM builds LIMIT 1"
        ),
        lambda ids: {("fsck.missing-result", "../..")},
    ),
    "a damaged record": (
        lambda root, ids: (root / "result" / ids[2] / "obuilder.json").write_bytes(b""),
        lambda ids: {("fsck.damaged-record", ids[2])},
    ),
    "a damaged record that the database does not know": (
        lambda root, ids: (
            forget(root, ids[2]),
            (root / "result" / ids[2] / "obuilder.json").write_bytes(b"[]"),
        ),
        lambda ids: {("fsck.damaged-record", ids[2])},
    ),
    "no log": (
        lambda root, ids: (root / "result" / ids[2] / "log").unlink(),
        lambda ids: {("fsck.damaged-result", ids[2])},
    ),
    "no root file system": (
        lambda root, ids: shutil.rmtree(root / "result" / ids[2] / "rootfs"),
        lambda ids: {("fsck.damaged-result", ids[2])},
    ),
    "no environment": (
        lambda root, ids: (root / "result" / ids[2] / "env").write_text("(("),
        lambda ids: {("fsck.damaged-result", ids[2])},
    ),
    "a chain without logs": (
        lambda root, ids: [(root / "result" / id / "log").unlink() for id in ids],
        lambda ids: {("fsck.damaged-result", id) for id in ids},
    ),
    "a temporary result": (
        lambda root, ids: directory(root, f"result-tmp/{STRANGE}"),
        lambda ids: {("fsck.leftover-result", STRANGE)},
    ),
    "a cache copy": (
        lambda root, ids: directory(root, "cache-tmp/123-c"),
        lambda ids: {("fsck.leftover-cache-copy", "copy-123-c")},
    ),
    "scratch": (
        lambda root, ids: directory(root, f"state/scratch/{STRANGE}"),
        lambda ids: {("fsck.scratch", STRANGE)},
    ),
    "locks": (
        lambda root, ids: died_holding(root, STRANGE, use_lock(ids[0]), "users-c"),
        lambda ids: {("fsck.stale-lock", key) for key in (STRANGE, use_lock(ids[0]), "users-c")},
    ),
    "a cache record": (
        lambda root, ids: (root / "state/caches/c").write_bytes(b'{"name": "c"}'),
        lambda ids: {("fsck.cache-record", "c")},
    ),
    "a cache record that was being written": (
        lambda root, ids: (root / "state/caches/.c.17.tmp").write_bytes(b"{"),
        lambda ids: {("fsck.cache-record", ".c.17.tmp")},
    ),
}


async def test_a_store_after_a_build_is_clean(either: Path) -> None:
    await built(either)
    before = tree(either)
    report = await check(either)
    assert (report.findings, report.notes) == ((), ())
    assert (report.results, report.rows) == (3, 3)
    assert tree(either) == before
    assert (await check(either, repair=True)).findings == ()
    assert tree(either) == before


@pytest.mark.parametrize("name", DAMAGES)
async def test_damage_is_found_and_repaired_and_a_build_works(
    root: Path, ids: list[Id], name: str
) -> None:
    damage, expected = DAMAGES[name]
    damage(root, ids)
    before = tree(root)
    assert faults(await check(root)) == expected(ids)
    assert tree(root) == before
    repaired = await check(root, repair=True)
    assert repaired.faults == ()
    assert {(each.code.value, each.key) for each in repaired.findings} >= expected(ids)
    assert (await check(root)).findings == ()
    assert [id for id, _ in await built(root)] == ids
    assert (await check(root)).findings == ()
    assert os.listdir(root / "state/locks") == []


async def test_what_was_built_on_a_missing_result_stays_and_is_used(either: Path) -> None:
    ids = [id for id, _ in await built(either)]
    remove(either, ids[1])
    report = await check(either)
    assert faults(report) == {("fsck.missing-result", ids[1])}
    assert "has no parent" in report.findings[0].remedy or "no parent" in report.findings[0].remedy
    assert (await check(either, repair=True)).faults == ()
    assert rows(either) == sorted([(ids[0], 0, None), (ids[2], 0, None)])
    assert [cached for _, cached in await built(either)] == [True, False, True]
    assert (await check(either)).findings == ()


async def test_repair_tells_who_was_built_on_whom(root: Path, ids: list[Id]) -> None:
    before = rows(root)
    for damage in ("nothing but results", "a wrong parent", "a parent that only the store has"):
        DAMAGES[damage][0](root, ids)
        assert rows(root) != before
        await check(root, repair=True)
        assert rows(root) == before
    assert sql(root, "SELECT count(*) FROM obuilder_steps") == [(3,)]


async def test_a_damaged_result_with_children_is_left_to_a_person(
    root: Path, ids: list[Id]
) -> None:
    (root / "result" / ids[0] / "log").unlink()
    before = tree(root)
    report = await check(root, repair=True)
    assert faults(report) == {("fsck.damaged-result", ids[0])}
    assert f"delete {ids[0]}" in (report.faults[0].why_not or "")
    assert tree(root) == before
    async with open_builder(root) as (builder, _):
        assert await builder.delete(ids[0]) == 3
    assert (await check(root)).findings == ()


async def test_what_is_no_result_is_told_and_left(root: Path, ids: list[Id]) -> None:
    directory(root, "result/hello")
    report = await check(root, repair=True)
    assert faults(report) == {("fsck.foreign-result", "hello")}
    assert (root / "result/hello/rootfs/stale").exists()


async def test_a_container_goes_before_what_it_may_write_in(root: Path, ids: list[Id]) -> None:
    directory(root, f"result-tmp/{STRANGE}")
    container = Leftover(kind=LeftoverKind.CONTAINER, key=STRANGE)
    async with checker(root, containers=(container,)) as opened:
        found = [finding.code.value for finding in (await opened.check()).findings]
        assert found == ["fsck.leftover-container", "fsck.leftover-result"]
        assert (await opened.check(repair=True)).faults == ()
        assert (await opened.check()).findings == ()


async def test_what_a_live_process_uses_is_neither_told_nor_touched(
    root: Path, ids: list[Id]
) -> None:
    for name in ("an unknown result", "a temporary result", "a cache copy", "scratch"):
        DAMAGES[name][0](root, ids)
    DAMAGES["a cache record that was being written"][0](root, ids)
    (root / "result" / ids[0] / "log").unlink()
    locks = Locks(root / "state/locks")
    async with (
        locks.hold(ids[2]),
        locks.hold(STRANGE),
        locks.hold("copy-123-c"),
        locks.hold("users-c", shared=True),
        locks.hold(use_lock(ids[0]), shared=True),
    ):
        before = tree(root)
        assert (await check(root)).findings == ()
        assert (await check(root, repair=True)).findings == ()
        assert tree(root) == before
    assert len((await check(root)).findings) == 6


async def test_a_builder_checks_its_own_store(root: Path, ids: list[Id]) -> None:
    async with open_builder(root) as (builder, _):
        assert (await builder.check()).findings == ()
        sql(root, "UPDATE builds SET rc = 7")
        assert len((await builder.check(repair=True)).findings) == 3
        assert (await builder.check()).findings == ()
        await builder.build(stage(SPEC))
        assert await builder.delete(ids[0]) == 3


async def test_a_store_that_cannot_list_its_results_says_so(
    root: Path, ids: list[Id], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RsyncStore, "results", Store.results, raising=False)
    remove(root, ids[2])
    report = await check(root)
    assert faults(report) == {("fsck.missing-result", ids[2])}
    assert report.results is None
    assert "cannot list its results" in report.notes[0]
