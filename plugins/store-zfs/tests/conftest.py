"""Which of these tests there are depends on the ZFS at hand."""

import os

from support.zfs_pools import kernel_has_zfs

collect_ignore = ["in_vm.py"]
if not kernel_has_zfs():
    collect_ignore.append("test_zfs_kernel.py")
if kernel_has_zfs() or not os.environ.get("OBUILDER_ZFS_VM"):
    collect_ignore.append("test_zfs_vm.py")
