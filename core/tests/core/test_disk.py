"""What a disk did is told from an error's cause; whatever has another cause stays as it is."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from support.filesystems import mounted_tmpfs

from obuilder._core.disk import allocate, disk_errors, has_room, is_full
from obuilder._core.reserve import RESERVE_BYTES, Reserve
from obuilder.errors import (
    BuildError,
    ConfigError,
    ErrorKind,
    FetchError,
    ObuilderError,
    ProcessError,
    SandboxError,
    StoreError,
)
from obuilder.process import run


def caused(error: ObuilderError, cause: Exception) -> ObuilderError:
    error.__cause__ = cause
    return error


def refusal(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/the/file")


CP = ProcessError("cp failed", returncode=1, stderr=b"cp: x: No space left on device\n")

BAD = ProcessError("cp failed", returncode=1, stderr=b"cp: x: Input/output error\n")


FEW = ProcessError("p failed", returncode=1, stderr=b"p: Too many open files\n")

NOT_STARTED = caused(ProcessError("p", code="process.not-started"), refusal(errno.EMFILE))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (refusal(errno.ENOSPC), "store.full"),
        (refusal(errno.EDQUOT), "store.full"),
        (refusal(errno.EROFS), "store.read-only"),
        (refusal(errno.ENOTCONN), "store.vanished"),
        (refusal(errno.EMFILE), "store.open-files"),
        (refusal(errno.EIO), "store.io"),
        (caused(StoreError("copy"), caused(StoreError("cp"), BAD)), "store.io"),
        (caused(ConfigError("x", code="store.location"), refusal(errno.EIO)), "store.io"),
        (caused(StoreError("copy"), caused(StoreError("cp"), CP)), "store.full"),
        (caused(FetchError("import"), refusal(errno.ESTALE)), "store.vanished"),
        (caused(StoreError("tar", code="store.stream"), CP), "store.full"),
        (caused(SandboxError("x", code="sandbox.bundle"), refusal(errno.ENOSPC)), "store.full"),
        (caused(ConfigError("x", code="store.location"), refusal(errno.EROFS)), "store.read-only"),
        (caused(SandboxError("x", code="sandbox.runtime"), NOT_STARTED), "store.open-files"),
    ],
    ids=str,
)
def test_what_a_disk_did_gets_a_code_and_a_hint(
    error: Exception, code: str, tmp_path: Path
) -> None:
    with pytest.raises(StoreError) as caught, disk_errors(tmp_path):
        raise error
    assert caught.value.code == code
    assert caught.value.hint
    assert caught.value.kind is ErrorKind.INFRASTRUCTURE
    assert caught.value.__cause__ is error
    said = error.what if isinstance(error, ObuilderError) else "/the/file"
    assert said in caught.value.what


@pytest.mark.parametrize(
    "error",
    [
        refusal(errno.EPERM),
        caused(FetchError("the engine's", code="docker.no-space"), CP),
        caused(BuildError("a source"), refusal(errno.ENOSPC)),
        StoreError("locked", code="store.in-use"),
        caused(FetchError("a mirror's disk"), refusal(errno.EIO)),
        caused(ProcessError("p", code="process.not-started"), refusal(errno.EIO)),
        caused(SandboxError("its own", code="sandbox.runtime"), FEW),
        caused(StoreError("said already", code="store.full"), refusal(errno.EROFS)),
    ],
    ids=str,
)
def test_any_other_error_stays_as_it_is(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as caught, disk_errors(tmp_path):
        raise error
    assert caught.value is error


def test_a_store_that_is_gone_is_the_reason_of_whatever_failed(tmp_path: Path) -> None:
    for error in (StoreError("x", code="store.stream"), refusal(errno.ENOENT)):
        with pytest.raises(StoreError) as caught, disk_errors(tmp_path / "gone"):
            raise error
        assert caught.value.code == "store.vanished"
    with pytest.raises(BuildError), disk_errors(tmp_path / "gone"):
        raise BuildError("the build's own")


def test_what_a_look_that_was_killed_left_goes_with_the_next(tmp_path: Path) -> None:
    (tmp_path / "room").write_bytes(bytes(5))
    assert has_room(tmp_path)
    assert os.listdir(tmp_path) == []


def test_room_is_made_where_the_file_system_knows_no_fallocate(tmp_path: Path) -> None:
    anyio.run(run, ["mount", "-t", "ramfs", "none", str(tmp_path)])
    try:
        descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
        try:
            allocate(descriptor, RESERVE_BYTES)
            assert os.fstat(descriptor).st_size == RESERVE_BYTES
            assert os.lseek(descriptor, 0, os.SEEK_CUR) == 0
        finally:
            os.close(descriptor)
        assert has_room(tmp_path)
    finally:
        anyio.run(run, ["umount", str(tmp_path)])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    with mounted_tmpfs(tmp_path / "disk", "size=6m") as mounted:
        yield mounted


def test_the_reserve_is_given_up_when_the_disk_is_full_and_made_again(disk: Path) -> None:
    reserve = Reserve(disk)
    reserve.give_up_if_full()
    reserve.keep()
    assert (disk / "reserve").stat().st_blocks * 512 == RESERVE_BYTES
    assert has_room(disk)
    filler = disk / "filler"
    filler.write_bytes(bytes(2 << 20))
    assert is_full(disk)
    with pytest.raises(StoreError) as caught:
        reserve.keep()
    assert caught.value.code == "store.full"
    reserve.give_up_if_full()
    assert sorted(os.listdir(disk)) == ["filler", "reserve-files"]
    assert os.listdir(disk / "reserve-files") == []
    (disk / "more").write_bytes(bytes(1 << 20))
    with pytest.raises(StoreError):
        reserve.keep()
    assert sorted(os.listdir(disk)) == ["filler", "more", "reserve-files"]
    filler.unlink()
    assert reserve.is_given_up
    reserve.keep()
    assert (disk / "reserve").stat().st_size == RESERVE_BYTES


def test_a_disk_that_has_room_for_no_reserve_is_full(disk: Path) -> None:
    (disk / "filler").write_bytes(bytes(3 << 20))
    reserve = Reserve(disk)
    reserve.give_up_if_full()
    with pytest.raises(StoreError, match="4 MiB"):
        reserve.keep()
    assert os.listdir(disk) == ["filler"]


@pytest.mark.parametrize("name", ["reserve", "reserve-files"])
def test_something_else_in_place_of_the_reserve_is_named_and_left(disk: Path, name: str) -> None:
    if name == "reserve":
        (disk / name / "in").mkdir(parents=True)
    else:
        (disk / name).write_text("mine")
    reserve = Reserve(disk)
    with pytest.raises(StoreError) as caught:
        reserve.keep()
    assert str(disk / name) in caught.value.what
    assert "move it away" in (caught.value.hint or "")
    (disk / "filler").write_bytes(bytes(4 << 20))
    reserve.give_up_if_full()
    assert reserve.is_given_up
    assert sorted(os.listdir(disk)) == sorted(["filler", name])
