"""A result as a stream: a line that says whose it is and how it goes on, then that in zstd.

What is compressed is that line once more, then a tar (PLAIN), which any store with local
trees can send and take: it has everything that a tree can hold (owners, times to
the nanosecond, links, holes, devices, ACLs, attributes); or a stream of the store's own
(`Store.stream_formats`). zstd's frame ends with a checksum, so that a stream which is
damaged or cut off is known from a whole one, whatever is in it.
"""

import os
import re
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import anyio
import anyio.lowlevel

from obuilder.errors import ProcessError, StoreError
from obuilder.interfaces import Store
from obuilder.process import call
from obuilder.types import Id

__all__ = ["PLAIN", "Header", "pipe_tool", "receive", "receive_header", "send"]

PLAIN = "tar"

_MAGIC = "obuilder-result-2"
_ID = "[0-9a-f]{64}"
_HEADER = re.compile(rf"{_MAGIC} ({_ID}) ({_ID}|-) ([a-z0-9.-]{{1,40}}) ({_ID}|-)\n")
_LONGEST_HEADER = 400
_ENTRIES = {"env": stat.S_IFREG, "log": stat.S_IFREG, "obuilder.json": stat.S_IFREG}
_TAR = ("--numeric-owner", "--acls", "--xattrs", "--xattrs-include=*")
_CREATE = ("tar", "--create", "--format=posix", "--sparse", *_TAR)
_EXTRACT = ("tar", "--extract", "--same-owner", "--same-permissions", *_TAR)
_COMPRESS = ("zstd", "--quiet", "--threads=0", "-3")
_DECOMPRESS = ("zstd", "--quiet", "--decompress", "--stdout")
_STDERR_BYTES = 2000


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
        """What a stream begins with."""
        words = (_MAGIC, self.id, self.parent or "-", self.format, self.base or "-")
        return f"{' '.join(words)}\n".encode()


async def send(store: Store[Any], header: Header, sink: int) -> None:
    """Write a saved result to a descriptor. StoreError.

    Before: the caller holds the lock of the result's use (`locks.use_lock`).
    """
    path = await store.result(header.id)
    if path is None:
        raise StoreError(f"there is no result {header.id}", code="store.unknown-id")
    doing = f"send result {header.id}"
    if header.format == PLAIN and not (path / "rootfs").is_dir():
        raise StoreError(f"cannot {doing}: its root is no local tree", code="store.stream")

    async def write(pipe: int) -> None:
        await _write_header(header, pipe, doing=doing)
        if header.format == PLAIN:
            argv = [*_CREATE, "-C", str(path), "--", *sorted(os.listdir(path))]
            await pipe_tool(argv, stdout=pipe, doing=doing)
        else:
            await store.export(header.id, pipe, format=header.format, base=header.base)

    async def compress(pipe: int) -> None:
        try:
            await pipe_tool(_COMPRESS, stdin=pipe, stdout=sink, doing=doing)
        except StoreError as error:
            # A sink that is full is no full store: without a cause no disk is blamed.
            error.__cause__ = None
            raise

    await _write_header(header, sink, doing=doing)
    await _piped(write, compress)


async def _write_header(header: Header, sink: int, *, doing: str) -> None:
    try:
        await _ready(anyio.wait_writable, sink)
        # Shorter than PIPE_BUF: all of it, and at once; pipe(7).
        os.write(sink, header.line())
    except OSError as error:
        # Without a cause: what a caller's descriptor leads to is not the store's disk.
        raise StoreError(f"cannot {doing}: {error.strerror}") from None


async def receive_header(source: int) -> Header:
    """What a stream begins with. StoreError if it is none."""
    line = b""
    try:
        # Byte by byte: what follows is another program's.
        while not line.endswith(b"\n") and len(line) < _LONGEST_HEADER:
            await _ready(anyio.wait_readable, source)
            byte = os.read(source, 1)
            if not byte:
                break
            line += byte
    except OSError as error:
        raise StoreError(f"cannot read a stream: {error.strerror}") from None
    match = _HEADER.fullmatch(line.decode("ascii", "replace"))
    if match is None:
        raise StoreError("this is not a stream of a result", code="store.stream")
    id, parent, format, base = match.groups()
    return Header(id=Id(id), parent=_id(parent), format=format, base=_id(base))


async def _ready(wait: Callable[[int], Awaitable[None]], descriptor: int) -> None:
    # What epoll refuses is always ready: files, for one; epoll_ctl(2).
    with suppress(PermissionError):
        await wait(descriptor)


def _id(text: str) -> Id | None:
    return None if text == "-" else Id(text)


