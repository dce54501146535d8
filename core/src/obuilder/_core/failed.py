"""Logs and errors of failed steps, kept for a person who asks later."""

import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from obuilder import errors
from obuilder.errors import CommandFailed, ObuilderError
from obuilder.locks import Tenure
from obuilder.types import Id

__all__ = ["KeptFailure", "forget_failure", "keep_failure", "kept_failure"]

_KEPT = 100
_KEPT_BYTES = 100 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFailure:
    """What is kept of a step that failed: `error` as it was raised, and by whom.

    `log` lacks the first `skipped_bytes` of the step's.
    """

    error: ObuilderError
    log: Path
    skipped_bytes: int
    tenure: Tenure | None


def keep_failure(
    directory: Path, id: Id, log: Path, *, error: ObuilderError, tenure: Tenure | None = None
) -> None:
    """Keep a copy of a failed step's log and its error in `directory/ID`. Blocking.

    Only the last 100 are kept, at most 100 MiB of logs. `tenure` is the maker's, with the lock
    of the step. Raises OSError.
    """
    target = directory / id
    shutil.rmtree(target, ignore_errors=True)
    directory.mkdir(exist_ok=True)  # its parent must be there: a store may be unmounted
    target.mkdir()
    with log.open("rb") as source, (target / "log").open("wb") as copy:
        # Of one that is longer than all may be together, the end tells most.
        skipped = source.seek(max(0, log.stat().st_size - _KEPT_BYTES))
        shutil.copyfileobj(source, copy)
    words: dict[str, Any] = {
        "kind": error.kind,
        "code": error.code,
        "what": error.what,
        "where": error.where,
        "hint": error.hint,
        "skipped_bytes": skipped,
        "tenure": tenure,
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


def kept_failure(directory: Path, id: Id) -> KeptFailure | None:
    """What is kept of a step that failed; None: nothing. Blocking."""
    try:
        words = json.loads((directory / id / "error.json").read_bytes())
        return KeptFailure(
            error=_error(words),
            log=directory / id / "log",
            skipped_bytes=int(words["skipped_bytes"]),
            tenure=tuple(words["tenure"]) if words["tenure"] else None,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # another process is removing it, or it is of an older release


def _error(words: dict[str, Any]) -> ObuilderError:
    if words["type"] == CommandFailed.__name__:
        argv = tuple(map(str, words["argv"]))
        return CommandFailed(argv, int(words["status"]), hint=words["hint"])
    kind = getattr(errors, words["type"])
    error: ObuilderError = kind(words["what"], hint=words["hint"], code=words["code"])
    error.where = words["where"]
    return error


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
