"""What `build` reads before anything is opened: the spec, secrets, and where the id goes."""

import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from obuilder.errors import ConfigError
from obuilder.spec import Stage, parse
from obuilder.types import Id

__all__ = [
    "SpecSource",
    "forget_id",
    "read_input",
    "read_secrets",
    "read_spec",
    "result_id",
    "save_id",
    "source_directory",
    "time_before",
]

_ID = re.compile(r"[0-9a-f]{64}")
_AGE = re.compile(r"(\d{1,6})([smhdw])")
_AGE_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecSource:
    """A parsed spec and the directory of its file, None for standard input."""

    stage: Stage
    directory: Path | None


def read_spec(path: str) -> SpecSource:
    """The spec in a file, or on standard input for `-`. ConfigError, SpecError."""
    if path == "-":
        stage = parse(sys.stdin.buffer.read(), file="<stdin>")
        return SpecSource(stage=stage, directory=None)
    text = _read(_named(path, where="-f"), where="-f", code="cli.spec-file")
    return SpecSource(stage=parse(text, file=path), directory=Path(path).resolve().parent)


def read_input(path: str, *, where: str, code: str) -> bytes:
    """A file, or standard input for `-`. ConfigError."""
    if path == "-":
        return sys.stdin.buffer.read()
    return _read(_named(path, where=where), where=where, code=code)


def source_directory(text: str) -> Path:
    """The absolute source directory. ConfigError if it is none."""
    path = _named(text, where="SOURCE_DIR")
    try:
        resolved = path.resolve(strict=True)
        if resolved.is_dir():
            return resolved
        what = f"{path} is not a directory"
    except (OSError, RuntimeError) as error:  # missing, not allowed, or links in a circle
        what = f"source directory {path}: {getattr(error, 'strerror', None) or error}"
    raise ConfigError(
        what,
        hint="the last argument is the directory that copy reads from",
        code="cli.source-directory",
    )


def read_secrets(given: Sequence[str]) -> dict[str, bytes]:
    """`ID:FILE` arguments to values by id. ConfigError; no value is ever in its text."""
    secrets: dict[str, bytes] = {}
    for text in given:
        id, colon, file = text.partition(":")
        if not (id and colon and file):
            raise ConfigError(
                f"expected ID:FILE, found {text!r}",
                where="--secret",
                hint="ID is the name in (secrets (ID …)), FILE holds the value",
                code="cli.secret",
            )
        if id in secrets:
            raise ConfigError(f"secret {id!r} is given twice", where="--secret", code="cli.secret")
        secrets[id] = _read(Path(file), where=f"--secret {id}", code="cli.secret-file")
    return secrets


def forget_id(file: str | None, *, inputs: Sequence[str] = ()) -> Path | None:
    """Where the id will go, without that of an earlier build: a failed one leaves none.

    ConfigError if it cannot be written, or is one of `inputs`.
    """
    if file is None:
        return None
    named = _named(file, where="--id-file")
    try:
        path = named.resolve()
        if not path.parent.is_dir():
            raise _id_file_error(f"there is no directory {path.parent}")
        if path.is_dir():
            raise _id_file_error(f"{named} is a directory")
        if path in {Path(each).resolve() for each in inputs}:
            raise _id_file_error(f"{named} is read by this build, and would be overwritten")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise _id_file_error(f"{named} cannot be written")
        if path.is_file():
            path.unlink()
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or error
        raise _id_file_error(f"cannot write {named}: {why}") from None
    return named


def save_id(file: Path | None, id: Id) -> None:
    """Write the id and a newline. ConfigError if the file cannot be written."""
    if file is None:
        return
    try:
        file.write_text(f"{id}\n", "ascii")
    except OSError as error:
        raise _id_file_error(f"cannot write {file}: {error.strerror}") from None


def result_id(text: str) -> Id:
    """An id as a person gives it. ConfigError unless it is 64 hex digits."""
    if not _ID.fullmatch(text):
        raise ConfigError(
            f"{text!r} is not a result's id",
            hint="an id has 64 digits of 0-9 and a-f; a build prints it after Got:",
            code="cli.id",
        )
    return Id(text)


def time_before(text: str, now: datetime) -> datetime:
    """An age such as `7d`, or a date, as a time in UTC. ConfigError."""
    age = _AGE.fullmatch(text)
    with suppress(ValueError, OverflowError):  # then it is neither
        if age:
            return now - timedelta(**{_AGE_UNITS[age[2]]: int(age[1])})
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    raise ConfigError(
        f"{text!r} is neither an age nor a date",
        where="--before",
        hint="write 12h, 7d or 4w, or a date such as 2030-01-31 or 2030-01-31T12:00 (UTC)",
        code="cli.time",
    )


def _named(text: str, *, where: str) -> Path:
    # An unset variable of a script; the current directory is meant by nobody.
    if not text:
        raise ConfigError("found an empty path", where=where, code="cli.empty-path")
    return Path(text)


def _read(path: Path, *, where: str, code: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"there is no file {os.fspath(path)}", where=where, code=code) from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", where=where, code=code) from None


def _id_file_error(what: str) -> ConfigError:
    return ConfigError(what, where="--id-file", code="cli.id-file")
