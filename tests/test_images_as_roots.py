"""The interfaces do not need roots to be local directories: images pass the contract, and build."""

import shutil
from pathlib import Path

import anyio
import pytest
from support.builds import BusyboxFetcher, Events, stage
from support.images_as_roots import ImageSandbox, ImageStore, ImageTrees, pack
from support.store_tools import OpenStore

from obuilder import Builder
from obuilder.testing import SandboxContract, StoreContract, Trees
from obuilder.testing._sandbox_bench import OpenSandbox, make_busybox_root

SPEC = """((from busybox) (shell /bin/sh -c)
 (run (shell "echo one > /one; mkdir -p /d; chown 5:6 /one"))
 (copy (src hello) (dst /d/hello))
 (run (shell "cat /one /d/hello; stat -c %u:%g /one")))"""


class TestImageStore(StoreContract):
    """All the promises, on one event loop: it is the roots that matter."""

    @pytest.fixture(params=["asyncio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        return lambda: ImageStore.open(str(tmp_path / "store"), ImageStore.Config())

    @pytest.fixture
    def trees(self) -> Trees:
        return ImageTrees()

    @pytest.fixture
    def can_send_plain(self) -> bool:
        return False


class TestImageSandbox(SandboxContract):
    """All the promises: the suite looks into no root by itself."""

    @pytest.fixture(params=["asyncio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    def open_sandbox(self, state_dir: Path) -> OpenSandbox:
        return lambda: ImageSandbox.open(state_dir, ImageSandbox.Config())

    @pytest.fixture
    def rootfs(self, tmp_path: Path) -> Path:
        return busybox_image(tmp_path / "result")

    @pytest.fixture
    def other_rootfs(self, tmp_path: Path) -> Path:
        return busybox_image(tmp_path / "other result")


def busybox_image(directory: Path) -> Path:
    make_busybox_root(directory / "tree")
    anyio.run(pack, directory / "tree", directory / "rootfs")
    shutil.rmtree(directory / "tree")
    return directory / "rootfs"


@pytest.mark.anyio
async def test_a_spec_builds_in_images_and_is_cached(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    (source / "hello").write_text("hello\n")
    async with (
        ImageStore.open(str(tmp_path / "store"), ImageStore.Config()) as store,
        ImageSandbox.open(tmp_path / "state", ImageSandbox.Config()) as sandbox,
        Builder(store, sandbox, BusyboxFetcher()) as builder,
    ):
        first, again = Events(), Events()
        result = await builder.build(stage(SPEC), first.context(src=source))
        assert (result.path / "rootfs").is_file()
        assert first.output == b"one\nhello\n5:6\n"
        assert await builder.build(stage(SPEC), again.context(src=source)) == result
        assert [cached for _, cached in again.steps] == [True] * 4
        assert again.output == first.output
        assert await store.leftovers() == []
