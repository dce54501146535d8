"""Unpacking: nothing lands outside the root, and what lands inside is what the archive says."""

import contextlib
import io
import os
import stat
import sys
import tarfile
from pathlib import Path
from typing import Any

import anyio
import pytest

from obuilder import process
from obuilder.errors import FetchError
from obuilder.unpack import Unpacked, unpack

pytestmark = pytest.mark.anyio

Entry = tuple[tarfile.TarInfo, bytes]
LIMIT_S = 20.0


def entry(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: Any) -> Entry:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode = kind, len(data), 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def directory(name: str, **fields: Any) -> Entry:
    return entry(name, tarfile.DIRTYPE, **fields)


def symlink(name: str, target: str) -> Entry:
    return entry(name, tarfile.SYMTYPE, linkname=target)


def hard_link(name: str, target: str) -> Entry:
    return entry(name, tarfile.LNKTYPE, linkname=target)


def tar(*entries: Entry) -> bytes:
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape"
    ) as file:
        for info, data in entries:
            file.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    if os.geteuid() != 0:
        if os.environ.get("CI") == "true":
            pytest.fail("unpacking needs root")
        pytest.skip("unpacking needs root")
    path = tmp_path / "outer" / "rootfs"
    path.mkdir(parents=True)
    return path


async def unpack_bytes(data: bytes, rootfs: Path) -> Unpacked:
    file = rootfs.parent.parent / "archive"
    file.write_bytes(data)
    with file.open("rb") as opened, anyio.fail_after(LIMIT_S):
        return await unpack(opened.fileno(), rootfs)


def names_in(rootfs: Path) -> list[str]:
    return sorted(str(path.relative_to(rootfs)) for path in rootfs.rglob("*"))


async def test_files_directories_and_links_are_unpacked_and_counted(rootfs: Path) -> None:
    done = await unpack_bytes(
        tar(
            directory("d"), entry("d/f", data=b"hello"), symlink("s", "d/f"), hard_link("h", "d/f")
        ),
        rootfs,
    )
    assert (done.entries, done.size_bytes) == (4, 5)
    assert names_in(rootfs) == ["d", "d/f", "h", "s"]
    assert (rootfs / "h").samefile(rootfs / "d/f")
    assert (rootfs / "s").read_bytes() == b"hello"


async def test_absolute_names_land_inside(rootfs: Path) -> None:
    await unpack_bytes(tar(entry(f"{rootfs.parent}/f", data=b"x"), entry("//g")), rootfs)
    assert (rootfs / str(rootfs.parent)[1:] / "f").read_bytes() == b"x"
    assert (rootfs / "g").is_file()
    assert os.listdir(rootfs.parent) == ["rootfs"]


@pytest.mark.parametrize("name", ["../f", "a/../../f", "a/..", ".."])
async def test_names_that_go_up_are_refused(rootfs: Path, name: str) -> None:
    with pytest.raises(FetchError) as caught:
        await unpack_bytes(tar(entry(name, data=b"x")), rootfs)
    assert caught.value.code == "archive.unsafe-name"
    assert os.listdir(rootfs.parent) == ["rootfs"]


async def test_hard_link_that_goes_up_is_refused(rootfs: Path) -> None:
    with pytest.raises(FetchError) as caught:
        await unpack_bytes(tar(hard_link("f", "../archive")), rootfs)
    assert caught.value.code == "archive.unsafe-name"


@pytest.mark.parametrize("up", ["absolute", "relative"])
async def test_file_written_through_a_symlink_stays_inside(rootfs: Path, up: str) -> None:
    outside = rootfs.parent / "victim"
    outside.mkdir()
    target = str(outside) if up == "absolute" else "../victim"
    with contextlib.suppress(FetchError):  # a dangling link: refusing is fine, escaping is not
        await unpack_bytes(tar(symlink("s", target), entry("s/f", data=b"x")), rootfs)
    assert os.listdir(outside) == []


def host_facts(rootfs: Path) -> tuple[object, ...]:
    root, outer = Path("/").stat(), rootfs.parent.stat()
    here = Path("/obuilder-was-here").exists()
    return root.st_uid, root.st_mode, outer.st_uid, outer.st_mode, here


