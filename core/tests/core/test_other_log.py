"""The log of another process's step: where it goes on, and what is not its own."""

import errno
import os
from contextlib import aclosing
from pathlib import Path

import pytest
from support.builds import descriptors

from obuilder._core import other_log
from obuilder._core.other_log import OtherLog
from obuilder._core.pieces import Piece
from obuilder.errors import StoreError

pytestmark = pytest.mark.anyio


async def followed(log: OtherLog) -> list[Piece]:
    async with aclosing(log.follow()) as pieces:
        return [piece async for piece in pieces]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


async def test_it_goes_on_where_it_lies_now(path: Path, tmp_path: Path) -> None:
    path.write_bytes(b"one\n")
    log = OtherLog(path)
    log.grow()
    path.write_bytes(b"one\ntwo\n")
    log.grow()
    moved = path.rename(tmp_path / "saved")
    with moved.open("ab") as file:
        file.write(b"three\n")
    log.end_saved(moved)
    assert await followed(log) == [b"one\ntwo\nthree\n"]


async def test_nothing_is_read_of_a_file_that_took_its_place(path: Path) -> None:
    path.write_bytes(b"mine, 1\n")
    log = OtherLog(path)
    log.grow()
    path.rename(path.with_name("old"))  # so that its number is not given again
    path.write_bytes(b"another's, and longer\n")
    log.grow()
    log.end_gone()
    assert await followed(log) == []


async def test_a_copy_that_others_remove_or_write_anew_is_read_to_its_end(
    path: Path, tmp_path: Path
) -> None:
    path.write_bytes(b"one\n")
    log = OtherLog(path)
    log.grow()
    kept = tmp_path / "kept"
    kept.write_bytes(b"one\ntwo\n")
    before = descriptors()
    log.end_kept(kept, skipped=0)
    kept.unlink()
    kept.write_bytes(b"another's")
    assert await followed(log) == [b"one\ntwo\n"]
    log.dispose()
    assert descriptors() == before


async def test_a_copy_that_cannot_be_read_is_an_error_that_says_which(
    path: Path, tmp_path: Path
) -> None:
    log = OtherLog(path)
    kept = tmp_path / "kept"
    kept.symlink_to(path)
    with pytest.raises(StoreError, match=f"cannot read the log {kept}: Too many levels"):
        log.end_kept(kept, skipped=0)


async def test_that_a_copy_was_not_kept_is_told(path: Path, tmp_path: Path) -> None:
    log = OtherLog(path)
    log.end_kept(tmp_path / "kept", skipped=0)
    assert await followed(log) == ["the log of this step was not kept"]


async def test_who_is_reading_what_was_not_kept_is_told_and_reads_on_behind_it(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(other_log, "_CHUNK_BYTES", 4)
    path.write_bytes(b"0123456789abcdef")
    log = OtherLog(path)
    log.grow()
    kept = tmp_path / "kept"
    kept.write_bytes(b"cdefend")
    async with aclosing(log.follow()) as pieces:
        first = await anext(pieces)
        log.end_kept(kept, skipped=12)
        rest = [piece async for piece in pieces]
    log.dispose()
    told = "8 bytes of the log were not kept, and are left out"
    assert [first, *rest] == [b"0123", told, b"cdef", b"end"]


async def test_what_cannot_be_read_is_an_error_and_no_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(b"one\n")
    log = OtherLog(path)
    log.grow()
    log.end_saved(path)

    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(StoreError) as caught:
            await followed(log)
    assert caught.value.code == "store.open-files"


async def test_of_a_log_whose_beginning_was_not_kept_that_is_told(
    path: Path, tmp_path: Path
) -> None:
    path.write_bytes(b"0123456789")
    log = OtherLog(path)
    log.grow()
    kept = tmp_path / "kept"
    kept.write_bytes(b"456789end")
    log.end_kept(kept, skipped=4)
    told, *rest = await followed(log)
    log.dispose()
    assert told == "4 bytes of the log were not kept, and are left out"
    assert rest == [b"456789end"]
