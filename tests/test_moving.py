"""Results move between stores whole, or not at all."""

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import anyio
import pytest
from support.builds import Parts, open_parts, stage
from support.command import Command

from obuilder.errors import StoreError
from obuilder.testing._trees import describe_tree, make_rich_tree
from obuilder.types import Id

OPS = '(run (shell "echo one >/one"))(run (shell "echo two >/two; mkfifo /f; ln /one /hard"))'


def ids(command: Command) -> list[str]:
    return sorted(os.listdir(Path(command.store.partition(":")[2]) / "result"))


@pytest.mark.timeout(240)
def test_a_pushed_result_is_whole_and_a_build_takes_it(obuilder: Command, btrfs_root: Path) -> None:
    here, there = obuilder.store, f"btrfs:{btrfs_root}/pushed"
    id_file = obuilder.directory / "id"
    assert obuilder.build(OPS, "--id-file", str(id_file)).returncode == 0
    last = id_file.read_text().strip()
    chain = [line for line in ids(obuilder) if line != last]
    for id in (*chain, last):
        done = obuilder("push", id, "--to", there)
        assert (done.returncode, done.stdout) == (0, f"Copied {id}\n".encode()), done.stderr
    again = obuilder("push", last, "--to", there)
    assert again.stdout == f"There already: {last}\n".encode()
    roots = [Path(store.partition(":")[2]) / "result" / last for store in (here, there)]
    assert describe_tree(roots[0] / "rootfs") == describe_tree(roots[1] / "rootfs")
    assert (roots[0] / "log").read_bytes() == (roots[1] / "log").read_bytes()
    obuilder.store = there
    built = obuilder.build(OPS)
    assert built.stdout.count(b'" from cache\n') == 3
    (btrfs_root / "empty").mkdir()
    obuilder.store = f"rsync:{btrfs_root}/empty"
    pulled = obuilder("pull", last, "--from", there)
    assert pulled.returncode == 0, pulled.stderr
    assert ids(obuilder) == [last]


def test_what_cannot_be_moved_is_explained(obuilder: Command) -> None:
    unknown = obuilder("push", "0" * 64, "--to", f"rsync:{obuilder.directory}/other")
    assert unknown.returncode == 1
    assert unknown.stderr == f"obuilder: there is no result {'0' * 64}\n".encode()
    wrong = obuilder("pull", "0" * 64, "--from", "rsink:/x")
    assert wrong.returncode == 2
    assert b"--from: store: store 'rsink' is not installed" in wrong.stderr


async def exported(parts: Parts, id: Id) -> bytes:
    reader, writer = os.pipe()
    data = b""

    async def read() -> None:
        nonlocal data
        while True:
            await anyio.wait_readable(reader)
            piece = os.read(reader, 65536)
            if not piece:
                return
            data += piece

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        try:
            await parts.builder.export(id, writer)
        finally:
            os.close(writer)
    os.close(reader)
    return data


async def imported(parts: Parts, id: Id, data: bytes) -> bool:
    file = parts.store.root / "state" / "stream"
    file.write_bytes(data)
    with file.open("rb") as source:
        return await parts.builder.import_(id, source.fileno())


@pytest.mark.anyio
async def test_everything_in_a_tree_moves_and_a_bad_stream_leaves_nothing(tmp_path: Path) -> None:
    async with open_parts(tmp_path / "one") as one, open_parts(tmp_path / "two") as two:
        base = (await one.builder.build(stage("((from b))"))).id
        id = Id("a" * 64)
        async with one.store.build(id, base=base) as path:
            shutil.rmtree(path / "rootfs")
            make_rich_tree(path / "rootfs")
            expected = describe_tree(path / "rootfs")
        data = await exported(one, id)
        middle = len(data) // 2
        for bad in (
            data[:-1],
            data[:middle],
            data[:100],
            b"",
            data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            data + b"more",
            data.replace(b"a" * 64, b"b" * 64, 1),
        ):
            with pytest.raises(StoreError):
                await imported(two, id, bad)
            assert await two.store.result(id) is None
            assert await two.store.leftovers() == []
        assert await imported(two, id, data) is True
        assert await imported(two, id, data) is False
        saved = await two.store.result(id)
        assert saved is not None
        assert describe_tree(saved / "rootfs") == expected
        with closing(sqlite3.connect(two.store.state_dir / "db/db.sqlite")) as database:
            rows = database.execute("SELECT id, rc, parent FROM builds").fetchall()
        assert rows == [(id, 0, None)]
