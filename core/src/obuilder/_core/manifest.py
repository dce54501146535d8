"""What a copy contains: the tree below a source, hashed, as a value and as OBuilder's record."""

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from obuilder.errors import SourceError
from obuilder.spec import Sexp, to_mach

__all__ = ["Directory", "File", "Manifest", "Symlink", "scan"]

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


def scan(root: Path, source: str, *, exclude: Sequence[str] = ()) -> Manifest:
    """The manifest of `source` below `root`, leaving out names in `exclude` at every depth.

    Blocking: run it in a thread. Every step goes through a directory's
    descriptor and follows no link, so nothing outside `root` is ever read.
    Raises SourceError with OBuilder's words.
    """
    parts = [part for part in source.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise SourceError(f"Can't use .. in source paths! (in {_quoted(source)})")
    with _opened(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as root_fd:
        return _Scan(source, exclude).named(root_fd, parts)


class _Scan:
    """One scan: the source's text for messages, and the names to leave out."""

    def __init__(self, source: str, exclude: Sequence[str]) -> None:
        self._source = source
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
                    raise SourceError(f"Not a directory: {path} (in {_quoted(self._source)})")
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
        try:
            mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
            if stat.S_ISREG(mode):
                with _opened(os.open(name, _OPEN_FILE, dir_fd=parent)) as descriptor:
                    return File(path, _sha256(descriptor, path))
            if stat.S_ISLNK(mode):
                return Symlink(path, os.readlink(name, dir_fd=parent))
            if stat.S_ISDIR(mode):
                with _opened(os.open(name, _OPEN_DIRECTORY, dir_fd=parent)) as descriptor:
                    return Directory(path, self._entries(descriptor, f"{path}/" if path else ""))
        except RecursionError:
            raise SourceError(f"Source path {_quoted(path)} is nested too deeply") from None
        except OSError as error:
            raise _unreadable(path, error) from error
        raise SourceError(f"Unsupported file type for {_quoted(path)}", code="source.file-type")

    def _entries(self, descriptor: int, prefix: str) -> tuple[Manifest, ...]:
        names = sorted(os.listdir(descriptor), key=os.fsencode)
        return tuple(
            self.entry(descriptor, name, prefix + name)
            for name in names
            if name not in self._exclude
        )

    def _mode(self, parent: int, name: str, path: str) -> int:
        try:
            return os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        except FileNotFoundError:
            raise SourceError(
                f"Source path {_quoted(path)} not found",
                code="source.missing",
            ) from None

    def _not_regular(self, path: str) -> SourceError:
        return SourceError(f"Not a regular file: {path} (in {_quoted(self._source)})")


def _sha256(descriptor: int, path: str) -> str:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise SourceError(f"{_quoted(path)} changed while it was read", code="source.changed")
    with open(descriptor, "rb", closefd=False) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _unreadable(path: str, error: OSError) -> SourceError:
    return SourceError(
        f"Source path {_quoted(path)} cannot be read: {error.strerror}", code="source.unreadable"
    )


def _quoted(text: str) -> str:
    # OCaml's %S: always in quotes, escapes as the machine printer has them.
    printed = to_mach(text)
    return printed if printed.startswith('"') else f'"{printed}"'
