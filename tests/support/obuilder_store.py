"""A store on disk as OBuilder 0.7 left it after its demo build, and looking at a store."""

import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from support.golden_store import TOOL, Entry, Golden, golden
from support.images import busybox_tarball

from obuilder.types import Id

__all__ = ["DemoStore", "listing", "subvolume"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoStore:
    """A store on disk as OBuilder left it; `golden` has its ids."""

    driver: str
    root: Path
    golden: Golden

    @property
    def database(self) -> Path:
        return self.root / "state/db/db.sqlite"

    @property
    def cache(self) -> Path:
        return self.root / "cache" / ("c-demo-cache" if self.driver == "btrfs" else "demo-cache")

    @classmethod
    def make(cls, driver: str, root: Path, source: Path) -> "DemoStore":
        """Make the store in `root`, and in `source` the tree that its spec copies."""
        _make_source(source)
        store = cls(driver=driver, root=root, golden=golden(driver).renamed(source))
        for entry in store.golden.entries:
            if entry.mode.startswith("d") and entry.path.count("/") <= 1:
                store._make(entry.path)
        for id, parent in store._parents():
            store._fill(id, parent, source)
        (store.cache / "n").write_text("x\n")
        for entry in store.golden.entries:
            path = root / entry.path
            if "state/db/" not in entry.path:
                os.chown(path, *map(int, entry.owner.split(":")))
                path.chmod(_bits(entry.mode))
        store._write_database()
        for path in (*(root / "result" / id for id in store.golden.ids), store.cache):
            if driver == "btrfs":
                subvolume("property", "set", "-ts", str(path), "ro", "true")
        return store

    def _make(self, path: str) -> None:
        in_subvolume = path.startswith(("result/", "cache/"))
        if not in_subvolume or self.driver == "rsync":
            (self.root / path).mkdir(parents=True, exist_ok=True)
        elif path.startswith("cache/"):
            subvolume("subvolume", "create", str(self.root / path))

    def _parents(self) -> list[tuple[Id, Id | None]]:
        rows = re.findall(r"VALUES\('(\w+)',.*,\d+,(?:'(\w+)'|NULL)\)", self.golden.script)
        return [(Id(id), Id(parent) if parent else None) for id, parent in rows]

    def _fill(self, id: Id, parent: Id | None, source: Path) -> None:
        directory = self.root / "result" / id
        self.clone(parent, directory)
        rootfs = directory / "rootfs"
        if parent is None:
            rootfs.mkdir()
            with tarfile.open(busybox_tarball()) as archive:
                archive.extractall(rootfs, filter="fully_trusted")
            (directory / "env").write_text(self.golden.env(id))
        (rootfs / f"made-{self.golden.ids.index(id)}").touch()
        if self.golden.ids.index(id) == 1:
            (rootfs / "out").mkdir()
            (rootfs / "out/tool").write_text(TOOL)
        if self.golden.ids.index(id) == 3:
            shutil.copytree(source, rootfs / "work", symlinks=True)
        (directory / "log").write_bytes(self.golden.log(id))

    def clone(self, parent: Id | None, directory: Path) -> None:
        """What OBuilder begins a step with."""
        base = self.root / "result" / parent if parent else None
        if self.driver == "btrfs":
            words = ("snapshot", str(base)) if base else ("create",)
            subvolume("subvolume", *words, str(directory))
        elif base:
            shutil.copytree(base, directory, symlinks=True, dirs_exist_ok=True)
        else:
            directory.mkdir(exist_ok=True)

    def _write_database(self) -> None:
        # Like OBuilder, which ends without closing: `-wal` and `-shm` stay.
        program = (
            "import os, sqlite3, sys; connection = sqlite3.connect(sys.argv[1]);"
            "connection.execute('PRAGMA journal_mode = WAL');"
            "connection.executescript(sys.stdin.read()); os._exit(0)"
        )
        argv = [sys.executable, "-c", program, str(self.database)]
        subprocess.run(argv, input=self.golden.script, text=True, check=True)


def listing(root: Path, *, depth: int = 3) -> list[Entry]:
    """The names in a store to a depth, without what is in a root file system."""
    found = [path for level in range(1, depth + 1) for path in root.glob("/".join("*" * level))]
    return sorted(_entry(root, path) for path in found)


def _entry(root: Path, path: Path) -> Entry:
    status = path.lstat()

    return Entry(
        path=str(path.relative_to(root)),
        mode=stat.filemode(status.st_mode),
        owner=f"{status.st_uid}:{status.st_gid}",
    )


def subvolume(*words: str) -> None:
    """Tell btrfs something."""
    subprocess.run(["btrfs", *words], check=True, capture_output=True)


def _make_source(source: Path) -> None:
    (source / "sub").mkdir(parents=True)
    (source / "hello.txt").write_text("hello\n")
    (source / "run.sh").write_text("#!/bin/sh\necho run.sh\n")
    (source / "run.sh").chmod(0o755)
    (source / "link").symlink_to("hello.txt")
    (source / "sub/n.txt").write_text("nested\n")
    (source / "sub/skip.me").write_text("not copied\n")


def _bits(mode: str) -> int:
    return sum(1 << (8 - at) for at, letter in enumerate(mode[1:]) if letter != "-")
