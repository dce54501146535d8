"""The zfs store keeps the promises of a store, and those of its own about results."""

import errno
import os
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import pytest
from anyio.abc import TaskGroup
from support.store_promises import StorePromises
from support.store_tools import AnyStore, OpenStore, built, new_id
from support.zfs_tools import calls_counted, dies_at_call, names_below, zfs

from obuilder.errors import StoreError
from obuilder.process import call
from obuilder.result_stream import Header, receive, receive_header, send
from obuilder.types import ROOT, Id, LeftoverKind
from obuilder_store_zfs import ZfsStore, program
from obuilder_store_zfs.program import is_kernel

pytestmark = pytest.mark.anyio


@pytest.fixture
def open_store(zfs_name: str) -> OpenStore:
    def opened() -> AbstractAsyncContextManager[AnyStore]:
        return ZfsStore.open(zfs_name, ZfsStore.Config())

    return opened


class TestZfsStore(StorePromises):
    """All the promises."""

    @pytest.fixture
    def location(self, zfs_name: str) -> str:
        return zfs_name

    @pytest.fixture
    def can_delete_middle(self) -> bool:
        return False

    @pytest.fixture
    def can_send_plain(self) -> bool:
        # zfs-fuse keeps an ACL that says no more than the mode, which tar sets, as an attribute.
        return is_kernel()

    async def test_the_layout_is_obuilders(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            id = await built(store)
            async with store.cache(".a/b", user=ROOT):
                pass
            assert store.state_dir == store.root / "state"
            assert await store.result(id) == store.root / "result" / id
            assert await store.results() == [id]
            assert await names_below(dataset(store)) == [
                "cache",
                "cache-tmp",
                "cache/c-.a:2fb",
                "cache/c-.a:2fb@snap",
                "result",
                f"result/{id}",
                f"result/{id}@snap",
                "state",
            ]
            child = new_id()
            async with store.build(child, base=id):
                name = f"{dataset(store)}/result/{child}"
                origin = await zfs("get", "-H", "-o", "value", "origin", name)
                assert origin == f"{dataset(store)}/result/{id}@snap"
                assert await store.results() == [id]

    async def test_a_commit_that_fails_discards(self, open_store: OpenStore) -> None:
        id = new_id()
        async with open_store() as store:
            with pytest.raises(StoreError, match="already exists"):
                async with store.build(id) as path:
                    await zfs("snapshot", f"{dataset(store)}/result/{id}@snap")
            assert not path.exists()
            assert await store.result(id) is None


def dataset(store: AnyStore) -> str:
    assert isinstance(store, ZfsStore)
    return store._datasets.name


async def test_a_result_cannot_be_changed(open_store: OpenStore, zfs_name: str) -> None:
    async with open_store() as store:
        id = await built(store)
        saved = await store.result(id)
        assert saved
        for _ in range(2):
            with pytest.raises(OSError) as caught:
                (saved / "rootfs" / "content").write_text("changed")
            assert caught.value.errno == errno.EROFS
            await _unmounted(f"{zfs_name}/result/{id}")
            assert await store.result(id) == saved


async def _unmounted(name: str) -> None:
    await program.run_zfs("unmount", name, doing="cannot unmount")


async def test_a_data_set_without_its_snapshot_is_no_result(
    open_store: OpenStore, zfs_name: str
) -> None:
    id = new_id()
    async with open_store() as store:
        await zfs("create", f"{zfs_name}/result/{id}")
        (store.root / "result" / id / "stale").touch()
        await zfs("set", "readonly=on", f"{zfs_name}/result/{id}")
        assert await store.result(id) is None
        (leftover,) = await store.leftovers()
        assert (leftover.kind, leftover.key) == (LeftoverKind.RESULT, id)
        async with store.build(id) as path:
            assert list(path.iterdir()) == []
        assert await store.leftovers() == []
        assert await store.result(id)


async def test_a_result_as_obuilder_leaves_it_is_mounted_and_protected(
    open_store: OpenStore, zfs_name: str
) -> None:
    id = new_id()
    name = f"{zfs_name}/result/{id}"
    async with open_store() as store:
        await zfs("create", name)
        (store.root / "result" / id / "log").write_text("theirs")
        await zfs("snapshot", f"{name}@snap")
        await _unmounted(name)
        saved = await store.result(id)
        assert saved
        assert (saved / "log").read_text() == "theirs"
        if is_kernel():
            assert await zfs("get", "-H", "-o", "value", "readonly", name) == "on"
        async with store.build(new_id(), base=id) as path:
            (path / "log").write_text("ours")


@pytest.mark.parametrize("number", range(5))
async def test_a_builder_that_dies_at_any_point_leaves_a_whole_result_or_a_leftover(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    id = new_id()
    async with open_store() as store:
        base = await built(store, "base")
        with dies_at_call(number, monkeypatch) as died:
            async with store.build(id, base=base) as path:
                (path / "rootfs" / "content").write_text("new")
        assert bool(died) == (number < 4)  # a removal that finds nothing, clone, protect, snapshot
    async with open_store() as store:
        saved = await store.result(id)
        assert (saved is None) == (number < 4)
        found = await store.leftovers()
        assert [each.key for each in found] == ([id] if 2 <= number < 4 else [])
        for leftover in found:
            await store.discard(leftover)
        if saved is None:
            async with store.build(id, base=base) as path:
                assert (path / "rootfs" / "content").read_text() == "base"
                (path / "rootfs" / "content").write_text("new")
        saved = await store.result(id)
        assert saved
        assert (saved / "rootfs" / "content").read_text() == "new"
        assert await store.leftovers() == []


async def test_a_deletion_that_dies_can_be_repeated(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store() as store:
        id = await built(store)
        with dies_at_call(0, monkeypatch) as died:
            await store.delete(id)
        assert died
        assert await store.result(id)
        await store.delete(id)
        assert await store.result(id) is None


async def test_what_a_saved_result_stands_on_is_not_deleted(
    open_store: OpenStore, zfs_name: str
) -> None:
    async with open_store() as store:
        base = await built(store, "base")
        child = await built(store, "child", base=base)
        await zfs("clone", f"{zfs_name}/result/{child}@snap", f"{zfs_name}/elsewhere")
        for id, clone in ((base, child), (child, "elsewhere")):
            with pytest.raises(StoreError, match="dependent clones") as caught:
                await store.delete(id)
            assert caught.value.code == "store.in-use"
            assert clone in caught.value.what
        for id in (base, child):
            saved = await store.result(id)
            assert saved
            assert (saved / "log").exists()


async def test_a_clone_that_a_crash_left_goes_with_its_base(
    open_store: OpenStore, zfs_name: str
) -> None:
    async with open_store() as store:
        base = await built(store)
        left = [new_id(), new_id()]
        for id in left:
            await zfs("clone", f"{zfs_name}/result/{base}@snap", f"{zfs_name}/result/{id}")
        await store.delete(base)
        assert await store.result(base) is None
        assert await store.leftovers() == []


async def test_a_clone_that_is_being_built_keeps_its_base(open_store: OpenStore) -> None:
    async with open_store() as store, open_store() as second:
        base, child = await built(store), new_id()
        async with store.build(child, base=base):
            with pytest.raises(StoreError) as caught:
                await second.delete(base)
            assert caught.value.code == "store.in-use"
        assert await store.result(child)


async def test_a_mount_namespace_that_holds_a_result_is_waited_for(
    open_store: OpenStore, zfs_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store() as store:
        id = await built(store)
        async with anyio.create_task_group() as holder:
            await _hold_mounts(holder)
            with monkeypatch.context() as patch:
                patch.setattr(program, "BUSY_LIMIT_S", 0.3)
                with pytest.raises(StoreError, match="is busy") as caught:
                    await store.delete(id)
            assert caught.value.code == "store.busy"
            assert "(sleep)" in (caught.value.hint or "")
            async with anyio.create_task_group() as deletion:
                deletion.start_soon(store.delete, id)
                holder.cancel_scope.cancel()
        assert await store.result(id) is None
        assert await store.leftovers() == []


async def _hold_mounts(tasks: TaskGroup) -> None:
    """Start a process with a mount namespace of its own: all stays mounted there."""
    reader, writer = os.pipe()
    argv = ("unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 1000")

    async def hold() -> None:
        try:
            await call(argv, stdout=writer)
        finally:
            os.close(writer)

    tasks.start_soon(hold)
    await anyio.wait_readable(reader)
    os.close(reader)


async def test_each_operation_runs_few_programs(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store() as store:
        base, id = await built(store), new_id()
        counts = {}
        with calls_counted(monkeypatch) as calls:

            def count(what: str) -> None:
                counts[what] = len(calls)
                calls.clear()

            async with open_store():
                count("open")
            async with store.build(id, base=base):
                count("clone")
            count("publish")
            await store.result(id)
            count("result")
            await store.delete(id)
            count("delete")
            await store.df()
            count("df")
    result = 0 if is_kernel() else 1
    assert counts == {
        "open": 1,
        "clone": 2 + result,
        "publish": 2,
        "result": result,
        "delete": 1,
        "df": 1,
    }


async def test_what_is_sent_on_a_base_shares_with_it(zfs_name: str, tmp_path: Path) -> None:
    config = ZfsStore.Config()
    async with (
        ZfsStore.open(f"{zfs_name}/here", config) as here,
        ZfsStore.open(f"{zfs_name}/there", config) as there,
    ):
        base = await built(here)
        child, orphan = await built(here, base=base), await built(here)
        stream = tmp_path / "stream"
        await _moved(here, there, base, base=None, stream=stream)
        with stream.open("w+b") as file:
            await here.export(child, file.fileno(), format="zfs", base=base)
            file.seek(0)
            with pytest.raises(StoreError, match="goes on from"):
                async with there.import_(child, file.fileno(), format="zfs", base=None):
                    pytest.fail("it took a base that it was not told of")
        assert await there.leftovers() == []
        refused = None
        try:
            await _moved(here, there, child, base=base, stream=stream)
        except StoreError as error:
            refused = error
        if refused is not None:
            # zfs-fuse goes on from whichever store's it finds first.
            assert (refused.code, is_kernel()) == ("store.stream-base", False), refused.what
        else:
            result = f"{dataset(there)}/result"
            origin = await zfs("get", "-H", "-o", "value", "origin", f"{result}/{child}")
            assert origin == f"{result}/{base}@snap"
        with pytest.raises(StoreError) as caught:
            await _moved(here, there, orphan, base=base, stream=tmp_path / "stream")
        assert caught.value.code == "store.stream-base", caught.value.what
        assert await there.leftovers() == []


async def _moved(here: ZfsStore, there: ZfsStore, id: Id, *, base: Id | None, stream: Path) -> None:
    header = Header(id=id, format="zfs", base=base)
    with stream.open("w+b") as file:
        await send(here, header, file.fileno())
        file.seek(0)
        assert await receive_header(file.fileno()) == header
        async with receive(there, header, file.fileno()):
            pass
