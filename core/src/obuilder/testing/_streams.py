"""Promises of stores about streams: a result is carried whole, or nothing is there."""

import fcntl
import os
import sys
import tempfile
import termios
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from obuilder.errors import StoreError
from obuilder.process import run
from obuilder.result_stream import PLAIN, Header, receive, receive_header, send
from obuilder.testing._tools import LIMIT_S, AnyStore, Bench, new_id
from obuilder.testing._trees import describe_data
from obuilder.types import Id

__all__ = ["StreamPromises"]

# From before the first byte to after the last one, on a slow machine too.
DELAYS_S = (0.0, 0.002, 0.01, 0.03, 0.1, LIMIT_S)

# No compressor makes it less: when half of it has been taken, the store has begun.
_MORE_THAN_PIPES_HOLD = os.urandom(1 << 20)


class StreamPromises:
    """See StoreContract. Each is tried with every stream that the store speaks."""

    async def test_a_stream_carries_a_result_with_everything_in_it(self, bench: Bench) -> None:
        async with bench.open_store() as store:
            for format in _formats(bench, store):
                id = await _rich(bench, store)
                expected = await _described(bench, store, id)
                async with _exported(store, id, format=format) as stream:
                    await store.delete(id)
                    await _import(store, id, stream)
                assert await _described(bench, store, id) == expected, format
                assert list(await store.leftovers()) == []

    async def test_a_result_that_came_by_a_stream_is_as_any_other(self, bench: Bench) -> None:
        async with bench.open_store() as store:
            for format in _formats(bench, store):
                id = await bench.built(store, "sent")
                async with _exported(store, id, format=format) as stream:
                    await store.delete(id)
                    await _import(store, id, stream)
                child = await bench.built(store, "child", base=id)
                assert await bench.content(store, id) == "sent", format
                assert await bench.content(store, child) == "child", format
                await store.delete(child)
                await store.delete(id)
                assert await store.result(id) is None

    async def test_a_damaged_or_cut_stream_imports_nothing(self, bench: Bench) -> None:
        async with bench.open_store() as store:
            for format in _formats(bench, store):
                id = await _rich(bench, store)
                async with _exported(store, id, format=format) as whole:
                    await store.delete(id)
                    for spoilt in _spoilt(whole.read_bytes()):
                        stream = whole.with_name("spoilt")
                        stream.write_bytes(spoilt)
                        with pytest.raises(StoreError):
                            await _import(store, id, stream)
                        assert await store.result(id) is None, format
                        assert list(await store.leftovers()) == [], format
                    await _import(store, id, whole)
                assert await store.result(id) is not None

    async def test_a_difference_to_a_base_makes_the_whole_result(self, bench: Bench) -> None:
        async with bench.open_store() as store:
            for format in store.stream_formats:
                base = await _rich(bench, store)
                id = await bench.built(store, "child", base=base)
                expected = await _described(bench, store, id)
                async with _exported(store, id, format=format, base=base) as stream:
                    await store.delete(id)
                    await _import(store, id, stream)
                assert await _described(bench, store, id) == expected, format
                try:
                    await store.delete(base)
                except StoreError:  # it may refuse as long as others need it
                    assert await store.result(base) is not None
                assert await _described(bench, store, id) == expected, format
                await store.delete(id)
                await store.delete(base)

    async def test_a_difference_without_its_base_makes_no_other_result(self, bench: Bench) -> None:
        async with bench.open_store() as store:
            for format in store.stream_formats:
                base, other = await _rich(bench, store), await bench.built(store, "other")
                id = await bench.built(store, "child", base=base)
                expected = await _described(bench, store, id)
                async with _exported(store, id, format=format, base=base) as stream:
                    await store.delete(id)
                    elsewhere = stream.with_name("elsewhere")
                    elsewhere.write_bytes(await _based_on(other, stream.read_bytes()))
                    await _import_or_refuse(bench, store, id, stream=elsewhere, expected=expected)
                    await store.delete(id)
                    await store.delete(base)
                    code = await _import_or_refuse(
                        bench, store, id, stream=stream, expected=expected
                    )
                # By this code a sender knows that the whole result would do.
                assert code in {None, "store.stream-base"}, format

    async def test_an_import_that_is_cancelled_leaves_nothing(self, bench: Bench) -> None:
        async with bench.open_store() as store:
            for format in _formats(bench, store):
                id = await _rich(bench, store, log=_MORE_THAN_PIPES_HOLD)
                async with _exported(store, id, format=format) as whole:
                    await store.delete(id)
                    half = whole.read_bytes()[: whole.stat().st_size // 2]
                    await _import_and_cancel(store, id, half)
                    assert await store.result(id) is None, format
                    assert list(await store.leftovers()) == [], format
                    await _import(store, id, whole)

    async def test_an_import_that_is_killed_leaves_all_or_nothing(self, bench: Bench) -> None:
        async with bench.open_store() as store:
            for format in _formats(bench, store):
                id = await _rich(bench, store, log=_MORE_THAN_PIPES_HOLD)
                expected = await _described(bench, store, id)
                async with _exported(store, id, format=format) as whole:
                    await store.delete(id)
                    await _import_half_and_kill(bench, store, id, whole=whole)
                    await _check_killed(bench, id, expected=expected, ended=False)
                    for delay_s in DELAYS_S:
                        path = str(whole)
                        async with bench.other_process(store, "import", id, needed=path) as other:
                            ended = await other.go_on_for(delay_s)
                        await _check_killed(bench, id, expected=expected, ended=ended)
                    await _import(store, id, whole)


async def _check_killed(bench: Bench, id: Id, *, expected: tuple[object, ...], ended: bool) -> None:
    async with bench.open_store() as store, bench.lock(store, id):
        for leftover in await store.leftovers():
            assert leftover.key == id
            await store.discard(leftover)
        if await store.result(id) is None:
            assert not ended, "an import that ended is not there"
        else:
            assert await _described(bench, store, id) == expected
        await store.delete(id)
        assert list(await store.leftovers()) == []


def _formats(bench: Bench, store: AnyStore) -> list[str]:
    plain = [PLAIN] if bench.can_send_plain else []
    formats = [*plain, *store.stream_formats]
    assert formats, "it speaks no stream"
    return formats


async def _rich(bench: Bench, store: AnyStore, *, log: bytes = b"log\xff\n") -> Id:
    id = new_id()
    async with store.build(id) as path:
        await bench.trees.make_rich(path / "rootfs")
        (path / "log").write_bytes(log)
        (path / "env").write_text("env")
    return id


async def _described(bench: Bench, store: AnyStore, id: Id) -> tuple[object, ...]:
    path = await store.result(id)
    assert path is not None, f"result {id} is gone"
    tree = dict(await bench.trees.describe(path / "rootfs"))
    return tree, describe_data((path / "log").read_bytes()), (path / "env").read_text()


async def _import_or_refuse(
    bench: Bench, store: AnyStore, id: Id, *, stream: Path, expected: tuple[object, ...]
) -> str | None:
    """The code of the refusal, after which there is nothing; None: the result is as it was."""
    try:
        await _import(store, id, stream)
    except StoreError as error:
        assert await store.result(id) is None
        assert list(await store.leftovers()) == []
        return error.code
    assert await _described(bench, store, id) == expected
    return None


async def _based_on(base: Id, stream: bytes) -> bytes:
    """A stream as it would be if its sender named another base."""
    line, _, compressed = stream.partition(b"\n")
    other = b" ".join([*line.split(b" ")[:-1], base.encode()])
    whole = (await run(("zstd", "--decompress"), stdin=compressed)).stdout
    assert whole.startswith(line)
    again = await run(("zstd",), stdin=other + whole.removeprefix(line))
    return other + b"\n" + again.stdout


@asynccontextmanager
async def _exported(
    store: AnyStore, id: Id, *, format: str, base: Id | None = None
) -> AsyncIterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "stream")
        with path.open("wb") as file, anyio.fail_after(LIMIT_S):  # noqa: ASYNC230 - a file of its own
            await send(store, Header(id=id, format=format, base=base), file.fileno())
        yield path


