"""Every error that leaves this package, in one tree.

::

    ObuilderError
    ├── SpecError            the build script is wrong
    ├── ConfigError          settings, command line, or the place they name
    │   └── PluginError      a backend is missing, broken, or claimed twice
    ├── BuildError           a step could not succeed
    │   ├── CommandFailed    a command in the sandbox ended badly
    │   ├── StagesFailed     several stages did, of a build that went on after the first
    │   └── SourceError      what a `copy` names is missing or not allowed
    └── BackendError         the infrastructure failed
        ├── StoreError
        │   └── CacheBusy
        ├── SandboxError
        ├── FetchError
        │   └── ImageError   the base image is missing, damaged, or not fit for use
        ├── DatabaseError
        └── ProcessError     a helper program could not run, or failed

Each says what happened, where, and what to do about it, and carries a code
that stays the same between releases: programs and tests compare the code,
people read the text. Whose fault it is, and so the exit status, says its `kind`.
"""

from enum import StrEnum
from typing import ClassVar, Final

__all__ = [
    "BackendError",
    "BuildError",
    "CacheBusy",
    "CommandFailed",
    "ConfigError",
    "DatabaseError",
    "ErrorKind",
    "FetchError",
    "ImageError",
    "ObuilderError",
    "PluginError",
    "ProcessError",
    "SandboxError",
    "SourceError",
    "SpecError",
    "StagesFailed",
    "StoreError",
]


class ErrorKind(StrEnum):
    """Whose fault an error is: what a scheduler asks before it tries again elsewhere."""

    COMMAND = "command"
    """A command of the spec ended badly."""
    BUILD = "build"
    """The spec asks for what is not there or not allowed: a source, a secret, a base image."""
    LIMIT = "limit"
    """Something took more than it was given."""
    REQUEST = "request"
    """The id or cache that a command was given is not there, or in use."""
    CANCELLED = "cancelled"
    """Whoever wanted it has cancelled it."""
    USAGE = "usage"
    """The command line, the settings, or the text of a spec or Dockerfile."""
    INFRASTRUCTURE = "infrastructure"
    """Store, sandbox, engine, disk, or a program that is not installed: the build may be fine."""


class ObuilderError(Exception):
    """The root of the tree.

    `what` happened, `where` (file:line:column, configuration key, step or
    backend), a `hint` that says what to do, and a stable `code`.
    """

    default_code: ClassVar[str] = "error"

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint
        self.code = code or self.default_code

    @property
    def kind(self) -> ErrorKind:
        """Whose fault it is, told from the code, or else from the class."""
        return _KIND_OF_CODE.get(self.code) or next(
            (kind for tree, kind in _KIND_OF_CLASS if isinstance(self, tree)),
            ErrorKind.INFRASTRUCTURE,
        )

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  hint: {self.hint}" if self.hint else text


class SpecError(ObuilderError):
    """A spec that cannot be read; `where` is file:line:column."""

    default_code = "spec.invalid"


class ConfigError(ObuilderError):
    """Settings that cannot be used; `where` names the key and its source."""

    default_code = "config.invalid"


class PluginError(ConfigError):
    """A backend that cannot be loaded; names the distribution."""

    default_code = "plugin.invalid"


class BuildError(ObuilderError):
    """A step failed for a reason that lies in the build itself."""

    default_code = "build.failed"


class CommandFailed(BuildError):
    """A command in the sandbox ended with a status other than 0.

    `status` is the exit status, or 128 + the signal's number.
    """

    default_code = "command.failed"

    def __init__(self, argv: tuple[str, ...], status: int, *, hint: str | None = None) -> None:
        quoted = " ".join(_quote(arg) for arg in argv)
        super().__init__(f"{quoted} failed with exit status {status}", hint=hint)
        self.argv = argv
        self.status = status

    def __reduce__(self) -> tuple[object, ...]:
        """Errors go to other processes: made anew from what it was made of."""
        return (type(self), (self.argv, self.status), self.__dict__)


