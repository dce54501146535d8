"""What dead builders leave is put in order when the next one opens; live ones are left alone."""

import logging
import os
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import anyio
import pytest
from support.builds import Events, ScriptedSandbox, descriptors, open_parts, stage

from obuilder import Builder
from obuilder.errors import StoreError
from obuilder.locks import Locks
from obuilder.types import Id, Leftover, LeftoverKind

pytestmark = pytest.mark.anyio

SPEC = "((from b) (run (shell one)) (run (shell two)))"
STRANGE = Id("5" * 64)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


async def built(store: Path) -> list[Id]:
    seen = Events()
    async with open_parts(store) as parts:
        await parts.builder.build(stage(SPEC), seen.context())
    return [id for id, _ in seen.steps]


def rows(store: Path) -> list[tuple[str, int, str | None]]:
    with closing(sqlite3.connect(store / "state/db/db.sqlite")) as database:
        query = "SELECT id, rc, parent FROM builds ORDER BY rowid"
        return [(str(id), int(rc), parent) for id, rc, parent in database.execute(query)]


def forget(store: Path, id: Id) -> None:
    """As if the database had never been told of a result without children."""
    with closing(sqlite3.connect(store / "state/db/db.sqlite", isolation_level=None)) as database:
        database.execute(
            "UPDATE builds SET rc = rc - 1 WHERE id = (SELECT parent FROM builds WHERE id = ?)",
            (id,),
        )
        database.execute("DELETE FROM obuilder_steps WHERE id = ?", (id,))
        database.execute("DELETE FROM builds WHERE id = ?", (id,))


def died_holding(store: Path, name: str) -> None:
    """The trace of a process that died with a lock."""
    os.mkfifo(store / "state" / "locks" / name)


