"""How a suite looks into a root file system: as a local tree, unless a backend says how else."""

import errno
import hashlib
import os
import shutil
import stat
import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

__all__ = [
    "LocalTrees",
    "Trees",
    "change_tree",
    "describe_data",
    "describe_tree",
    "make_rich_tree",
]

_SHOWN_BYTES = 1024


class Trees(ABC):
    """What the suites do to the `rootfs` of a build or result.

    A store whose root file systems are no local trees (images, remote ones)
    gives its own as the fixture `trees`.
    """

    @abstractmethod
    async def write(self, rootfs: Path, content: str) -> None:
        """Make the root if it is missing, and in it the file `content` with this text."""

    @abstractmethod
    async def read(self, rootfs: Path) -> str | None:
        """The text of the file `content`; None if there is no such file."""

    @abstractmethod
    async def make_rich(self, rootfs: Path) -> None:
        """Make a root that holds one of everything that an image can: `make_rich_tree`."""

    @abstractmethod
    async def spoil(self, rootfs: Path) -> None:
        """Change files that `make_rich` made, in place: contents, mode, owner, attribute."""

    @abstractmethod
    async def change(self, rootfs: Path) -> None:
        """Change what `make_rich` made in all the ways in which a step can: `change_tree`."""

    @abstractmethod
    async def describe(self, rootfs: Path) -> Mapping[str, object]:
        """All that must be kept of a tree, by path: equal for equal trees."""


class LocalTrees(Trees):
    """A root file system that is a directory here."""

    async def write(self, rootfs: Path, content: str) -> None:
        rootfs.mkdir(exist_ok=True)
        (rootfs / "content").write_text(content)

    async def read(self, rootfs: Path) -> str | None:
        try:
            return (rootfs / "content").read_text()
        except FileNotFoundError:
            return None

    async def make_rich(self, rootfs: Path) -> None:
        make_rich_tree(rootfs)

    async def spoil(self, rootfs: Path) -> None:
        with (rootfs / "plain").open("a") as file:
            file.write("spoilt")
        (rootfs / "sparse").chmod(0o601)
        os.chown(rootfs / "fifo", 5, 6)
        os.setxattr(rootfs / "setuid", "user.note", b"spoilt")
        (rootfs / "empty" / "new").touch()

    async def change(self, rootfs: Path) -> None:
        change_tree(rootfs)

    async def describe(self, rootfs: Path) -> Mapping[str, object]:
        return describe_tree(rootfs)


def describe_tree(tree: Path) -> dict[str, tuple[object, ...]]:
    """Type, mode, owner, device, times, attributes, links, contents and holes, by path."""
    found: dict[str, tuple[object, ...]] = {}
    links: dict[int, str] = {}
    for directory, names, files, descriptor in os.fwalk(tree):
        names.sort()
        inside = os.path.relpath(directory, tree)
        for name in (".", *names, *sorted(files)):
            relative = os.path.normpath(f"{inside}/{name}")
            # By the descriptor: the whole path may be longer than the kernel takes.
            found[relative] = _entry(f"/proc/self/fd/{descriptor}/{name}", relative, links)
    return found


def describe_data(data: bytes) -> bytes | str:
    """Something small that is equal for equal data: pytest shows all of what differs.

    It compares that line by line: of a file of 20 MiB for minutes, with gigabytes of memory.
    """
    if len(data) <= _SHOWN_BYTES:
        return data
    return f"{len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}"


def _entry(path: str, relative: str, links: dict[int, str]) -> tuple[object, ...]:
    info = os.lstat(path)
    attributes = {key: os.getxattr(path, key, follow_symlinks=False) for key in _attributes(path)}
    is_file = stat.S_ISREG(info.st_mode)
    return (
        oct(info.st_mode),
        (info.st_uid, info.st_gid),
        info.st_rdev,
        info.st_mtime_ns,
        attributes,
        # The first name of the same file; a directory has but one.
        relative if stat.S_ISDIR(info.st_mode) else links.setdefault(info.st_ino, relative),
        os.readlink(path) if stat.S_ISLNK(info.st_mode) else None,
        describe_data(Path(path).read_bytes()) if is_file else None,
        # Whether it has holes; how large the blocks are is the file system's affair.
        is_file and info.st_blocks * 512 < info.st_size // 2,
    )


def _attributes(path: str) -> list[str]:
    try:
        return sorted(os.listxattr(path, follow_symlinks=False))
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return []  # zfs-fuse says so of a file that never had one


