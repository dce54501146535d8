"""A result as a stream that any store can take: a line that says whose it is, then a tar in zstd.

The tar has everything that a tree can hold (owners, times to the nanosecond,
links, holes, devices, ACLs, attributes). zstd's frame ends with a checksum, so
that a stream which is damaged or cut off is known from a whole one.
"""

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.to_thread

from obuilder.errors import ProcessError, StoreError
from obuilder.process import call
from obuilder.types import Id

__all__ = ["receive", "receive_header", "send"]

_MAGIC = "obuilder-result-1"
_HEADER = re.compile(rf"{_MAGIC} ([0-9a-f]{{64}}) ([0-9a-f]{{64}}|-)\n")
_LONGEST_HEADER = 200
_ENTRIES = {"env": stat.S_IFREG, "log": stat.S_IFREG, "obuilder.json": stat.S_IFREG}
_TAR = ("--numeric-owner", "--acls", "--xattrs", "--xattrs-include=*")
_CREATE = ("tar", "--create", "--format=posix", "--sparse", *_TAR)
_EXTRACT = ("tar", "--extract", "--same-owner", "--same-permissions", *_TAR)
_STDERR_BYTES = 2000


async def send(directory: Path, sink: int, *, id: Id, parent: Id | None) -> None:
    """Write the result in `directory` to a descriptor. StoreError."""
    header = f"{_MAGIC} {id} {parent or '-'}\n".encode()
    try:
        await anyio.to_thread.run_sync(os.write, sink, header, abandon_on_cancel=True)
    except OSError as error:
        raise StoreError(f"cannot send result {id}: {error.strerror}") from error
    names = sorted(os.listdir(directory))
    await _piped(
        [*_CREATE, "-C", str(directory), "--", *names],
        ["zstd", "--quiet", "--threads=0", "-3"],
        (None, sink),
        doing=f"send result {id}",
    )


async def receive_header(source: int) -> tuple[Id, Id | None]:
    """The id and the parent of the result that a stream holds. StoreError if it is none."""

    def read() -> bytes:
        line = b""
        # Byte by byte: what follows is another program's.
        while not line.endswith(b"\n") and len(line) < _LONGEST_HEADER:
            byte = os.read(source, 1)
            if not byte:
                break
            line += byte
        return line

    line = await anyio.to_thread.run_sync(read, abandon_on_cancel=True)
    match = _HEADER.fullmatch(line.decode("ascii", "replace"))
    if match is None:
        raise StoreError("this is not a stream of a result", code="store.stream")
    return Id(match[1]), None if match[2] == "-" else Id(match[2])


async def receive(source: int, directory: Path) -> None:
    """Unpack the rest of a stream into an empty directory. StoreError if anything is wrong."""
    await _piped(
        ["zstd", "--quiet", "--decompress", "--stdout"],
        [*_EXTRACT, "-C", str(directory)],
        (source, None),
        doing="receive a result",
    )
    for entry in os.scandir(directory):
        kind = stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
        wanted = stat.S_IFDIR if entry.name == "rootfs" else _ENTRIES.get(entry.name)
        if kind != wanted:
            raise StoreError(f"the stream holds {entry.name!r}, which is of no result")
    if not (directory / "rootfs").is_dir():
        raise StoreError("the stream holds no root file system", code="store.stream")


async def _piped(
    first: Sequence[str],
    second: Sequence[str],
    ends: tuple[int | None, int | None],
    *,
    doing: str,
) -> None:
    """Run two programs, the output of one into the other, from `ends[0]` to `ends[1]`."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    said = [os.memfd_create("stderr") for _ in range(2)]
    statuses: list[int | ProcessError] = [0, 0]

    inputs, outputs = (ends[0], reader), (writer, ends[1])

    async def run(which: int, argv: Sequence[str]) -> None:
        stdin, stdout = inputs[which], outputs[which]
        try:
            statuses[which] = await call(argv, stdin=stdin, stdout=stdout, stderr=said[which])
        except ProcessError as error:
            statuses[which] = error
        finally:
            # The other one sees the end, or that nobody reads any more.
            os.close(writer if which == 0 else reader)

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, 0, first)
            tasks.start_soon(run, 1, second)
        for argv, status, errors in zip((first, second), statuses, said, strict=True):
            if isinstance(status, ProcessError):
                hint = f"apt-get install {argv[0]}"
                raise StoreError(f"cannot {doing}: {status.what}", hint=hint) from status
            if status:
                text = os.pread(errors, _STDERR_BYTES, 0).decode("utf-8", "backslashreplace")
                why = text.strip() or f"{argv[0]} ended with status {status}"
                raise StoreError(f"cannot {doing}: {why}", code="store.stream")
    finally:
        for descriptor in said:
            os.close(descriptor)
