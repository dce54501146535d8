"""Carrying what a manifest lists into a snapshot: a tar stream for the sandbox's standard input.

Nothing is written into a root file system by a host path: a link in the image
could lead it astray. The snapshot is only read here, to learn which
directories exist already: those, and links to directories inside the root,
are used as they are and get no entry (tar would reset them). Of a root that
is no local directory nothing is known: all directories get one, as with OBuilder.
"""

import hashlib
import io
import os
import stat
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from obuilder._core.manifest import Directory, File, Manifest
from obuilder.errors import SourceError
from obuilder.spec import to_mach
from obuilder.types import User

__all__ = ["RECEIVER", "RECEIVER_ENV", "finish", "send"]

RECEIVER = ("tar", "-xf", "-")
RECEIVER_ENV = (("PATH", "/bin:/usr/bin"),)
"""What runs in the sandbox, as OBuilder runs it."""

_OF_THE_SANDBOX = ("dev", "proc", "sys")
"""Directories where a sandbox mounts its own: what is copied there is in no snapshot."""

_MAX_LINKS = 40  # as the kernel's own limit, MAXSYMLINKS
_CHUNK_BYTES = 1 << 20


def send(
    *,
    source: Path,
    manifests: Sequence[Manifest],
    dst: str,
    user: User,
    rootfs: Path,
    output: IO[bytes],
) -> Sequence[tarfile.TarInfo]:
    """Write the archive that puts `manifests` at `dst` in `rootfs`. Blocking.

    Returns the links and directories that it has sent, for `finish`.

    `dst` that ends with `/` takes each manifest by its last name, and spreads
    the source root. Any other becomes the one manifest; a directory is spread
    into one that exists there (`/.`). Raises SourceError if a file is not what
    the manifest says any more, OSError when the receiver goes away.
    """
    with tarfile.open(fileobj=output, mode="w|", format=tarfile.GNU_FORMAT) as archive:
        sender = _Sender(archive, source, user, rootfs=rootfs)
        into_directory = dst.endswith("/")
        for manifest in manifests:
            name = manifest.path.rpartition("/")[2]
            target = f"{dst}{name}" if into_directory else dst
            sender.add(manifest, target)
    return sender.sent


def finish(rootfs: Path, sent: Sequence[tarfile.TarInfo]) -> None:
    """Give links and directories the owner and time that busybox's tar does not. Blocking.

    Called when nothing runs in the snapshot. Every directory on the way is
    opened from the one before it and no link is followed, so that nothing in
    the image leads outside. Raises SourceError if one of them is not there.
    """
    if not rootfs.is_dir():
        return  # an image: what the tar inside can do is all
    # The deepest first: what is done in a directory changes its time.
    for info in sorted(sent, key=lambda info: info.name.count("/"), reverse=True):
        parent, _, name = info.name.rpartition("/")
        try:
            descriptor = _open_below(rootfs, parent)
            try:
                found = os.lstat(name, dir_fd=descriptor)
                if (found.st_uid, found.st_gid) != (info.uid, info.gid):
                    os.chown(name, info.uid, info.gid, dir_fd=descriptor, follow_symlinks=False)
                if found.st_mtime_ns != info.mtime * 10**9:
                    times = (int(info.mtime), int(info.mtime))
                    os.utime(name, times, dir_fd=descriptor, follow_symlinks=False)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise SourceError(
                f"{to_mach(info.name)} is not in the snapshot after it was copied:"
                f" {error.strerror}",
                code="copy.lost",
            ) from error


