"""Who cancels a move is not told what it does to the other end of a stream."""

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from support.builds import open_parts, stage

from obuilder import result_stream
from obuilder._core import mover
from obuilder.errors import StoreError
from obuilder.process import call
from obuilder.result_stream import Header

LIMIT_S = 60
LARGE_BYTES = 1 << 19  # a pipe may hold twice that, by default; proc(5)

pytestmark = pytest.mark.anyio


async def test_an_import_that_is_cancelled_is_not_told_that_its_stream_ended_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_parts(tmp_path / "one") as one, open_parts(tmp_path / "two") as two:
        id = (await one.builder.build(stage("((from b))"))).id
        large = one.store.root / "result" / id / "rootfs" / "large"
        large.write_bytes(os.urandom(LARGE_BYTES))
        reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 2 * LARGE_BYTES)
        await one.builder.export(id, writer)
        whole = os.read(reader, 2 * LARGE_BYTES)
        os.write(writer, whole[: LARGE_BYTES // 2])
        decompressed = anyio.Event()

        async def late(argv: Sequence[str], **options: Any) -> int:
            if argv[0] == "zstd":
                try:
                    return await call(argv, **options)
                finally:
                    decompressed.set()
            scope.cancel()
            # As if this process got no processor before tar had seen the end.
            with anyio.CancelScope(shield=True):
                await decompressed.wait()
                status = await call(argv, **options)
            return status  # noqa: RET504 - a scope may end its block early, to mypy

        monkeypatch.setattr(result_stream, "call", late)
        with anyio.fail_after(LIMIT_S), anyio.CancelScope() as scope:
            await two.builder.import_(id, reader)
        assert scope.cancelled_caught
        os.close(reader)
        os.close(writer)
        assert await two.store.result(id) is None
        assert await two.store.leftovers() == []


async def test_a_push_that_is_cancelled_is_not_told_that_its_stream_ended_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_parts(tmp_path / "one") as one, open_parts(tmp_path / "two") as two:
        id = (await one.builder.build(stage("((from b))"))).id

        async def late(source: int) -> Header:
            scope.cancel()
            # As if this process got no processor before the sender had ended.
            with anyio.CancelScope(shield=True):
                while await anyio.to_thread.run_sync(os.read, source, 1 << 16):
                    pass
            raise StoreError("the stream is cut")

        monkeypatch.setattr(mover, "receive_header", late)
        with anyio.fail_after(LIMIT_S), anyio.CancelScope() as scope:
            await one.builder.push(id, two.builder)
        assert scope.cancelled_caught
        assert await two.store.result(id) is None