def make_rich_tree(rootfs: Path) -> None:
    """One of everything that an image can hold. Needs root."""
    rootfs.mkdir()
    _make_files(rootfs)
    _make_special(rootfs)
    _make_odd_names(rootfs)
    _make_old(rootfs / "old")
    os.utime(rootfs / "plain", ns=(1, 1_234_567_890_123_456_789))
    os.utime(rootfs / "link", ns=(1, 987_654_321_123_456_789), follow_symlinks=False)
    os.utime(rootfs / "empty", ns=(1, 1_000_000_000_000_000_001))
    os.utime(rootfs, ns=(1, 999_999_999_000_000_007))


def _make_files(rootfs: Path) -> None:
    (rootfs / "plain").write_text("plain")
    os.chown(rootfs / "plain", 1234, 4321)
    (rootfs / "setuid").write_text("s")
    (rootfs / "setuid").chmod(0o6755)
    (rootfs / "hard").hardlink_to(rootfs / "plain")
    (rootfs / "link").symlink_to("../dangling \udcff")
    os.chown(rootfs / "link", 7, 8, follow_symlinks=False)
    os.setxattr(rootfs / "plain", "user.note", b"\0kept")
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    os.setxattr(rootfs / "setuid", "security.capability", capability)
    with (rootfs / "sparse").open("wb") as file:
        file.seek(20 << 20)
        file.write(b"end")


def _make_special(rootfs: Path) -> None:
    (rootfs / "empty").mkdir(mode=0o700)
    os.setxattr(rootfs / "empty", "trusted.note", b"kept")
    (rootfs / "sticky").mkdir()
    (rootfs / "sticky").chmod(0o1777)
    os.mknod(rootfs / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(rootfs / "block", stat.S_IFBLK | 0o600, os.makedev(7, 300))
    os.mkfifo(rootfs / "fifo")
    # user::rwx, user:1234:r-x, group::r-x, mask::r-x, other::--- (acl(5), as the kernel has it).
    entries = [(1, 7, -1), (2, 5, 1234), (4, 5, -1), (16, 5, -1), (32, 0, -1)]
    acl = (2).to_bytes(4, "little") + b"".join(
        struct.pack("<HHi", tag, bits, who) for tag, bits, who in entries
    )
    try:
        os.setxattr(rootfs / "sticky", "system.posix_acl_access", acl)
    except OSError:  # a file system without ACLs has none to keep
        return


def _make_odd_names(rootfs: Path) -> None:
    names = os.fsencode(rootfs / "names")
    os.mkdir(names)
    for byte in range(1, 256):
        if byte not in b"/.":
            with open(os.path.join(names, bytes((byte,))), "wb") as file:
                file.write(bytes((byte,)))
    deep = os.open(rootfs, os.O_RDONLY | os.O_DIRECTORY)
    # A path of 4,000 bytes with the store's own part: tools such as rsync go by whole paths,
    # and the kernel takes 4,095.
    left = 4000 - len(os.fsencode(rootfs))
    while left > 1:
        name = "d" * min(199, left - 1)
        left -= 1 + len(name)
        os.mkdir(name, dir_fd=deep)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=deep)
        os.close(deep)
        deep = below
    os.close(deep)


def _make_old(old: Path) -> None:
    for name in ("emptied", "filed", "gone", "linked", "moved"):
        (old / name / "inside").mkdir(parents=True)
        (old / name / "inside" / "file").write_text(name)
    for name in ("chmod", "chown", "directory", "kept", "noted", "removed", "renamed", "timed"):
        (old / name).write_text(name)
    os.setxattr(old / "noted", "user.note", b"old")


def change_tree(rootfs: Path) -> None:
    """Remove, replace, rename and mark what `make_rich_tree` made. Needs root."""
    old = rootfs / "old"
    (rootfs / "null").unlink()
    (old / "removed").unlink()
    for name in ("emptied", "filed", "gone", "linked"):
        shutil.rmtree(old / name)
    (old / "emptied").mkdir()
    (old / "filed").write_text("a file")
    (old / "linked").symlink_to("kept")
    (old / "directory").unlink()
    (old / "directory").mkdir()
    (old / "directory" / "new").write_text("new")
    (old / "renamed").rename(old / "another")
    # As mv does it: where directories of a base cannot be renamed, they are copied.
    shutil.move(old / "moved", rootfs / "elsewhere")
    _mark(file=old, directory=rootfs)


def _mark(*, file: Path, directory: Path) -> None:
    """Change nothing of what is in them."""
    (file / "chmod").chmod(0o640)
    os.chown(file / "chown", 11, 12)
    os.utime(file / "timed", ns=(1, 1_111_111_111_222_222_222))
    os.setxattr(file / "noted", "user.note", b"new")
    (directory / "sticky").chmod(0o1750)
    os.chown(directory / "names", 13, 14)
    os.utime(directory / "names", ns=(1, 1_111_111_111_333_333_333))
    os.removexattr(directory / "empty", "trusted.note")
    os.setxattr(directory / "empty", "user.note", b"new")
