"""Results move between stores whole, or not at all."""

import json
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

import anyio
import pytest
from support.builds import Parts, ScriptedSandbox, TinyFetcher, open_parts, stage
from support.command import Command
from support.filesystems import mounted_image

from obuilder import Builder, locks
from obuilder._core import pieces
from obuilder.errors import StoreError
from obuilder.testing._trees import describe_tree, make_rich_tree
from obuilder.types import Id
from obuilder_store_btrfs import BtrfsStore

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
async def test_a_sink_that_is_full_is_no_full_store(tmp_path: Path) -> None:
    async with open_parts(tmp_path) as parts:
        id = (await parts.builder.build(stage("((from b))"))).id
        large = parts.store.root / "result" / id / "rootfs" / "large"
        large.write_bytes(os.urandom(1 << 20))
        full = os.open("/dev/full", os.O_WRONLY)
        with pytest.raises(StoreError) as caught:
            await parts.builder.export(id, full)
        os.close(full)
    assert "No space left on device" in caught.value.what
    assert caught.value.code != "store.full"


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
            # There are bits that zstd ignores.
            data[:middle] + bytes(byte ^ 0xFF for byte in data[middle:][:16]) + data[middle + 16 :],
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


SIDE = {
    "version": 1,
    "id": "a" * 64,
    "parent": None,
    "op": "run",
    "context": "()",
    "preimage": "()",
    "duration_s": 1,
    "size_bytes": None,
    "digest": None,
    "platform": None,
}


@pytest.mark.anyio
@pytest.mark.parametrize(
    "side",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"id": "' + b"a" * 64 + b'"}',
        *(
            json.dumps({**SIDE, **change}).encode()
            for change in (
                {"parent": "../.."},
                {"parent": 1},
                {"op": ["run"]},
                {"preimage": "\ud800"},
                {"duration_s": float("nan")},
                {"duration_s": -1},
                {"duration_s": "1"},
                {"duration_s": True},
                {"size_bytes": 1 << 63},
                {"size_bytes": 1.5},
            )
        ),
    ],
    ids=range(15),
)
async def test_a_record_that_cannot_be_kept_leaves_nothing(tmp_path: Path, side: bytes) -> None:
    id = Id("a" * 64)
    async with open_parts(tmp_path / "one") as one, open_parts(tmp_path / "two") as two:
        async with one.store.build(id) as path:
            (path / "rootfs").mkdir()
            (path / "obuilder.json").write_bytes(side)
        data = await exported(one, id)
        with pytest.raises(StoreError, match=r"obuilder\.json cannot be read: "):
            await imported(two, id, data)
        assert await two.store.result(id) is None
        assert await two.store.leftovers() == []


@pytest.mark.anyio
async def test_what_a_result_was_built_on_moves_with_it(tmp_path: Path) -> None:
    """Also by a store whose database does not know it: it got the result without that."""
    places = [tmp_path / name for name in ("one", "two", "three")]
    async with AsyncExitStack() as stack:
        one, two, three = [await stack.enter_async_context(open_parts(path)) for path in places]
        last = (await one.builder.build(stage('((from b) (run (shell "true")))'))).id
        with closing(sqlite3.connect(one.store.state_dir / "db/db.sqlite")) as database:
            ((base,),) = database.execute("SELECT parent FROM builds WHERE id = ?", (last,))
        await one.builder.push(last, two.builder)
        for id in (base, last):
            sender = one if id == base else two
            assert await sender.builder.push(id, three.builder) is True
        with closing(sqlite3.connect(three.store.state_dir / "db/db.sqlite")) as database:
            rows = set(database.execute("SELECT id, rc, parent FROM builds"))
    assert rows == {(base, 1, None), (last, 0, base)}


@pytest.fixture
def other_btrfs() -> Iterator[Path]:
    """Another btrfs than `btrfs_root` is on."""
    with mounted_image("mkfs.btrfs", "--quiet") as mounted:
        yield mounted


