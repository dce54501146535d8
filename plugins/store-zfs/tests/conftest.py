"""Which of these tests there are: by the ZFS at hand, and by what is asked for."""

import os
from pathlib import Path

import pytest
from support.store_kinds import names_zfs
from support.zfs_pools import kernel_has_zfs

collect_ignore = ["in_vm.py"]
if not kernel_has_zfs():
    collect_ignore.append("test_zfs_kernel.py")
if kernel_has_zfs() or not os.environ.get("OBUILDER_ZFS_VM"):
    collect_ignore.append("test_zfs_vm.py")
if not names_zfs(os.environ.get("OBUILDER_STORES")):
    collect_ignore.append("test_zfs_storm.py")
if not names_zfs(os.environ.get("OBUILDER_KILL_STORES") or "zfs"):
    collect_ignore.append("test_zfs_kills.py")


KILLS = frozenset(
    {
        "test_a_builder_killed_at_any_moment_leaves_all_or_nothing",
        "test_a_delete_that_is_killed_leaves_all_or_nothing",
        "test_a_release_that_is_killed_leaves_the_old_version_or_the_new",
        "test_an_import_that_is_killed_leaves_all_or_nothing",
    }
)
"""They kill whoever waits for an answer of the file system. Now and then zfs-fuse then answers
nobody any more, and what asks it cannot be ended. With a VM they run there alone."""


def pytest_collection_modifyitems(items: list[pytest.Item], config: pytest.Config) -> None:
    """On zfs-fuse, whose data sets are busy without a user now and then, one event loop is enough.

    Each further hundred of its mounts makes that likelier; the kernel's ZFS gets both loops.
    """
    if kernel_has_zfs() or os.environ.get("OBUILDER_ZFS_TRIO"):
        return
    here = Path(__file__).parent
    in_vm = os.environ.get("OBUILDER_ZFS_VM")
    left_out = [
        item
        for item in items
        if here in item.path.parents
        and ("trio" in item.name or (in_vm and item.name.partition("[")[0] in KILLS))
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
