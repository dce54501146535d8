"""How much room there is, how much a data set takes, and when what was freed shows."""

from pathlib import Path

import anyio

from obuilder.errors import StoreError
from obuilder_store_zfs.datasets import Datasets
from obuilder_store_zfs.program import is_kernel, run_zfs, runs_zfs

__all__ = ["free_percent", "used_bytes", "wait_for_freed"]

_DELETES_LIMIT_S = 600.0
"""How long freeing the space of destroyed data sets may take before that is an error."""

_NO_PROPERTY = "obuilder:none"


async def free_percent(datasets: Datasets) -> float:
    """The lesser of what is free of the pool, and of a quota on the store. StoreError."""
    numbers = await _numbers("available,used", datasets.pool, datasets.name)
    free = []
    for available, used in zip(numbers[::2], numbers[1::2], strict=True):
        free.append(100.0 * available / max(available + used, 1))
    return min(free)


async def used_bytes(datasets: Datasets, path: Path) -> int:
    """What a data set holds that is not its origin's. StoreError."""
    await _sync(datasets)
    return (await _numbers("used", datasets.of(path)))[0]


async def wait_for_freed(datasets: Datasets) -> None:
    """Wait until the pool has nothing more to free. StoreError after a limit."""
    with anyio.move_on_after(_DELETES_LIMIT_S) as limit:
        if is_kernel():
            argv = ("zpool", "wait", "-t", "free", datasets.pool)
            await runs_zfs(argv, doing=f"cannot wait for pool {datasets.pool}")
        await _sync(datasets)
    if limit.cancelled_caught:
        raise StoreError(
            f"zfs has not freed what was destroyed within {_DELETES_LIMIT_S:.0f} s",
            hint=f"see `zpool get freeing {datasets.pool}`",
            code="store.deletes-pending",
        )


async def _sync(datasets: Datasets) -> None:
    """End the pool's transaction: only then do its counts hold what was written before."""
    doing = f"cannot sync pool {datasets.pool}"
    if is_kernel():
        await runs_zfs(("zpool", "sync", datasets.pool), doing=doing)
    else:
        # zfs-fuse cannot be told to; a change of any property waits for the transaction.
        state = datasets.of(datasets.root / "state")
        await run_zfs("inherit", _NO_PROPERTY, state, doing=doing)


async def _numbers(properties: str, *names: str) -> list[int]:
    # `list` knows no -p in zfs-fuse; `get` does.
    argv = ("get", "-H", "-p", "-o", "value", properties, *names)
    printed = await run_zfs(*argv, doing=f"cannot examine {', '.join(names)}")
    try:
        return [int(line) for line in printed.split()]
    except ValueError as error:
        raise StoreError(f"zfs gave no numbers for {properties}: {printed!r}") from error