async def test_link_to_the_root_directory_means_the_new_root(rootfs: Path) -> None:
    before = host_facts(rootfs)
    await unpack_bytes(
        tar(symlink("s", "/"), directory("s", uid=77, mode=0o700), entry("s/obuilder-was-here")),
        rootfs,
    )
    assert names_in(rootfs)[:2] == ["obuilder-was-here", "s"]
    assert (rootfs / "s").is_symlink()
    assert host_facts(rootfs) == before


async def test_hard_link_to_a_file_of_the_host_is_refused(rootfs: Path) -> None:
    victim = rootfs.parent / "victim"
    victim.write_bytes(b"host")
    for name in (str(victim), "/etc/passwd"):
        with pytest.raises(FetchError) as caught:
            await unpack_bytes(tar(hard_link("f", name), entry("f", data=b"x")), rootfs)
        assert caught.value.code == "archive.corrupt"
    assert (victim.read_bytes(), victim.stat().st_nlink) == (b"host", 1)


async def test_hard_link_to_a_symlink_is_the_symlink(rootfs: Path) -> None:
    victim = rootfs.parent / "victim"
    victim.write_bytes(b"host")
    await unpack_bytes(
        tar(symlink("s", str(victim)), hard_link("h", "s"), entry("h", data=b"x")), rootfs
    )
    assert (rootfs / "h").read_bytes() == b"x"
    assert victim.read_bytes() == b"host"
    await unpack_bytes(tar(symlink("s", str(victim)), hard_link("h", "s")), rootfs)
    assert str((rootfs / "h").readlink()) == str(victim)
    assert (rootfs / "h").lstat().st_ino == (rootfs / "s").lstat().st_ino


async def test_hard_link_to_itself_keeps_the_file(rootfs: Path) -> None:
    await unpack_bytes(tar(entry("f", data=b"x"), hard_link("./f", "f")), rootfs)
    assert (rootfs / "f").read_bytes() == b"x"


async def test_hard_link_to_a_directory_is_refused(rootfs: Path) -> None:
    with pytest.raises(FetchError) as caught:
        await unpack_bytes(tar(directory("d"), hard_link("f", "d")), rootfs)
    assert caught.value.code == "archive.corrupt"


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
async def test_file_named_like_a_device_replaces_it_unopened(rootfs: Path, kind: bytes) -> None:
    # 1:11 is /dev/kmsg, 7:77 a loop device: a write there would be seen, a fifo would hang.
    node = entry("n", kind, devmajor=1 if kind == tarfile.CHRTYPE else 7, devminor=11)
    await unpack_bytes(tar(node, entry("n", data=b"x")), rootfs)
    assert stat.S_ISREG((rootfs / "n").lstat().st_mode)
    assert (rootfs / "n").read_bytes() == b"x"


async def test_directory_swapped_for_a_symlink_keeps_later_files_inside(rootfs: Path) -> None:
    outside = rootfs.parent / "victim"
    outside.mkdir(mode=0o755)
    # It changes with owner, mode and times, but not when the directory is only listed.
    before = outside.stat().st_ctime_ns
    with contextlib.suppress(FetchError):
        await unpack_bytes(
            tar(directory("d", mtime=1), symlink("d", str(outside)), entry("d/f", data=b"x")),
            rootfs,
        )
    assert os.listdir(outside) == []
    assert outside.stat().st_ctime_ns == before


async def test_full_directory_is_not_replaced_by_a_file(rootfs: Path) -> None:
    with pytest.raises(FetchError) as caught:
        await unpack_bytes(tar(entry("d/f"), entry("d", data=b"x")), rootfs)
    assert caught.value.code == "archive.conflict"


async def test_file_is_no_parent(rootfs: Path) -> None:
    with pytest.raises(FetchError) as caught:
        await unpack_bytes(tar(entry("f"), entry("f/g")), rootfs)
    assert caught.value.code == "archive.conflict"


