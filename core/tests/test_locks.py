"""Locks exclude within a process and across, wait without threads, and are freed by death."""

import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest

from obuilder.errors import StoreError
from obuilder.locks import Locks
from obuilder.process import call

pytestmark = pytest.mark.anyio

_HOLDER = """
import anyio, os, sys
from pathlib import Path
from obuilder.locks import Locks

async def main():
    async with Locks(Path(sys.argv[1])).hold("it", shared=sys.argv[2] == "shared"):
        print(os.getpid(), flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state" / "locks"


def count_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@asynccontextmanager
async def held_elsewhere(directory: Path, how: str = "exclusive") -> AsyncIterator[int]:
    """Another process holds the lock; killed at the end at the latest."""
    reader, writer = os.pipe()
    pid = 0

    async def hold() -> None:
        with os.fdopen(writer, "wb") as out:
            argv = [sys.executable, "-c", _HOLDER, str(directory), how]
            await call(argv, stdout=out.fileno(), stderr=2)

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold)
            with anyio.fail_after(30):
                await anyio.wait_readable(reader)
            pid = int(os.read(reader, 100))
            try:
                yield pid
            finally:
                with suppress(ProcessLookupError):  # the test has killed it already
                    os.kill(pid, signal.SIGKILL)
    finally:
        os.close(reader)


async def test_one_at_a_time_in_one_process(directory: Path) -> None:
    locks, inside, most = Locks(directory), 0, 0

    async def work() -> None:
        nonlocal inside, most
        async with locks.hold("it"):
            inside += 1
            most = max(most, inside)
            await anyio.lowlevel.checkpoint()
            inside -= 1

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(work)
    assert most == 1
    assert locks.names() == []


async def test_names_do_not_exclude_each_other(directory: Path) -> None:
    locks = Locks(directory)
    async with locks.hold("one"), locks.hold("other"):
        assert locks.names() == ["one", "other"]


async def test_shared_holders_exclude_only_exclusive_ones(directory: Path) -> None:
    locks = Locks(directory)
    async with locks.hold("it", shared=True):
        async with locks.hold("it", shared=True):
            with locks.try_hold("it") as free:
                assert not free
        # The first that left has not freed the second's.
        with locks.try_hold("it") as free:
            assert not free
    with locks.try_hold("it") as free:
        assert free
        with locks.try_hold("it", shared=True) as shared:
            assert not shared
    assert locks.names() == []


async def test_a_waiter_goes_on_when_the_holder_leaves(directory: Path) -> None:
    locks, order = Locks(directory), []
    waiting, leave = anyio.Event(), anyio.Event()

    async def waiter() -> None:
        waiting.set()
        async with locks.hold("it"):
            order.append("waiter")

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks, locks.hold("it"):
            tasks.start_soon(waiter)
            await waiting.wait()
            order.append("holder")
            leave.set()
    assert order == ["holder", "waiter"]


async def test_death_of_the_holder_frees_its_lock_and_wakes_the_waiters(directory: Path) -> None:
    locks = Locks(directory)
    with anyio.fail_after(60):
        async with held_elsewhere(directory) as pid, anyio.create_task_group() as tasks:
            with locks.try_hold("it") as free:
                assert not free
            started = anyio.Event()

            async def kill_once_waited() -> None:
                await started.wait()
                os.kill(pid, signal.SIGKILL)

            tasks.start_soon(kill_once_waited)
            started.set()
            async with locks.hold("it"):
                pass
    assert locks.names() == []


async def test_what_a_dead_process_held_is_listed_until_it_is_taken(directory: Path) -> None:
    locks = Locks(directory)
    async with held_elsewhere(directory, "shared"):
        async with locks.hold("it", shared=True):
            pass
        assert locks.names() == ["it"]
    assert locks.names() == ["it"]
    async with locks.hold("it"):
        pass
    assert locks.names() == []


async def test_a_hundred_waiters_cost_no_thread_and_are_cancelled_at_once(
    directory: Path,
) -> None:
    locks = Locks(directory)
    async with locks.hold("it"):
        threads = threading.active_count()
        descriptors = count_descriptors()

        async def wait() -> None:
            async with locks.hold("it"):
                pytest.fail("two holders")

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for _ in range(100):
                    tasks.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                assert threading.active_count() <= threads  # idle ones may end
                tasks.cancel_scope.cancel()
        assert count_descriptors() == descriptors
        with locks.try_hold("it") as free:
            assert not free


async def test_each_of_a_hundred_waiters_is_cancelled_alone(directory: Path) -> None:
    locks = Locks(directory)
    scopes = [anyio.CancelScope() for _ in range(100)]
    got: list[int] = []
    left: list[int] = []

    async def wait(number: int) -> None:
        with scopes[number]:
            async with locks.hold("it"):
                got.append(number)
        if scopes[number].cancelled_caught:
            left.append(number)

    threads = threading.active_count()
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks, locks.hold("it"):
            for number in range(100):
                tasks.start_soon(wait, number)
            await anyio.wait_all_tasks_blocked()
            for number in range(0, 100, 2):
                scopes[number].cancel()
                await anyio.wait_all_tasks_blocked()
                assert left == list(range(0, number + 1, 2))
            assert got == []
            assert threading.active_count() <= threads  # idle ones may end
    assert sorted(got) == list(range(1, 100, 2))
    assert locks.names() == []


async def test_a_failure_in_the_block_frees_the_lock(directory: Path) -> None:
    locks = Locks(directory)
    with pytest.raises(KeyError):
        async with locks.hold("it"):
            raise KeyError
    with pytest.raises(KeyError), locks.try_hold("it"):
        raise KeyError
    assert locks.names() == []


async def test_a_waiter_whose_file_was_replaced_while_it_came_does_not_hang(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The holder leaves between the waiter's look-up of the file and its opening, and
    # another comes with a new file: the waiter's has no writer, and never will.
    locks, really = Locks(directory), os.open
    replaced = anyio.Event()

    def open_late(path: Path, flags: int, *args: int) -> int:
        if flags & os.O_ACCMODE == os.O_RDONLY and not replaced.is_set():
            replaced.set()
            orphan = directory / "orphan"
            os.mkfifo(orphan)
            descriptor = really(orphan, flags, *args)
            orphan.unlink()
            return descriptor
        return really(path, flags, *args)

    async def wait() -> None:
        async with locks.hold("it"):
            pass

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks, locks.hold("it"):
            monkeypatch.setattr(os, "open", open_late)
            tasks.start_soon(wait)
            await replaced.wait()
            await anyio.wait_all_tasks_blocked()


async def test_many_processes_and_tasks_never_meet(directory: Path, tmp_path: Path) -> None:
    code = """
