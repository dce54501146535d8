"""Logs and errors of failed steps, kept for a person who asks later."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

from obuilder.errors import ObuilderError
from obuilder.types import Id

__all__ = ["keep_failure"]

_KEPT = 100
_KEPT_BYTES = 100 << 20


def keep_failure(directory: Path, id: Id, log: Path, *, error: ObuilderError) -> None:
    """Keep a copy of a failed step's log and its error in `directory/ID`. Blocking.

    Only the last 100 are kept, at most 100 MiB of logs. Raises OSError.
    """
    target = directory / id
    shutil.rmtree(target, ignore_errors=True)
    directory.mkdir(exist_ok=True)  # its parent must be there: a store may be unmounted
    target.mkdir()
    with log.open("rb") as source, (target / "log").open("wb") as copy:
        # Of one that is longer than all may be together, the end tells most.
        source.seek(max(0, log.stat().st_size - _KEPT_BYTES))
        shutil.copyfileobj(source, copy)
    told = {"id": id, "kind": error.kind, "code": error.code, "what": error.what}
    (target / "error.json").write_text(json.dumps({**told, "hint": error.hint}))
    _trim(directory, last=id)


def _newest_first(entry: os.DirEntry[str]) -> int:
    try:
        return -entry.stat().st_mtime_ns
    except FileNotFoundError:  # another process has just removed it
        return 0


def _trim(directory: Path, *, last: Id) -> None:
    # Not by time alone: the clock may have been set back.
    entries = sorted(
        os.scandir(directory), key=lambda entry: (entry.name != last, _newest_first(entry))
    )
    total = 0
    for number, entry in enumerate(entries):
        with suppress(FileNotFoundError):  # another process is writing or removing it
            total += (Path(entry) / "log").stat().st_size
        if number >= _KEPT or total > _KEPT_BYTES:
            shutil.rmtree(entry, ignore_errors=True)
