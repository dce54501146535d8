"""What is mounted below a directory, and taking it away before the directory is removed."""

import os
import re
from pathlib import Path

from obuilder.process import run

__all__ = ["mounted_at", "mounted_below", "unmount_below"]


def mounted_below(directory: Path) -> list[Path]:
    """Mount points, the oldest first, by proc_pid_mountinfo(5)."""
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        escaped = line.split(b" ")[4]
        place = re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), escaped)
        if place.startswith(b"%s/" % os.fsencode(directory)):
            found.append(Path(os.fsdecode(place)))
    return found


def mounted_at(path: Path) -> Path | None:
    """Something that is mounted at a directory or in it; None: nothing in this mount namespace."""
    real = Path(os.path.realpath(path))
    places = mounted_below(real.parent)
    return next((place for place in places if real in (place, *place.parents)), None)


async def unmount_below(directory: Path) -> None:
    """Take away what a fault has left there: removing it would empty what it shows. ProcessError.

    Lazily: what still uses it keeps it.
    """
    for place in reversed(mounted_below(directory)):
        await run(("umount", "--lazy", "--", str(place)))
