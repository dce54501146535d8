"""btrfs's own streams: `btrfs send` and `btrfs receive`, whole or as the difference to a parent."""

from collections.abc import Sequence
from pathlib import Path

from obuilder.errors import StoreError
from obuilder.result_stream import pipe_tool

__all__ = ["FORMAT", "receive", "send"]

FORMAT = "btrfs"

_NO_PARENT = "cannot find parent subvolume"


async def send(path: Path, sink: int, *, base: Path | None) -> None:
    """Write a read-only subvolume to a descriptor. StoreError."""
    parent = () if base is None else ("-p", str(base))
    await _run(("send", "--quiet", *parent, str(path)), stdout=sink, doing=f"send {path}")


async def receive(directory: Path, source: int) -> Path:
    """Make a read-only subvolume in an empty directory; its path. StoreError.

    The program is confined to the directory: a stream may name any place.
    """
    argv = ("receive", "--quiet", "--chroot", str(directory))
    await _run(argv, stdin=source, doing=f"receive into {directory}")
    found = list(directory.iterdir())
    if len(found) != 1:
        raise StoreError(f"the stream made {len(found)} subvolumes", code="store.stream")
    return found[0]


async def _run(
    argv: Sequence[str], *, doing: str, stdin: int | None = None, stdout: int | None = None
) -> None:
    try:
        await pipe_tool(("btrfs", *argv), stdin=stdin, stdout=stdout, doing=doing)
    except StoreError as error:
        if _NO_PARENT in error.what:
            error.code = "store.stream-base"
        raise
