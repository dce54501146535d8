"""The overlayfs store keeps the promises of a store, on ext4, xfs, btrfs and tmpfs."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from support.store_promises import StorePromises
from support.store_tools import AnyStore, OpenStore

from obuilder_store_overlayfs import OverlayfsStore

pytestmark = pytest.mark.anyio


def opener(root: Path) -> OpenStore:
    def opened() -> AbstractAsyncContextManager[AnyStore]:
        return OverlayfsStore.open(str(root / "store"), OverlayfsStore.Config())

    return opened


class LayeredPromises(StorePromises):
    """A layer that others lie on cannot go."""

    @pytest.fixture
    def can_delete_middle(self) -> bool:
        return False


class TestOverlayfsStoreOnExt4(LayeredPromises):
    """All the promises, on ext4."""

    @pytest.fixture
    def open_store(self, ext4_root: Path) -> OpenStore:
        return opener(ext4_root)


class TestOverlayfsStoreOnXfs(LayeredPromises):
    """All the promises, on xfs."""

    @pytest.fixture
    def open_store(self, xfs_root: Path) -> OpenStore:
        return opener(xfs_root)
