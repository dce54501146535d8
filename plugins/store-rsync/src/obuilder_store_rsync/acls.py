"""ACLs that rsync (3.2 to 3.5) gets wrong: those of what is setuid, setgid or sticky.

It gives them a group entry without rights where that entry's rights are the
mask's: `/var/log/journal` of a Debian image is one.
"""

import errno
import os
from pathlib import Path

import anyio.to_thread

from obuilder.directory_store import run_tool
from obuilder.errors import StoreError

__all__ = ["repair_acls"]

_ACL = "system.posix_acl_access"


async def repair_acls(source: Path, target: Path) -> None:
    """Copy the ACLs of what has special mode bits, once rsync has copied all. StoreError."""
    special = ("(", "-type", "d", "-o", "-type", "f", ")", "-perm", "/7000")
    found = await run_tool(
        ("find", str(source), *special, "-printf", r"%P\0"), doing=f"cannot search {source}"
    )
    names = found.split(b"\0")[:-1]
    await anyio.to_thread.run_sync(_copy, source, target, names)


def _copy(source: Path, target: Path, names: list[bytes]) -> None:
    for name in names:
        wanted = _acl(source, name)
        if wanted is not None and wanted != _acl(target, name):
            try:
                os.setxattr(target / os.fsdecode(name), _ACL, wanted)
            except OSError as error:
                raise StoreError(f"cannot copy the ACL of {name!r}: {error.strerror}") from error


def _acl(root: Path, name: bytes) -> bytes | None:
    try:
        return os.getxattr(root / os.fsdecode(name), _ACL)
    except OSError as error:
        if error.errno in {errno.ENODATA, errno.ENOTSUP}:
            return None
        raise StoreError(f"cannot read the ACL of {name!r}: {error.strerror}") from error
