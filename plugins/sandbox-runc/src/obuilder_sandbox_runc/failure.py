"""Whose fault it is that a runtime ended badly: the command's, the step's, or the machine's.

A runtime that could not start a command writes no pid file, and says why in its
log. If what it says is about something that the spec chose (the
program, the working directory, the user, the environment, a mount's target) the
step failed, and prints what OBuilder prints: the command "failed with exit
status 1". Anything else is the machine's fault, and nothing that a spec can mend.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from obuilder.errors import CommandFailed, ObuilderError, SandboxError
from obuilder.types import RunConfig
from obuilder_sandbox_runc.bundle import Bundle
from obuilder_sandbox_runc.reaper import SIGNALED

__all__ = ["Ending", "failure", "read_ending"]

_MACHINE = re.compile(
    r"no space left|disk quota|cannot allocate memory|resource temporarily unavailable"
    r"|too many open files|input/output error|read-only file system",
    re.IGNORECASE,
)
# Seen from runc 1.1; crun says `executable file … not found` and `chdir` too.
_STEP = re.compile(
    r"exec: |executable file|exec format error|\bcwd\b|chdir|container init: mkdir"
    r"|environment variable|uids and gids|args must not be empty",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a runtime ended: its status, whether it had started the command, its errors."""

    status: int
    started: bool
    errors: Sequence[str]


def read_ending(bundle: Bundle, status: int) -> Ending:
    """What a bundle tells about a runtime that ended with `status`."""
    return Ending(
        status=status, started=bundle.pid_file.exists(), errors=_read_errors(bundle.runtime_log)
    )


def failure(config: RunConfig, ending: Ending, *, runtime: str) -> ObuilderError | None:
    """The error that an ending means, or None if all went well."""
    if ending.status < 0:
        return _killed("the parent of the container", -ending.status)
    if ending.status == 0:
        return None
    if ending.started:
        return CommandFailed(config.argv, ending.status)
    if ending.status > SIGNALED and not ending.errors:
        # It may have started the command already, and not yet told its parent so.
        return _killed(runtime, ending.status - SIGNALED)
    said = ending.errors[-1] if ending.errors else "it does not say why; the log may"
    if not _MACHINE.search(said) and (_STEP.search(said) or _names_target(config, said)):
        return CommandFailed(config.argv, ending.status)
    return SandboxError(f"{runtime} could not run the command: {said}", code="sandbox.runtime")


def _killed(who: str, number: int) -> SandboxError:
    return SandboxError(
        f"{who} was ended by signal {number}; what ran in the container has been killed",
        hint="did the machine run out of memory? see dmesg",
        code="sandbox.killed",
    )


def _names_target(config: RunConfig, said: str) -> bool:
    if any(not mount.source.exists() for mount in config.mounts):
        return False
    targets = [mount.target for mount in config.mounts]
    targets += [secret.target for secret in config.secrets]
    # runc quotes as JSON does, crun with backquotes.
    return any(json.dumps(target) in said or f"`{target}`" in said for target in targets)


def _read_errors(log: Path) -> list[str]:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # the runtime had nothing to say, or did not get that far
        return []
    return [message for line in lines for message in _errors(line)]


def _errors(line: str) -> Iterable[str]:
    try:
        entry = json.loads(line)
    except ValueError:  # a line that was cut, or a runtime that ignores --log-format
        return
    if isinstance(entry, dict) and entry.get("level") in ("error", "fatal"):
        yield str(entry.get("msg", ""))
