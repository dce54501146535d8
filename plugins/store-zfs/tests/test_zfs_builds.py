"""Real builds on a zfs store: the same ids and files as on another, failures, caches, deletion."""

import os
import stat
from pathlib import Path

import pytest
from support.command import Command
from support.zfs_tools import names_below, zfs

pytestmark = pytest.mark.timeout(900)

OPS = r"""
 (env GREETING hello) (workdir /work) (user (uid 1000) (gid 1001))
 (copy (src .) (dst ./))
 (user (uid 0) (gid 0))
 (run (shell "ln -s hello.txt l; ln hello.txt hard; mkfifo f; mknod n c 1 3; chmod 4755 hello.txt;
   mkdir -m 700 d; echo $GREETING > d/x; touch -d '2001-02-03 04:05:06' d/x d"))
 (run (cache (c (target /cache))) (shell "echo y >> /cache/y; cp /cache/y z"))
"""


def listing(root: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(directory, name)
            status = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(status.st_mode) else None
            found[str(path.relative_to(root))] = (
                stat.filemode(status.st_mode),
                (status.st_uid, status.st_gid),
                status.st_rdev,
                os.readlink(path) if path.is_symlink() else content,
            )
    return found


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_builds_on_zfs_are_those_of_rsync_and_leave_nothing_behind(
    obuilder: Command, zfs_name: str, anyio_backend: str
) -> None:
    (obuilder.source / "hello.txt").write_text("hi\n")
    os.utime(obuilder.source / "hello.txt", (1_000_000_000, 1_000_000_000))
    ids, trees = [], []
    for store in (obuilder.store, f"zfs:{zfs_name}"):
        obuilder.store = store
        id_file = obuilder.directory / "id"
        done = obuilder.build(OPS, "--id-file", str(id_file))
        assert done.returncode == 0, done.stderr
        ids.append(id_file.read_text())
        root = obuilder.directory / "store"
        if store.startswith("zfs"):
            root = Path(await zfs("get", "-H", "-o", "value", "mountpoint", zfs_name))
        trees.append(listing(root / "result" / ids[-1].strip() / "rootfs"))
    assert ids[0] == ids[1]
    assert trees[0] == trees[1]
    again = obuilder.build(OPS)
    assert b"saved as" not in again.stdout
    failed = obuilder.build('(run (shell "echo half > /half; exit 3"))')
    assert failed.returncode == 1
    assert b"failed with exit status 3" in failed.stderr
    assert len([name for name in await names_below(f"{zfs_name}/result") if "@" not in name]) == 4
    cleaned = obuilder("clean")
    assert cleaned.returncode == 0, cleaned.stderr
    assert await names_below(zfs_name) == ["cache", "cache-tmp", "result", "state"]
