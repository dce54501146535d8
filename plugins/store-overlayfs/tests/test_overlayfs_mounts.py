"""Who has what mounted: nothing is left by those that end; what the dead leave can be removed."""

import errno
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from pathlib import Path

import anyio
import pytest
from support.store_tools import AnyStore, OpenStore, built, new_id

from obuilder.errors import StoreError
from obuilder.locks import Locks
from obuilder.types import Id, LeftoverKind
from obuilder_store_overlayfs import OverlayfsStore, mounts
from obuilder_store_overlayfs import store as store_module

pytestmark = pytest.mark.anyio

# A process of its own that uses a store and then waits to be killed.
OTHER = """
import sys, anyio
from obuilder.types import Id
from obuilder_store_overlayfs import OverlayfsStore

async def main(location, id, what):
    async with OverlayfsStore.open(location, OverlayfsStore.Config()) as store:
        if what == "look":
            path = await store.result(Id(id))
            print((path / "rootfs" / "content").read_text(), flush=True)
            await anyio.sleep_forever()
        async with store.build(Id(what), base=Id(id)) as path:
            (path / "rootfs" / "half").touch()
            print("child", flush=True)
            await anyio.sleep_forever()

anyio.run(main, *sys.argv[1:])
"""


@contextmanager
def killed(store: AnyStore, id: Id, what: str) -> Iterator[None]:
    """Another process has looked at a result, or builds on it; dead by -9 after the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(store.root), id, what], stdout=subprocess.PIPE
    )
    assert process.stdout
    try:
        assert process.stdout.readline() == b"child\n"
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def private_view() -> Iterator[None]:
    """Another process has all that is mounted now in a view of its own, until the block's end."""
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo up; cat"]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout and process.stdin
    try:
        assert process.stdout.readline() == b"up\n"
        yield
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


@pytest.fixture
def open_store(ext4_root: Path) -> OpenStore:
    def opened() -> AbstractAsyncContextManager[AnyStore]:
        return OverlayfsStore.open(str(ext4_root / "store"), OverlayfsStore.Config())

    return opened


async def layered(store: AnyStore, content: str = "child") -> Id:
    return await built(store, content, base=await built(store, "base"))


def mounted(store: AnyStore) -> list[str]:
    return sorted(str(path.relative_to(store.root)) for path in mounts.mounted_in(store.root))


async def test_a_result_is_mounted_when_it_is_asked_for_and_until_the_store_is_closed(
    open_store: OpenStore,
) -> None:
    async with open_store() as store:
        id = await layered(store)
        assert mounted(store) == []
        for _ in range(3):
            saved = await store.result(id)
            assert saved
            assert (saved / "rootfs" / "content").read_text() == "child"
            assert mounted(store) == [f"result/{id}/rootfs"]
        assert await store.leftovers() == []
    assert mounted(store) == []
    assert list((store.root / "result" / id / "rootfs").iterdir()) == []
    for name in ("locks", "views"):
        assert list((store.root / "state" / name).iterdir()) == []


async def test_a_result_cannot_be_changed(open_store: OpenStore) -> None:
    async with open_store() as store:
        saved = await store.result(await layered(store))
        assert saved
        with pytest.raises(OSError) as caught:
            (saved / "rootfs" / "content").write_text("changed")
        assert caught.value.errno == errno.EROFS


async def test_the_last_user_of_a_result_unmounts_it(open_store: OpenStore) -> None:
    async with open_store() as store:
        async with open_store() as second:
            id = await layered(store)
            assert await store.result(id)
            saved = await second.result(id)
            assert mounted(store) == [f"result/{id}/rootfs"]
            assert await second.leftovers() == []
        assert saved
        assert (saved / "rootfs" / "content").read_text() == "child"
    assert mounted(store) == []


async def test_many_at_once_ask_for_one_result(open_store: OpenStore) -> None:
    async with open_store() as store, open_store() as second:
        id = await layered(store)

        async def read(number: int) -> None:
            saved = await (store if number % 2 else second).result(id)
            assert saved
            assert (saved / "rootfs" / "content").read_text() == "child"

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(read, number)
        assert mounted(store) == [f"result/{id}/rootfs"]
    assert mounted(store) == []


async def test_what_nobody_holds_the_lock_of_does_not_stay_mounted_for_ever(
    open_store: OpenStore,
) -> None:
    async with open_store() as store:
        locks = Locks(store.state_dir / "locks")
        base = await built(store, "base")
        ids = [await built(store, str(number), base=base) for number in range(40)]
        async with locks.hold(ids[0], shared=True):
            for number, id in enumerate(ids):
                saved = await store.result(id)
                assert saved
                assert (saved / "rootfs" / "content").read_text() == str(number)
            assert len(mounted(store)) < 20
            first = store.root / "result" / ids[0] / "rootfs" / "content"
            assert first.read_text() == "0"


