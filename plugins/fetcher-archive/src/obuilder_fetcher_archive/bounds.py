"""Which files a spec may name: a spec is not trusted, so each is checked once it is open."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from obuilder.errors import FetchError, ImageError
from obuilder.types import FetchContext

__all__ = ["Bounds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The directories that an archive may lie below, and where relative paths start."""

    start: Path | None
    directories: tuple[Path, ...]

    @classmethod
    def of(cls, context: FetchContext, roots: tuple[str, ...]) -> Self:
        """From the spec's directory, the source directory and the configured roots.

        Relative paths start at the spec's directory; a spec that came from
        standard input has none, and then at the source directory.
        """
        given = (context.spec_dir, context.source_dir, *map(Path, roots))
        return cls(
            start=context.spec_dir or context.source_dir,
            directories=tuple(
                dict.fromkeys(Path(os.path.realpath(path)) for path in given if path)
            ),
        )

    def locate(self, path: str) -> Path:
        """The path as named, made absolute."""
        if path.startswith("/"):
            return Path(path)
        if self.start is None:
            raise ImageError(
                f"no directory is known that {path!r} could be relative to",
                hint="name the archive by its absolute path, below one of archive.roots",
                code="archive.no-directory",
            )
        return self.start / path

    def open(self, path: Path) -> int:
        """A readable descriptor of the regular file `path`, links followed within bounds.

        Opening has no side effect on whatever else may be there (a pipe, a device).
        """
        real = os.path.realpath(path)
        self._check(real, path)
        try:
            place = os.open(real, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise _unopened(error, path) from error
        try:
            mode = os.fstat(place).st_mode
            # Again, of what was really opened: a link may have changed meanwhile.
            self._check(str(Path(f"/proc/self/fd/{place}").readlink()), path)
            if not stat.S_ISREG(mode):
                raise ImageError("not a regular file", where=str(path), code="archive.not-a-file")
            return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise _unopened(error, path) from error
        finally:
            os.close(place)

    def _check(self, real: str, path: Path) -> None:
        if any(Path(real).is_relative_to(directory) for directory in self.directories):
            return
        allowed = ", ".join(map(str, self.directories)) or "nowhere"
        raise ImageError(
            f"{real} is out of bounds; allowed is what lies below: {allowed}",
            where=str(path),
            hint=f'allow its directory: archive.roots = ["{Path(real).parent}"]',
            code="archive.out-of-bounds",
        )


def _unopened(error: OSError, path: Path) -> FetchError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return ImageError(
            "there is no such file",
            where=str(path),
            hint="a relative path starts at the spec file's directory",
            code="archive.not-found",
        )
    return FetchError(
        f"cannot open it: {error.strerror}", where=str(path), code="archive.unreadable"
    )