def _open_below(rootfs: Path, place: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(rootfs, flags)
    for part in place.split("/") if place else ():
        try:
            below = os.open(part, flags, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = below
    return descriptor


class _Sender:
    def __init__(self, archive: tarfile.TarFile, source: Path, user: User, *, rootfs: Path) -> None:
        self._archive = archive
        self._source = source
        self._user = user
        self._root = Root(rootfs)
        self._made: set[str] = set()
        self.sent: list[tarfile.TarInfo] = []

    def add(self, manifest: Manifest, target: str) -> None:
        if isinstance(manifest, Directory):
            self._directory(manifest, target)
            return
        place = self._root.resolve(target, follow_last=False)
        _refuse_the_sandboxes(place)
        if not place:
            raise SourceError(
                f"cannot copy {to_mach(manifest.path)} as the root directory",
                code="copy.onto-root",
                hint="end dst with '/' to copy into a directory",
            )
        self._parents(place)
        if isinstance(manifest, File):
            self._file(manifest, place)
            return
        with _reading(manifest.path):
            path = self._source / manifest.path
            info = self._info(place, path.lstat())
            info.type, info.linkname = tarfile.SYMTYPE, manifest.target
            target = os.fspath(path.readlink())
        if target != manifest.target:
            raise _changed(manifest.path)
        self._archive.addfile(info)
        self.sent.append(info)

    def _parents(self, place: str) -> None:
        """Entries for the directories on the way that do not exist: ours, 0755, now."""
        parts = place.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            self._make("/".join(parts[:depth]), int(time.time()))

    def _directory(self, manifest: Directory, target: str) -> None:
        place = self._root.resolve(target)
        _refuse_the_sandboxes(place)
        if place:
            self._parents(place)
            with _reading(manifest.path):
                status = (self._source / manifest.path).lstat()
            self._make(place, _mtime(status))
        for entry in manifest.entries:
            self.add(entry, f"/{place}/{entry.path.rpartition('/')[2]}")

    def _make(self, place: str, mtime: int) -> None:
        if place in self._made or self._root.is_directory(place):
            return
        self._made.add(place)
        info = tarfile.TarInfo(place)
        info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, mtime
        info.uid, info.gid = self._user.uid, self._user.gid
        self._archive.addfile(info)
        self.sent.append(info)

    def _file(self, manifest: File, place: str) -> None:
        # Non-blocking, so that a fifo which has taken the file's place cannot hang us.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        with _reading(manifest.path):
            descriptor = os.open(self._source / manifest.path, flags)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise _changed(manifest.path)
            info = self._info(place, status)
            info.size = status.st_size
            reader = _HashingReader(descriptor, manifest)
            self._archive.addfile(info, reader)
            if reader.hexdigest() != manifest.sha256:
                raise _changed(manifest.path)
        finally:
            os.close(descriptor)

    def _info(self, place: str, status: os.stat_result) -> tarfile.TarInfo:
        info = tarfile.TarInfo(place)
        info.mode = 0o755 if status.st_mode & 0o111 else 0o644
        info.mtime = _mtime(status)
        info.uid, info.gid = self._user.uid, self._user.gid
        return info


class Root:
    """Looks up paths of an image from outside as a process inside would: links stay inside.

    Safe without openat2 because nothing runs in the snapshot while we look.
    """

    def __init__(self, rootfs: Path) -> None:
        self._rootfs = rootfs

    def resolve(self, path: str, *, follow_last: bool = True) -> str:
        """The path relative to the root with links, `.` and `..` gone; it need not exist.

        Raises SourceError if links go round in circles.
        """
        done: list[str] = []
        rest = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        links = 0
        while rest:
            part = rest.pop()
            if part == "..":
                del done[-1:]
                continue
            if part in ("", "."):
                continue
            candidate = self._rootfs.joinpath(*done, part)
            if (rest or follow_last) and stat.S_ISLNK(_mode(candidate)):
                links += 1
                if links > _MAX_LINKS:
                    raise SourceError(
                        f"too many symbolic links on the way to {to_mach(path)} in the image",
                        code="copy.link-loop",
                    )
                target = os.fspath(candidate.readlink())
                if target.startswith("/"):
                    done.clear()
                rest.extend(reversed(target.split("/")))
            else:
                done.append(part)
        return "/".join(done)

    def is_directory(self, place: str) -> bool:
        """Whether a resolved path is a directory now."""
        return stat.S_ISDIR(_mode(self._rootfs / place))


def _refuse_the_sandboxes(place: str) -> None:
    if place.partition("/")[0] in _OF_THE_SANDBOX:
        raise SourceError(
            f"cannot copy to {to_mach('/' + place)}: a sandbox has a directory of its own there",
            code="copy.dst",
            hint="copy to another place",
        )


class _HashingReader(io.RawIOBase):
    """Hashes what is sent, so that a file that changes under our hands is not saved."""

    def __init__(self, descriptor: int, manifest: File) -> None:
        self._descriptor = descriptor
        self._manifest = manifest
        self._hash = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        """Exactly `size` bytes, which tarfile counts on."""
        pieces = []
        while size > 0:
            piece = self._some(size)
            if not piece:
                raise _changed(self._manifest.path)  # it became shorter
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def hexdigest(self) -> str:
        # What was appended since the size was taken counts as a change too.
        while self._some(_CHUNK_BYTES):
            pass
        return self._hash.hexdigest()

    def _some(self, size: int) -> bytes:
        with _reading(self._manifest.path):
            data = os.read(self._descriptor, size)
        self._hash.update(data)
        return data


def _mode(path: Path) -> int:
    """What is at a path in the image; 0 if nothing is."""
    try:
        return path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError as error:
        raise SourceError(
            f"cannot look up {to_mach(os.fspath(path))} in the image: {error.strerror}",
            code="copy.dst",
        ) from error


def _mtime(status: os.stat_result) -> int:
    return status.st_mtime_ns // 10**9  # st_mtime is a float, and may be rounded up


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Tells trouble with the source apart from trouble with the receiver."""
    try:
        yield
    except PermissionError as error:
        raise SourceError(
            f"Source path {to_mach(path)} cannot be read: {error.strerror}",
            code="source.unreadable",
        ) from error
    except OSError as error:
        raise _changed(path) from error


def _changed(path: str) -> SourceError:
    return SourceError(
        f"Source path {to_mach(path)} changed while it was copied",
        code="source.changed",
        hint="build again when nothing writes to the source directory",
    )
