"""Which of these tests there are: by the ZFS at hand, and by what is asked for."""

import os
from pathlib import Path

import pytest
from support.store_kinds import names_zfs
from support.zfs_pools import kernel_has_zfs
from support.zfs_vm import is_in_vm

collect_ignore = ["in_vm.py"]
if not kernel_has_zfs():
    collect_ignore.append("test_zfs_kernel.py")
if kernel_has_zfs() or not os.environ.get("OBUILDER_ZFS_VM"):
    collect_ignore.append("test_zfs_vm.py")
if not names_zfs(os.environ.get("OBUILDER_STORES")):
    collect_ignore.append("test_zfs_storm.py")
if not names_zfs(os.environ.get("OBUILDER_KILL_STORES") or "zfs"):
    collect_ignore.append("test_zfs_kills.py")


def pytest_collection_modifyitems(items: list[pytest.Item], config: pytest.Config) -> None:
    """On zfs-fuse, whose data sets are busy without a user now and then, one event loop is enough.

    Each further hundred of its mounts makes that likelier; the kernel's ZFS gets both loops. With
    a VM it has only what does not run there.
    """
    if kernel_has_zfs():
        return
    here, has_vm = Path(__file__).parent, bool(os.environ.get("OBUILDER_ZFS_VM"))
    is_one_loop = not os.environ.get("OBUILDER_ZFS_TRIO")
    left_out = [
        item
        for item in items
        if here in item.path.parents
        and ((is_one_loop and "trio" in item.name) or (has_vm and is_in_vm(item)))
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