async def test_existing_directory_or_link_to_one_is_used_as_it_is(rootfs: Path) -> None:
    await unpack_bytes(
        tar(
            directory("usr/bin", mode=0o711),
            symlink("bin", "usr/bin"),
            directory("bin", mode=0o700),
            entry("bin/sh", data=b"sh"),
        ),
        rootfs,
    )
    assert str((rootfs / "bin").readlink()) == "usr/bin"
    assert (rootfs / "usr/bin/sh").read_bytes() == b"sh"
    assert stat.S_IMODE((rootfs / "usr/bin").stat().st_mode) == 0o711


async def test_last_of_several_entries_with_one_name_wins(rootfs: Path) -> None:
    await unpack_bytes(
        tar(
            entry("f", data=b"one"),
            hard_link("other", "f"),
            entry("f", data=b"two"),
            directory("d", mode=0o700),
            directory("d", mode=0o750),
            entry("e", data=b"file"),
            directory("e"),
            directory("g", mtime=5),
            symlink("g", "f"),
        ),
        rootfs,
    )
    assert (rootfs / "f").read_bytes() == b"two"
    assert (rootfs / "other").read_bytes() == b"one"
    assert stat.S_IMODE((rootfs / "d").stat().st_mode) == 0o750
    assert (rootfs / "e").is_dir()
    assert (rootfs / "g").is_symlink()
    assert (rootfs / "g").lstat().st_mtime == 0


async def test_missing_parents_are_root_s_and_0755(rootfs: Path) -> None:
    await unpack_bytes(tar(entry("a/b/f", uid=5)), rootfs)
    found = (rootfs / "a/b").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, 0, 0o755)


@pytest.mark.parametrize("name", ["x" * 256, "d/" * 3000 + "f"])
async def test_names_that_no_file_system_takes_are_refused(rootfs: Path, name: str) -> None:
    with pytest.raises(FetchError) as caught:
        await unpack_bytes(tar(entry(name)), rootfs)
    assert caught.value.code == "archive.unsafe-name"
    assert len(str(caught.value)) < 400


async def test_names_keep_bytes_that_are_not_utf8(rootfs: Path) -> None:
    name = b"caf\xe9/\xff\xfe\n".decode("utf-8", "surrogateescape")
    await unpack_bytes(tar(entry(name, data=b"x"), symlink("s", name)), rootfs)
    assert (rootfs / name).read_bytes() == b"x"
    assert os.fsencode((rootfs / "s").readlink()) == b"caf\xe9/\xff\xfe\n"


async def test_error_shows_control_characters_escaped(rootfs: Path) -> None:
    with pytest.raises(FetchError) as caught:
        await unpack_bytes(tar(entry("../\x1b[2J\n")), rootfs)
    assert "\x1b" not in str(caught.value)
    assert "\\x1b[2J\\n" in caught.value.what


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (entry("f", uid=2**32 - 1), "archive.corrupt"),
        (entry("f", gid=2**40), "archive.corrupt"),
        (entry(".", data=b"x"), "archive.corrupt"),
        (symlink("/", "x"), "archive.corrupt"),
        (symlink("s", ""), "archive.conflict"),
        (entry("f", b"Q"), "archive.unsupported"),
        (entry("f", pax_headers={"path": "a\0b"}), "archive.corrupt"),
        (entry("f", pax_headers={"mtime": "inf"}), "archive.corrupt"),
        (entry("f", pax_headers={"size": "-512"}), "archive.corrupt"),
        (
            entry("f", pax_headers={"GNU.sparse.map": "9,9", "GNU.sparse.size": "3"}),
            "archive.corrupt",
        ),
        (entry("f", pax_headers={"GNU.sparse.map": "x"}), "archive.corrupt"),
    ],
)
async def test_impossible_entries_are_refused(rootfs: Path, bad: Entry, code: str) -> None:
    with pytest.raises(FetchError) as caught:
        await unpack_bytes(tar(bad, entry("g")), rootfs)
    assert caught.value.code == code


