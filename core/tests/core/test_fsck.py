"""A damaged store is told what is wrong with it, is repaired if asked, and then builds."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.builds import Events, ScriptedSandbox, TinyFetcher, stage
from support.store_damage import DAMAGES, STRANGE, Faults, directory, remove, sql, tree

from obuilder import Builder, Checker, Report
from obuilder.interfaces import Store
from obuilder.locks import Locks, use_lock
from obuilder.types import Id, Leftover, LeftoverKind
from obuilder_store_btrfs import BtrfsStore
from obuilder_store_rsync import RsyncStore

pytestmark = pytest.mark.anyio

SPEC = "((from b) (run (shell one)) (run (cache (c (target /c))) (shell two)))"


def open_store(root: Path) -> Any:
    if root.name == "btrfs":
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


def rows(root: Path) -> list[tuple[Any, ...]]:
    return sql(root, "SELECT id, rc, parent FROM builds ORDER BY id")


def faults(report: Report) -> Faults:
    return {(finding.code.value, finding.key) for finding in report.faults}


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


@pytest.mark.parametrize(
    "name", ["an unknown result", "a wrong parent", "a temporary result", "a cache copy", "locks"]
)
async def test_damage_on_btrfs_is_found_and_repaired(btrfs_root: Path, name: str) -> None:
    root = btrfs_root / "btrfs"
    ids = [id for id, _ in await built(root)]
    damage, expected = DAMAGES[name]
    damage(root, ids)
    before = tree(root)
    assert faults(await check(root)) == expected(ids)
    assert tree(root) == before
    assert (await check(root, repair=True)).faults == ()
    assert (await check(root)).findings == ()
    assert [id for id, _ in await built(root)] == ids


async def test_what_was_built_on_a_missing_result_stays_and_is_used(either: Path) -> None:
    ids = [id for id, _ in await built(either)]
    remove(either, ids[1])
    report = await check(either)
    assert faults(report) == {("fsck.missing-result", ids[1])}
    assert "no parent" in report.findings[0].remedy
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
