"""One spec gives the same id and the same files on every store."""

import os
import stat
from pathlib import Path

import pytest
from support.command import Command

OPS = r"""
 (env GREETING hello) (workdir /work) (user (uid 1000) (gid 1001))
 (copy (src .) (dst ./) (exclude skip))
 (user (uid 0) (gid 0))
 (run (shell "ln -s hello.txt l; ln hello.txt hard; mkfifo f; mknod n c 1 3; chmod 4755 run.sh;
   mkdir -m 700 d; echo $GREETING > d/x; touch -d '2001-02-03 04:05:06' d/x d"))
 (run (cache (c (target /cache))) (shell "echo y > /cache/y; cat /cache/y > z"))
"""


def listing(root: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(directory, name)
            status = path.lstat()
            content: object = None
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                content = path.read_bytes()
            found[str(path.relative_to(root))] = (
                stat.filemode(status.st_mode),
                status.st_uid,
                status.st_gid,
                status.st_rdev,
                status.st_nlink if stat.S_ISREG(status.st_mode) else None,
                content,
            )
    return found


@pytest.mark.timeout(240)
def test_btrfs_and_rsync_agree(obuilder: Command, btrfs_root: Path) -> None:
    (obuilder.source / "hello.txt").write_text("hi\n")
    (obuilder.source / "skip").write_text("not me\n")
    script = obuilder.source / "run.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    (obuilder.source / "sub").mkdir()
    (obuilder.source / "sub" / "inside").write_text("i\n")
    (obuilder.source / "sub" / "link").symlink_to("inside")
    os.utime(obuilder.source / "sub" / "link", (5, 999_999_999), follow_symlinks=False)
    os.utime(obuilder.source / "sub" / "inside", (5, 999_999_998))
    for path in obuilder.source.iterdir():
        os.utime(path, (1_000_000_000, 1_000_000_000))
    stores = {"rsync": obuilder.directory / "store", "btrfs": btrfs_root / "same"}
    stores["btrfs"].mkdir()
    ids, trees = {}, {}
    for driver, location in stores.items():
        obuilder.store = f"{driver}:{location}"
        id_file = obuilder.directory / f"{driver}.id"
        done = obuilder.build(OPS, "--id-file", str(id_file))
        assert done.returncode == 0, done.stderr
        ids[driver] = id_file.read_text().strip()
        root = location / "result" / ids[driver] / "rootfs"
        trees[driver] = listing(root)
        work = root / "work"
        assert (work / "hello.txt").stat().st_mtime == 1_000_000_000
        assert (work / "sub").stat().st_mtime == 1_000_000_000
        # busybox's tar cannot do these.
        link = (work / "sub" / "link").lstat()
        assert (link.st_uid, link.st_gid, link.st_mtime) == (1000, 1001, 999_999_999)
        assert (work / "d" / "x").stat().st_mtime == (work / "d").stat().st_mtime
        assert "work/skip" not in trees[driver]
        again = obuilder.build(OPS)
        assert again.stdout.count(b'" from cache\n') == 4
        assert b"saved as" not in again.stdout
    assert ids["rsync"] == ids["btrfs"]
    assert trees["rsync"] == trees["btrfs"]
