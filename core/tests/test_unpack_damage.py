"""Unpacking archives that are cut off, damaged, compressed, or too large for the disk."""

import gzip
import hashlib
import io
import lzma
import os
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from support.filesystems import mounted_tmpfs

from obuilder.errors import FetchError
from obuilder.unpack import Compression, Unpacked, unpack

pytestmark = pytest.mark.anyio

LIMIT_S = 20.0
NAMES = ("one", "two", "three")


def plain() -> bytes:
    """Three files of 700 bytes, one with an extended header, and two blocks of zeros."""
    content = random.Random(1)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as file:
        for name in NAMES:
            info = tarfile.TarInfo(name + "o" * 150 if name == "two" else name)
            info.size = 700
            file.addfile(info, io.BytesIO(content.randbytes(699) + b"."))
    return out.getvalue()


PLAIN = plain()
END = len(PLAIN.rstrip(b"\0")) + 511 & ~511
"""Where the first block of zeros starts: 700 bytes of each file fill two blocks."""
PACKED = {"none": PLAIN, "gzip": gzip.compress(PLAIN, mtime=0), "xz": lzma.compress(PLAIN)}


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    if os.geteuid() != 0:
        if os.environ.get("CI") == "true":
            pytest.fail("unpacking needs root")
        pytest.skip("unpacking needs root")
    path = tmp_path / "rootfs"
    path.mkdir()
    return path


async def refusal(data: bytes, rootfs: Path) -> FetchError:
    with pytest.raises(FetchError) as caught:
        await unpack_bytes(data, rootfs)
    return caught.value


async def unpack_bytes(data: bytes, rootfs: Path, *, compression: Compression = "auto") -> Unpacked:
    file = rootfs.parent / "archive"
    file.write_bytes(data)
    with file.open("rb") as opened, anyio.fail_after(LIMIT_S):
        return await unpack(opened.fileno(), rootfs, compression=compression)


async def code_of(data: bytes, rootfs: Path, *, compression: Compression = "auto") -> str:
    with pytest.raises(FetchError) as caught:
        await unpack_bytes(data, rootfs, compression=compression)
    assert "\n" not in caught.value.what
    return caught.value.code


@pytest.mark.parametrize("compression", list(PACKED))
async def test_each_compression_is_found_by_itself(rootfs: Path, compression: str) -> None:
    data = PACKED[compression]
    done = await unpack_bytes(data, rootfs)
    assert done == Unpacked(entries=3, size_bytes=2100, sha256=hashlib.sha256(data).hexdigest())
    assert (rootfs / "three").stat().st_size == 700


async def test_compression_other_than_the_named_is_refused(rootfs: Path) -> None:
    await unpack_bytes(PACKED["xz"], rootfs, compression="xz")
    assert await code_of(PACKED["xz"], rootfs, compression="gzip") == "archive.corrupt"
    assert await code_of(PACKED["gzip"], rootfs, compression="none") == "archive.corrupt"