async def _import(store: AnyStore, id: Id, stream: Path) -> None:
    with stream.open("rb") as file, anyio.fail_after(LIMIT_S):
        header = await receive_header(file.fileno())
        assert header.id == id
        async with receive(store, header, file.fileno()):
            pass


async def _import_and_cancel(store: AnyStore, id: Id, data: bytes) -> None:
    """Cancel when the store has taken the data of a stream that does not end."""
    reader, writer = os.pipe()
    begun = anyio.Event()

    async def write() -> None:
        os.set_blocking(writer, False)
        await _write_until_read(writer, reader, data)
        # The decompressor may have read it all, and the store nothing.
        await begun.wait()
        tasks.cancel_scope.cancel()

    try:
        with anyio.fail_after(LIMIT_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(write)
                header = await receive_header(reader)
                assert header.id == id
                with _telling_begin(store, begun):
                    async with receive(store, header, reader):
                        pytest.fail("it took half a stream for a whole one")
    finally:
        os.close(reader)
        os.close(writer)


@contextmanager
def _telling_begin(store: AnyStore, begun: anyio.Event) -> Iterator[None]:
    """Set the event when the store is asked to make a result, of a stream or for one."""

    def telling(real: Callable[..., Any]) -> Callable[..., Any]:
        def make(*args: Any, **named: Any) -> Any:
            begun.set()
            return real(*args, **named)

        return make

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "build", telling(store.build))
        patch.setattr(store, "import_", telling(store.import_))
        yield


async def _import_half_and_kill(bench: Bench, store: AnyStore, id: Id, *, whole: Path) -> None:
    """Kill another process when its store has taken half a stream and waits for more."""
    fifo = whole.with_name("fifo")
    os.mkfifo(fifo)
    half = whole.read_bytes()[: whole.stat().st_size // 2]
    start = half.index(b"\n") + 1
    # Also for reading: otherwise it could not be opened before the other process does.
    descriptor = os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.write(descriptor, half[:start])
        async with bench.other_process(store, "import", id, needed=str(fifo)):
            with anyio.fail_after(LIMIT_S):
                await _write_until_read(descriptor, descriptor, half[start:])
    finally:
        os.close(descriptor)


async def _write_until_read(writer: int, reader: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        await anyio.wait_writable(writer)
        rest = rest[os.write(writer, rest[:4096]) :]
    while _waiting(reader):
        await anyio.lowlevel.checkpoint()


def _waiting(reader: int) -> int:
    """Bytes in a pipe that nobody has read; ioctl_tty(2)."""
    answer = bytearray(4)
    fcntl.ioctl(reader, termios.FIONREAD, answer)
    return int.from_bytes(answer, sys.byteorder)


def _spoilt(whole: bytes) -> list[bytes]:
    start = whole.index(b"\n") + 1
    places = [start + (len(whole) - start) * part // 10 for part in (1, 5, 9)]
    # More than a bit: there are some that no decompressor looks at.
    flipped = [
        whole[:at] + bytes(byte ^ 0xFF for byte in whole[at : at + 16]) + whole[at + 16 :]
        for at in places
    ]
    # The parent, which nothing in the result need tell.
    other = whole.replace(b" - ", b" " + b"0" * 64 + b" ", 1)
    return [
        other,
        *flipped,
        *(whole[:at] for at in places),
        whole[:-1],
        whole[:start],
        whole + b"more",
    ]
