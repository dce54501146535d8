"""Where layers can be: a place is tried once, by one at a time, and refused with what it takes."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import pytest
from support.store_tools import AnyStore, OpenStore

from obuilder.errors import ConfigError, StoreError
from obuilder.locks import Locks
from obuilder_store_overlayfs import OverlayfsStore, mounts, probe

pytestmark = pytest.mark.anyio


@pytest.fixture
def open_store(ext4_root: Path) -> OpenStore:
    def opened() -> AbstractAsyncContextManager[AnyStore]:
        return OverlayfsStore.open(str(ext4_root / "store"), OverlayfsStore.Config())

    return opened


async def test_an_overlay_is_refused_as_a_place_with_what_it_takes(ext4_root: Path) -> None:
    for part in ("lower", "upper", "work", "merged"):
        (ext4_root / part).mkdir()
    place = ext4_root / "merged"
    mounts.mount_overlay(place, home=ext4_root, lower=["lower"], upper="upper", work="work")
    try:
        with pytest.raises(ConfigError, match="layers cannot be mounted") as caught:
            async with OverlayfsStore.open(str(place), OverlayfsStore.Config()):
                pytest.fail("opened")
        assert "ext4" in (caught.value.hint or "")
        assert caught.value.code == "store.location"
        assert not list((place / "state").glob("*tr*"))
    finally:
        mounts.unmount(place, busy_ok=True)


async def test_a_place_is_tried_once(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store():
        pass

    def fail(root: Path) -> None:
        pytest.fail("tried again")

    monkeypatch.setattr(probe, "_try", fail)
    async with open_store():
        pass


class _Said(logging.Handler):
    """Lets a test go on once something is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.any = anyio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()
        self.any.set()


@pytest.fixture
def said() -> Iterator[_Said]:
    handler = _Said()
    probe._logger.addHandler(handler)
    yield handler
    probe._logger.removeHandler(handler)


async def test_a_wait_for_another_that_tries_the_place_is_told_and_can_be_cancelled(
    open_store: OpenStore, ext4_root: Path, said: _Said
) -> None:
    async def opening() -> None:
        async with open_store():
            pytest.fail("opened")

    locks = Locks(ext4_root / "store" / "state" / "locks")
    async with locks.hold("overlay-trying"):
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(opening)
                await said.any.wait()
                tasks.cancel_scope.cancel()
        assert f"process {os.getpid()} has had since" in said.text
    async with open_store() as store:
        assert (store.state_dir / "overlay-tried").exists()
        assert locks.names() == []


async def test_what_one_left_that_was_killed_while_it_tried_the_place_is_removed(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount: Callable[..., None] = mounts.mount_overlay
    with monkeypatch.context() as patch:

        def die(*args: object, **kwargs: object) -> None:
            mount(*args, **kwargs)
            patch.setattr(probe, "_remove", lambda home: None)
            raise StoreError("killed")

        patch.setattr(mounts, "mount_overlay", die)
        with pytest.raises(StoreError, match="killed"):
            async with open_store():
                pytest.fail("opened")
    async with open_store() as store:
        assert mounts.mounted_in(store.root) == []
        assert not (store.state_dir / "trying").exists()


async def test_a_place_where_names_of_a_file_part_is_refused(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "_WRITABLE", "index=off")
    with pytest.raises(ConfigError, match="two names"):
        async with open_store():
            pytest.fail("opened")


async def test_obuilders_store_of_layers_is_not_taken_for_ours(ext4_root: Path) -> None:
    for name in ("in-progress", "merged", "result"):
        (ext4_root / name).mkdir()
    with pytest.raises(ConfigError, match="OBuilder") as caught:
        async with OverlayfsStore.open(str(ext4_root), OverlayfsStore.Config()):
            pytest.fail("opened")
    assert caught.value.hint


async def test_an_ordinary_user_is_refused(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match="root") as caught:
        async with open_store():
            pytest.fail("opened")
    assert caught.value.code == "store.not-root"