@asynccontextmanager
async def receive(store: Store[Any], header: Header, source: int) -> AsyncIterator[Path]:
    """Make a result of the rest of a stream; the block has its directory, and may refuse it.

    As `Store.build`: what leaves the block by an exception leaves nothing. StoreError
    if anything is wrong. Before: the caller holds the lock of the id.
    """
    doing = "receive a result"
    if header.format != PLAIN and header.format not in store.stream_formats:
        raise StoreError(
            f"the store {store.root} takes no stream of the format {header.format!r}",
            hint="have it sent again as a plain one",
            code="store.stream",
        )
    failures: list[Exception] = []
    ended = anyio.Event()
    reader, writer = _pipe()

    async def decompress() -> None:
        try:
            await pipe_tool(_DECOMPRESS, stdin=source, stdout=writer.fileno(), doing=doing)
        except Exception as error:  # noqa: BLE001 - raised again outside the task group
            failures.append(error)
        finally:
            writer.close()  # whoever reads sees the end, also of a stream that is cancelled
        ended.set()

    with reader, writer:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(decompress)
            try:
                await _agree(header, reader.fileno())
                async with _taken(store, header, reader.fileno(), doing=doing) as directory:
                    reader.close()  # more than was taken is a failure of the other
                    await ended.wait()
                    await _raise_first(failures)
                    _check(directory, is_local=header.format == PLAIN)
                    yield directory
            except Exception as error:  # noqa: BLE001 - raised again outside the task group
                failures.append(error)
            tasks.cancel_scope.cancel()
    await _raise_first(failures)


async def _agree(header: Header, pipe: int) -> None:
    # The line in front has no checksum; this one has.
    if await receive_header(pipe) != header:
        raise StoreError("the stream is damaged: it begins twice, not alike", code="store.stream")


def _taken(
    store: Store[Any], header: Header, pipe: int, *, doing: str
) -> AbstractAsyncContextManager[Path]:
    if header.format != PLAIN:
        return store.import_(header.id, pipe, format=header.format, base=header.base)
    return _extracted(store, header.id, pipe, doing=doing)


@asynccontextmanager
async def _extracted(store: Store[Any], id: Id, pipe: int, *, doing: str) -> AsyncIterator[Path]:
    async with store.build(id) as directory:
        await pipe_tool([*_EXTRACT, "-C", str(directory)], stdin=pipe, doing=doing)
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


def _pipe() -> tuple[IO[bytes], IO[bytes]]:
    reader, writer = os.pipe()
    return os.fdopen(reader, "rb"), os.fdopen(writer, "wb")


async def pipe_tool(
    argv: Sequence[str],
    *,
    doing: str,
    stdin: int | None = None,
    stdout: int | None = None,
    stop: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Run a store's helper program on descriptors, to its end.

    StoreError, with what was being done and the program's own words, if it fails.
    `stop` as `process.call` has it.
    """
    said = os.memfd_create("stderr")
    try:
        status = await call(argv, stdin=stdin, stdout=stdout, stderr=said, stop=stop)
        text = os.pread(said, _STDERR_BYTES, 0).decode("utf-8", "backslashreplace").strip()
    except ProcessError as error:
        hint = error.hint or f"apt-get install {argv[0]}"
        raise StoreError(f"cannot {doing}: {error.what}", hint=hint) from error
    finally:
        os.close(said)
    if status:
        why = text or f"{argv[0]} ended with status {status}"
        # The cause shows whether the disk was to blame.
        cause = ProcessError(why, returncode=status, stderr=text.encode())
        raise StoreError(f"cannot {doing}: {why}", code="store.stream") from cause


async def _piped(
    first: Callable[[int], Awaitable[None]], second: Callable[[int], Awaitable[None]]
) -> None:
    """Run both, the output of one into the other. The error of whichever failed first.

    The end of the output is only seen if all of it was written, else the second is cancelled:
    a compressor would end its frame, and what is not whole would look so.
    """
    failures: list[Exception] = []
    reader, writer = _pipe()

    async def write() -> None:
        try:
            await first(writer.fileno())
        except Exception as error:  # noqa: BLE001 - raised again outside the task group
            failures.append(error)
            tasks.cancel_scope.cancel()
        else:
            writer.close()

    with reader, writer:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            try:
                await second(reader.fileno())
            except Exception as error:  # noqa: BLE001 - raised again outside the task group
                failures.append(error)
            reader.close()  # the other one sees that nobody reads any more
    await _raise_first(failures)


async def _raise_first(failures: Sequence[Exception]) -> None:
    if failures:
        # Who was cancelled had the streams end early: that is no failure.
        await anyio.lowlevel.checkpoint_if_cancelled()
        raise failures[0]
