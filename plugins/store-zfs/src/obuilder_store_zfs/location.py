"""From the text after `zfs:` to a mounted data set, with what to do where that is not possible."""

import difflib
import re
import shlex
from pathlib import Path

from obuilder.directory_store import absolute_location
from obuilder.errors import ConfigError, StoreError
from obuilder_store_zfs.datasets import Datasets
from obuilder_store_zfs.mounts import Mount, mounted_at, mounts
from obuilder_store_zfs.program import Failure, listed, run_zfs, runs_zfs

__all__ = ["GROUPS", "find"]

GROUPS = ("result", "cache", "cache-tmp", "state")

_NAME = re.compile(r"[A-Za-z][-_.: A-Za-z0-9]*(/[-_.: A-Za-z0-9]+)*")
_LONGEST_BYTES = 150
"""Of a store's data set. With a result's or a cache's below it comes to less than zfs's 255."""

_ATTEMPTS = 5
"""To make a data set while other processes are making the same, or those above it."""

_SOCKET = re.compile(r"internal error|cannot be auto-loaded|modules? .* not loaded|modprobe")


def _refusal(what: str, hint: str, *, code: str = "store.location") -> ConfigError:
    return ConfigError(what, where="store", hint=hint, code=code)


async def find(location: str) -> Datasets:
    """The data set that a location names, made if its pool is there, and mounted. ConfigError.

    A location is a data set's name (`tank`, `tank/obuilder`), or the absolute
    path of its directory: of one that is mounted, or of one to be made below it.
    """
    name = _name_of_path(location) if location.startswith(("/", "~")) else location
    if not _NAME.fullmatch(name):
        raise _refusal(
            f"{name!r} is no name of a data set",
            "write zfs:POOL, zfs:POOL/NAME or the absolute path of a mounted one",
        )
    if len(name) > _LONGEST_BYTES:
        raise _refusal(
            f"the name {name} is {len(name)} bytes long, and a store's may have {_LONGEST_BYTES}",
            "name a data set nearer to the pool's top",
        )
    try:
        found = await _rows(name)
        mounted, point = found[name]
        datasets = await _mounted(name, mounted=mounted, point=point)
        for group in GROUPS:
            path = datasets.root / group
            if datasets.of(path) not in found:
                await _create(datasets.of(path))
            await datasets.mount(path)
    except StoreError as error:
        raise _refusal(error.what, error.hint or f"see `zfs get all {name}`") from error
    return datasets


def _name_of_path(location: str) -> str:
    path = absolute_location(location, driver="zfs")
    existing = path
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise _refusal(f"{existing} is not a directory", "name a data set of zfs")
    mount = mounted_at(existing.resolve())
    if mount is None or not mount.is_zfs or "@" in mount.source:
        target = shlex.quote(str(path))
        raise _refusal(
            f"{existing} is not in a mounted zfs data set",
            f"zpool create -m {target} tank DEVICE, then --store=zfs:tank;"
            " `zfs list` shows what there is",
        )
    inside = existing.resolve().relative_to(mount.path)
    if inside.parts and any(existing.iterdir()) and existing == path:
        raise _refusal(
            f"{existing} is a directory in data set {mount.source}, not one of its own",
            f"name an empty directory, one that does not exist, or zfs:{mount.source}",
        )
    return "/".join([mount.source, *inside.parts, *path.relative_to(existing).parts])


async def _rows(name: str) -> dict[str, tuple[str, str]]:
    """Whether each of `name` and its children is mounted, and its mount point; `name` is made."""
    for attempt in range(_ATTEMPTS):
        try:
            found = await listed(name, columns="name,mounted,mountpoint", depth=1)
            return {each: (mounted, where) for each, mounted, where in found}
        except Failure as error:
            if not error.is_missing:
                raise _unusable(error) from error
        if attempt == 0:
            await _check_pool(name.partition("/")[0])
        await _create(name, is_last=attempt == _ATTEMPTS - 1)
    raise _refusal(f"data set {name} was made and is gone", "try again")


def _unusable(error: Failure) -> ConfigError:
    if _SOCKET.search(error.what):
        hint = "modprobe zfs; with zfs-fuse, start its daemon"
        return _refusal(f"ZFS is not running here: {error.what}", hint, code="store.program")
    return _refusal(error.what, error.hint or "see `zfs list`")


async def _check_pool(pool: str) -> None:
    printed = await runs_zfs(("zpool", "list", "-H", "-o", "name"), doing="cannot list the pools")
    pools = printed.splitlines()
    if pool in pools:
        return
    near = difflib.get_close_matches(pool, pools, n=1)
    ask = f"did you mean {near[0]}? " if near else ""
    there = f"there are: {', '.join(pools)}" if pools else "make one: zpool create tank DEVICE"
    raise _refusal(
        f"there is no pool {pool!r}",
        f"{ask}{there}; a location is the name of a data set or an absolute path",
    )


async def _create(name: str, *, is_last: bool = True) -> None:
    try:
        await run_zfs("create", "-p", name, doing=f"cannot create data set {name}")
    except Failure as error:
        # It is there: another process was first, or it could not be mounted, which is seen to
        # later. Or others are at those above it: to be tried again.
        if is_last and not (error.is_existing or "successfully created" in error.what):
            raise


async def _mounted(name: str, *, mounted: str, point: str) -> Datasets:
    mount = _mount_of(name)
    if mount is None:
        await _mount_top(name, point)
        mount = _mount_of(name)
    if mount is None:
        raise _refusal(
            f"data set {name} is {'not mounted' if mounted == 'no' else 'mounted elsewhere'}",
            f"zfs mount {name}, in the mount namespace that obuilder runs in",
            code="store.not-mounted",
        )
    return Datasets(name=name, root=mount.path, legacy=point == "legacy")


def _mount_of(name: str) -> Mount | None:
    return next((mount for mount in mounts() if mount.is_zfs and mount.source == name), None)


async def _mount_top(name: str, point: str) -> None:
    if point.startswith("/"):
        await Datasets(name=name, root=Path(point)).mount(Path(point))
        return
    # Legacy: where it belongs can only be told from one above it that is mounted.
    above = name
    while "/" in above:
        above = above.rpartition("/")[0]
        mount = _mount_of(above)
        if mount is not None and point == "legacy":
            target = mount.path / name.removeprefix(f"{above}/")
            await Datasets(name=name, root=target, legacy=True).mount(target)
            return
    raise _refusal(
        f"data set {name} is not mounted, and its mountpoint is {point!r}",
        f"mkdir -p /srv/obuilder && mount -t zfs {name} /srv/obuilder"
        f"\n  or: zfs set mountpoint=/srv/obuilder {name}",
        code="store.not-mounted",
    )
