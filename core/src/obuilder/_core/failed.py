"""Logs and errors of failed steps, kept for a person who asks later."""

import json
import os
import shutil
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from obuilder import errors
from obuilder.errors import CommandFailed, ObuilderError
from obuilder.types import Id

__all__ = ["forget_failure", "keep_failure", "kept_error", "kept_log"]

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
    words: dict[str, Any] = {
        "kind": error.kind,
        "code": error.code,
        "what": error.what,
        "where": error.where,
        "hint": error.hint,
    }
    if isinstance(error, CommandFailed):
        words |= {"argv": error.argv, "status": error.status}
    kind = next(each for each in type(error).__mro__ if each.__module__ == errors.__name__)
    (target / "error.json").write_text(json.dumps({"id": id, "type": kind.__name__, **words}))
    _trim(directory, last=id)


def forget_failure(directory: Path, id: Id) -> None:
    """Remove what is kept of a step that is made again. Blocking.

    Whoever follows it must not take that for its end, whatever the clock says.
    """
    shutil.rmtree(directory / id, ignore_errors=True)


def kept_error(directory: Path, id: Id, since: datetime) -> ObuilderError | None:
    """The error of a step that failed after `since`, as it was raised; None: none is kept.

    Blocking.
    """
    path = directory / id / "error.json"
    try:
        if path.stat().st_mtime < since.timestamp():
            return None
        words = json.loads(path.read_bytes())
        if words["type"] == CommandFailed.__name__:
            argv = tuple(map(str, words["argv"]))
            return CommandFailed(argv, int(words["status"]), hint=words["hint"])
        kind = getattr(errors, words["type"])
        error: ObuilderError = kind(words["what"], hint=words["hint"], code=words["code"])
        error.where = words["where"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # another process is removing it, or it is of an older release
    return error


def kept_log(directory: Path, id: Id) -> Path:
    """Where the log of a failed step is kept."""
    return directory / id / "log"


def _newest_first(entry: os.DirEntry[str]) -> int:
    try:
        return -entry.stat().st_mtime_ns
    except FileNotFoundError:  # another process has just removed it
        return 0


def _trim(directory: Path, *, last: Id) -> None:
    # What is no directory is not ours. Not by time alone: the clock may have been set back.
    entries = sorted(
        (entry for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)),
        key=lambda entry: (entry.name != last, _newest_first(entry)),
    )
    total = 0
    for number, entry in enumerate(entries):
        with suppress(FileNotFoundError):  # another process is writing or removing it
            total += (Path(entry) / "log").stat().st_size
        if number >= _KEPT or total > _KEPT_BYTES:
            shutil.rmtree(entry, ignore_errors=True)
