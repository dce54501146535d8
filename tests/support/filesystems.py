"""Real file systems for tests, in image files on loop devices."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
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
    # Not below pytest's own: after Ctrl-C that is moved away before this is unmounted.
    directory = Path(tempfile.mkdtemp(prefix="obuilder-btrfs-"))
    image, mounted = directory / "image", directory / "mounted"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(_IMAGE_BYTES)
    try:
        _run("mkfs.btrfs", "--quiet", str(image))
        # The kernel detaches the loop device of `-o loop` when it is unmounted.
        _run("mount", "-t", "btrfs", "-o", "loop", str(image), str(mounted))
    except ProcessError as error:
        shutil.rmtree(directory)
        _missing(f"no btrfs can be made here: {error.what}")
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


@pytest.fixture
def btrfs_root(btrfs_file_system: Path, tmp_path: Path) -> Path:
    """An empty directory of this test's own on a btrfs."""
    root = btrfs_file_system / tmp_path.name
    number = 0
    while root.exists():
        number += 1
        root = btrfs_file_system / f"{tmp_path.name}-{number}"
    root.mkdir()
    return root


def _run(*argv: str) -> None:
    async def main(command: Sequence[str]) -> None:
        await run(command)

    anyio.run(main, argv)


def _missing(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason} (this must not be missing under CI=true)")
    pytest.skip(reason)
