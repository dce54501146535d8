"""What the zfs store takes for a location, and what it says of others."""

import os
import re
from pathlib import Path

import anyio
import pytest
from support.store_tools import built
from support.zfs_tools import names_below, zfs

from obuilder.errors import ConfigError
from obuilder_store_zfs import ZfsStore

pytestmark = pytest.mark.anyio


async def refused(location: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        async with ZfsStore.open(location, ZfsStore.Config()):
            pytest.fail("opened")
    assert caught.value.hint
    return caught.value


async def opens(location: str) -> Path:
    async with ZfsStore.open(location, ZfsStore.Config()) as store:
        assert await store.result(await built(store))
        return store.root


async def test_a_name_and_the_directory_of_a_data_set_are_one_store(zfs_name: str) -> None:
    root = await opens(zfs_name)
    assert await opens(str(root)) == root
    assert await opens(str(root / "deeper" / "still")) == root / "deeper" / "still"
    assert await opens(f"{zfs_name}/deeper/still") == root / "deeper" / "still"


async def test_a_mount_point_of_its_own_is_found(zfs_name: str, tmp_path: Path) -> None:
    await zfs("create", "-o", f"mountpoint={tmp_path}/else where", zfs_name)
    try:
        assert await opens(zfs_name) == tmp_path / "else where"
        assert await opens(f"{zfs_name}/below") == tmp_path / "else where" / "below"
    finally:
        await zfs("set", "mountpoint=none", zfs_name)


async def test_a_data_set_that_is_not_mounted_by_itself_is_mounted(zfs_name: str) -> None:
    await zfs("create", "-o", "canmount=noauto", zfs_name)
    root = await opens(zfs_name)
    assert os.path.ismount(root)


@pytest.mark.parametrize("point", ["none", "legacy"])
async def test_a_data_set_with_nowhere_to_go_is_refused(zfs_name: str, point: str) -> None:
    # The parent has none either, so that nothing tells where it belongs.
    await zfs("create", "-o", f"mountpoint={point}", zfs_name)
    for location in (zfs_name, f"{zfs_name}/below") if point == "none" else ():
        error = await refused(location)
        assert error.code == "store.not-mounted"
        assert "zfs set mountpoint=" in (error.hint or "")


async def test_one_that_may_not_be_mounted_is_refused_in_the_words_of_zfs(zfs_name: str) -> None:
    await zfs("create", "-o", "canmount=off", zfs_name)
    error = await refused(zfs_name)
    assert "'canmount' property is set to 'off'" in error.what


async def test_a_pool_that_is_missing_is_refused_with_those_there_are(zfs_pool: str) -> None:
    pool = zfs_pool.partition("/")[0]
    error = await refused(f"{pool}x/obuilder")
    assert f"no pool '{pool}x'" in error.what
    assert f"did you mean {pool}?" in (error.hint or "")
    assert error.code == "store.location"


@pytest.mark.parametrize("name", ["", "-x", "tank/", "tank//x", "tank@snap", "tank/ü", "1tank"])
async def test_what_is_no_name_is_refused(name: str) -> None:
    assert "is no name of a data set" in (await refused(name)).what


async def test_a_name_too_long_is_refused(zfs_pool: str) -> None:
    error = await refused(f"{zfs_pool}/{'x' * 150}")
    assert "150" in error.what


async def test_a_directory_elsewhere_is_refused(tmp_path: Path) -> None:
    for location in (tmp_path, tmp_path / "missing"):
        error = await refused(str(location))
        assert "not in a mounted zfs data set" in error.what
        assert "zpool create" in (error.hint or "")


async def test_a_directory_that_holds_something_is_not_mounted_over(zfs_name: str) -> None:
    root = await opens(zfs_name)
    (root / "mine").mkdir()
    assert await opens(str(root / "mine")) == root / "mine"
    (root / "full").mkdir()
    (root / "full" / "file").touch()
    error = await refused(str(root / "full"))
    assert "not one of its own" in error.what


async def test_an_ordinary_user_is_refused(zfs_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert (await refused(zfs_name)).code == "store.not-root"


async def test_a_zfs_that_does_not_run_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "internal error: failed to initialize ZFS library"
    for name in ("zfs", "zpool"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    error = await refused("tank")
    assert said in error.what
    assert re.search("modprobe zfs", error.hint or "")
    assert error.code == "store.program"


async def test_many_may_make_one_store_at_once(zfs_name: str) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(opens, f"{zfs_name}/new")


async def test_an_erased_store_leaves_no_data_set(zfs_name: str) -> None:
    async with ZfsStore.open(zfs_name, ZfsStore.Config()) as store:
        (store.state_dir / "file").touch()
        await store.erase()
        assert not os.path.ismount(store.root)
    pool, _, name = zfs_name.rpartition("/")
    assert [each for each in await names_below(pool) if each.split("/")[0] == name] == []
