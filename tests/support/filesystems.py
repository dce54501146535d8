"""Real file systems for tests, in image files on loop devices."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import pytest

from obuilder.errors import ProcessError
from obuilder.process import run

# Not plugins, but full of assertions whose values a failure should show.
pytest.register_assert_rewrite("support.store_promises", "support.store_tools")

_IMAGE_BYTES = 2 << 30  # sparse: takes what is written


@pytest.fixture(scope="session")
def btrfs_file_system() -> Iterator[Path]:
    """A mounted btrfs, one for a session."""
    with mounted_image("mkfs.btrfs", "--quiet") as mounted:
        yield mounted


@pytest.fixture(scope="session")
def xfs_file_system() -> Iterator[Path]:
    """A mounted xfs with reflinks, one for a session."""
    with mounted_image("mkfs.xfs", "-q", "-m", "reflink=1") as mounted:
        yield mounted


@pytest.fixture(scope="session")
def ext4_file_system() -> Iterator[Path]:
    """A mounted ext4, one for a session."""
    with mounted_image("mkfs.ext4", "-q") as mounted:
        yield mounted


@pytest.fixture
def btrfs_root(btrfs_file_system: Path, tmp_path: Path) -> Iterator[Path]:
    """An empty directory of this test's own on a btrfs."""
    with _own_directory(btrfs_file_system, tmp_path) as root:
        yield root


@pytest.fixture
def xfs_root(xfs_file_system: Path, tmp_path: Path) -> Iterator[Path]:
    """An empty directory of this test's own on an xfs with reflinks."""
    with _own_directory(xfs_file_system, tmp_path) as root:
        yield root


@pytest.fixture
def ext4_root(ext4_file_system: Path, tmp_path: Path) -> Iterator[Path]:
    """An empty directory of this test's own on an ext4."""
    with _own_directory(ext4_file_system, tmp_path) as root:
        yield root


@pytest.fixture
def tmpfs_root(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of this test's own."""
    with mounted_tmpfs(tmp_path / "tmpfs", "size=256m") as mounted:
        yield mounted


@contextmanager
def mounted_tmpfs(directory: Path, options: str) -> Iterator[Path]:
    """A tmpfs at a directory that does not exist yet, for the block."""
    directory.mkdir()
    # Not `_run`: a test's event loop may be there already.
    argv = ("mount", "-t", "tmpfs", "-o", options, "none", str(directory))
    made = subprocess.run(argv, capture_output=True, text=True, check=False)
    if made.returncode:
        _missing(f"no tmpfs can be mounted here: {made.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(("umount", str(directory)), check=True)


@contextmanager
def mounted_image(*mkfs: str, size_bytes: int = _IMAGE_BYTES) -> Iterator[Path]:
    """A file system that `mkfs` makes in a file, mounted for the block."""
    # Not below pytest's own: after Ctrl-C that is moved away before this is unmounted.
    directory = Path(tempfile.mkdtemp(prefix="obuilder-image-"))
    image, mounted = directory / "image", directory / "mounted"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(size_bytes)
    try:
        _run(*mkfs, str(image))
        # The kernel detaches the loop device of `-o loop` when it is unmounted.
        _run("mount", "-o", "loop", str(image), str(mounted))
    except ProcessError as error:
        shutil.rmtree(directory)
        _missing(f"{mkfs[0]}: no such file system can be made here: {error.what}")
    try:
        yield mounted
    finally:
        try:
            _run("umount", str(mounted))
        except ProcessError:
            # Something that a failed test left is in it: out of the way at least.
            with suppress(ProcessError):
                _run("umount", "--lazy", str(mounted))
            raise
        finally:
            image.unlink()
            mounted.rmdir()
            directory.rmdir()


@contextmanager
def _own_directory(file_system: Path, tmp_path: Path) -> Iterator[Path]:
    root = file_system / tmp_path.name
    number = 0
    while root.exists():
        number += 1
        root = file_system / f"{tmp_path.name}-{number}"
    root.mkdir()
    try:
        yield root
    finally:
        # Hundreds of tests share the file system: what they leave would fill it.
        for subvolume in _subvolumes(file_system, root):
            _run("btrfs", "subvolume", "delete", str(subvolume))
        _run("rm", "-rf", str(root))


def _subvolumes(file_system: Path, root: Path) -> list[Path]:
    """The btrfs subvolumes below a directory, none on another file system; inner ones first."""
    if not _run("stat", "-f", "-c", "%T", str(file_system)).startswith(b"btrfs"):
        return []
    listed = os.fsdecode(_run("btrfs", "subvolume", "list", str(file_system)))
    paths = [file_system / line.split(" ", 8)[8] for line in listed.splitlines()]
    return sorted((path for path in paths if root in path.parents), reverse=True)


def _run(*argv: str) -> bytes:
    async def main(command: Sequence[str]) -> bytes:
        return (await run(command)).stdout

    return anyio.run(main, argv)


def _missing(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason} (this must not be missing under CI=true)")
    pytest.skip(reason)
