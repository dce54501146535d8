"""Deleting, pruning, cleaning: children first, oldest first, and never what a build stands on."""

import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.builds import Call, Events, Parts, ScriptedSandbox, open_parts, stage

from obuilder._core.database.db import Database
from obuilder.errors import BuildError, CacheBusy, StoreError
from obuilder.locks import Locks, use_lock
from obuilder.types import Id

pytestmark = pytest.mark.anyio

LATER = timedelta(hours=1)


def now() -> datetime:
    return datetime.now(UTC)


def use_at(store: Path, times: dict[Id, int]) -> None:
    """Say that results were last used in these years."""
    with closing(sqlite3.connect(store / "state/db/db.sqlite", isolation_level=None)) as database:
        for id, year in times.items():
            used = f"{year}-01-01 00:00:00"
            database.execute("UPDATE builds SET used = ? WHERE id = ?", (used, id))


def results(store: Path) -> set[str]:
    return set(os.listdir(store / "result"))


def known(store: Path) -> dict[str, int]:
    with closing(sqlite3.connect(store / "state/db/db.sqlite")) as database:
        return dict(database.execute("SELECT id, rc FROM builds").fetchall())


async def build(parts: Parts, base: str, *commands: str) -> list[Id]:
    """The ids of a base and a chain of commands on it."""
    seen = Events()
    runs = " ".join(f"(run (shell {command}))" for command in commands)
    await parts.builder.build(stage(f"((from {base}) {runs})"), seen.context())
    return [id for id, _ in seen.steps]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@asynccontextmanager
async def blocked_build(parts: Parts, base: str) -> AsyncIterator[Id]:
    """A build stands on `base` while the block runs; yields the base's id."""
    may_end = anyio.Event()

    async def block(call: Call) -> None:
        await call.log.output(b"begun\n")
        await may_end.wait()

    parts.sandbox.scripts["block"] = block
    seen = Events()
    spec = f"((from {base}) (run (cache (busy (target /c))) (shell block)))"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(parts.builder.build, stage(spec), seen.context())
        await seen.wait_for(b"begun")
        yield seen.steps[0][0]
        may_end.set()


async def test_delete_takes_all_descendants_children_first(store: Path) -> None:
    async with open_parts(store) as parts:
        base, one, two = await build(parts, "b", "one", "two")
        _, _, other = await build(parts, "b", "one", "other")
        (apart,) = await build(parts, "apart")
        gone: list[Id] = []
        assert await parts.builder.delete(one, on_delete=gone.append) == 3
        assert set(gone) == {one, two, other}
        assert gone[-1] == one
        assert results(store) == {base, apart}
        assert known(store) == {base: 0, apart: 0}
        # And it can be built again.
        assert await build(parts, "b", "one", "two") == [base, one, two]


async def test_the_callback_comes_just_before_each_goes(store: Path) -> None:
    async with open_parts(store) as parts:
        base, one = await build(parts, "b", "one")
        states: list[set[str]] = []
        await parts.builder.delete(base, on_delete=lambda _: states.append(results(store)))
    assert states == [{base, one}, {base}]


async def test_deleting_what_is_not_there_is_an_error(store: Path) -> None:
    async with open_parts(store) as parts:
        with pytest.raises(StoreError) as caught:
            await parts.builder.delete(Id("0" * 64))
        assert caught.value.code == "store.unknown-id"


async def test_a_result_that_only_the_database_knows_can_be_deleted(store: Path) -> None:
    async with open_parts(store) as parts:
        base, one = await build(parts, "b", "one")
        (store / "result" / one).rename(store / "elsewhere")
        assert await parts.builder.delete(one) == 1
        assert known(store) == {base: 0}


async def test_what_a_running_build_stands_on_is_not_removed(store: Path) -> None:
    async with open_parts(store) as parts:
        with anyio.fail_after(60):
            async with blocked_build(parts, "b") as base:
                with pytest.raises(StoreError) as caught:
                    await parts.builder.delete(base)
                assert caught.value.code == "store.in-use"
                assert caught.value.hint
                assert await parts.builder.prune(before=now() + LATER, limit=10) == 0
                assert await parts.builder.clean() == 0
                assert results(store) == {base}
        assert await parts.builder.clean() == 3  # two results and a cache


async def test_a_delete_that_is_refused_has_removed_nothing(store: Path) -> None:
    async with open_parts(store, sandbox=ScriptedSandbox(scripts={})) as parts:
        chain = await build(parts, "b", "one", "two")
        await build(parts, "b", "three")
        before = results(store)
        # Used by a build that stands on the end of the chain.
        async with Locks(store / "state/locks").hold(use_lock(chain[-1]), shared=True):
            with pytest.raises(StoreError) as caught:
                await parts.builder.delete(chain[0])
        assert caught.value.code == "store.in-use"
        assert results(store) == before


