"""Standard output that stalls, does not block, or fails: all of the log, or a line says why."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from obuilder._cli import report
from obuilder.errors import SpecError

LIMIT_S = 60
MAIN = "from obuilder._cli.main import main; main()"
# The text is the command of the fake sandbox, which prints it: more than any pipe holds.
LONG = "x" * 400_000


@pytest.fixture
def workplace(tmp_path: Path, site: Path, fakes: None) -> Path:
    (tmp_path / "spec").write_text(f"((from busybox) (shell sh) (run (shell {LONG})))")
    (tmp_path / "src").mkdir()
    return tmp_path


def argv(root: Path, *command: str) -> list[str]:
    options = [f"--store=fakestore:{root}/store", "--sandbox=fakebox", "--fetcher=fakefetch"]
    words = command or ("build", "-f", str(root / "spec"), str(root / "src"))
    return [sys.executable, "-c", MAIN, *options, *words]


def environment(root: Path, **more: str) -> dict[str, str]:
    return {"PYTHONPATH": str(root / "site"), "PATH": os.environ["PATH"], **more}


def started(root: Path, *, stderr: int = subprocess.PIPE) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        argv(root),
        env=environment(root),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_reader_that_stalls_holds_up_no_signal(workplace: Path, number: signal.Signals) -> None:
    with started(workplace) as process:
        assert process.stdout
        assert process.stderr
        seen = b""
        while b"xxxxx" not in seen:  # it prints the long text; nobody reads on
            seen += os.read(process.stdout.fileno(), 100)
        process.send_signal(number)
        status = process.wait(LIMIT_S)
        errors = process.stderr.read()
    assert status == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert errors in (b"Build cancelled\n", b"Interrupted\n")
    assert list((workplace / "store" / "result-tmp").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_reader_of_both_outputs_that_stalls_keeps_no_process(
    workplace: Path, number: signal.Signals
) -> None:
    with started(workplace, stderr=subprocess.STDOUT) as process:
        assert process.stdout
        try:
            seen = b""
            while b"xxxxx" not in seen:  # what it would say at its end finds no room
                seen += os.read(process.stdout.fileno(), 100)
            process.send_signal(number)
            assert process.wait(LIMIT_S) == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
        finally:
            process.kill()
    assert list((workplace / "store" / "result-tmp").iterdir()) == []


def test_warnings_that_nobody_reads_hold_up_no_build_and_no_signal(workplace: Path) -> None:
    fakes = workplace / "site" / "fakes.py"
    warning = 'import logging\n        logging.warning("w" * 400_000)\n        '
    before = "await log.output("
    fakes.write_text(fakes.read_text().replace(before, warning + before))
    (workplace / "spec").write_text("((from busybox) (shell sh) (run (shell wait)))")
    with started(workplace) as process:
        assert process.stdout
        try:
            assert b"wait\n" in iter(process.stdout.readline, b"")
            process.send_signal(signal.SIGTERM)
            assert process.wait(LIMIT_S) == 143
        finally:
            process.kill()


@pytest.mark.parametrize("error", [SpecError("no"), ZeroDivisionError(), KeyboardInterrupt()])
def test_ctrl_c_kills_who_is_stuck_in_its_last_words(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGINT)
    then: list[object] = []
    monkeypatch.setattr(report, "say", lambda _: then.append(signal.getsignal(signal.SIGINT)))
    with pytest.raises(typer.Exit), report.reporting(verbose=False):
        raise error
    assert set(then) == {signal.SIG_DFL}
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize("more", [{}, {"PYTHONUNBUFFERED": "1"}])
def test_a_pipe_that_does_not_block_gets_the_whole_log(
    workplace: Path, more: dict[str, str]
) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with subprocess.Popen(
        argv(workplace),
        env=environment(workplace, **more),
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            text = pipe.read()
        assert process.stderr
        assert process.stderr.read() == b""
        assert process.wait(LIMIT_S) == 0
    assert text.count(b"x" * 400_000) == 2  # the heading and the output
    assert text.splitlines()[-1].startswith(b'Got: "')


@pytest.mark.parametrize(
    "command", ["--help", "--version", "backends", "clean", "check spec", "build -f spec src"]
)
def test_a_full_output_is_one_line(workplace: Path, command: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            argv(workplace, *command.split())
            if " " in command or command[0] != "-"
            else [sys.executable, "-c", MAIN, command],
            env=environment(workplace),
            cwd=workplace,
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            timeout=LIMIT_S,
        )
    assert done.stderr == b"obuilder: cannot write output: No space left on device\n"
    assert done.returncode == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_as_good_as_an_empty_one(workplace: Path, closed: str) -> None:
    quoted = " ".join(f"'{word}'" for word in argv(workplace))
    done = subprocess.run(
        ["/bin/sh", "-c", f"{quoted} {closed}"],
        env=environment(workplace),
        capture_output=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert (b"Got: " in done.stdout) == (">&-" not in closed.replace("2>&-", ""))


def test_a_closed_standard_error_sends_nothing_to_standard_output(workplace: Path) -> None:
    (workplace / "spec").write_text("((from busybox) (rnu))")
    quoted = " ".join(f"'{word}'" for word in argv(workplace))
    done = subprocess.run(
        ["/bin/sh", "-c", f"{quoted} 2>&-"],
        env=environment(workplace),
        capture_output=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert (done.returncode, done.stdout) == (2, b"")
