"""The limit of steps for all processes of a store: kept, fair, freed by death, told."""

import os
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from support.builds import Call, Events, ScriptedSandbox, open_parts, stage
from support.taking_turns import turns

from obuilder import locks as locks_module
from obuilder._core import orphans
from obuilder._core import slots as slots_module
from obuilder._core.build import Builder
from obuilder._core.checker.fsck import Checker
from obuilder._core.limits import MOST
from obuilder._core.slots import Slots
from obuilder._core.step_caches import locked_name
from obuilder.errors import BuildError
from obuilder.events import Waiting
from obuilder.locks import Locks
from obuilder.types import Holder, Leftover, LeftoverKind

pytestmark = pytest.mark.anyio

LIMIT_S = 60


@pytest.fixture(autouse=True)
def untold_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is told begins to wait anew, which would hide a waking that was missed."""
    monkeypatch.setattr(locks_module, "TELL_AFTER_S", 3600.0)
    monkeypatch.setattr(slots_module, "PATIENCE_S", 3600.0)


async def untold(holder: Holder) -> None:
    del holder


def slots(directory: Path, count: int | None) -> Slots:
    return Slots(Locks(directory / "locks"), count)


@asynccontextmanager
async def in_line(limited: Slots) -> AsyncIterator[tuple[anyio.CancelScope, anyio.Event]]:
    """One who waits for a slot, as long as the block takes, or has it."""
    scope, got = anyio.CancelScope(), anyio.Event()

    async def wait() -> None:
        with scope:
            async with limited.hold(on_wait=untold):
                got.set()
                await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        yield scope, got
        scope.cancel()


async def has_come(got: anyio.Event) -> None:
    with anyio.fail_after(LIMIT_S):
        await got.wait()


@pytest.mark.parametrize("count", [1, 2, 5])
async def test_no_more_than_the_limit_have_a_slot(tmp_path: Path, count: int) -> None:
    running = most = 0

    async def work() -> None:
        nonlocal running, most
        async with slots(tmp_path, count).hold(on_wait=untold):
            running += 1
            most = max(most, running)
            await anyio.lowlevel.checkpoint()
            running -= 1

    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as tasks:
            for _ in range(40):
                tasks.start_soon(work)
    assert most == count
    assert os.listdir(tmp_path / "locks") == []


async def test_without_a_limit_there_is_no_lock(tmp_path: Path) -> None:
    limited = slots(tmp_path, None)
    async with limited.hold(on_wait=untold), limited.hold(on_wait=untold):
        assert os.listdir(tmp_path / "locks") == []


@pytest.mark.parametrize("freed", [0, 1, 2])
async def test_any_slot_that_is_freed_wakes_who_waits(tmp_path: Path, freed: int) -> None:
    limited = slots(tmp_path, 3)
    async with AsyncExitStack() as stack:
        held = [await stack.enter_async_context(in_line(limited)) for _ in range(3)]
        async with in_line(limited) as (_, got):
            assert not got.is_set()
            held[freed][0].cancel()
            await has_come(got)


async def test_slots_are_got_in_the_order_of_coming(tmp_path: Path) -> None:
    # As two processes have them.
    one, two = slots(tmp_path, 1), slots(tmp_path, 1)
    async with AsyncExitStack() as stack:
        come = [await stack.enter_async_context(in_line(each)) for each in (one, two, one, two)]
        for number, (scope, got) in enumerate(come):
            await has_come(got)
            await anyio.wait_all_tasks_blocked()
            assert [later.is_set() for _, later in come[number + 1 :]] == [False] * (3 - number)
            scope.cancel()


async def test_who_frees_a_slot_and_wants_another_waits_for_those_before(tmp_path: Path) -> None:
    order: list[str] = []
    waits = anyio.Event()

    async def greedy() -> None:
        for _ in range(3):
            async with slots(tmp_path, 1).hold(on_wait=untold):
                order.append("greedy")
                await waits.wait()

    async def modest() -> None:
        async with slots(tmp_path, 1).hold(on_wait=untold):
            order.append("modest")

    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(greedy)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(modest)
            await anyio.wait_all_tasks_blocked()
            waits.set()
    assert order == ["greedy", "modest", "greedy", "greedy"]


async def test_who_is_cancelled_leaves_the_line_and_the_others_move_up(tmp_path: Path) -> None:
    limited = slots(tmp_path, 1)
    async with in_line(limited) as (holder, _), AsyncExitStack() as stack:
        line = [await stack.enter_async_context(in_line(limited)) for _ in range(4)]
        line[0][0].cancel()
        line[2][0].cancel()
        await anyio.wait_all_tasks_blocked()
        holder.cancel()
        await has_come(line[1][1])
        line[1][0].cancel()
        await has_come(line[3][1])
        assert [got.is_set() for _, got in line] == [False, True, False, True]
    assert os.listdir(tmp_path / "locks") == []


async def test_a_hundred_who_wait_cost_no_thread_and_leave_no_descriptor(tmp_path: Path) -> None:
    limited = slots(tmp_path, 2)
    async with in_line(limited), in_line(limited):
        threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
        async with AsyncExitStack() as stack:
            for _ in range(100):
                _, got = await stack.enter_async_context(in_line(limited))
                assert not got.is_set()
            assert threading.active_count() <= threads  # idle ones may end
        assert len(os.listdir("/proc/self/fd")) == descriptors
    assert os.listdir(tmp_path / "locks") == []


async def test_one_with_a_smaller_limit_holds_up_no_one_with_a_greater(tmp_path: Path) -> None:
    one, three = slots(tmp_path, 1), slots(tmp_path, 3)
    async with in_line(one) as (first, _), in_line(one) as (_, small):
        async with in_line(three), in_line(three) as (_, great):
            await has_come(great)
            async with in_line(three) as (_, one_more):
                assert not one_more.is_set()
        assert not small.is_set()
        first.cancel()
        await has_come(small)


@pytest.mark.parametrize(("processes", "limit"), [(2, 1), (3, 2)])
async def test_processes_together_make_no_more_steps_than_the_limit(
    tmp_path: Path, processes: int, limit: int
) -> None:
    steps = [[f"{number}{letter}" for letter in "abc"] for number in range(processes)]
    total = 3 * processes
    async with turns(tmp_path / "store") as them:
        for each in steps:
            await them.start(limit, *each)
        # Every one has either begun or been told that it must wait.
        await them.until(lambda: len(them.running) + len(them.waiting) == total)
        assert len(them.running) == limit
        for number in range(1, total + 1):
            them.let_one_end()
            await them.counts(ended=number, begun=min(total, limit + number))
        for process in them.processes:
            with anyio.fail_after(LIMIT_S):
                assert await process.wait() == 0
        assert them.most == limit
        assert sorted(them.ended) == sorted(step for each in steps for step in each)
    assert os.listdir(tmp_path / "store" / "state" / "locks") == []


async def test_a_kill_frees_the_slot_and_fsck_knows_what_is_left(tmp_path: Path) -> None:
    async with turns(tmp_path / "store") as them:
        first = await them.start(1, "first")
        await them.until(lambda: "first" in them.running)
        queued = await them.start(1, "queued")
        await them.until(lambda: "queued" in them.waiting)
        await them.start(1, "last")
        await them.until(lambda: "last" in them.waiting)
        async with open_parts(tmp_path / "store") as parts:
            checker = Checker(parts.store, parts.sandbox)
            assert (await checker.check()).findings == ()
        queued.kill()
        first.kill()
        await them.until(lambda: "last" in them.running)
        assert "queued" not in them.begun
        them.processes[-1].kill()
        await them.processes[-1].wait()
        found = {finding.key for finding in (await checker.check()).findings}
        assert "slot-1" in found
        async with open_parts(tmp_path / "store"):
            assert os.listdir(tmp_path / "store" / "state" / "locks") == []
        assert (await checker.check()).findings == ()


async def test_who_has_the_slot_of_a_dead_process_is_told(tmp_path: Path) -> None:
    limited = slots(tmp_path, 2)
    os.mkfifo(tmp_path / "locks" / "slot-1")
    async with limited.hold(on_wait=untold) as first, limited.hold(on_wait=untold) as second:
        assert (first, second) == (True, False)
    async with limited.hold(on_wait=untold) as again:
        assert not again


@asynccontextmanager
async def held_by_a_helper(lock: Path) -> AsyncIterator[anyio.abc.Process]:
    """A lock whose taker has died; what it had started holds it until its input ends."""
    program = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR)
fcntl.flock(descriptor, fcntl.LOCK_EX)
if os.fork():
    os._exit(0)
print("held", flush=True)
sys.stdin.read()
"""
    os.mkfifo(lock)
    async with await anyio.open_process([sys.executable, "-c", program, str(lock)]) as process:
        assert process.stdout
        with anyio.fail_after(LIMIT_S):
            assert (await process.stdout.receive()).startswith(b"held")
            await process.wait()
        yield process


