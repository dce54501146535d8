"""Unpacking keeps all that a root file system consists of, as GNU tar and others write it."""

import io
import os
import stat
import struct
import tarfile
from pathlib import Path

import pytest

from obuilder import process
from obuilder.unpack import unpack

pytestmark = pytest.mark.anyio

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)  # cap_net_raw=ep, version 2
ACL = struct.pack(
    "<I" + "HHI" * 5,
    2,
    *(1, 6, 2**32 - 1),  # user::rw-
    *(2, 4, 1234),  # user:1234:r--
    *(4, 4, 2**32 - 1),  # group::r--
    *(16, 4, 2**32 - 1),  # mask::r--
    *(32, 0, 2**32 - 1),  # other::---
)
TIME_NS = 1_234_567_890_123_456_789


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root with one of everything."""
    if os.geteuid() != 0:
        if os.environ.get("CI") == "true":
            pytest.fail("unpacking needs root")
        pytest.skip("unpacking needs root")
    root = tmp_path / "tree"
    for name in ("bin", "dev", "tmp"):
        (root / name).mkdir(parents=True)
    (root / "bin/su").write_bytes(b"su")
    os.chown(root / "bin/su", 0, 12345)
    (root / "bin/su").chmod(0o6755)
    (root / "bin/ping").write_bytes(b"ping")
    os.setxattr(root / "bin/ping", "security.capability", CAPABILITY)
    os.setxattr(root / "bin/ping", "user.a=b%3D", b"\0\xff\n9 x=y\n")
    (root / "bin/ping6").hardlink_to(root / "bin/ping")
    (root / "bin/sh").symlink_to("/bin/su")
    os.lchown(root / "bin/sh", 3_000_000_000, 7)
    (root / "secret").write_bytes(b"x")
    os.chown(root / "secret", 2_500_000, 2_500_001)
    (root / "secret").chmod(0o640)
    os.mknod(root / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "dev/loop", stat.S_IFBLK | 0o660, os.makedev(7, 300))
    os.mkfifo(root / "dev/initctl", 0o600)
    (root / "tmp").chmod(0o1777)
    with (root / "sparse").open("wb") as file:
        file.seek(4 << 20)
        file.write(b"middle")
        file.truncate(16 << 20)
    set_times(root, TIME_NS)
    return root


def set_times(root: Path, time_ns: int) -> None:
    for path in (*sorted(root.rglob("*"), reverse=True), root):
        os.utime(path, ns=(time_ns, time_ns), follow_symlinks=False)


def facts(root: Path) -> dict[str, tuple[object, ...]]:
    """What must be the same of each file."""
    found: dict[str, tuple[object, ...]] = {}
    for path in (root, *root.rglob("*")):
        info = path.lstat()
        regular = stat.S_ISREG(info.st_mode)
        found[str(path.relative_to(root))] = (
            info.st_mode,
            info.st_uid,
            info.st_gid,
            info.st_rdev,
            info.st_mtime_ns,
            info.st_size if regular else None,
            info.st_nlink if regular else None,
            path.read_bytes() if regular else None,
            path.readlink() if path.is_symlink() else None,
            sorted(
                (name, os.getxattr(path, name, follow_symlinks=False))
                for name in os.listxattr(path, follow_symlinks=False)
            ),
        )
    return found


async def round_trip(tree: Path, *options: str) -> Path:
    archive, rootfs = tree.parent / "archive", tree.parent / "rootfs"
    rootfs.mkdir()
    await process.run(["tar", *options, "-cf", str(archive), "-C", str(tree), "."])
    with archive.open("rb") as opened:
        await unpack(opened.fileno(), rootfs)
    return rootfs


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
async def test_everything_that_gnu_tar_records_is_kept(tree: Path, version: str) -> None:
    rootfs = await round_trip(
        tree,
        "--format=posix",
        "--xattrs",
        "--xattrs-include=*",
        "--sparse",
        f"--sparse-version={version}",
    )
    assert facts(rootfs) == facts(tree)
    assert (rootfs / "sparse").stat().st_blocks * 512 < 1 << 20


async def test_gnu_format_is_kept_to_the_second(tree: Path) -> None:
    for name in os.listxattr(tree / "bin/ping"):
        os.removexattr(tree / "bin/ping", name)
    os.truncate(tree / "sparse", 64 << 20)
    with (tree / "sparse").open("r+b") as file:
        for part in range(1, 40):  # more than one header holds
            file.seek(part << 20)
            file.write(b"part")
    set_times(tree, TIME_NS // 10**9 * 10**9)
    rootfs = await round_trip(tree, "--format=gnu", "--sparse")
    assert facts(rootfs) == facts(tree)
    assert (rootfs / "sparse").stat().st_blocks * 512 < 2 << 20


async def test_acls_of_files_and_directories_are_kept(tree: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as file:
        for name, kind, attribute in (
            ("f", tarfile.REGTYPE, "system.posix_acl_access"),
            ("d", tarfile.DIRTYPE, "system.posix_acl_default"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o640 if name == "f" else 0o755
            value = ACL.decode("utf-8", "surrogateescape")
            info.pax_headers = {f"SCHILY.xattr.{attribute}": value}
            file.errors = "surrogateescape"
            file.addfile(info)
    archive, rootfs = tree.parent / "archive", tree.parent / "rootfs"
    rootfs.mkdir()
    archive.write_bytes(out.getvalue())
    with archive.open("rb") as opened:
        await unpack(opened.fileno(), rootfs)
    assert os.getxattr(rootfs / "f", "system.posix_acl_access") == ACL
    assert os.getxattr(rootfs / "d", "system.posix_acl_default") == ACL


async def test_attributes_that_act_on_the_host_are_left_out(tree: Path) -> None:
    os.setxattr(tree / "bin", "trusted.overlay.opaque", b"y")
    rootfs = await round_trip(tree, "--format=posix", "--xattrs", "--xattrs-include=*")
    assert os.listxattr(rootfs / "bin") == []
