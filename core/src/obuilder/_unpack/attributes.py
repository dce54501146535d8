"""Owner, mode, time and extended attributes of what was unpacked."""

import errno
import os
import re
import stat
import tarfile

from obuilder._unpack.stream import RefusedError, corrupt

__all__ = [
    "XATTRS_OF_DIRECTORIES",
    "XATTRS_OF_FILES",
    "encoded",
    "set_attributes",
    "set_owner",
    "set_time",
    "show",
    "time_ns",
]

XATTRS_OF_FILES = frozenset({"security.capability", "system.posix_acl_access"})
XATTRS_OF_DIRECTORIES = frozenset({"system.posix_acl_access", "system.posix_acl_default"})

_XATTR = "SCHILY.xattr."
_NO_CHANGE = 2**32 - 1  # what chown takes for "leave it"
_SHOWN_CHARACTERS = 200


def set_attributes(target: int | bytes, member: tarfile.TarInfo, special: frozenset[str]) -> None:
    """Owner, mode, and extended attributes of what is no symlink.

    In this order: a change of owner clears setuid bits and capabilities.
    `special` are the attributes beside `user.*` that its kind may have; if
    there are none, it can have no attributes at all.
    """
    set_owner(target, member)
    os.chmod(target, stat.S_IMODE(member.mode))  # noqa: PTH101 - a descriptor, or bytes
    if not special:
        return
    for key, value in member.pax_headers.items():
        # GNU tar's own escapes, for a key cannot hold a `=`.
        name = key.removeprefix(_XATTR).replace("%3D", "=").replace("%25", "%")
        if not key.startswith(_XATTR) or not (name in special or name.startswith("user.")):
            continue  # trusted.*: overlayfs would act on it; labels are the host's business
        try:
            os.setxattr(target, encoded(name), encoded(value))
        except OSError as error:
            if error.errno == errno.ENOTSUP and name.startswith("user."):
                continue  # tmpfs before Linux 6.6; nothing in a root relies on them
            raise RefusedError(
                "archive.attribute",
                f"cannot set attribute {show(name)} of {show(member.name)}: {error.strerror}",
                hint="does the store's file system keep extended attributes and ACLs?",
            ) from error


def set_owner(target: int | bytes, member: tarfile.TarInfo) -> None:
    """By number; a symlink's own."""
    for number in (member.uid, member.gid):
        if not 0 <= number < _NO_CHANGE:
            raise corrupt(f"{show(member.name)} has the impossible owner {number}")
    if isinstance(target, int):
        os.fchown(target, member.uid, member.gid)
    else:
        os.lchown(target, member.uid, member.gid)


def set_time(target: int | bytes, member: tarfile.TarInfo) -> None:
    """Modification time, to the nanosecond if the archive has it; a symlink's own."""
    when_ns = time_ns(member)
    if isinstance(target, int):
        os.utime(target, ns=(when_ns, when_ns))
    else:
        os.utime(target, ns=(when_ns, when_ns), follow_symlinks=False)


def time_ns(member: tarfile.TarInfo) -> int:
    """Modification time in nanoseconds since 1970."""
    # tarfile makes it a float, which has no room for nanoseconds.
    match = re.fullmatch(r"(-?)(\d{1,18})(?:\.(\d*))?", member.pax_headers.get("mtime", ""))
    if match is None:
        return int(member.mtime) * 10**9
    sign, seconds, fraction = match.groups()
    when_ns = int(seconds) * 10**9 + int(((fraction or "") + "0" * 9)[:9])
    return -when_ns if sign else when_ns


def encoded(name: str) -> bytes:
    """A name's bytes as they are in the archive."""
    return name.encode("utf-8", "surrogateescape")


def show(name: str) -> str:
    """A name for a message: one line, nothing that a terminal would act on."""
    if len(name) > _SHOWN_CHARACTERS:
        name = name[:_SHOWN_CHARACTERS] + "…"
    return repr(name)
