"""What a copy contains: the tree below a source, hashed, as a value and as OBuilder's record."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from obuilder.errors import SourceError
from obuilder.spec import Sexp, quoted

__all__ = ["MAX_DEPTH", "Directory", "File", "Manifest", "Symlink", "scan"]

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Non-blocking, so that a file replaced by a fifo after it was looked at cannot hang us.
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class File:
    """A regular file; `path` is relative to the source root."""

    path: str
    sha256: str

    def sexp(self) -> Sexp:
        """The record that goes into an id."""
        return ("File", (self.path, self.sha256))


@dataclass(frozen=True, slots=True)
class Symlink:
    """A symbolic link, never followed."""

    path: str
    target: str

    def sexp(self) -> Sexp:
        """The record that goes into an id."""
        return ("Symlink", (self.path, self.target))


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory with its entries in byte order; the source root's path is empty."""

    path: str
    entries: "tuple[Manifest, ...]"

    def sexp(self) -> Sexp:
        """The record that goes into an id."""
        return ("Dir", (self.path, tuple(entry.sexp() for entry in self.entries)))


Manifest = File | Symlink | Directory


_CHUNK_BYTES = 1 << 20

MAX_DEPTH = 256
"""Of a source; each level takes a descriptor, of which there are 1024, and stack frames."""


def scan(
    root: Path, source: str, *, exclude: Sequence[str] = (), check: Callable[[], None] | None = None
) -> Manifest:
    """The manifest of `source` below `root`, leaving out names in `exclude` at every depth.

    Blocking: run it in a thread. Every step goes through a directory's
    descriptor and follows no link, so nothing outside `root` is ever read.
    `check` is called often and may raise to stop. Raises SourceError with OBuilder's words.
    """
    parts = [part for part in source.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise SourceError(f"Can't use .. in source paths! (in {quoted(source)})")
    if "\0" in source:
        raise SourceError(f"Source path {quoted(source)} holds a zero byte")
    try:
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SourceError(
            f"the source directory {root} cannot be read: {error.strerror}", code="source.none"
        ) from error
    with _opened(descriptor):
        return _Scan(source, exclude, check or _never).named(descriptor, parts)


class _Scan:
    """One scan: the source's text for messages, and the names to leave out."""

    def __init__(self, source: str, exclude: Sequence[str], check: Callable[[], None]) -> None:
        self._source = source
        self._check = check
        self._exclude = frozenset(exclude)

    def named(self, root: int, parts: list[str]) -> Manifest:
        if not parts:
            return self.entry(root, ".", "")
        parent = os.dup(root)
        try:
            for depth, part in enumerate(parts[:-1], start=1):
                path = "/".join(parts[:depth])
                mode = self._mode(parent, part, path)
                if stat.S_ISREG(mode):
                    raise SourceError(f"Not a directory: {path} (in {quoted(self._source)})")
                if not stat.S_ISDIR(mode):
                    raise self._not_regular(path)
                child = os.open(part, _OPEN_DIRECTORY, dir_fd=parent)
                os.close(parent)
                parent = child
            path = "/".join(parts)
            mode = self._mode(parent, parts[-1], path)
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
                raise self._not_regular(path)
            return self.entry(parent, parts[-1], path)
        except OSError as error:
            raise _unreadable("/".join(parts), error) from error
        finally:
            os.close(parent)

    def entry(self, parent: int, name: str, path: str) -> Manifest:
        self._check()
        try:
            mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
            if stat.S_ISREG(mode):
                with _opened(os.open(name, _OPEN_FILE, dir_fd=parent)) as descriptor:
                    return File(path, self._sha256(descriptor, path))
            if stat.S_ISLNK(mode):
                return Symlink(path, os.readlink(name, dir_fd=parent))
            if stat.S_ISDIR(mode):
                with _opened(os.open(name, _OPEN_DIRECTORY, dir_fd=parent)) as descriptor:
                    return Directory(path, self._entries(descriptor, f"{path}/" if path else ""))
        except OSError as error:
            raise _unreadable(path, error) from error
        raise SourceError(f"Unsupported file type for {quoted(path)}", code="source.file-type")

    def _entries(self, descriptor: int, prefix: str) -> tuple[Manifest, ...]:
        if prefix.count("/") > MAX_DEPTH:
            raise SourceError(
                f"Source path {quoted(prefix)} is more than {MAX_DEPTH} directories deep",
                code="source.too-deep",
            )
        entries = []
        for name in sorted(os.listdir(descriptor), key=os.fsencode):
            if name not in self._exclude:
                entries.append(self.entry(descriptor, name, prefix + name))  # noqa: PERF401 - a frame less each level
        return tuple(entries)

    def _mode(self, parent: int, name: str, path: str) -> int:
        try:
            return os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        except FileNotFoundError:
            raise SourceError(
                f"Source path {quoted(path)} not found",
                code="source.missing",
            ) from None

    def _sha256(self, descriptor: int, path: str) -> str:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise SourceError(f"{quoted(path)} changed while it was read", code="source.changed")
        digest = hashlib.sha256()
        while data := os.read(descriptor, _CHUNK_BYTES):
            digest.update(data)
            self._check()
        return digest.hexdigest()

    def _not_regular(self, path: str) -> SourceError:
        return SourceError(f"Not a regular file: {path} (in {quoted(self._source)})")


def _never() -> None:
    """Stop never."""


@contextmanager
def _opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _unreadable(path: str, error: OSError) -> SourceError:
    return SourceError(
        f"Source path {quoted(path)} cannot be read: {error.strerror}", code="source.unreadable"
    )
