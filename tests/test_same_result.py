"""The command gives a spec the same id and files on each store; test_same_specs.py has more."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.command import Command

from obuilder_store_btrfs import BtrfsStore
from obuilder_store_overlayfs import OverlayfsStore
from obuilder_store_reflink import ReflinkStore
from obuilder_store_rsync import RsyncStore

# Hard for a store of layers: hard links written to, directories renamed, replaced and made anew.
SPEC = r"""
((build other ((from archive:busybox.tar) (shell /bin/sh -c)
   (run (shell "mkdir -p /d/e; echo one > /d/e/f; ln /d/e/f /d/g"))
   (run (shell "echo two >> /d/g; echo three > /d/h"))))
 (from archive:busybox.tar) (shell /bin/sh -c)
 (env GREETING hello) (workdir /work) (user (uid 1000) (gid 1001))
 (copy (src .) (dst ./) (exclude skip))
 (user (uid 0) (gid 0))
 (run (shell "ln -s hello.txt l; ln hello.txt hard; mkfifo f; mknod n c 1 3; chmod 4755 run.sh;
   mkdir -m 700 d; echo $GREETING > d/x; touch -d '2001-02-03 04:05:06' d/x d"))
 (run (cache (c (target /cache))) (shell "echo y > /cache/y; cat /cache/y > z"))
 (run (shell "echo more >> hard; mkdir -p d2/e gone; echo y > d2/e/y; echo y > d2/y;
   touch -d '2001-02-03 04:05:06' z; gzip z"))
 (run (shell "mv d2 moved; rm -r moved/e gone; rm l; mkdir l; rm -r d; mkdir d; echo new > d/x;
   touch -d '2001-02-03 04:05:06' d/x d"))
 (copy (from (build other)) (src /d) (dst /other)))
"""
STEPS = 10


STORES: dict[str, tuple[type[Any], str, tuple[str, ...]]] = {
    "rsync-hardlink": (RsyncStore, "ext4_root", ("-o", "rsync.mode=hardlink")),
    "btrfs": (BtrfsStore, "btrfs_root", ()),
    "overlayfs-xfs": (OverlayfsStore, "xfs_root", ()),
    "reflink-btrfs": (ReflinkStore, "btrfs_root", ()),
}
"""Class, fixture of the location, and options of each that must agree with a plain copy."""


def listing(root: Path) -> dict[str, tuple[object, ...]]:
    """All of a tree, with how many names in it each file has: a store may have others outside."""
    found: dict[str, tuple[object, ...]] = {}
    names_of: dict[int, list[str]] = {}
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(directory, name)
            status = path.lstat()
            content: object = None
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                content = path.read_bytes()
            same = [os.fsdecode(path.relative_to(root))]
            if not stat.S_ISDIR(status.st_mode):
                same = names_of.setdefault(status.st_ino, [])
                same.append(str(path.relative_to(root)))
                same.sort()
            found[str(path.relative_to(root))] = (
                stat.filemode(status.st_mode),
                status.st_uid,
                status.st_gid,
                status.st_rdev,
                same,
                content,
            )
    return found


@dataclass
class Site:
    """The command, and a source tree whose times are fixed."""

    command: Command

    def __post_init__(self) -> None:
        source = self.command.source
        (source / "hello.txt").write_text("hi\n")
        (source / "skip").write_text("not me\n")
        script = source / "run.sh"
        script.write_text("#!/bin/sh\n")
        script.chmod(0o755)
        (source / "sub").mkdir()
        (source / "sub" / "inside").write_text("i\n")
        (source / "sub" / "link").symlink_to("inside")
        os.utime(source / "sub" / "link", (5, 999_999_999), follow_symlinks=False)
        os.utime(source / "sub" / "inside", (5, 999_999_998))
        for path in source.iterdir():
            os.utime(path, (1_000_000_000, 1_000_000_000))

    def built(
        self, backend: type[Any], location: Path, options: tuple[str, ...] = ()
    ) -> tuple[str, dict[str, tuple[object, ...]]]:
        """The id that a store gives for SPEC, and its tree."""
        driver = backend.__name__.removesuffix("Store").lower()
        self.command.store = f"{driver}:{location}"
        id_file = self.command.directory / "id"
        spec = self.command.directory / "spec"
        spec.write_text(SPEC)
        words = ("build", "-f", str(spec), *options, "--id-file", str(id_file))
        done = self.command(*words, str(self.command.source))
        assert done.returncode == 0, done.stderr
        id = id_file.read_text().strip()
        again = self.command(*words, str(self.command.source))
        assert again.stdout.count(b'" from cache\n') == STEPS
        assert b"saved as" not in again.stdout
        assert not mounts_below(location)
        return id, anyio.run(self._tree, backend, location, id)

    async def _tree(self, backend: type[Any], location: Path, id: str) -> dict[str, Any]:
        async with backend.open(str(location), backend.Config()) as store:
            saved = await store.result(id)
            assert saved == location / "result" / id
            work = saved / "rootfs" / "work"
            assert (work / "run.sh").stat().st_mtime == 1_000_000_000
            assert (work / "sub").stat().st_mtime == 1_000_000_000
            # busybox's tar cannot do these.
            link = (work / "sub" / "link").lstat()
            assert (link.st_uid, link.st_gid, link.st_mtime) == (1000, 1001, 999_999_999)
            assert (work / "d" / "x").stat().st_mtime == (work / "d").stat().st_mtime
            return listing(saved / "rootfs")


def mounts_below(location: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if line.split()[4].startswith(f"{location}/")]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", STORES)
def test_each_store_agrees_with_a_plain_copy(
    name: str, obuilder: Command, request: pytest.FixtureRequest
) -> None:
    site = Site(obuilder)
    backend, fixture, options = STORES[name]
    id, tree = site.built(RsyncStore, obuilder.directory / "store")
    assert "work/skip" not in tree
    assert tree["work/hard"][4] == ["work/hard", "work/hello.txt"]
    assert tree["other/g"][5] == tree["other/e/f"][5] == b"one\ntwo\n"
    assert "work/moved/y" in tree and "work/d2" not in tree and "work/gone" not in tree
    location = request.getfixturevalue(fixture) / "same"
    assert site.built(backend, location, options) == (id, tree)
