"""docs/failures.md: every code has its kind, and every kind its exit status."""

import ast
import os
import re
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from support.command import Command
from support.wheels import TOP

from obuilder import errors, unpack
from obuilder._cli.report import status_of
from obuilder.errors import BackendError, ErrorKind, ObuilderError

PAGE = (TOP / "docs/failures.md").read_text()
ROWS = dict(re.findall(r"^\| `([a-z]+)` \| (`.*`) \|$", PAGE, re.MULTILINE))
FAMILIES = {"cli": "ConfigError", "config": "ConfigError", "plugin": "PluginError"}
FAMILIES |= {"spec": "SpecError", "dockerfile": "SpecError"}
CLASSES: dict[str, type[ObuilderError]] = {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, ObuilderError)
}


def documented(code: str) -> set[str]:
    """The kinds that the page gives a code: by its name, else by its family."""
    for name in (code, f"{code.partition('.')[0]}.*"):
        found = {kind for kind, codes in ROWS.items() if f"`{name}`" in codes}
        if found:
            return found
    return set()


def raised() -> Iterator[tuple[str, str]]:
    """Class and code of every error that the tree makes with a code of its own."""
    for path in [*TOP.glob("core/src/**/*.py"), *TOP.glob("plugins/*/src/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Name("RefusedError"), args=[ast.Constant(str(refusal)), *_]):
                    of_archive = refusal in unpack._OF_THE_ARCHIVE
                    yield "ImageError" if of_archive else "FetchError", refusal
                case ast.Call(func=ast.Name(name), keywords=keywords):
                    given = {word.arg: word.value for word in keywords}
                    code = getattr(given.get("code"), "value", None)
                    if isinstance(code, str):
                        name = getattr(given.get("error"), "id", name)
                        default = FAMILIES.get(code.partition(".")[0], "FetchError")
                        yield name if name in CLASSES else default, code


def of(name: str, code: str) -> ObuilderError:
    """An error of a class by name, made without knowing what its class takes."""
    error = CLASSES[name].__new__(CLASSES[name])
    error.code = code
    return error


def test_every_code_has_one_kind_and_the_page_says_which() -> None:
    found = {(name, code) for name, code in raised()}
    found |= {(name, kind.default_code) for name, kind in CLASSES.items()}
    assert len(found) > 100
    wrong = {
        (name, code): (of(name, code).kind, documented(code))
        for name, code in found
        if documented(code) != {of(name, code).kind}
    }
    assert wrong == {}
    used = {code for _, code in found}
    named = {code for codes in ROWS.values() for code in re.findall(r"`([a-z.-]+)`", codes)}
    assert named - used - {"docker.invalid-reference"} == set()


def test_every_kind_has_a_row_and_only_the_infrastructures_is_3() -> None:
    assert set(ROWS) == set(ErrorKind)
    assert status_of(BackendError("x")) == 3
    assert {status_of(BackendError("x", code=code)) for code in ("store.in-use", "x.y")} == {1, 3}
    assert status_of(errors.CommandFailed(("false",), 1)) == 1
    assert status_of(errors.BuildError("x", code="healthcheck.timeout")) == 1
    assert status_of(errors.ImageError("x", code="somebodys.own")) == 1
    assert status_of(errors.ConfigError("x")) == status_of(errors.SpecError("x")) == 2
    assert status_of(errors.ConfigError("x", code="store.program")) == 3


RUN = '(run (shell "true"))'


def ends_with(command: Command, status: int, *words: str, ops: str = RUN) -> None:
    done = command.build(ops)
    assert done.returncode == status, done.stderr
    for word in words:
        assert word in done.stderr.decode()


def test_what_lies_in_the_build_is_1_and_in_the_spec_2(obuilder: Command) -> None:
    ends_with(obuilder, 1, "exit status 3", ops='(run (shell "exit 3"))')
    ends_with(obuilder, 1, "nothing", ops="(copy (src nothing) (dst /))")
    ends_with(obuilder, 2, "rum", ops="(rum)")
    obuilder.options = ["-o", "nonsense"]
    ends_with(obuilder, 2, "nonsense")


def test_a_program_that_is_not_installed_is_the_machines_fault(obuilder: Command) -> None:
    obuilder.options = ["-o", "runc.runtime='no-such-runtime'"]
    ends_with(obuilder, 3, "no-such-runtime", "PATH")
    obuilder.options = []
    obuilder.env = {"PATH": str(obuilder.directory)}
    ends_with(obuilder, 3, "rsync", "PATH", "apt-get")


def test_a_damaged_database_is_the_machines_fault_for_every_command(obuilder: Command) -> None:
    ends_with(obuilder, 0)
    database = obuilder.directory / "store/state/db/db.sqlite"
    database.write_bytes(b"not a database" * 1000)
    ends_with(obuilder, 3, "db.sqlite", "fsck --rebuild-db")
    other = f"rsync:{obuilder.directory}/other"
    for argv in (
        ["clean"],
        ["prune", "--before=1d"],
        ["delete", "0" * 64],
        ["healthcheck"],
        ["push", "0" * 64, "--to", other],
        ["pull", "0" * 64, "--from", other],
    ):
        done = obuilder(*argv)
        assert done.returncode == 3, (argv, done.stderr)
    database.unlink()
    ends_with(obuilder, 0)
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM builds").fetchone() == (2,)


def test_too_few_descriptors_are_told_wherever_they_end_and_nothing_is_left(
    obuilder: Command,
) -> None:
    assert obuilder.build("").returncode == 0
    places = [Path(obuilder.store.partition(":")[2], name) for name in ("result-tmp", "cache-tmp")]
    steps = '(run (cache (c (target /c))) (shell "echo it ran"))'
    spec = obuilder.write_spec(steps)
    said = set()
    for most in range(8, 64):
        # Not the hard limit, so that what is started may have more.
        argv = ["prlimit", f"--nofile={most}:", *obuilder.argv("build", "--max-steps=2", "-f")]
        done = subprocess.run(
            [*argv, str(spec), str(obuilder.source)],
            capture_output=True,
            cwd=obuilder.directory,
            env=obuilder.environment(),
            check=False,
        )
        assert [os.listdir(place) for place in places] == [[], []], f"{most} descriptors"
        if done.returncode == 0:
            break
        assert done.returncode == 3, f"{most} descriptors"
        assert b"too many files are open: " in done.stderr
        assert b"ulimit -n" in done.stderr
        said.add(done.stderr.splitlines()[-2].partition(b":")[0])
    assert done.returncode == 0
    assert said == {b"obuilder", b"Build step failed"}
