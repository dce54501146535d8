"""Which tests of the zfs store run on OpenZFS in the VM, and which are too long for it.

What runs there is not run on zfs-fuse too: now and then zfs-fuse answers nobody any more, and
then what asks it cannot be ended. Without a VM zfs-fuse has them all.
"""

import os

import pytest

__all__ = ["IS_LONG", "LEFT_OUT", "LONG", "PARTS", "is_in_vm"]

IS_LONG = bool(os.environ.get("OBUILDER_ZFS_VM_LONG"))
# Side by side, one VM each: what runs in one is on one processor most of the time.
PARTS = {
    "store": ["test_zfs_store.py"],
    "others": [
        "test_zfs_builds.py",
        "test_zfs_caches.py",
        "test_zfs_kernel.py",
        "test_zfs_location.py",
        "test_zfs_space.py",
    ],
}
LEFT_OUT = ["test_zfs_kills.py", "test_zfs_same_specs.py", "test_zfs_storm.py"]
"""They take more than 10 minutes each there: zfs-fuse has them. By hand: docs/development.md."""
_LONG_IN_CLASS = [
    "test_a_damaged_or_cut_stream_imports_nothing",
    "test_an_import_that_is_cancelled_leaves_nothing",
    "test_odd_cache_names_are_safe_and_distinct",
    "test_use_leaks_no_descriptors",
]
_LONG_CACHES = [
    f"test_{name}[asyncio-{number}]"
    for name in (
        "a_release_that_dies_at_any_point_leaves_the_old_version_or_the_new",
        "the_first_release_of_a_cache_may_die_at_any_point",
    )
    for number in range(12)
    if number % 4
]
LONG = [
    *(f"test_zfs_store.py::TestZfsStore::{name}" for name in _LONG_IN_CLASS),
    *(f"test_zfs_caches.py::{name}" for name in _LONG_CACHES),
]
"""They take long there: without OBUILDER_ZFS_VM_LONG zfs-fuse has them alone. As pytest names
them, from the directory that they are in."""


def is_in_vm(item: pytest.Item) -> bool:
    """Whether the VM runs this test of the zfs store, where there is one."""
    if not any(item.path.name in files for files in PARTS.values()):
        return False
    below = item.nodeid.rpartition(f"{item.path.name}::")[2].removesuffix("[asyncio]")
    return IS_LONG or f"{item.path.name}::{below}" not in LONG
