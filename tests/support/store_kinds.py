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
from obuilder_store_zfs import ZfsStore

__all__ = ["KINDS", "names_zfs", "store_kinds", "store_root"]

KINDS: Mapping[str, type[Store[Any]]] = {
    "rsync": RsyncStore,
    "btrfs": BtrfsStore,
    "reflink": ReflinkStore,
    "overlayfs": OverlayfsStore,
    "zfs": ZfsStore,
}
_ROOTS = {"btrfs": "btrfs_root", "reflink": "xfs_root", "overlayfs": "ext4_root"}


def store_kinds(chosen: str | None) -> list[str]:
    """The stores that a variable of the environment names, by default two.

    `all` are all but zfs. Nor is zfs returned when it is named: what needs a pool is with its
    plugin, and asks `names_zfs`.
    """
    named = chosen.split(",") if chosen else ["rsync", "overlayfs"]
    return [kind for kind in KINDS if kind != "zfs" and (kind in named or "all" in named)]


def names_zfs(chosen: str | None) -> bool:
    """Whether a variable of the environment names zfs."""
    return "zfs" in (chosen or "").split(",")


def store_root(kind: str, request: pytest.FixtureRequest) -> Path:
    """Where a test's store of a kind may lie."""
    directory: Path = request.getfixturevalue(_ROOTS.get(kind, "tmp_path"))
    return directory / "store"