@pytest.mark.parametrize("compression", list(PACKED))
async def test_cut_off_archive_is_reported(rootfs: Path, compression: str) -> None:
    data = PACKED[compression]
    size = END if compression == "none" else len(data)
    for cut in sorted({0, 1, 5, 100, 511, 512, size // 3, size // 2, size - 9, size - 1}):
        code = await code_of(data[:cut], rootfs)
        # Of a few bytes nobody can tell what they are the start of.
        allowed = ("archive.truncated", "archive.corrupt") if cut < 6 else ("archive.truncated",)
        assert code in allowed, f"cut at {cut}"


async def test_plain_archive_cut_at_any_block_is_reported(rootfs: Path) -> None:
    for cut in range(0, END + 1, 512):
        assert await code_of(PLAIN[:cut], rootfs) == "archive.truncated", f"cut at {cut}"


async def test_one_block_of_zeros_is_an_end(rootfs: Path) -> None:
    assert (await unpack_bytes(PLAIN[: END + 512], rootfs)).entries == 3
    assert (await unpack_bytes(PLAIN[: END + 700], rootfs)).entries == 3


async def test_damaged_header_is_reported_wherever_it_is(rootfs: Path) -> None:
    headers = [at for at in range(0, END, 512) if PLAIN[at + 257 : at + 262] == b"ustar"]
    assert len(headers) == 4  # three files, and the extended header of one
    for at in headers:
        damaged = bytearray(PLAIN)
        damaged[at + 100] ^= 0x55
        assert await code_of(bytes(damaged), rootfs) == "archive.corrupt", f"header at {at}"


async def test_entries_after_an_early_end_are_reported(rootfs: Path) -> None:
    second = next(at for at in range(512, END, 512) if PLAIN[at + 257 : at + 262] == b"ustar")
    hole = PLAIN[:second] + bytes(512) + PLAIN[second + 512 :]
    assert await code_of(hole, rootfs) == "archive.corrupt"
    assert await code_of(PLAIN + PLAIN, rootfs) == "archive.corrupt"


@pytest.mark.parametrize("compression", ["gzip", "xz"])
async def test_damage_anywhere_in_compressed_data_is_reported(
    rootfs: Path, compression: str
) -> None:
    data = PACKED[compression]
    # The gzip header's own flags, time and name carry no checksum.
    places = [len(data) // 3, len(data) // 2, len(data) - 6, len(data) - 1]
    for at in places:
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        code = await code_of(bytes(damaged), rootfs)
        assert code in ("archive.corrupt", "archive.truncated"), f"byte {at}"


async def test_gzip_members_zeros_and_garbage_follow_gzip_s_rules(rootfs: Path) -> None:
    halves = gzip.compress(PLAIN[:1000]) + bytes(7) + gzip.compress(PLAIN[1000:])
    assert (await unpack_bytes(halves, rootfs)).entries == 3
    padded = PACKED["gzip"] + bytes(1000) + b"garbage"
    assert (await unpack_bytes(padded, rootfs)).sha256 == hashlib.sha256(padded).hexdigest()
    cut = halves[: len(halves) - 3]
    assert await code_of(cut, rootfs) == "archive.truncated"


async def test_xz_streams_and_padding_are_read_and_garbage_is_not(rootfs: Path) -> None:
    halves = lzma.compress(PLAIN[:1000]) + bytes(8) + lzma.compress(PLAIN[1000:])
    assert (await unpack_bytes(halves, rootfs)).entries == 3
    assert await code_of(PACKED["xz"] + b"garbage", rootfs) == "archive.corrupt"


@pytest.mark.parametrize("mtime", [2**80, "9" * 25])
async def test_a_time_that_no_file_can_have_is_the_archives_fault(
    rootfs: Path, mtime: int | str
) -> None:
    out = io.BytesIO()
    kind = tarfile.PAX_FORMAT if isinstance(mtime, str) else tarfile.GNU_FORMAT
    with tarfile.open(fileobj=out, mode="w", format=kind) as file:
        info = tarfile.TarInfo("directory")
        info.type = tarfile.DIRTYPE
        if isinstance(mtime, str):
            info.pax_headers = {"mtime": mtime}
        else:
            info.mtime = mtime
        file.addfile(info)
    error = await refusal(out.getvalue(), rootfs)
    assert error.code == "archive.corrupt"
    assert "directory" in error.what


async def test_attributes_for_all_entries_cannot_fill_the_memory(rootfs: Path) -> None:
    out = io.BytesIO()
    for number in range(40):
        head = {f"OBUILDER.{number}.{key}": "x" * 100 for key in range(500)}
        out.write(tarfile.TarInfo.create_pax_global_header(head))
        out.write(tarfile.TarInfo(f"file{number}").tobuf())
    out.write(bytes(1024))
    error = await refusal(out.getvalue(), rootfs)
    assert error.code == "archive.corrupt"
    assert "attributes for all entries" in error.what


async def test_the_headers_of_one_entry_cannot_fill_the_memory(rootfs: Path) -> None:
    header = tarfile.TarInfo.create_pax_global_header({"OBUILDER.x": "x" * (4 << 20)})
    error = await refusal(header * 5 + tarfile.TarInfo("file").tobuf() + bytes(1024), rootfs)
    assert error.code == "archive.corrupt"
    assert "claims a length" in error.what


async def test_data_that_unpacks_to_very_much_is_streamed(rootfs: Path) -> None:
    zeros = gzip.compress(PLAIN + bytes(200_000_000), compresslevel=1)
    assert (await unpack_bytes(zeros, rootfs)).entries == 3


@pytest.mark.parametrize(
    ("magic", "name"),
    [
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"BZh91AY", "bzip2"),
        (b"PK\x03\x04", "zip"),
        (b"\x5d\0\0\x80", "lzma"),
    ],
)
async def test_other_compressions_are_named_with_the_way_out(
    rootfs: Path, magic: bytes, name: str
) -> None:
    with pytest.raises(FetchError) as caught:
        await unpack_bytes(magic + bytes(600), rootfs)
    assert caught.value.code == "archive.unsupported"
    assert name in caught.value.what
    assert caught.value.hint


async def test_first_name_that_looks_like_a_compression_is_a_name(rootfs: Path) -> None:
    info = tarfile.TarInfo("BZh9")
    await unpack_bytes(info.tobuf() + bytes(1024), rootfs)
    assert (rootfs / "BZh9").is_file()


async def test_header_that_points_backwards_is_reported(rootfs: Path) -> None:
    info = tarfile.TarInfo("label")
    info.type, info.size = b"V", -1024  # tarfile alone would read it again for ever
    header = info.tobuf(tarfile.GNU_FORMAT)
    assert await code_of(header + PLAIN, rootfs) == "archive.corrupt"


async def test_what_is_no_archive_at_all_is_reported(rootfs: Path) -> None:
    assert await code_of(b"hello, world\n" * 1000, rootfs) == "archive.corrupt"
    assert await code_of(gzip.compress(b"hello, world\n" * 1000), rootfs) == "archive.corrupt"


async def test_archive_without_entries_is_an_empty_root(rootfs: Path) -> None:
    assert (await unpack_bytes(bytes(10240), rootfs)).entries == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_tmpfs(tmp_path / "disk", "size=64k,nr_inodes=20") as mounted:
        yield mounted


@pytest.mark.parametrize("full", ["space", "inodes"])
async def test_full_disk_is_reported(small_disk: Path, full: str) -> None:
    rootfs = small_disk / "rootfs"
    rootfs.mkdir()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for number in range(30):
            info = tarfile.TarInfo(f"f{number}")
            info.size = 0 if full == "inodes" else 50_000
            file.addfile(info, io.BytesIO(bytes(info.size)))
    archive = small_disk.parent / "archive"
    archive.write_bytes(out.getvalue())
    with archive.open("rb") as opened, pytest.raises(FetchError) as caught:
        await unpack(opened.fileno(), rootfs)
    assert caught.value.code == "archive.no-space"
    assert "df" in (caught.value.hint or "")
