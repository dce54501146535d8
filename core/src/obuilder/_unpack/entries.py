"""Makes the entries of a tar stream, by hand, below the process's own root directory.

tarfile only reads them: its extraction drops owners, setuid bits and devices,
or follows links, depending on the version.
"""

import errno
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, TypeVar, cast

from obuilder._unpack.attributes import (
    XATTRS_OF_DIRECTORIES,
    XATTRS_OF_FILES,
    encoded,
    set_attributes,
    set_owner,
    set_time,
    show,
    time_ns,
)
from obuilder._unpack.stream import ArchiveStream, RefusedError, corrupt, truncated

__all__ = ["unpack_entries"]

_T = TypeVar("_T")
_VOLUME_LABEL = b"V"
_BLOCK = 512
_GLOBAL_LIMIT = 1 << 20
"""Of PAX attributes that hold for all entries that follow; tarfile keeps every one: 1 MiB."""

_IN_THE_WAY = frozenset(
    {
        errno.EBUSY,
        errno.EEXIST,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ENOTEMPTY,
    }
)


def unpack_entries(stream: ArchiveStream) -> dict[str, object]:
    """Unpack all of `stream` into `/`: number of entries, sum of file sizes, SHA-256."""
    return _Unpacking(stream).run()


@contextmanager
def _blaming(name: str) -> Iterator[None]:
    """What goes wrong is told as the fault of the entry `name`."""
    try:
        yield
    except OSError as error:
        raise _refused(error, name) from error
    except (ValueError, OverflowError) as error:
        raise corrupt(f"entry {show(name)} cannot be made: {error}") from error


class _Unpacking:
    def __init__(self, stream: ArchiveStream) -> None:
        self._stream = stream
        self._entries = 0
        self._size = 0
        # Set last: every entry made inside a directory changes its time.
        self._directory_times: dict[bytes, int] = {}
        self._kinds: tuple[tuple[Callable[[tarfile.TarInfo], bool], _Place], ...] = (
            (tarfile.TarInfo.isreg, self._file),
            (tarfile.TarInfo.isdir, self._directory),
            (tarfile.TarInfo.issym, self._symlink),
            (tarfile.TarInfo.islnk, self._hard_link),
            (tarfile.TarInfo.isdev, self._node),
        )

    def run(self) -> dict[str, object]:
        for member in _members(self._stream):
            if member.type == _VOLUME_LABEL:
                continue
            with _blaming(member.name):
                self._place(member)
            self._entries += 1
        digest = self._stream.finish()
        for path, when_ns in self._directory_times.items():
            with (
                _blaming(os.fsdecode(path)),
                # Replaced by a later entry.
                suppress(FileNotFoundError, NotADirectoryError),
            ):
                os.utime(path, ns=(when_ns, when_ns), follow_symlinks=False)
        return {"entries": self._entries, "size_bytes": self._size, "sha256": digest}

    def _place(self, member: tarfile.TarInfo) -> None:
        path = _inside(member.name)
        if path == b"/" and not member.isdir():
            raise corrupt(f"entry {show(member.name)} would replace the root directory")
        for is_kind, place in self._kinds:
            if is_kind(member):
                place(path, member)
                return
        raise RefusedError(
            "archive.unsupported",
            f"entry {show(member.name)} is of the unknown type {member.type!r}",
            hint="make the archive with GNU tar, bsdtar or `docker export`",
        )

    def _file(self, path: bytes, member: tarfile.TarInfo) -> None:
        # O_EXCL: a device, pipe or link of that name is replaced, never opened.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = self._create(path, lambda: os.open(path, flags, 0o600))
        try:
            self._fill(descriptor, member)
            set_attributes(descriptor, member, XATTRS_OF_FILES)
            set_time(descriptor, member)
        finally:
            os.close(descriptor)

    def _fill(self, descriptor: int, member: tarfile.TarInfo) -> None:
        # typeshed says bytes; it is the list of a sparse file's parts, or None.
        parts = cast("list[tuple[int, int]] | None", member.sparse)
        end = 0
        if member.size < 0:
            raise corrupt(f"entry {show(member.name)} has the size {member.size}")
        self._stream.seek(member.offset_data)
        for offset, length in [(0, member.size)] if parts is None else parts:
            if length == 0:
                continue
            if length < 0 or offset < end or offset + length > member.size:
                raise corrupt(f"the sparse map of {show(member.name)} is damaged")
            os.lseek(descriptor, offset, os.SEEK_SET)
            end = offset + length
            self._copy(descriptor, length, member.name)
        if end < member.size:
            os.ftruncate(descriptor, member.size)
        self._size += member.size

    def _copy(self, descriptor: int, length: int, name: str) -> None:
        while length:
            data = self._stream.take(length)
            if not data:
                raise truncated(f"{length} bytes of {show(name)} are missing")
            length -= len(data)
            while data:
                data = data[os.write(descriptor, data) :]

    def _directory(self, path: bytes, member: tarfile.TarInfo) -> None:
        if not os.path.isdir(path):  # noqa: PTH112 - bytes
            self._create(path, lambda: os.mkdir(path, 0o700))  # noqa: PTH102 - bytes
        elif os.path.islink(path):  # noqa: PTH114 - bytes
            return  # the directory that the link names is used as it is
        set_attributes(path, member, XATTRS_OF_DIRECTORIES)
        self._directory_times[path] = time_ns(member)

    def _symlink(self, path: bytes, member: tarfile.TarInfo) -> None:
        target = encoded(member.linkname)
        self._create(path, lambda: os.symlink(target, path))  # noqa: PTH211 - bytes
        set_owner(path, member)
        set_time(path, member)

    def _hard_link(self, path: bytes, member: tarfile.TarInfo) -> None:
        source = _inside(member.linkname)
        try:
            found = os.lstat(source)
        except (FileNotFoundError, NotADirectoryError):
            found = None
        if found is None or stat.S_ISDIR(found.st_mode):
            raise corrupt(
                f"{show(member.name)} is a link to {show(member.linkname)}, "
                "which is not a file that comes before it"
            )
        with suppress(FileNotFoundError, NotADirectoryError):  # the usual case: not there yet
            if os.path.samestat(os.lstat(path), found):
                return
        # follow_symlinks: a link to a symlink is a second name of the symlink itself.
        self._create(path, lambda: os.link(source, path, follow_symlinks=False))

    def _node(self, path: bytes, member: tarfile.TarInfo) -> None:
        if member.isfifo():
            kind, device = stat.S_IFIFO, 0
        else:
            kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
            device = os.makedev(member.devmajor, member.devminor)
        self._create(path, lambda: os.mknod(path, kind | 0o600, device))
        set_attributes(path, member, frozenset())
        set_time(path, member)

    def _create(self, path: bytes, make: Callable[[], _T]) -> _T:
        """Make something that is not there yet: parents are added, what is in the way goes."""
        try:
            return make()
        except FileNotFoundError:
            _make_parents(path)
        except FileExistsError:
            self._clear(path)
        return make()

    def _clear(self, path: bytes) -> None:
        try:
            os.unlink(path)  # noqa: PTH108 - bytes
        except IsADirectoryError:
            os.rmdir(path)  # noqa: PTH106 - bytes
            self._directory_times.pop(path, None)