import anyio, os, sys
from pathlib import Path
from obuilder.locks import Locks
locks, guard = Locks(Path(sys.argv[1])), sys.argv[2]
async def work():
    for _ in range(20):
        async with locks.hold("it"):
            os.close(os.open(guard, os.O_CREAT | os.O_EXCL))
            await anyio.lowlevel.checkpoint()
            os.unlink(guard)
async def main():
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(work)
anyio.run(main)
"""
    statuses: list[int] = []

    async def process() -> None:
        argv = [sys.executable, "-c", code, str(directory), str(tmp_path / "guard")]
        statuses.append(await call(argv, stderr=2))

    with anyio.fail_after(90):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(process)
    assert statuses == [0, 0, 0]
    assert Locks(directory).names() == []


async def test_a_store_that_vanished_is_said_so(directory: Path) -> None:
    locks = Locks(directory)
    os.rmdir(directory)
    with pytest.raises(StoreError, match="is gone") as caught:
        async with locks.hold("it"):
            pytest.fail("held")
    assert caught.value.code == "store.vanished"
    with pytest.raises(StoreError) as caught:
        locks.names()
    assert caught.value.code == "store.vanished"


async def test_a_directory_that_vanishes_under_the_holder_is_no_second_error(
    directory: Path,
) -> None:
    locks = Locks(directory)
    async with locks.hold("it"):
        (directory / "it").unlink()
        os.rmdir(directory)


@pytest.mark.parametrize("name", ["x" * 300, "none/of/these", "/elsewhere", "..", ""])
async def test_what_is_no_file_name_is_a_store_error(directory: Path, name: str) -> None:
    with pytest.raises(StoreError, match="cannot create lock"):
        async with Locks(directory).hold(name):
            pytest.fail("held")
    assert os.listdir(directory) == []


async def test_a_lock_is_free_only_once_the_programs_of_its_dead_holder_are_dead_too(
    directory: Path, tmp_path: Path
) -> None:
    """As when a builder is killed whose helper is still making a snapshot."""
    helper = """
import anyio, os, sys
from pathlib import Path
from obuilder.locks import Locks
from obuilder.process import run

async def main():
    async with Locks(Path(sys.argv[1])).hold("it"):
        # It is no child of ours any more when we die, as one that has not got that far.
        script = 'exec setpriv --pdeathsig clear sh -c "echo $$ >&9; exec sleep 1000"'
        os.dup2(1, 9)
        await run(["sh", "-c", script], pass_fds=[9])

anyio.run(main)
"""
    reader, writer = os.pipe()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_run_and_close, [sys.executable, "-c", helper, str(directory)], writer)
            with anyio.fail_after(30):
                await anyio.wait_readable(reader)
            helper_pid = int(os.read(reader, 100))
            os.kill(
                int(Path(f"/proc/{helper_pid}/stat").read_text().rpartition(")")[2].split()[1]), 9
            )
            locks = Locks(directory)
            got = anyio.Event()

            async def wait() -> None:
                async with locks.hold("it"):
                    got.set()

            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            with locks.try_hold("it") as free:
                assert not free
            assert not got.is_set()
            os.kill(helper_pid, signal.SIGKILL)
            with anyio.fail_after(30):
                await got.wait()
    finally:
        os.close(reader)


async def test_those_who_hold_all_are_told_with_the_moment_since_when_all_are_held(
    directory: Path,
) -> None:
    locks = Locks(directory)
    async with held_elsewhere(directory) as pid, locks.hold("other"):
        os.utime(locks.path("it"), (1, 1))
        os.utime(locks.path("other"), (2, 2))
        holder = locks.holder_of_all(["it", "other"])
        assert holder is not None
        assert {holder.pid, *holder.others} == {pid, os.getpid()}
        assert holder.since.timestamp() == 2
        assert locks.holder_of_all(["it", "other", "free"]) is None


async def _run_and_close(argv: list[str], writer: int) -> None:
    with os.fdopen(writer, "wb") as out:
        await call(argv, stdout=out.fileno(), stderr=2)
