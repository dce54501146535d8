"""The one safe way to turn a root file system tarball into a directory, for all fetchers."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from obuilder import process
from obuilder._unpack.child import REFUSED_STATUS
from obuilder.errors import FetchError, ImageError, ProcessError

__all__ = ["Compression", "Unpacked", "unpack"]

Compression = Literal["auto", "none", "gzip", "xz"]
"""`auto` looks at the first bytes."""

# Isolated from PYTHON* variables and the working directory, yet it runs this
# very copy of the package, however the program that embeds us found it; only
# for that one import, so that nothing beside it hides the standard library.
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); import obuilder; del sys.path[0]; "
    "from obuilder._unpack.child import main; raise SystemExit(main(*sys.argv[2:]))"
)
_OF_THE_ARCHIVE = frozenset(
    f"archive.{what}" for what in ("truncated", "corrupt", "unsupported", "unsafe-name", "conflict")
)
"""Refusals that the archive itself is to blame for, not the machine."""
_PACKAGE_PARENT = str(Path(__file__).resolve().parents[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """What an archive held.

    `size_bytes` is the sum of its files' sizes, holes included; `sha256` the
    lower-case hex hash of the archive's bytes as they were read, compressed.
    """

    entries: int
    size_bytes: int
    sha256: str


async def unpack(archive: int, rootfs: Path, *, compression: Compression = "auto") -> Unpacked:
    """Unpack the tar stream on descriptor `archive` into the existing directory `rootfs`.

    `archive` may be a pipe; it is read to its end and stays open. Nothing is
    ever written outside `rootfs`, whatever the names and links in the archive
    say. Owners (by number), modes, times, hard links, devices, sparse files,
    capabilities, ACLs and `user.*` attributes are kept; an entry replaces an
    earlier one of its name, a directory is merged into one that exists.
    Needs root.
    On failure: FetchError without `where` (ImageError if the archive is to
    blame), `rootfs` is half full. Codes: archive.truncated, archive.corrupt,
    archive.unsupported, archive.unreadable, archive.unsafe-name (`..`,
    too long), archive.conflict (entries that contradict each other),
    archive.no-space, archive.attribute, archive.unwritable, archive.needs-root,
    and archive.failed if the unpacking process itself could not run.
    Cancellation: ends the process and leaves nothing running.
    """
    argv = [sys.executable, "-I", "-c", _BOOT, _PACKAGE_PARENT, str(rootfs), compression]
    try:
        done = await process.run(argv, stdin=archive, ok=(0, REFUSED_STATUS))
    except ProcessError as error:
        said = error.stderr.decode("utf-8", "backslashreplace").strip().splitlines()
        how = f"exit status {error.returncode}" if error.returncode is not None else error.what
        raise FetchError(
            f"the unpacking process failed: {said[-1] if said else how}",
            hint="this is a fault of obuilder or of the machine, not of the archive",
            code="archive.failed",
        ) from error
    answer = json.loads(done.stdout)
    if done.returncode == REFUSED_STATUS:
        kind = ImageError if answer["code"] in _OF_THE_ARCHIVE else FetchError
        raise kind(answer["what"], hint=answer["hint"], code=answer["code"])
    return Unpacked(
        entries=answer["entries"], size_bytes=answer["size_bytes"], sha256=answer["sha256"]
    )
