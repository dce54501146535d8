"""Power cuts of a file system in an image: what its disk held at one moment, to be mounted later.

The image lies on an xfs that shares blocks, and is the file of a loop device with direct I/O. A cut
is `FICLONE` of it: xfs does that with the file's locks held, so that it is all that the device had
been given by one moment, and nothing that only the page cache of the file system inside had. That
is a disk without a cache of its own, or with one that outlives the cut. A disk that loses what it
has taken but not yet flushed is not shown; the file systems tell it to flush what they rely on.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Disk", "disk_in"]

SIZE_BYTES = 640 << 20
# They commit every second, not every 5 or 30: more cuts fall between a commit and its data.
# `nouuid`: somebody's mount namespace may keep the disk that was unmounted for a while.
_OPTIONS = {"ext4": "commit=1", "btrfs": "commit=1", "xfs": "nouuid"}
_MKFS = {
    "ext4": ("mkfs.ext4", "-q", "-E", "lazy_itable_init=0"),
    "xfs": ("mkfs.xfs", "-q", "-m", "reflink=1", "-s", "size=4096"),
    "btrfs": ("mkfs.btrfs", "--quiet"),
}


@dataclass
class Disk:
    """A disk with a file system, mounted at `mounted` or not."""

    kind: str
    directory: Path
    cuts: list[Path] = field(default_factory=list)

    @property
    def image(self) -> Path:
        return self.directory / "disk"

    @property
    def mounted(self) -> Path:
        return self.directory / "mounted"

    def cut(self) -> None:
        """Keep what the disk has now."""
        self.cuts.append(self.directory / f"cut-{len(self.cuts)}")
        _run("cp", "--reflink=always", str(self.image), str(self.cuts[-1]))

    @contextmanager
    def powered(self, image: Path | None = None) -> Iterator[Path]:
        """Mount the disk, or one that was cut off, for the block."""
        # Sectors as large as the blocks that the image shares with its copies.
        options = ("--direct-io=on", "--sector-size=4096", "--find", "--show")
        device = _run("losetup", *options, str(image or self.image))
        try:
            if self.kind == "btrfs":
                # It knows the disk by what its newest copy said.
                subprocess.run(["btrfs", "device", "scan", "--forget"], check=False)
            _run("mount", "-o", _OPTIONS[self.kind], device, str(self.mounted))
            try:
                yield self.mounted
            finally:
                _run("umount", str(self.mounted))
        finally:
            _run("losetup", "--detach", device)


@contextmanager
def disk_in(directory: Path, kind: str) -> Iterator[Disk]:
    """A disk whose image lies in a directory of an xfs with reflinks."""
    disk = Disk(kind=kind, directory=directory / f"disk-{kind}")
    disk.mounted.mkdir(parents=True)
    with disk.image.open("wb") as file:
        file.truncate(SIZE_BYTES)
    _run(*_MKFS[kind], str(disk.image))
    try:
        yield disk
    finally:
        with suppress(FileNotFoundError):
            for path in (disk.image, *disk.cuts):
                path.unlink()


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout.strip()