class SourceError(BuildError):
    """A source of a `copy` is missing, of an unsupported type, or out of bounds."""

    default_code = "source.invalid"


class StagesFailed(BuildError):
    """Several stages of a build failed, of which each error is one of `errors`, in order."""

    default_code = "stages.failed"
    errors: tuple[ObuilderError, ...] = ()

    def __init__(self, errors: tuple[ObuilderError, ...]) -> None:
        super().__init__(f"{len(errors)} stages failed: {'; '.join(map(str, errors))}")
        self.errors = errors

    @property
    def kind(self) -> ErrorKind:
        """The infrastructure's only if all of them are."""
        if {error.kind for error in self.errors} == {ErrorKind.INFRASTRUCTURE}:
            return ErrorKind.INFRASTRUCTURE
        return super().kind


class BackendError(ObuilderError):
    """A store, sandbox, fetcher, database or helper program failed."""

    default_code = "backend.failed"


class StoreError(BackendError):
    """A store could not do what was asked."""

    default_code = "store.failed"


class CacheBusy(StoreError):
    """A cache cannot be deleted while somebody uses it."""

    default_code = "store.cache-busy"


class SandboxError(BackendError):
    """A sandbox could not run a command at all."""

    default_code = "sandbox.failed"


class FetchError(BackendError):
    """A base image could not be fetched."""

    default_code = "fetch.failed"


class ImageError(FetchError):
    """The base image that a spec names is missing, damaged, or not what it may be."""

    default_code = "image.invalid"


class DatabaseError(BackendError):
    """The store's database cannot be used."""

    default_code = "database.failed"


class ProcessError(BackendError):
    """A helper program is missing or failed.

    `returncode` is its exit status, minus the signal's number if one ended it,
    or None if it never started; `stderr` is the end of what it printed.
    """

    default_code = "process.failed"

    def __init__(
        self,
        what: str,
        *,
        returncode: int | None = None,
        stderr: bytes = b"",
        hint: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(what, hint=hint, code=code)
        self.returncode = returncode
        self.stderr = stderr


# The first that an error is one of, if the code alone does not tell.
_KIND_OF_CLASS: Final[tuple[tuple[type[ObuilderError], ErrorKind], ...]] = (
    (CommandFailed, ErrorKind.COMMAND),
    (BuildError, ErrorKind.BUILD),
    (ImageError, ErrorKind.BUILD),
    (SpecError, ErrorKind.USAGE),
    (ConfigError, ErrorKind.USAGE),
)

_KIND_OF_CODE: Final = {
    "build.cancelled": ErrorKind.CANCELLED,
    "build.closed": ErrorKind.CANCELLED,
    "build.drained": ErrorKind.CANCELLED,
    "healthcheck.timeout": ErrorKind.LIMIT,
    "store.cache-busy": ErrorKind.REQUEST,
    "store.cannot-list": ErrorKind.REQUEST,
    "store.in-use": ErrorKind.REQUEST,
    "store.unknown-id": ErrorKind.REQUEST,
    "store.nested-subvolume": ErrorKind.BUILD,
    # Found out where settings are looked at, and yet no setting is wrong.
    "sandbox.no-runtime": ErrorKind.INFRASTRUCTURE,
    "sandbox.state-dir": ErrorKind.INFRASTRUCTURE,
    "store.not-mounted": ErrorKind.INFRASTRUCTURE,
    "store.program": ErrorKind.INFRASTRUCTURE,
}


def _quote(arg: str) -> str:
    # OBuilder prints argv with OCaml's %S; programs match on that line.
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b"}
    out = []
    for byte in arg.encode("utf-8", "surrogateescape"):
        char = chr(byte)
        if char in escapes:
            out.append(escapes[char])
        elif 32 <= byte < 127:  # noqa: PLR2004 - printable ASCII
            out.append(char)
        else:
            out.append(f"\\{byte:03d}")
    return '"' + "".join(out) + '"'
