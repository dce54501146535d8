"""The unpacking process: makes a directory its root, then unpacks standard input there.

Run by `obuilder.unpack`. Whatever names and links an archive holds, after
chroot they cannot lead outside. Prints one JSON object: what was unpacked, or
(exit status 3) why it was not. All modules of this package use the standard
library only, and once inside nothing may be imported: the modules found there
would be the archive's.
"""

import json
import os
import sys
from pathlib import Path
from types import TracebackType

from obuilder._unpack.entries import unpack_entries
from obuilder._unpack.stream import ArchiveStream, RefusedError

__all__ = ["REFUSED_STATUS", "main"]

REFUSED_STATUS = 3


def main(rootfs: str, compression: str) -> int:
    """Unpack standard input into `rootfs`; the exit status."""
    sys.excepthook = _say_only
    try:
        stream = ArchiveStream(0, compression)
        _enter(rootfs)
        answer: dict[str, object] = unpack_entries(stream)
        status = 0
    except RefusedError as error:
        answer = {"code": error.code, "what": error.what, "hint": error.hint}
        status = REFUSED_STATUS
    os.write(1, json.dumps(answer).encode())
    return status


def _enter(rootfs: str) -> None:
    os.umask(0)
    try:
        wanted = Path(rootfs).stat()
        os.chroot(rootfs)
        os.chdir("/")
        inside = os.path.samestat(Path("/").stat(), wanted)
    except PermissionError as error:
        raise RefusedError(
            "archive.needs-root",
            f"cannot make {rootfs} the root directory: {error.strerror}",
            hint="run obuilder as root, with the CHOWN, MKNOD and SYS_CHROOT capabilities",
        ) from error
    except OSError as error:
        raise RefusedError(
            "archive.unwritable", f"cannot enter {rootfs}: {error.strerror}"
        ) from error
    if not inside:  # all safety rests on it, and fakechroot's only pretends
        raise RefusedError("archive.needs-root", f"{rootfs} did not become the root directory")
    # A module imported from here on would be the archive's, run with our rights.
    for finders in (sys.meta_path, sys.path_hooks, sys.path):
        finders.clear()


def _say_only(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
    """Report a fault of ours; Python's own report would read source files inside the root."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
    os.write(2, f"{kind.__name__}: {value}{where}\n".encode("utf-8", "backslashreplace"))