LOCKED = "(cache (c (target /c) (buildkit_options ((sharing locked)))))"


@pytest.mark.parametrize("left", ["slot-1", locked_name("c"), None])
async def test_with_the_slot_or_cache_of_a_dead_process_its_container_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str | None
) -> None:
    monkeypatch.setattr(orphans, "DYING_S", 3600.0)
    left_running: list[int] = []

    async def look(call: Call) -> None:
        left_running.append(len(sandbox.containers))

    sandbox = ScriptedSandbox(scripts={"look": look})
    async with open_parts(tmp_path / "store", sandbox=sandbox, max_steps=1) as parts:
        await parts.builder.build(stage("((from b))"))
        locks = Locks(parts.store.state_dir / "locks")
        sandbox.containers += [
            Leftover(kind=LeftoverKind.CONTAINER, key=key) for key in ("alive", "dying")
        ]
        if left is not None:
            os.mkfifo(locks.path(left))
        async with locks.hold("alive"), held_by_a_helper(locks.path("dying")) as helper:
            with anyio.fail_after(LIMIT_S):
                async with anyio.create_task_group() as tasks:
                    spec = stage(f"((from b) (run {LOCKED} (shell look)))")
                    tasks.start_soon(parts.builder.build, spec)
                    await anyio.wait_all_tasks_blocked()
                    assert helper.stdin
                    await helper.stdin.aclose()
        assert left_running == [2 if left is None else 1]
        assert "alive" in {leftover.key for leftover in sandbox.containers}


