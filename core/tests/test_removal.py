"""Removing a directory: by several programs, within limits; what stays is told by its place."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import anyio
import pytest
from support.builds import descriptors

from obuilder._removal import directory, remove_directory, shares
from obuilder.errors import ProcessError
from obuilder.process import run

pytestmark = pytest.mark.anyio


def wide(top: Path, count: int) -> Path:
    """A directory of many, each with a file."""
    for number in range(count):
        (top / f"{number}").mkdir(parents=True)
        (top / f"{number}" / "file").touch()
    return top


def deep(top: Path, levels: int) -> Path:
    """A chain of directories; not by its path, which may be too long."""
    top.mkdir()
    at = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    return top


@contextmanager
def mounted(source: Path, place: Path) -> Iterator[None]:
    # Not `run`: a test that fails is cancelled.
    subprocess.run(["mount", "--bind", str(source), str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


async def test_of_a_deep_tree_only_the_upper_levels_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = 0
    scandir = os.scandir

    def counted(*args: Any) -> Any:
        nonlocal looked_at
        looked_at += 1
        return scandir(*args)

    tree = deep(tmp_path / "tree", 3000)
    monkeypatch.setattr(os, "scandir", counted)
    await remove_directory(tree)
    assert not tree.exists()
    assert 0 < looked_at < 20


async def test_of_many_names_only_some_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = 0

    class Entries:
        def __init__(self, entries: Any) -> None:
            self._entries = entries

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            self._entries.close()

        def __iter__(self) -> Iterator[Any]:
            nonlocal looked_at
            for entry in self._entries:
                looked_at += 1
                yield entry

    tree = wide(tmp_path / "tree", 300)
    scandir = os.scandir
    monkeypatch.setattr(shares, "_ENTRIES", 100)
    monkeypatch.setattr(os, "scandir", lambda *args: Entries(scandir(*args)))
    await remove_directory(tree)
    assert not tree.exists()
    assert looked_at == 100


async def test_removals_at_the_same_time_have_a_limit_in_common(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = most = shared = 0

    async def counted(argv: Any, **options: Any) -> Any:
        nonlocal now, most, shared
        is_share = "cwd" in options
        shared, now = shared + is_share, now + is_share
        most = max(most, now)
        try:
            return await run(argv, **options)
        finally:
            now -= is_share

    trees = [wide(tmp_path / f"tree{number}", 80) for number in range(6)]
    before = descriptors()
    monkeypatch.setattr(directory, "run", counted)
    async with anyio.create_task_group() as tasks:
        for tree in trees:
            tasks.start_soon(remove_directory, tree)
    assert os.listdir(tmp_path) == []
    assert 8 <= most <= 16
    shared = 0
    await remove_directory(wide(tmp_path / "later", 80))
    assert shared == 8  # those of before have let go of their turns
    assert descriptors() == before


async def test_what_cannot_be_removed_is_where_it_was(ext4_root: Path) -> None:
    tree = wide(ext4_root / "tree" / "home", 300).parent
    kept = tree / "home" / "17" / "file"
    await run(["chattr", "+i", str(kept)])
    try:
        with pytest.raises(ProcessError) as caught:
            await remove_directory(tree)
        assert f"cannot remove '{kept}': Operation not permitted" in caught.value.what
        assert os.listdir(tree) == ["home"]
        assert os.listdir(tree / "home") == ["17"]
    finally:
        await run(["chattr", "-i", str(kept)])
    await remove_directory(tree)
    assert not tree.exists()


@pytest.mark.parametrize("beside", [0, 300], ids=["small", "shared-out"])
async def test_subvolumes_that_a_command_made_go_too(btrfs_root: Path, beside: int) -> None:
    tree = wide(btrfs_root / "tree", beside)
    outer = tree / "a" / "b" / "outer"
    outer.parent.mkdir(parents=True)
    for subvolume in (outer, outer / "inner", tree / "other\nname"):
        await run(["btrfs", "subvolume", "create", str(subvolume)])
        (subvolume / "file").touch()
    # The first keeps what it holds, the second its own file.
    for subvolume in (outer / "inner", outer):
        await run(["btrfs", "property", "set", "-ts", str(subvolume), "ro", "true"])
    await remove_directory(tree)
    assert not tree.exists()
    assert b"/outer" not in (await run(["btrfs", "subvolume", "list", str(btrfs_root)])).stdout


async def test_what_resists_in_a_subvolume_is_told(btrfs_root: Path) -> None:
    tree = btrfs_root / "tree"
    tree.mkdir()
    inner = tree / "outer" / "inner"
    for subvolume in (inner.parent, inner):
        await run(["btrfs", "subvolume", "create", str(subvolume)])
    (inner / "file").touch()
    await run(["chattr", "+i", str(inner / "file")])
    try:
        with pytest.raises(ProcessError) as caught:
            await remove_directory(tree)
    finally:
        await run(["chattr", "-i", str(inner / "file")])
    assert f"cannot remove '{inner}/file': Operation not permitted" in caught.value.what
    await remove_directory(tree)
    assert not tree.exists()


async def test_a_subvolume_that_is_mounted_inside_is_not_emptied(btrfs_root: Path) -> None:
    tree, elsewhere = btrfs_root / "tree", btrfs_root / "elsewhere"
    await run(["btrfs", "subvolume", "create", str(elsewhere)])
    (elsewhere / "file").touch()
    (tree / "mounted").mkdir(parents=True)
    await run(["btrfs", "subvolume", "create", str(tree / "made")])
    (tree / "made" / "mounted").mkdir()
    with mounted(elsewhere, tree / "mounted"), mounted(elsewhere, tree / "made" / "mounted"):
        with pytest.raises(ProcessError, match=r"skipping '.*mounted'"):
            await remove_directory(tree)
        assert os.listdir(elsewhere) == ["file"]
    await remove_directory(tree)
    assert not tree.exists()
    assert os.listdir(elsewhere) == ["file"]
