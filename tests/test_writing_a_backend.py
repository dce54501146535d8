"""What authors are given works: the page, and the repositories that are written for them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mypy import api
from support.wheels import TOP, build_wheel, command, install
from typer.testing import CliRunner, Result

from obuilder._cli.app import app
from obuilder._core.drivers.checks import check_class
from obuilder.interfaces import Fetcher, Sandbox, Store

PAGE = TOP / "docs" / "writing-a-backend.md"
BLOCK = re.compile(r"^```\w+ (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def suite(python: Path | str, directory: Path, *argv: str) -> str:
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *argv],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(directory / "src"), "TMPDIR": str(directory.parent)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


def new_backend(*argv: str | Path) -> Result:
    return CliRunner().invoke(app, ["new-backend", *map(str, argv)])


@pytest.mark.timeout(600)
def test_the_pages_store_keeps_every_promise(tmp_path: Path) -> None:
    files: dict[str, str] = {}
    for name, text in BLOCK.findall(PAGE.read_text()):
        files[name] = files.get(name, "") + text
    assert len(files) == 3
    for name, text in files.items():
        path = tmp_path / "cp" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    last = suite(sys.executable, tmp_path / "cp", "-k", "not trio")
    assert re.fullmatch(r"\d\d passed, \d+ deselected in .*", last)
    build_wheel(tmp_path / "cp", tmp_path / "dist")


@pytest.mark.slow
@pytest.mark.timeout(800)
def test_a_written_store_works_from_its_wheel_alone(
    wheels: Path, clean_python: Path, busybox_archive: Path, tmp_path: Path
) -> None:
    used = ("obuilder-", "obuilder_sandbox_runc-", "obuilder_fetcher_archive-")
    install(clean_python, *(path for path in wheels.iterdir() if path.name.startswith(used)))
    home = tmp_path / "my-disk"
    command(clean_python, "new-backend", "store", "my-disk", str(home), home=tmp_path)
    build_wheel(home, tmp_path / "dist")
    install(clean_python, *(tmp_path / "dist").iterdir())
    shutil.rmtree(home / "src")

    last = suite(clean_python, home)
    assert re.fullmatch(r"\d+ passed in .*", last)
    listed = command(clean_python, "backends", home=tmp_path).stdout
    assert re.search(r"^store +my-disk +obuilder-store-my-disk +0\.1\.0 +ok$", listed, re.MULTILINE)

    shutil.copy(busybox_archive, tmp_path / "busybox.tar")
    spec = tmp_path / "spec"
    spec.write_text('((from archive:busybox.tar) (shell /bin/sh -c) (run (shell "echo built")))')
    (tmp_path / "source").mkdir()
    store = f"--store=my-disk:{tmp_path}/store"
    args = ("build", store, "-f", str(spec), str(tmp_path / "source"))
    done = command(clean_python, *args, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\nbuilt\n" in done.stdout

    some = ("--only", "build is saved", "--only", "odd cache names")
    tried = command(clean_python, "conformance", store, *some, home=tmp_path)
    assert tried.returncode == 0, tried.stderr
    assert "2 promises: 2 kept, 0 broken" in tried.stdout


def test_a_name_that_is_taken_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert new_backend("store", "rsync", tmp_path / "own").stdout == f"{tmp_path}/own\n"
    told = "the store rsync is also in obuilder-store-rsync: installing yours replaces it"
    assert caplog.messages == [told]
    caplog.clear()
    assert new_backend("fetcher", "rsync", tmp_path / "other").exit_code == 0
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("kind", "interface"), [("store", Store), ("sandbox", Sandbox), ("fetcher", Fetcher)]
)
def test_a_written_backend_is_typed_and_has_the_form_of_its_interface(
    kind: str, interface: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert new_backend(kind, "acme", tmp_path / "acme").exit_code == 0
    source = tmp_path / "acme" / "src"
    monkeypatch.syspath_prepend(str(source))
    module = __import__(f"obuilder_{kind}_acme")
    backend = getattr(module, f"Acme{kind.capitalize()}")
    check_class(backend, interface, distribution=f"obuilder-{kind}-acme")
    # Every method is there to be seen, and has its docstring.
    promised = {
        name for name, value in vars(interface).items() if callable(value) and name[0] != "_"
    }
    assert [name for name in promised if name not in vars(backend)] == []
    assert [name for name in promised if not getattr(backend, name).__doc__] == []
    out, err, status = api.run(["--strict", "--cache-dir", str(tmp_path / "mypy"), str(source)])
    assert status == 0, out + err


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["sandbox", "fetcher"])
def test_a_written_backends_own_tests_pass(kind: str, tmp_path: Path) -> None:
    assert new_backend(kind, "acme", tmp_path / "acme").exit_code == 0
    passed = suite(sys.executable, tmp_path / "acme")
    promises = {"sandbox": 92, "fetcher": 30}  # on two event loops
    assert re.fullmatch(rf"{promises[kind]} passed in .*", passed)
    build_wheel(tmp_path / "acme", tmp_path / "dist")


def test_files_are_in_a_directory_of_the_distributions_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert new_backend("fetcher", "foo").stdout == "obuilder-fetcher-foo\n"
    found = {str(path.relative_to("obuilder-fetcher-foo")) for path in Path().rglob("*.*")}
    assert {"pyproject.toml", "README.md", ".gitignore", ".github/workflows/test.yml"} <= found
    assert not any("@@" in path.read_text() for path in Path().rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (("stove", "foo"), "there are: store, sandbox, fetcher"),
        (("store", "Foo"), "'Foo' cannot be a driver's name"),
        (("store", "a/b"), "'a/b' cannot be a driver's name"),
        (("store", "foo", "."), ". is not empty"),
        (("store", "foo", "there"), "cannot write"),
    ],
)
def test_what_cannot_be_written_is_said_and_nothing_is(
    argv: tuple[str, ...], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").write_text("a file")
    result = new_backend(*argv)
    assert result.exit_code == 2
    assert part in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
