"""A result as a stream: a line that says whose it is and how it goes on, then that in zstd.

PLAIN is a tar, which any store with local trees can send and take. It has everything
that a tree can hold (owners, times to the nanosecond, links, holes, devices,
ACLs, attributes). Any other is a store's own (`Store.stream_formats`). zstd's
frame ends with a checksum, so that a stream which is damaged or cut off is
known from a whole one, whatever is in it.
"""

import os
import re
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from obuilder.errors import ProcessError, StoreError
from obuilder.interfaces import Store
from obuilder.process import call
from obuilder.types import Id

__all__ = ["PLAIN", "Header", "receive", "receive_header", "send"]

PLAIN = "tar"

_FIRST, _SECOND = "obuilder-result-1", "obuilder-result-2"
_ID = "[0-9a-f]{64}"
_HEADER = re.compile(
    rf"(?:{_FIRST} ({_ID}) ({_ID}|-)|{_SECOND} ({_ID}) ({_ID}|-) ([a-z0-9.-]{{1,40}}) ({_ID}|-))\n"
)
_LONGEST_HEADER = 400
_ENTRIES = {"env": stat.S_IFREG, "log": stat.S_IFREG, "obuilder.json": stat.S_IFREG}
_TAR = ("--numeric-owner", "--acls", "--xattrs", "--xattrs-include=*")
_CREATE = ("tar", "--create", "--format=posix", "--sparse", *_TAR)
_EXTRACT = ("tar", "--extract", "--same-owner", "--same-permissions", *_TAR)
_COMPRESS = ("zstd", "--quiet", "--threads=0", "-3")
_DECOMPRESS = ("zstd", "--quiet", "--decompress", "--stdout")
_STDERR_BYTES = 2000

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Whose result a stream holds, what it was built on, and how it is written.

    `base`: what the receiver must have; the stream holds the difference to it.
    """

    id: Id
    parent: Id | None = None
    format: str = PLAIN
    base: Id | None = None

    def line(self) -> bytes:
        """What a stream begins with; a plain one as the first version wrote it."""
        text = f"{self.id} {self.parent or '-'}"
        if self.format == PLAIN:
            return f"{_FIRST} {text}\n".encode()
        return f"{_SECOND} {text} {self.format} {self.base or '-'}\n".encode()


async def send(store: Store[Any], header: Header, sink: int) -> None:
    """Write a saved result to a descriptor. StoreError.

    Before: the caller holds the lock of the result's use (`locks.use_lock`).
    """
    path = await store.result(header.id)
    if path is None:
        raise StoreError(f"there is no result {header.id}", code="store.unknown-id")
    doing = f"send result {header.id}"
    try:
        await anyio.to_thread.run_sync(os.write, sink, header.line(), abandon_on_cancel=True)
    except OSError as error:
        raise StoreError(f"cannot {doing}: {error.strerror}") from error
    compress = _Program(_COMPRESS, doing=doing)
    if header.format == PLAIN:
        if not (path / "rootfs").is_dir():
            raise StoreError(f"cannot {doing}: its root is no local tree", code="store.stream")
        argv = [*_CREATE, "-C", str(path), "--", *sorted(os.listdir(path))]
        tar = _Program(argv, doing=doing)
        await _piped(
            lambda pipe: tar.run(None, pipe),
            lambda pipe: compress.run(pipe, sink),
            ends_whole=True,
        )
    else:
        await _piped(
            lambda pipe: store.export(header.id, pipe, format=header.format, base=header.base),
            lambda pipe: compress.run(pipe, sink),
            ends_whole=True,
        )


async def receive_header(source: int) -> Header:
    """What a stream begins with. StoreError if it is none."""

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
    first = (match[1], match[2], PLAIN, "-")
    id, parent, format, base = first if match[1] else match.group(3, 4, 5, 6)
    return Header(id=Id(id), parent=_id(parent), format=format, base=_id(base))


def _id(text: str) -> Id | None:
    return None if text == "-" else Id(text)


@asynccontextmanager
async def receive(store: Store[Any], header: Header, source: int) -> AsyncIterator[Path]:
    """Make a result of the rest of a stream; the block has its directory, and may refuse it.

    As `Store.build`: what leaves the block by an exception leaves nothing. StoreError
    if anything is wrong. Before: the caller holds the lock of the id.
    """
    doing = "receive a result"
    decompress = _Program(_DECOMPRESS, doing=doing)
    async with AsyncExitStack() as stack:
        if header.format == PLAIN:
            directory = await stack.enter_async_context(store.build(header.id))
            tar = _Program([*_EXTRACT, "-C", str(directory)], doing=doing)
            await _piped(
                lambda pipe: decompress.run(source, pipe), lambda pipe: tar.run(pipe, None)
            )
        else:
            if header.format not in store.stream_formats:
                raise StoreError(
                    f"the store {store.root} takes no stream of the format {header.format!r}",
                    hint="have it sent again as a plain one",
                    code="store.stream",
                )
            directory = await _piped(
                lambda pipe: decompress.run(source, pipe),
                lambda pipe: stack.enter_async_context(
                    store.import_(header.id, pipe, format=header.format, base=header.base)
                ),
            )
        _check(directory, is_local=header.format == PLAIN)
        yield directory


def _check(directory: Path, *, is_local: bool) -> None:
    # A store's own root may be an image.
    roots = (stat.S_IFDIR,) if is_local else (stat.S_IFDIR, stat.S_IFREG)
    names = set()
    for entry in list(os.scandir(directory)):
        kind = stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
        wanted = roots if entry.name == "rootfs" else (_ENTRIES.get(entry.name),)
        if kind not in wanted:
            raise StoreError(
                f"the stream holds {entry.name!r}, which is of no result", code="store.stream"
            )
        names.add(entry.name)
    if "rootfs" not in names:
        raise StoreError("the stream holds no root file system", code="store.stream")


@dataclass(frozen=True, slots=True)
class _Program:
    argv: Sequence[str]
    doing: str

    async def run(self, stdin: int | None, stdout: int | None) -> None:
        """Run it to its end. StoreError in its own words."""
        said = os.memfd_create("stderr")
        try:
            status = await call(self.argv, stdin=stdin, stdout=stdout, stderr=said)
            if status:
                text = os.pread(said, _STDERR_BYTES, 0).decode("utf-8", "backslashreplace")
                why = text.strip() or f"{self.argv[0]} ended with status {status}"
                raise StoreError(f"cannot {self.doing}: {why}", code="store.stream")
        except ProcessError as error:
            hint = f"apt-get install {self.argv[0]}"
            raise StoreError(f"cannot {self.doing}: {error.what}", hint=hint) from error
        finally:
            os.close(said)


async def _piped(
    first: Callable[[int], Awaitable[None]],
    second: Callable[[int], Awaitable[T]],
    *,
    ends_whole: bool = False,
) -> T:
    """Run both, the output of one into the other. The error of whichever failed first.

    `ends_whole`: the end of the output is only seen if all of it was written, else the
    second is cancelled. A compressor would end its frame, and what is not whole would look so.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    failures: list[Exception] = []
    found: list[T] = []

    async def write() -> None:
        nonlocal writer
        try:
            await first(writer)
        except Exception as error:  # noqa: BLE001 - raised again below
            failures.append(error)
            if ends_whole:
                tasks.cancel_scope.cancel()
                return
        open_end, writer = writer, -1
        os.close(open_end)  # the other one sees the end

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            try:
                # In this task: what it opens is closed by the caller.
                found.append(await second(reader))
            except Exception as error:  # noqa: BLE001 - raised again below
                failures.append(error)
            finally:
                os.close(reader)  # the other one sees that nobody reads any more
    finally:
        if writer != -1:
            os.close(writer)
    if failures:
        raise failures[0]
    return found[0]
