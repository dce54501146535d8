"""A file that must survive a crash is whole and old, or whole and new."""

import ctypes
import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from obuilder.durable import exchange, sync_directory, sync_file_system, write_file


def test_a_file_is_written_with_its_mode(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_file(tmp_path / "file", b"\0new", mode=0o640)
    finally:
        os.umask(before)
    assert (tmp_path / "file").read_bytes() == b"\0new"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_file_is_replaced_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        write_file(path, b"new and longer")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new and longer"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_data_is_on_disk_before_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    seen: list[tuple[str, bytes]] = []
    really = os.fsync

    def fsync(descriptor: int) -> None:
        kind = "directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        seen.append((kind, path.read_bytes()))
        really(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_file(path, b"new")
    assert seen == [("file", b"old"), ("directory", b"new")]


@pytest.mark.parametrize("function", ["renameat2", "syscall"])
def test_two_names_are_exchanged_by_what_the_c_library_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    only = SimpleNamespace(**{function: getattr(libc, function)})
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: only)
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("one")
    other.mkdir()
    assert exchange(one, other)
    assert one.is_dir()
    assert other.read_text() == "one"
    with pytest.raises(FileNotFoundError):
        exchange(one, tmp_path / "none")


def test_a_failure_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_writer_left_does_not_disturb(tmp_path: Path) -> None:
    (tmp_path / f".file.{os.getpid()}.tmp").write_bytes(b"a longer half-written file")
    write_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"safe")
    (tmp_path / f".file.{os.getpid()}.tmp").symlink_to("victim")
    with pytest.raises(OSError, match="symbolic links"):
        write_file(tmp_path / "file", b"new")
    assert (tmp_path / "victim").read_bytes() == b"safe"


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_file(tmp_path / "missing" / "file", b"")
    with pytest.raises(FileNotFoundError):
        sync_directory(tmp_path / "missing")


def test_syncing_a_file_system_fails_where_there_is_none(tmp_path: Path) -> None:
    sync_file_system(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync_file_system(tmp_path / "missing")
