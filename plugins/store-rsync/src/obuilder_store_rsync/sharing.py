"""Files that a step did not change become hard links to its base's, before it is saved.

Only ever between two trees that nobody writes any more: a step works on a full
copy. Each file of the base stands for one file of the result at most, and all
names of a file become links to one file or none do, so that what was two files
stays two and what was one stays one.
"""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

__all__ = ["share_unchanged"]

_CHUNK_BYTES = 1 << 20


@dataclass(slots=True)
class _File:
    """A file of the result: its status and all its names below the root."""

    status: os.stat_result
    names: list[str] = field(default_factory=list)


def share_unchanged(base: Path, tree: Path, *, compare_content: bool) -> None:
    """Make unchanged files of `tree` hard links to those of `base`. OSError.

    Unchanged: the same type, owner, mode, size, time to the nanosecond and
    attributes under the same name, and with `compare_content` the same bytes.
    A file that cannot be linked (it has all the links it may have) stays as it is.
    """
    with ExitStack() as opened:

        def directory(path: Path) -> int:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, descriptor)
            return descriptor

        sharing = _Sharing(directory(base), directory(tree), compare_content=compare_content)
        sharing.run()


class _Sharing:
    """Names are relative to two open directories, so that their own paths take no room."""

    def __init__(self, base: int, tree: int, *, compare_content: bool) -> None:
        self._base = base
        self._tree = tree
        self._compare_content = compare_content
        self._taken: set[int] = set()

    def run(self) -> None:
        files, directories = self._walk()
        touched: set[str] = set()
        for file in files.values():
            found = self._counterpart(file)
            if found is not None:
                touched.update(name.rpartition("/")[0] for name in file.names)
                self._link(found, file)
        for name in touched:
            status = directories[name]
            times = (status.st_atime_ns, status.st_mtime_ns)
            os.utime(name or ".", ns=times, dir_fd=self._tree, follow_symlinks=False)

    def _walk(self) -> tuple[dict[int, _File], dict[str, os.stat_result]]:
        files: dict[int, _File] = {}
        directories = {"": os.fstat(self._tree)}
        rest = [""]
        while rest:
            above = rest.pop()
            with _scanned(above or ".", self._tree) as entries:
                for entry in entries:
                    name = f"{above}/{entry.name}" if above else entry.name
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        directories[name] = status
                        rest.append(name)
                    elif stat.S_ISREG(status.st_mode):
                        files.setdefault(status.st_ino, _File(status)).names.append(name)
        return files, directories

    def _counterpart(self, file: _File) -> str | None:
        """The name in the base of the file that this one still is."""
        if len(file.names) != file.status.st_nlink:
            return None  # it has a name elsewhere, which would be torn off
        for name in file.names:
            try:
                status = os.stat(name, dir_fd=self._base, follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):  # new in the result
                continue
            if status.st_ino in self._taken or _facts(status) != _facts(file.status):
                continue
            if self._same(name, file.names[0]):
                self._taken.add(status.st_ino)
                return name
        return None

    def _same(self, base_name: str, name: str) -> bool:
        with _opened(base_name, self._base) as one, _opened(name, self._tree) as other:
            if _attributes(one) != _attributes(other):
                return False
            while self._compare_content:
                data = one.read(_CHUNK_BYTES)
                if data != other.read(_CHUNK_BYTES):
                    return False
                if not data:
                    break
        return True

    def _link(self, source: str, file: _File) -> None:
        made: dict[str, str] = {}
        try:
            for name in file.names:
                above, slash, _ = name.rpartition("/")
                beside = f"{above}{slash}.obuilder-{secrets.token_hex(8)}"
                os.link(source, beside, src_dir_fd=self._base, dst_dir_fd=self._tree)
                made[name] = beside
        except OSError:
            # The base's file takes no more links, or a path grew too long: it stays a copy.
            for beside in made.values():
                os.unlink(beside, dir_fd=self._tree)
            return
        for name, beside in made.items():
            os.rename(beside, name, src_dir_fd=self._tree, dst_dir_fd=self._tree)


def _facts(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_mode, status.st_uid, status.st_gid, status.st_size, status.st_mtime_ns)


def _attributes(file: IO[bytes]) -> dict[str, bytes]:
    descriptor = file.fileno()
    return {name: os.getxattr(descriptor, name) for name in os.listxattr(descriptor)}


def _opened(name: str, directory: int) -> IO[bytes]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(name, flags, dir_fd=directory), "rb", buffering=0)


@contextmanager
def _scanned(name: str, directory: int) -> Iterator[Iterator[os.DirEntry[str]]]:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=directory)
    try:
        with os.scandir(descriptor) as entries:
            yield entries
    finally:
        os.close(descriptor)