_Place = Callable[[bytes, tarfile.TarInfo], None]


class _Tar(tarfile.TarFile):
    members: list[tarfile.TarInfo]  # typeshed lacks it


def _members(stream: ArchiveStream) -> Iterator[tarfile.TarInfo]:
    """The entries, up to an end that is really one.

    tarfile stops without a word at a damaged header, or where the file is cut
    between two entries: only a block of zeros, where a header should be, is an end.
    """
    tar = None
    while True:
        try:
            if tar is None:
                tar = _Tar(
                    fileobj=cast("IO[bytes]", stream), encoding="utf-8", errors="surrogateescape"
                )
            stream.begin_entry()
            member = tar.next()
        except (
            tarfile.TarError,
            ValueError,
            ArithmeticError,
            LookupError,
            RecursionError,
        ) as error:
            # What tarfile lets through when a header holds nonsense.
            if stream.ended:
                raise truncated(f"it ends in a header, at byte {stream.tell()}") from error
            raise corrupt(f"the header near byte {stream.tell()} is damaged: {error}") from error
        if member is None:
            break
        if sum(len(key) + len(value) for key, value in tar.pax_headers.items()) > _GLOBAL_LIMIT:
            raise corrupt(f"the attributes for all entries have more than {_GLOBAL_LIMIT} bytes")
        yield member
        tar.members.clear()  # tarfile remembers every entry otherwise
    if stream.ended:
        raise truncated("the end mark is missing")
    if stream.last.strip(b"\0") or stream.tell() != tar.offset + _BLOCK:
        raise corrupt(f"the header at byte {tar.offset} is damaged")


def _inside(name: str) -> bytes:
    """An entry's absolute path in the new root."""
    parts = [part for part in encoded(name).split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise RefusedError(
            "archive.unsafe-name",
            f"the name {show(name)} goes up with '..'",
            hint="make the archive from inside the root directory: tar -C ROOT -c .",
        )
    return b"/" + b"/".join(parts)


def _make_parents(path: bytes) -> None:
    end = path.find(b"/", 1)
    while end > 0:
        with suppress(FileExistsError):  # a directory, or a link that may name one
            os.mkdir(path[:end], 0o755)  # noqa: PTH102 - bytes
        end = path.find(b"/", end + 1)


def _refused(error: OSError, name: str) -> RefusedError:
    shown, reason = show(name), error.strerror
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RefusedError(
            "archive.no-space",
            f"no space left in the store for {shown}: {reason}",
            hint="free some (`df` and `df -i` show space and inodes), or use a larger store",
        )
    if error.errno in _IN_THE_WAY:
        what = f"entry {shown} does not fit with those before it: {reason}"
        return RefusedError("archive.conflict", what, hint="list the archive with `tar -tv`")
    if error.errno in (errno.EPERM, errno.EACCES):
        return RefusedError(
            "archive.needs-root",
            f"not permitted to make {shown}: {reason}",
            hint="run obuilder as root, with the CHOWN, MKNOD and SYS_CHROOT capabilities",
        )
    if error.errno == errno.ENAMETOOLONG:
        return RefusedError("archive.unsafe-name", f"the name {shown} is too long")
    return RefusedError("archive.unwritable", f"cannot make {shown}: {reason}")