@pytest.mark.anyio
async def test_a_sender_that_fails_at_its_end_sends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As tar does of a file that it cannot read: the rest, and status 2."""
    real = shutil.which("tar")
    (tmp_path / "bin").mkdir()
    shim = tmp_path / "bin" / "tar"
    shim.write_text(f'#!/bin/sh\ncase $1 in --create) {real} "$@"; exit 2;; esac\nexec {real} "$@"')
    shim.chmod(0o755)
    async with open_parts(tmp_path / "one") as one, open_parts(tmp_path / "two") as two:
        id = (await one.builder.build(stage("((from b))"))).id
        with monkeypatch.context() as patch:
            patch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
            with pytest.raises(StoreError, match="status 2"):
                await one.builder.push(id, two.builder)
        assert await two.store.result(id) is None
        assert await two.store.leftovers() == []
        assert await one.builder.push(id, two.builder) is True


@pytest.mark.anyio
async def test_a_wait_for_who_makes_the_result_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    waits = anyio.Event()

    def tell(text: str, *values: object) -> None:
        told.append(text % values)
        waits.set()

    monkeypatch.setattr(locks, "TELL_AFTER_S", 0.01)
    monkeypatch.setattr(pieces._logger, "warning", tell)
    async with open_parts(tmp_path / "one") as one, open_parts(tmp_path / "two") as two:
        id = (await one.builder.build(stage("((from b))"))).id
        with anyio.fail_after(60):
            async with (
                anyio.create_task_group() as tasks,
                locks.Locks(two.store.state_dir / "locks").hold(id),
            ):
                tasks.start_soon(one.builder.push, id, two.builder)
                await waits.wait()
                assert await two.store.result(id) is None
        assert await two.store.result(id) is not None
    (line,) = told
    assert line.startswith(f"waiting for result {id}, which process {os.getpid()} has had since ")


@asynccontextmanager
async def btrfs_builder(location: Path) -> AsyncIterator[tuple[BtrfsStore, Builder]]:
    async with (
        BtrfsStore.open(str(location), BtrfsStore.Config()) as store,
        Builder(store, ScriptedSandbox(), TinyFetcher()) as builder,
    ):
        yield store, builder


async def saved(store: BtrfsStore, id: Id, *, base: Id | None = None, file: str) -> None:
    async with store.build(id, base=base) as path:
        (path / "rootfs").mkdir(exist_ok=True)
        (path / "rootfs" / file).write_bytes(os.urandom(32 << 20 if base is None else 1000))
        (path / "log").write_text(f"log of {file}")


def record(store: BtrfsStore, parents: Mapping[Id, Id | None]) -> None:
    """As builds do it."""
    now = "2026-01-01 00:00:00"
    with closing(sqlite3.connect(store.state_dir / "db" / "db.sqlite")) as database, database:
        database.executemany(
            "INSERT INTO builds (id, created, used, rc, parent) VALUES (?, ?, ?, 0, ?)",
            [(id, now, now, parent) for id, parent in parents.items()],
        )


def used_mib(path: Path) -> float:
    os.sync()
    space = os.statvfs(path)
    return (space.f_blocks - space.f_bfree) * space.f_frsize / 2**20


@pytest.mark.anyio
async def test_between_btrfs_stores_only_what_differs_moves(
    btrfs_root: Path, other_btrfs: Path
) -> None:
    chain = [Id(letter * 64) for letter in "abc"]
    async with (
        btrfs_builder(btrfs_root / "here") as (here, sender),
        btrfs_builder(other_btrfs / "there") as (there, receiver),
    ):
        for number, id in enumerate(chain):
            base = chain[number - 1] if number else None
            await saved(here, id, base=base, file=f"f{number}")
        record(here, dict(zip(chain, [None, *chain], strict=False)))
        assert await sender.push(chain[0], receiver) is True
        before = used_mib(other_btrfs)
        for id in chain[1:]:
            assert await sender.push(id, receiver) is True
            assert await sender.push(id, receiver) is False
        assert used_mib(other_btrfs) - before < 8
        for id in chain:
            source, target = await here.result(id), await there.result(id)
            assert source and target
            assert describe_tree(target / "rootfs") == describe_tree(source / "rootfs")
            assert (target / "log").read_bytes() == (source / "log").read_bytes()
            with pytest.raises(OSError, match="Read-only"):
                (target / "rootfs" / "f0").write_text("changed")
        assert await there.leftovers() == []


@pytest.mark.anyio
async def test_a_base_that_came_by_other_ways_is_no_base_of_a_difference(
    btrfs_root: Path, other_btrfs: Path, tmp_path: Path
) -> None:
    base, child = Id("a" * 64), Id("b" * 64)
    async with (
        btrfs_builder(btrfs_root / "here") as (here, sender),
        btrfs_builder(other_btrfs / "there") as (there, receiver),
    ):
        await saved(here, base, file="f0")
        await saved(here, child, base=base, file="f1")
        record(here, {base: None, child: base})
        with (tmp_path / "stream").open("w+b") as file:
            await sender.export(base, file.fileno())
            file.seek(0)
            assert await receiver.import_(base, file.fileno())
        assert await sender.push(child, receiver) is True
        found = await there.result(child)
        assert found
        assert (found / "rootfs" / "f1").stat().st_size == 1000
        assert await there.leftovers() == []
