"""What `check` and `fmt` do with a list of spec files: each one, whatever is wrong with another."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from obuilder._cli.inputs import read_input
from obuilder._cli.report import FAILED, USAGE, print_out, say
from obuilder.durable import write_file
from obuilder.errors import ConfigError, SpecError
from obuilder.spec import check, format_spec

__all__ = ["check_files", "format_files"]

_STDIN = Path("-")


def check_files(paths: Sequence[Path]) -> int:
    """Print every error of every file, and a summary; the exit status, 2 if there is one."""
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


def _errors(path: Path) -> Sequence[SpecError | ConfigError]:
    try:
        return check(read_input(str(path), where=str(path), code="cli.spec-file"), file=_name(path))
    except ConfigError as error:  # the next file may be better
        return (error,)


def format_files(paths: Sequence[Path], *, check: bool, diff: bool) -> int:
    """Format files in place, standard input to standard output.

    With `check` or `diff` nothing is written. The exit status: 2 if one cannot
    be read, parsed or written, 1 if `check` found one to change.
    """
    changed = failed = 0
    for path in paths:
        try:
            before = read_input(str(path), where=str(path), code="cli.spec-file")
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


def _replace(path: Path, data: bytes) -> None:
    try:
        # Through a link, as an editor does, and with the rights that it had.
        target = path.resolve(strict=True)
        write_file(target, data, mode=target.stat().st_mode & 0o7777)
    except OSError as error:
        raise ConfigError(
            f"cannot write: {error.strerror}", where=str(path), code="cli.spec-file"
        ) from None


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


def _name(path: Path) -> str:
    return "<stdin>" if path == _STDIN else str(path)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
