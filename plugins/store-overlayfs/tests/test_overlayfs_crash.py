"""A process that dies while it saves or deletes leaves a result that is whole, or none."""

import signal
import subprocess
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from support.store_tools import AnyStore, OpenStore, built, new_id

from obuilder.types import LeftoverKind
from obuilder_store_overlayfs import OverlayfsStore, mounts

pytestmark = pytest.mark.anyio

# Dies by -9 just before or just after it calls a function, while it saves or deletes.
OTHER = """
import importlib, inspect, os, signal, sys
import anyio
from obuilder.types import Id
from obuilder_store_overlayfs import OverlayfsStore, store as store_module

def arm(where, when):
    module, _, path = where.partition(":")
    owner = importlib.import_module(module)
    *above, name = path.split(".")
    for part in above:
        owner = getattr(owner, part)
    inner = getattr(owner, name)

    def at(moment):
        if moment == when:
            os.kill(os.getpid(), signal.SIGKILL)

    async def waited(*args, **options):
        at("before")
        await inner(*args, **options)
        at("after")

    def called(*args, **options):
        at("before")
        inner(*args, **options)
        at("after")

    setattr(owner, name, waited if inspect.iscoroutinefunction(inner) else called)

async def main(location, base, id, what, where, when):
    async with OverlayfsStore.open(location, OverlayfsStore.Config()) as store:
        if what == "delete":
            await store.result(Id(id))
            arm(where, when)
            await store.delete(Id(id))
        if what == "join":
            store_module._MOST_LAYERS = 1
        async with store.build(Id(id), base=Id(base)) as path:
            (path / "rootfs" / "content").write_text("child")
            (path / "rootfs" / "hard").write_text("child")
            (path / "log").write_text("log of child")
            arm(where, when)

anyio.run(main, *sys.argv[1:])
"""

STORE = "obuilder_store_overlayfs.store:"
LAYERS = "obuilder_store_overlayfs.layers:"
CORE = "obuilder.directory_store:"
SAVING = [
    ("save", STORE + "_unmount_idle", "before", False),
    ("save", STORE + "_unmount_idle", "after", False),
    ("save", LAYERS + "_make_like", "after", False),
    ("save", LAYERS + "_take_times", "before", False),
    ("save", LAYERS + "Layers.seal", "after", False),
    ("save", CORE + "DirectoryStore.publish", "before", False),
    ("save", CORE + "DirectoryStore.publish", "after", True),
    ("join", STORE + "copy_tree", "before", False),
    ("join", STORE + "copy_tree", "after", False),
    ("join", STORE + "_unmount_idle", "after", False),
    ("join", "obuilder.plain_store:PlainStore.remove_tree", "before", False),
    ("join", "obuilder.plain_store:PlainStore.remove_tree", "after", False),
    ("join", CORE + "DirectoryStore.publish", "after", True),
]
DELETING = [
    ("delete", CORE + "DirectoryStore.withdraw", "before", True),
    ("delete", CORE + "DirectoryStore.withdraw", "after", False),
    ("delete", "obuilder_store_overlayfs.mounts:unmount", "after", True),
    ("delete", CORE + "DirectoryStore.delete", "before", True),
    ("delete", CORE + "DirectoryStore.delete", "after", False),
]


@pytest.fixture
def open_store(ext4_root: Path) -> OpenStore:
    def opened() -> AbstractAsyncContextManager[AnyStore]:
        return OverlayfsStore.open(str(ext4_root / "store"), OverlayfsStore.Config())

    return opened


def die(*argv: str) -> None:
    done = subprocess.run([sys.executable, "-c", OTHER, *argv], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(("what", "where", "when", "there"), SAVING + DELETING)
async def test_a_result_is_whole_or_not_there(
    open_store: OpenStore, what: str, where: str, when: str, there: bool
) -> None:
    async with open_store() as store:
        base = new_id()
        async with store.build(base) as path:
            (path / "rootfs").mkdir()
            (path / "rootfs" / "content").write_text("base")
            (path / "rootfs" / "hard").hardlink_to(path / "rootfs" / "content")
        id = new_id()
        if what == "delete":
            async with store.build(id, base=base) as path:
                (path / "rootfs" / "content").write_text("child")
        die(str(store.root), base, id, what, where, when)
    async with open_store() as store:
        for leftover in await store.leftovers():
            assert leftover.kind in {LeftoverKind.RESULT, LeftoverKind.MOUNT}
            await store.discard(leftover)
        assert mounts.mounted_in(store.root) == []
        assert await store.leftovers() == []
        saved = await store.result(id)
        assert (saved is not None) is there
        if saved:
            for name in ("content", "hard"):
                assert (saved / "rootfs" / name).read_text() == "child"
            await store.delete(id)
        kept = {path.name for path in (store.root / "layer").iterdir()}
        assert kept <= {base}
        async with store.build(id, base=base) as path:
            assert (path / "rootfs" / "hard").read_text() == "base"
        child = await built(store, base=id)
        for each in (child, id, base):
            await store.delete(each)
        assert list((store.root / "layer").iterdir()) == []