async def test_a_build_that_begins_meanwhile_waits_for_the_whole_deletion(store: Path) -> None:
    async with open_parts(store) as parts, open_parts(store) as other:
        chain = await build(parts, "b", "one", "two", "three")
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:

                def begin(id: Id) -> None:
                    if id == chain[-1]:
                        tasks.start_soon(build, other, "b", "one", "two", "three")

                assert await parts.builder.delete(chain[0], on_delete=begin) == len(chain)
        assert other.sandbox.commands == ["one", "two", "three"]
        assert results(store) == set(chain) == known(store).keys()


async def test_others_remove_nothing_of_what_is_being_deleted(store: Path) -> None:
    async with open_parts(store) as parts, open_parts(store) as other:
        (base, one, _) = await build(parts, "b", "one", "two")
        await build(parts, "b", "one", "three")
        pruned: list[int] = []
        delete = parts.store.delete

        async def slowly(id: Id) -> None:
            await delete(id)
            pruned.append(await other.builder.prune(before=now() + LATER, limit=10))

        parts.store.delete = slowly  # between two removals
        assert await parts.builder.delete(one) == 3
        assert pruned == [0, 0, 0]
        assert results(store) == {base}


async def test_a_build_that_ends_while_it_is_looked_for_keeps_all(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end, ended = anyio.Event(), anyio.Event(), anyio.Event()
    children = Database.children

    async def block(_: Call) -> None:
        begun.set()
        await may_end.wait()

    sandbox = ScriptedSandbox(scripts={"block": block})
    async with open_parts(store) as parts, open_parts(store, sandbox=sandbox) as other:
        (_, one, two) = await build(parts, "b", "one", "two")
        await build(parts, "b", "one", "three")

        async def build_on_two() -> None:
            await build(other, "b", "one", "two", "block")
            ended.set()

        async def then_it_ends(database: Database, id: Id) -> list[Id]:
            found = await children(database, id)
            if id == two:
                may_end.set()
                await ended.wait()
            return found

        monkeypatch.setattr(Database, "children", then_it_ends)
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(build_on_two)
                await begun.wait()
                before = results(store)
                with pytest.raises(StoreError) as caught:
                    await parts.builder.delete(one)
                assert caught.value.code == "store.in-use"
                assert results(store) == before
                may_end.set()


async def test_clean_removes_what_the_database_does_not_know(store: Path) -> None:
    async with open_parts(store) as parts:
        await build(parts, "b", "one", "two")
    (store / "state/db/db.sqlite").unlink()
    async with open_parts(store) as parts:
        gone: list[str] = []
        assert await parts.builder.clean(on_delete=gone.append) == 3
    assert results(store) == set()
    assert len(gone) == 3


async def test_another_process_does_not_remove_it_either(store: Path) -> None:
    async with open_parts(store) as parts, open_parts(store) as other:
        with anyio.fail_after(60):
            async with blocked_build(parts, "b") as base:
                assert await other.builder.clean() == 0
                assert results(store) == {base}


async def test_a_finished_stage_stays_while_the_build_goes_on(store: Path) -> None:
    removed: list[int] = []

    async def clean(call: Call) -> None:
        removed.append(await parts.builder.clean())

    sandbox = ScriptedSandbox(scripts={"clean": clean})
    spec = """((build s ((from a) (run (shell x)))) (from b) (run (shell clean))
               (copy (from (build s)) (src ran) (dst /s)))"""
    async with open_parts(store, sandbox=sandbox) as parts:
        await parts.builder.build(stage(spec))
    assert removed == [0]


async def test_prune_takes_the_least_recently_used_first_and_counts(store: Path) -> None:
    async with open_parts(store) as parts:
        chains = [await build(parts, name, "x") for name in ("a", "b", "c")]
        years = {id: 2003 - number for number, chain in enumerate(chains) for id in chain}
        use_at(store, years)
        gone: list[Id] = []
        before = datetime(2003, 1, 1, tzinfo=UTC)
        assert await parts.builder.prune(before=before, limit=1, on_delete=gone.append) == 1
        assert gone == [chains[2][1]]
        # A base that has lost its last child is as old as it is.
        assert await parts.builder.prune(before=before, limit=2, on_delete=gone.append) == 2
        assert gone[1:] == [chains[2][0], chains[1][1]]
        assert await parts.builder.prune(before=before, limit=10, on_delete=gone.append) == 1
        assert results(store) == set(chains[0])
        assert await parts.builder.prune(before=before, limit=0) == 0


async def test_prune_does_not_lose_what_comes_before_a_result_in_use(store: Path) -> None:
    async with open_parts(store) as parts:
        old = await build(parts, "old", "p", "q", "r")
        with anyio.fail_after(60):
            async with blocked_build(parts, "new") as base:
                use_at(store, {**dict.fromkeys(old, 2001), base: 2002})
                assert await parts.builder.prune(before=now() + LATER, limit=100) == len(old)
                assert results(store) == {base}


async def test_prune_goes_past_what_the_store_refuses(store: Path) -> None:
    """As zfs does where something is cloned from it that the database does not know."""
    async with open_parts(store) as parts:
        ids = [(await parts.builder.build(stage(f"((from {name}))"))).id for name in "abc"]
        real = parts.store.delete

        async def delete(id: Id) -> None:
            if id == ids[0]:
                raise StoreError("it has clones", code="store.in-use")
            await real(id)

        parts.store.delete = delete
        assert await parts.builder.prune(before=now() + timedelta(days=1), limit=10) == 2
        assert await parts.store.result(ids[0]) is not None


async def test_prune_removes_more_than_one_batch(store: Path) -> None:
    names = [f"base{number}" for number in range(130)]
    async with open_parts(store) as parts:
        for name in names:
            await build(parts, name)
        assert await parts.builder.prune(before=now() + LATER, limit=120) == 120
        assert len(results(store)) == 10


async def test_clean_just_after_a_build_removes_everything(store: Path) -> None:
    async with open_parts(store) as parts:
        await build(parts, "b", "one", "two")
        spec = "((from c) (run (cache (my/cache (target /c))) (shell x)))"
        await parts.builder.build(stage(spec))
        gone: list[str] = []
        assert await parts.builder.clean(on_delete=gone.append) == 6
        assert gone[-1] == "cache my/cache"
        assert results(store) == set()
        assert os.listdir(store / "cache") == os.listdir(store / "cache-tmp") == []
        assert (await parts.builder.counters()).items == 0
        await build(parts, "b", "one", "two")


async def test_a_cache_in_use_stays(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    gone: list[str] = []
    async with open_parts(store) as parts:
        with anyio.fail_after(60):
            async with blocked_build(parts, "a"):
                pass  # whoever comes now finds a first version of the cache
            async with blocked_build(parts, "b"):
                with pytest.raises(CacheBusy):
                    await parts.store.delete_cache("busy")
                await parts.builder.clean(on_delete=gone.append)
        assert await parts.store.caches() == ["busy"]
        assert "cache busy" not in gone
        assert caplog.messages == ["cache busy stays: a step is using it"]
        await parts.builder.clean(on_delete=gone.append)
        assert gone[-1] == "cache busy"


async def test_a_health_check_runs_the_command_each_time_and_leaves_the_base(store: Path) -> None:
    async with open_parts(store) as parts:
        for _ in range(2):
            await parts.builder.healthcheck()
        assert parts.sandbox.commands == ["echo healthcheck"] * 2
        assert parts.sandbox.calls[0].argv == ("/bin/sh", "-c", "echo healthcheck")
        assert parts.fetcher.fetched == ["busybox"]
        assert results(store) == {
            "9d75f0d7c398df565d7ac04c6819b62d6d8f9560f5eb4672596ecd8f7e96ae91"
        }
        await parts.builder.healthcheck(base="other")
        assert parts.fetcher.fetched == ["busybox", "other"]


async def test_a_health_check_that_takes_too_long_fails_and_leaves_nothing(store: Path) -> None:
    ended = anyio.Event()

    async def hang(call: Call) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    sandbox = ScriptedSandbox(scripts={"echo healthcheck": hang})
    async with open_parts(store, sandbox=sandbox) as parts:
        with pytest.raises(BuildError, match=r"longer than 1\.5 s") as caught:
            await parts.builder.healthcheck(limit_s=1.5)
        assert caught.value.code == "healthcheck.timeout"
        if sandbox.commands:  # on a slow machine the time is up before
            with anyio.fail_after(30):
                await ended.wait()
        del sandbox.scripts["echo healthcheck"]
        await parts.builder.healthcheck()
        assert len(results(store)) == 1


async def test_the_fetch_does_not_count_for_the_time_limit(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_s = 987.0
    seen: list[tuple[int, list[str]]] = []
    async with open_parts(store) as parts:

        def fail_after(delay: float) -> Any:
            if delay == limit_s:
                seen.append((len(results(store)), [*parts.sandbox.commands]))
            return real(delay)

        real = anyio.fail_after
        monkeypatch.setattr(anyio, "fail_after", fail_after)
        await parts.builder.healthcheck(limit_s=limit_s)
    assert seen == [(1, [])]  # the base, and no command


async def test_health_checks_at_the_same_time_all_pass(store: Path) -> None:
    async with open_parts(store) as parts, open_parts(store) as other:
        async with anyio.create_task_group() as tasks:
            for builder in [parts.builder, other.builder] * 5:
                tasks.start_soon(builder.healthcheck)
        assert len(results(store)) == 1
