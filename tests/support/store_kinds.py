"""The stores that long tests run on, each with the file system that it wants."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from obuilder.interfaces import Store
from obuilder_store_btrfs import BtrfsStore
from obuilder_store_overlayfs import OverlayfsStore
from obuilder_store_reflink import ReflinkStore
from obuilder_store_rsync import RsyncStore

__all__ = ["KINDS", "store_kinds", "store_root"]

KINDS: Mapping[str, type[Store[Any]]] = {
    "rsync": RsyncStore,
    "btrfs": BtrfsStore,
    "reflink": ReflinkStore,
    "overlayfs": OverlayfsStore,
}
_ROOTS = {"btrfs": "btrfs_root", "reflink": "xfs_root", "overlayfs": "ext4_root"}


def store_kinds(chosen: str | None) -> list[str]:
    """The stores that a variable of the environment names (`all`: each), by default two."""
    match chosen:
        case None | "":
            return ["rsync", "overlayfs"]
        case "all":
            return list(KINDS)
        case _:
            return chosen.split(",")


def store_root(kind: str, request: pytest.FixtureRequest) -> Path:
    """Where a test's store of a kind may lie."""
    directory: Path = request.getfixturevalue(_ROOTS.get(kind, "tmp_path"))
    return directory / "store"