async def test_a_tree_that_somebody_still_reads_goes_with_its_last_reader(
    open_store: OpenStore,
) -> None:
    async with open_store() as store:
        saved = await store.result(await layered(store))
        assert saved
        file = (saved / "rootfs" / "content").open()
    with file:
        assert mounted(store) == []
        assert file.read() == "child"


async def test_what_a_killed_process_had_mounted_is_listed_and_discarded(
    open_store: OpenStore,
) -> None:
    async with open_store() as store:
        id = await layered(store)
        with killed(store, id, "look"):
            assert mounted(store) == [f"result/{id}/rootfs"]
            assert await store.leftovers() == []
        (leftover,) = await store.leftovers()
        assert leftover.kind is LeftoverKind.MOUNT
        await store.discard(leftover)
        await store.discard(leftover)
        assert mounted(store) == []
        assert await store.leftovers() == []
        assert await store.result(id)


async def test_a_leftover_that_somebody_has_taken_up_is_not_unmounted(
    open_store: OpenStore,
) -> None:
    async with open_store() as store, open_store() as second:
        id = await layered(store)
        with killed(store, id, "look"):
            pass
        (leftover,) = await store.leftovers()
        saved = await second.result(id)
        assert saved
        await store.discard(leftover)
        assert (saved / "rootfs" / "content").read_text() == "child"


async def test_what_a_killed_process_had_mounted_serves_the_next(open_store: OpenStore) -> None:
    async with open_store() as store:
        id = await layered(store)
        with killed(store, id, "look"):
            pass
        saved = await store.result(id)
        assert saved
        assert (saved / "rootfs" / "content").read_text() == "child"
        assert await store.leftovers() == []
    assert mounted(store) == []


async def test_what_a_killed_builder_had_mounted_goes_with_its_temporary_result(
    open_store: OpenStore,
) -> None:
    async with open_store() as store:
        base, id = await built(store, "base"), new_id()
        with killed(store, base, id):
            assert mounted(store) == [f"result-tmp/{id}/rootfs"]
            with pytest.raises(StoreError):
                await store.delete(base)
        (leftover,) = await store.leftovers()
        assert (leftover.kind, leftover.key) == (LeftoverKind.RESULT, id)
        await store.discard(leftover)
        assert mounted(store) == []
        assert await store.leftovers() == []
        await store.delete(base)
        assert list((store.root / "layer").iterdir()) == []


async def test_a_build_after_a_kill_starts_from_its_base(open_store: OpenStore) -> None:
    async with open_store() as store:
        base, id = await built(store, "base"), new_id()
        with killed(store, base, id):
            pass
        async with store.build(id, base=base) as path:
            assert [each.name for each in (path / "rootfs").iterdir()] == ["content"]
        assert mounted(store) == []


async def test_a_result_that_another_process_had_looked_at_can_be_deleted(
    open_store: OpenStore,
) -> None:
    async with open_store() as store, open_store() as second:
        base = await built(store, "base")
        id = await built(store, "child", base=base)
        assert await second.result(id)
        await store.delete(id)
        assert mounted(store) == []
        assert await second.result(id) is None
        async with store.build(id, base=base) as path:
            (path / "rootfs" / "content").write_text("anew")
        saved = await second.result(id)
        assert saved
        assert (saved / "rootfs" / "content").read_text() == "anew"
    assert mounted(store) == []


async def test_a_tree_that_somebody_could_still_write_is_not_saved(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_BUSY_LIMIT_S", 0.1)
    async with open_store() as store:
        base, id = await built(store, "base"), new_id()
        with pytest.raises(StoreError) as caught:
            async with store.build(id, base=base) as path:
                file = (path / "rootfs" / "content").open("a")
        assert caught.value.code == "store.busy"
        assert "fuser" in (caught.value.hint or "")
        file.close()
        assert mounted(store) == []
        assert await store.result(id) is None
        assert await store.leftovers() == []


async def test_a_process_that_keeps_a_view_of_all_mounts_does_not_hold_up_later_steps(
    open_store: OpenStore,
) -> None:
    with ExitStack() as stack:
        async with open_store() as store:
            base, id = await built(store, "base"), new_id()
            async with store.build(id, base=base) as path:
                (path / "rootfs" / "content").write_text("child")
                stack.enter_context(private_view())
            async with store.build(new_id(), base=id) as path:
                assert (path / "rootfs" / "content").read_text() == "child"


async def test_a_cancelled_step_leaves_nothing_mounted(open_store: OpenStore) -> None:
    async with open_store() as store:
        base = await built(store, "base")
        with anyio.CancelScope() as scope:
            async with store.build(new_id(), base=base):
                scope.cancel()
                await anyio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        assert mounted(store) == []
        assert await store.leftovers() == []


async def test_a_result_whose_layers_are_gone_says_so(open_store: OpenStore) -> None:
    async with open_store() as store:
        id = await layered(store)
        (store.root / "layer" / id / "below").unlink()
        with pytest.raises(StoreError, match="not known") as caught:
            await store.result(id)
        assert caught.value.hint
    assert mounted(store) == []
