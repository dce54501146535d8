"""The command as a process: signals, a closed pipe, and what start-up imports."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

LIMIT_S = 60

WAITING = '((from busybox) (shell sh) (run (shell "wait")))'


@pytest.fixture
def workplace(tmp_path: Path, site: Path, fakes: None) -> Path:
    (tmp_path / "spec").write_text(WAITING)
    (tmp_path / "src").mkdir()
    return tmp_path


@contextmanager
def started(
    root: Path, *, ignoring: signal.Signals | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-c", "from obuilder._cli.main import main; main()"]
    argv += [f"--store=fakestore:{root}/store", "--sandbox=fakebox", "--fetcher=fakefetch"]
    argv += ["build", "-f", str(root / "spec"), str(root / "src")]
    environment = {"PYTHONPATH": str(root / "site"), "PATH": os.environ["PATH"]}
    if ignoring:
        # As nohup does it: a parent that ignores a signal hands that on.
        code = f"import os,signal,sys; signal.signal({ignoring.value}, signal.SIG_IGN); "
        argv = [sys.executable, "-c", code + "os.execv(sys.argv[1], sys.argv[1:])", *argv]
    with subprocess.Popen(
        argv,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def until_step_runs(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout
    for line in process.stdout:
        if line == b"wait\n":
            return
    assert process.stderr
    pytest.fail(process.stderr.read().decode())


@pytest.mark.parametrize(
    ("number", "status", "message"),
    [
        (signal.SIGINT, 130, b"Interrupted\n"),
        (signal.SIGTERM, 143, b"Build cancelled\n"),
        (signal.SIGHUP, 143, b"Build cancelled\n"),
    ],
)
def test_signal_cancels_cleans_up_and_sets_the_status(
    workplace: Path, number: signal.Signals, status: int, message: bytes
) -> None:
    with started(workplace) as process:
        until_step_runs(process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, errors) == (status, message)
    assert list((workplace / "store" / "result-tmp").iterdir()) == []


def test_hangup_that_the_parent_ignores_stays_ignored(workplace: Path) -> None:
    with started(workplace, ignoring=signal.SIGHUP) as process:
        until_step_runs(process)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, errors) == (143, b"Build cancelled\n")


def test_second_signal_ends_at_once(workplace: Path) -> None:
    fakes = workplace / "site" / "fakes.py"
    stubborn = "with anyio.CancelScope(shield=True):\n                await anyio.sleep_forever()"
    fakes.write_text(fakes.read_text().replace("await anyio.sleep_forever()", stubborn))
    with started(workplace) as process:
        until_step_runs(process)
        process.send_signal(signal.SIGTERM)
        # Two of one kind that are pending at once are one for the kernel.
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LIMIT_S)
    assert process.returncode in (130, 143)


def test_closed_output_pipe_ends_the_build_quietly(workplace: Path) -> None:
    with started(workplace) as process:
        assert process.stdout
        process.stdout.close()
        assert process.stderr
        assert process.stderr.read() == b""
        assert process.wait(LIMIT_S) == 1
    assert list((workplace / "store" / "result-tmp").iterdir()) == []


def imported(code: str) -> set[str]:
    script = f"import json, sys\n{code}\njson.dump(sorted(sys.modules), sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, timeout=LIMIT_S
    )
    return {name.partition(".")[0] for name in json.loads(done.stderr)}


HEAVY = {"anyio", "stevedore", "pluggy", "rich", "sexpdata", "pydantic", "asyncio"}


def test_importing_the_package_imports_nothing_else() -> None:
    assert imported("import obuilder") & (HEAVY | {"typer", "tomllib", "sqlite3"}) == set()


def test_every_public_name_can_be_had() -> None:
    code = "import obuilder\nfor name in obuilder.__all__: getattr(obuilder, name)"
    assert imported(code) & {"typer", "rich"} == set()


def test_version_imports_no_command_line_library() -> None:
    code = "sys.argv = ['obuilder', '--version']\nfrom obuilder._cli.main import main\nmain()"
    assert imported(code) & (HEAVY | {"typer"}) == set()


def test_help_imports_nothing_of_the_core() -> None:
    code = (
        "sys.argv = ['obuilder', '--help']\nfrom obuilder._cli.main import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code"
    )
    assert imported(code) & HEAVY == set()
