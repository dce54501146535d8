"""ZFS's own streams: `zfs send` and `zfs receive`, whole or as the difference to the origin."""

import re
from collections.abc import Awaitable, Callable, Sequence

from obuilder.errors import StoreError
from obuilder.result_stream import pipe_tool
from obuilder_store_zfs.program import SNAPSHOT, is_kernel

__all__ = ["FORMAT", "RECEIVED", "receive", "send"]

FORMAT = "zfs"

RECEIVED = "received"
"""The snapshot that a data set has until it has been looked at: it is no result before."""

_NOT_TAKEN = (
    "mountpoint",
    "canmount",
    "readonly",
    "sharenfs",
    "sharesmb",
    "setuid",
    "devices",
    "exec",
)
# What `receive` and `send` say if one is no difference to the other.
_NO_BASE = re.compile(
    r"local origin for clone .* does not exist|does not\s+match incremental source"
    r"|not an earlier snapshot|incremental source .* (does not exist|is not earlier)"
    r"|incremental source must be in same"
)


async def send(name: str, sink: int, *, base: str | None) -> None:
    """Write the snapshot of a data set to a descriptor. StoreError."""
    since = () if base is None else ("-i", f"{base}@{SNAPSHOT}")
    argv = ("send", *since, f"{name}@{SNAPSHOT}")
    await _run(argv, stdout=sink, doing=f"send {name}")


async def receive(name: str, source: int, *, base: str | None) -> None:
    """Make a data set, with the snapshot RECEIVED, a clone of that of `base`. StoreError."""
    how: tuple[str, ...] = ()
    if is_kernel():  # zfs-fuse has no such options
        # A stream may bring properties: one that is mounted where it says covers any directory.
        kept = (word for name in _NOT_TAKEN for word in ("-x", name))
        how = ("-u", "-h", *kept)
        if base is not None:
            # Else zfs takes any snapshot in the pool that is the same, another store's for one.
            how = (*how, "-o", f"origin={base}@{SNAPSHOT}")
    argv = ("receive", *how, f"{name}@{RECEIVED}")
    await _run(argv, stdin=source, doing=f"receive {name}", stop=_let_it_end)


async def _let_it_end() -> None:
    """Send no signal: a cancelled stream ends, and zfs with it, leaving nothing.

    zfs-fuse's daemon goes on with what a killed `zfs` asked for, after what would clean up.
    """


async def _run(
    argv: Sequence[str],
    *,
    doing: str,
    stdin: int | None = None,
    stdout: int | None = None,
    stop: Callable[[], Awaitable[None]] | None = None,
) -> None:
    try:
        await pipe_tool(("zfs", *argv), stdin=stdin, stdout=stdout, doing=doing, stop=stop)
    except StoreError as error:
        if _NO_BASE.search(error.what):
            error.code = "store.stream-base"
        raise
