"""What `check` and `fmt` do with a list of spec files: each one, whatever is wrong with another."""

import difflib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from obuilder._cli.inputs import read_input
from obuilder._cli.report import FAILED, USAGE, print_out, say
from obuilder.durable import write_file
from obuilder.errors import ConfigError, SpecError
from obuilder.spec import check, format_spec

__all__ = ["check_files", "format_files"]

_STDIN = "-"


def check_files(paths: Sequence[str]) -> int:
    """Print every error of every file, and a summary; the exit status, 2 if there is one."""
    _once(paths)
    found = wrong = 0
    for path in paths:
        errors = _errors(path)
        for error in errors:
            say(str(error))
        found += len(errors)
        wrong += bool(errors)
    if found:
        say(f"Found {_count(found, 'error')} in {wrong} of {_count(len(paths), 'file')}")
        return USAGE
    print_out(f"{_count(len(paths), 'spec')} checked, no errors\n".encode())
    return 0


def _errors(path: str) -> Sequence[SpecError | ConfigError]:
    try:
        return check(_read(path), file=_name(path))
    except ConfigError as error:  # the next file may be better
        return (error,)


def format_files(paths: Sequence[str], *, check: bool, diff: bool) -> int:
    """Format files in place, standard input to standard output.

    With `check` or `diff` nothing is written. The exit status: 2 if one cannot
    be read, parsed or written, 1 if `check` found one to change.
    """
    _once(paths)
    changed = failed = 0
    for path in paths:
        try:
            before = _read(path)
            after = format_spec(before, file=_name(path))
            if path == _STDIN and not (check or diff):
                print_out(after)
            if after == before:
                continue
            changed += 1
            if diff:
                print_out(_diff(before, after, name=_name(path)))
            if check:
                say(f"{path}: would be formatted")
            if not (check or diff) and path != _STDIN:
                _replace(path, after)
                say(f"{path}: formatted")
        except (ConfigError, SpecError) as error:
            say(str(error))
            failed += 1
    if failed:
        return USAGE
    return FAILED if check and changed else 0


def _once(paths: Sequence[str]) -> None:
    if paths.count(_STDIN) > 1:
        raise ConfigError("standard input can be read once", where=_STDIN, code="cli.spec-file")


def _read(path: str) -> bytes:
    return read_input(path, where=path or "SPEC", code="cli.spec-file")


def _replace(path: str, data: bytes) -> None:
    try:
        # Through a link, as an editor does, and with the rights that it had.
        target = Path(path).resolve(strict=True)
        status = target.stat()
        if not stat.S_ISREG(status.st_mode):
            what = "is not a regular file"
        elif not os.access(target, os.W_OK):
            what = "is read-only"
        elif status.st_nlink > 1:
            target.write_bytes(data)  # its other names are to go on naming it
            return
        else:
            owner = (status.st_uid, status.st_gid)
            write_file(target, data, mode=stat.S_IMODE(status.st_mode), owner=owner)
            return
    except OSError as error:
        what = f"cannot be written: {error.strerror}"
    raise ConfigError(f"it {what}", where=path, code="cli.spec-file")


def _diff(before: bytes, after: bytes, *, name: str) -> bytes:
    lines = difflib.diff_bytes(
        difflib.unified_diff,
        before.splitlines(keepends=True),
        after.splitlines(keepends=True),
        name.encode("utf-8", "surrogateescape"),
        name.encode("utf-8", "surrogateescape"),
    )
    # A last line without a newline must not run into the next one.
    return b"".join(
        line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n"
        for line in lines
    )


def _name(path: str) -> str:
    return "<stdin>" if path == _STDIN else path


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
