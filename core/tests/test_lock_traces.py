"""Locks that dead processes left: told from those of the living, kept by who only looks."""

import errno
import os
from pathlib import Path

import anyio
import pytest
from support.filesystems import mounted_image

from obuilder.errors import StoreError
from obuilder.locks import Locks

pytestmark = pytest.mark.anyio


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state" / "locks"


async def test_locks_of_the_dead_are_told_from_those_of_the_living(directory: Path) -> None:
    locks = Locks(directory)
    os.mkfifo(directory / "dead")
    async with locks.hold("alone"), locks.hold("shared", shared=True):
        (trace,) = locks.abandoned().items()
        assert trace[0] == "dead"
        assert locks.names() == ["alone", "dead", "shared"]
    with locks.try_hold("dead") as free:
        assert free
        assert locks.abandoned() == {}
    assert locks.names() == []


async def test_who_looks_leaves_the_trace_of_a_dead_process_and_makes_none(directory: Path) -> None:
    locks = Locks(directory)
    os.mkfifo(directory / "dead")
    traces = locks.abandoned()
    for name in ("dead", "other"):
        with locks.try_hold(name, trace=traces.get(name)) as free:
            assert free
            with locks.try_hold(name, trace=traces.get(name)) as again:
                assert not again
    assert locks.abandoned() == traces
    assert locks.names() == ["dead"]


def test_each_turn_with_a_lock_of_the_dead_is_another_within_a_second_too() -> None:
    # Inodes of 128 bytes have no more than seconds.
    with mounted_image("mkfs.ext4", "-q", "-I", "128") as disk:
        locks = Locks(disk / "locks")
        turns = set()
        for _ in range(20):
            with locks.try_hold("name") as free:
                assert free
                turns.add(locks.tenure("name"))
                (disk / "dead").hardlink_to(locks.path("name"))
            (disk / "dead").rename(locks.path("name"))
        assert len(turns) == 20


async def test_one_that_cannot_be_taken_over_is_told_and_is_not_kept(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks = Locks(directory)
    os.mkfifo(directory / "dead")
    before = len(os.listdir("/proc/self/fd"))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    with monkeypatch.context() as patch:
        # Another user's, for who has not all of root's capabilities.
        patch.setattr(os, "utime", refuse)
        with pytest.raises(StoreError, match="cannot take over a lock"):
            async with locks.hold("dead"):
                pass
    assert len(os.listdir("/proc/self/fd")) == before
    with anyio.fail_after(30):
        async with locks.hold("dead"):
            pass


async def test_who_waits_for_one_that_looks_gets_the_lock(directory: Path) -> None:
    locks = Locks(directory)
    os.mkfifo(directory / "dead")
    got = anyio.Event()

    async def wait() -> None:
        async with locks.hold("dead"):
            got.set()

    async with anyio.create_task_group() as tasks:
        with locks.try_hold("dead", trace=locks.abandoned()["dead"]):
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            assert not got.is_set()
        with anyio.fail_after(30):
            await got.wait()
    assert locks.names() == []