async def test_endless_chain_of_long_names_is_refused(rootfs: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = b"L", 2
    block = info.tobuf(tarfile.GNU_FORMAT) + b"a\0".ljust(512, b"\0")
    with pytest.raises(FetchError) as caught:
        await unpack_bytes(block * 3000, rootfs)
    assert caught.value.code in ("archive.corrupt", "archive.truncated")


async def test_header_of_gigabytes_is_refused_before_it_is_read(rootfs: Path) -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = b"x", 8 << 30
    with pytest.raises(FetchError) as caught:
        await unpack_bytes(info.tobuf(tarfile.GNU_FORMAT), rootfs)
    assert caught.value.code == "archive.corrupt"


async def test_python_modules_in_the_archive_are_never_run(rootfs: Path) -> None:
    # What a careless late import inside the root would find.
    trap = b"open('/trapped', 'w')\n"

    modules = ("bz2.py", "gzip.py", "lzma.py", "traceback.py", "linecache.py", "encodings/idna.py")
    entries = [entry(f"{path}/{name}", data=trap) for path in sys.path if path for name in modules]
    with pytest.raises(FetchError):
        await unpack_bytes(tar(*entries, entry("../x")), rootfs)
    assert not (rootfs / "trapped").exists()


async def feed(descriptor: int, data: bytes) -> None:
    def write() -> None:
        with contextlib.suppress(BrokenPipeError), os.fdopen(descriptor, "wb") as pipe:
            pipe.write(data)

    await anyio.to_thread.run_sync(write)


async def test_archive_is_read_from_a_pipe(rootfs: Path) -> None:
    reader, writer = os.pipe()
    data = os.urandom(300_000)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(feed, writer, tar(entry("f", data=data), symlink("s", "f")))
        done = await unpack(reader, rootfs)
    os.close(reader)
    assert done.entries == 2
    assert (rootfs / "f").read_bytes() == data


async def test_pipe_whose_writer_dies_is_a_truncated_archive(rootfs: Path) -> None:
    reader, writer = os.pipe()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(feed, writer, tar(entry("f", data=bytes(300_000)))[:200_000])
        with pytest.raises(FetchError) as caught:
            await unpack(reader, rootfs)
    os.close(reader)
    assert caught.value.code == "archive.truncated"


async def test_cancelling_ends_the_process_at_once(rootfs: Path) -> None:
    reader, writer = os.pipe()
    # More than a pipe holds: when all is written, the process is at work.
    start = tar(entry("f", data=bytes(2_000_000)))[:1_500_000]

    def write() -> None:
        left = memoryview(start)
        while left:
            left = left[os.write(writer, left) :]

    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(unpack, reader, rootfs)
            await anyio.to_thread.run_sync(write)
            tasks.cancel_scope.cancel()
    os.close(reader)
    with pytest.raises(BrokenPipeError):  # nobody has the other end any more
        os.write(writer, b"x")
    os.close(writer)


@pytest.mark.parametrize("missing", ["rootfs", "descriptor"])
async def test_what_cannot_be_used_is_reported(rootfs: Path, missing: str) -> None:
    target = rootfs / "none" if missing == "rootfs" else rootfs
    descriptor = os.open("/dev/null", os.O_WRONLY if missing == "descriptor" else os.O_RDONLY)
    try:
        with pytest.raises(FetchError) as caught:
            await unpack(descriptor, target)
    finally:
        os.close(descriptor)
    expected = "archive.unwritable" if missing == "rootfs" else "archive.unreadable"
    assert caught.value.code == expected


async def test_without_the_rights_of_root_it_says_what_is_needed(rootfs: Path) -> None:
    script = (
        "import anyio, pathlib, sys\n"
        "from obuilder.errors import FetchError\n"
        "from obuilder.unpack import unpack\n"
        "try: anyio.run(unpack, 0, pathlib.Path(sys.argv[1]))\n"
        "except FetchError as error: print(error.code, error.hint)\n"
    )
    weak = ["setpriv", "--bounding-set", "-sys_chroot", sys.executable, "-c", script]
    done = await process.run([*weak, str(rootfs)], stdin=tar(entry("f")))
    assert done.stdout.startswith(b"archive.needs-root run obuilder as root")