async def test_a_wait_is_told_with_all_who_have_slots(tmp_path: Path) -> None:
    async with turns(tmp_path / "store") as them:
        holders = [await them.start(2, step) for step in ("one", "two")]
        await them.until(lambda: len(them.running) == 2)
        await them.start(2, "three")
        await them.until(lambda: "three" in them.waiting)
        pids = ",".join(str(pid) for pid in sorted(each.pid for each in holders))
        assert them.waiting["three"] == f"one of the 2 slots (max-steps): {pids}"


async def test_who_waits_for_the_same_step_elsewhere_takes_no_slot(tmp_path: Path) -> None:
    async with turns(tmp_path / "store") as them:
        await them.start(2, "shared")
        await them.until(lambda: "shared" in them.running)
        await them.start(2, "shared", "own")
        await them.until(lambda: "shared" in them.waiting and "own" in them.running)
        assert them.waiting["shared"].startswith("the same step")


async def test_who_waits_for_a_locked_cache_takes_no_slot_nor_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks_module, "TELL_AFTER_S", 0.0)
    may_end, seen = anyio.Event(), {name: Events() for name in ("first", "second", "free")}

    async def work(call: Call) -> None:
        await call.log.output(b"begun\n")
        if call.config.argv[-1] != "free":
            await may_end.wait()

    sandbox = ScriptedSandbox(scripts=dict.fromkeys(seen, work))
    async with open_parts(tmp_path / "store", sandbox=sandbox, jobs=2, max_steps=2) as parts:

        async def build(name: str, caches: str) -> None:
            spec = stage(f"((from b) (run {caches} (shell {name})))")
            await parts.builder.build(spec, seen[name].context())

        with anyio.fail_after(LIMIT_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(build, "first", LOCKED)
                await seen["first"].wait_for(b"begun")
                async with anyio.create_task_group() as others:
                    others.start_soon(build, "second", LOCKED)
                    await seen["second"].wait_for_event(Waiting)
                    await build("free", "")
                    may_end.set()
    assert seen["second"].output == b"begun\n"


async def test_a_base_takes_a_slot(tmp_path: Path) -> None:
    async with open_parts(tmp_path / "store", max_steps=1) as parts:
        held: list[bool] = []

        async def look() -> None:
            held.append((parts.store.state_dir / "locks" / "slot-1").exists())

        parts.fetcher.before = look
        await parts.builder.build(stage("((from b))"))
    assert held == [True]


async def test_who_does_not_take_a_free_slot_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots_module, "PATIENCE_S", 0.01)
    locks = Locks(tmp_path / "locks")
    # As a process in the line has it that has been stopped.
    async with locks.hold(f"ticket-1-{0:020}-stopped"):
        async with locks.hold("slot-1"), in_line(slots(tmp_path, 1)) as (_, got):
            assert not got.is_set()
        async with in_line(slots(tmp_path, 1)) as (_, got):
            await has_come(got)


async def test_a_builder_that_drains_ends_the_wait_and_begins_nothing(tmp_path: Path) -> None:
    async with open_parts(tmp_path / "store", max_steps=1) as parts:
        await parts.builder.build(stage("((from b))"))
        locks, failed = Locks(parts.store.state_dir / "locks"), anyio.Event()

        async def build() -> None:
            with pytest.raises(BuildError) as caught:
                await parts.builder.build(stage("((from b) (run (shell late)))"))
            assert caught.value.code == "build.drained"
            failed.set()

        async with anyio.create_task_group() as tasks, locks.hold("slot-1"):
            tasks.start_soon(build)
            await anyio.wait_all_tasks_blocked()
            assert not failed.is_set()
            parts.builder.drain()
            await has_come(failed)
    assert parts.sandbox.commands == []


@pytest.mark.parametrize("count", [0, -1, MOST + 1, "2", True, 1.5])
async def test_a_number_that_cannot_be_is_refused_at_once(tmp_path: Path, count: object) -> None:
    async with open_parts(tmp_path / "store") as parts:
        with pytest.raises(ValueError, match=f"max_steps must be .* 1 to {MOST}, not {count!r};"):
            Builder(
                parts.store,
                parts.sandbox,
                parts.fetcher,
                max_steps=count,  # type: ignore[arg-type]  # as a program that is not checked
            )