async def test_a_result_saved_just_before_a_crash_is_adopted(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = await built(store)
    before = rows(store)
    forget(store, ids[2])
    died_holding(store, ids[2])
    with caplog.at_level(logging.WARNING):
        async with open_parts(store) as parts:
            assert rows(store) == before
            record = await parts.builder._database.record(ids[2])
            assert record
            assert "two" in record.op
            seen = Events()
            await parts.builder.build(stage(SPEC), seen.context())
            assert [cached for _, cached in seen.steps] == [True] * 3
    assert f"adopting result {ids[2]}" in caplog.text
    assert os.listdir(store / "state" / "locks") == []


async def test_a_result_that_the_database_does_not_know_is_adopted_by_the_build_that_needs_it(
    store: Path,
) -> None:
    ids = await built(store)
    before = rows(store)
    for id in reversed(ids):
        forget(store, id)
    seen = Events()
    async with open_parts(store) as parts:
        assert rows(store) == []
        await parts.builder.build(stage(SPEC), seen.context())
        assert parts.sandbox.calls == []
    assert [cached for _, cached in seen.steps] == [True] * 3
    assert rows(store) == before


async def test_a_result_of_obuilder_is_adopted_by_its_place_in_a_build(store: Path) -> None:
    ids = await built(store)
    for id in reversed(ids):
        forget(store, id)
        (store / "result" / id / "obuilder.json").unlink()
        died_holding(store, id)
    async with open_parts(store) as parts:
        assert rows(store) == []  # nobody knows on what they were built
        await parts.builder.build(stage(SPEC))
        assert [row[0] for row in rows(store)] == ids
        assert await parts.builder._database.record(ids[1]) is None


async def test_the_side_file_of_the_base_is_not_taken_for_the_results_own(store: Path) -> None:
    ids = await built(store)
    forget(store, ids[2])
    side = store / "result" / ids[2] / "obuilder.json"
    side.write_bytes((store / "result" / ids[1] / "obuilder.json").read_bytes())
    died_holding(store, ids[2])
    async with open_parts(store):
        assert [row[0] for row in rows(store)] == ids[:2]


async def test_a_damaged_side_file_stops_only_the_build_that_wants_it(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = await built(store)
    forget(store, ids[2])
    (store / "result" / ids[2] / "obuilder.json").write_bytes(b"")
    died_holding(store, ids[2])
    async with open_parts(store) as parts:
        assert ids[2] in caplog.text
        await parts.builder.build(stage("((from b) (run (shell one)))"))
        with pytest.raises(StoreError) as caught:
            await parts.builder.build(stage(SPEC))
        assert caught.value.code == "store.damaged-result"
        assert caught.value.hint == f"remove the result: obuilder delete {ids[2]}"
        assert await parts.builder.delete(ids[2]) == 1
        await parts.builder.build(stage(SPEC))


async def test_what_a_dead_builder_left_is_removed_with_a_warning(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = await built(store)
    died_holding(store, STRANGE)
    died_holding(store, "copy-123-c")
    (store / "result-tmp" / STRANGE / "rootfs").mkdir(parents=True)
    (store / "result-tmp" / STRANGE / "rootfs" / "stale").touch()
    (store / "cache-tmp" / "123-c").mkdir()
    (store / "state" / "scratch" / STRANGE).mkdir(parents=True)
    container = Leftover(kind=LeftoverKind.CONTAINER, key=STRANGE)
    sandbox = ScriptedSandbox(containers=[container])
    async with open_parts(store, sandbox=sandbox):
        assert sandbox.containers == []
        for place in ("result-tmp", "cache-tmp", "state/scratch", "state/locks"):
            assert os.listdir(store / place) == []
        assert [row[0] for row in rows(store)] == ids
    warned = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    # The container first: it might write into the rest.
    assert warned[:2] == [
        f"removing a container that a dead builder left: {STRANGE}",
        f"removing a temporary result that a dead builder left: {STRANGE}",
    ]
    assert len(warned) == 3


async def test_a_copy_of_a_cache_that_is_being_copied_stays_for_the_next(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await built(store)
    left = store / "cache-tmp/123-c"
    left.mkdir()
    with anyio.fail_after(60):
        # Another's cache as large as can be.
        async with Locks(store / "state/locks").hold("cache-c"), open_parts(store) as parts:
            assert left.exists()
            assert "123-c stays" in caplog.messages[-1]
            report = await parts.builder.check(repair=True)
            assert [finding.key for finding in report.faults] == ["copy-123-c"]
        async with open_parts(store):
            assert not left.exists()


async def test_what_a_live_builder_uses_is_left_alone(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await built(store)
    locks = Locks(store / "state" / "locks")
    (store / "result-tmp" / STRANGE).mkdir()
    (store / "cache-tmp" / "123-c").mkdir()
    sandbox = ScriptedSandbox(containers=[Leftover(kind=LeftoverKind.CONTAINER, key=STRANGE)])
    async with locks.hold(STRANGE), locks.hold("copy-123-c"):
        async with open_parts(store, sandbox=sandbox):
            assert len(sandbox.containers) == 1
            assert os.listdir(store / "result-tmp") == [STRANGE]
            assert os.listdir(store / "cache-tmp") == ["123-c"]
        assert sorted(locks.names()) == sorted([STRANGE, "copy-123-c"])
    assert caplog.text == ""


async def test_what_ends_well_while_it_is_looked_for_is_not_told_as_left(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_parts(store) as parts:
        left = Leftover(kind=LeftoverKind.RESULT, key=STRANGE, path=store / "result-tmp" / STRANGE)
        looks = 0
        real = parts.store.leftovers

        async def leftovers() -> Sequence[Leftover]:
            nonlocal looks
            looks += 1
            return [left, *await real()] if looks == 1 else await real()

        parts.store.leftovers = leftovers
        async with Builder(parts.store, parts.sandbox, parts.fetcher):
            pass
    assert looks == 2
    assert caplog.text == ""


async def test_a_stale_temporary_result_does_not_get_into_a_new_one(store: Path) -> None:
    ids = await built(store)
    async with open_parts(store) as parts:
        await parts.builder.delete(ids[2])
        # Left after the store was opened, by a builder that has died since.
        (store / "result-tmp" / ids[2] / "rootfs").mkdir(parents=True)
        (store / "result-tmp" / ids[2] / "rootfs" / "stale").touch()
        result = await parts.builder.build(stage(SPEC))
        assert sorted(os.listdir(result.path / "rootfs")) == ["etc", "ran"]


async def test_the_container_of_a_builder_that_died_later_is_ended_before_its_step_begins(
    store: Path,
) -> None:
    ids = await built(store)
    sandbox = ScriptedSandbox()
    async with open_parts(store, sandbox=sandbox) as parts:
        await parts.builder.delete(ids[2])
        living = Leftover(kind=LeftoverKind.CONTAINER, key=STRANGE)
        sandbox.containers = [Leftover(kind=LeftoverKind.CONTAINER, key=ids[2]), living]
        await parts.builder.build(stage(SPEC))
        assert sandbox.containers == [living]


async def test_opening_twice_and_again_leaks_nothing(store: Path) -> None:
    await built(store)
    before = descriptors()
    for _ in range(3):
        async with open_parts(store), open_parts(store):
            pass
    assert len(descriptors()) == len(before)
    assert os.listdir(store / "state" / "locks") == []


def was_not_closed(store: Path) -> None:
    """As if the power had been cut while a builder had the database open."""
    (store / "state/db/db.sqlite-wal").touch()


async def test_a_deleted_result_that_the_database_was_not_told_of_is_forgotten(
    store: Path,
) -> None:
    ids = await built(store)
    before = rows(store)
    for id in ids[1:]:
        shutil.rmtree(store / "result" / id)
    # Of the one that has a child here the database still needs to know.
    died_holding(store, ids[1])
    async with open_parts(store):
        assert rows(store) == before
    died_holding(store, ids[2])
    async with open_parts(store):
        assert [(id, rc) for id, rc, _ in rows(store)] == [(ids[0], 1), (ids[1], 0)]


async def test_what_a_power_cut_made_the_database_forget_is_known_again(store: Path) -> None:
    ids = await built(store)
    before = rows(store)
    for id in reversed(ids[1:]):
        forget(store, id)
    was_not_closed(store)
    async with open_parts(store):
        assert rows(store) == before


async def test_deletions_that_a_power_cut_made_the_database_forget_are_known_again(
    store: Path,
) -> None:
    ids = await built(store)
    for id in ids[1:]:
        shutil.rmtree(store / "result" / id)
    was_not_closed(store)
    async with open_parts(store):
        assert rows(store) == [(ids[0], 0, None)]


async def test_a_store_that_lists_no_results_is_not_taken_for_one_whose_results_are_gone(
    store: Path,
) -> None:
    await built(store)
    before = rows(store)
    (store / "result").rename(store / "unmounted")
    was_not_closed(store)
    async with open_parts(store):
        assert rows(store) == before


async def test_what_a_live_process_is_saving_is_left_to_it(store: Path) -> None:
    ids = await built(store)
    before = rows(store)
    forget(store, ids[2])
    was_not_closed(store)
    async with Locks(store / "state/locks").hold(ids[2]), open_parts(store):
        assert rows(store) == [*before[:1], (ids[1], 0, ids[0])]
    was_not_closed(store)
    async with open_parts(store):
        assert rows(store) == before


@pytest.mark.parametrize("left", [None, b""], ids=["gone", "empty"])
async def test_a_database_that_is_lost_is_made_from_the_results(
    store: Path, left: bytes | None
) -> None:
    await built(store)
    before = rows(store)
    (store / "state/db/db.sqlite").unlink()
    if left is not None:
        (store / "state/db/db.sqlite").write_bytes(left)
    async with open_parts(store):
        assert rows(store) == before


async def test_what_a_rebuild_that_was_killed_left_is_removed_and_nothing_forgotten(
    store: Path,
) -> None:
    ids = await built(store)
    before = rows(store)
    forget(store, ids[2])
    for part in ("", "-wal", "-shm"):
        (store / f"state/db/db.sqlite.new{part}").touch()
    async with open_parts(store):
        assert rows(store) == before
    assert os.listdir(store / "state/db") == ["db.sqlite"]


async def test_a_record_of_a_cache_that_was_being_written_is_removed_unless_it_still_is(
    store: Path,
) -> None:
    await built(store)
    unfinished = store / "state/caches/.c.17.tmp"
    unfinished.write_bytes(b"{")
    async with Locks(store / "state/locks").hold("users-c", shared=True), open_parts(store):
        assert unfinished.exists()
    async with open_parts(store):
        assert not unfinished.exists()
