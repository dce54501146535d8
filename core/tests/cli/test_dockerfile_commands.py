"""`obuilder dockerfile` and `from-dockerfile`: what they print, and their exit status."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from obuilder._cli.app import app

PROGRAM = Path(sys.executable).with_name("obuilder")


def obuilder(*argv: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, list(argv), input=stdin)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "x.spec"
    cache = "(cache (c (target /c)))"
    path.write_text(f'((from b) (env A "x\\"\\233") (run {cache} (shell "a\nb")))')
    return path


def test_dockerfile_is_printed_byte_for_byte(spec: Path) -> None:
    result = obuilder("dockerfile", "-f", str(spec))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout_bytes == b'FROM b\nENV A="x\\"\xe9"\nRUN a \\\n    b\n'


def test_dockerfile_for_buildkit_and_for_windows(spec: Path) -> None:
    text = obuilder("dockerfile", "-f", str(spec), "--buildkit").stdout_bytes
    assert b"RUN --mount=type=cache,id=c,target=/c,uid=0 a " in text
    text = obuilder("dockerfile", "-f", str(spec), "--escape=windows").stdout_bytes
    assert text == b'#escape=`\nFROM b\nENV A="x`"\xe9"\nRUN a `\n    b\n'
    result = obuilder("dockerfile", "-f", str(spec), "--escape", "windows", "--buildkit")
    assert result.exit_code == 2
    assert "has no number" in result.stderr
    assert "hint: " in result.stderr
    assert result.stdout == ""


def test_spec_is_read_from_standard_input() -> None:
    result = obuilder("dockerfile", "-f", "-", stdin=b"((from caf\xe9))")
    assert result.stdout_bytes == b"FROM caf\xe9\n"


def test_spec_is_printed_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "Dockerfile"
    path.write_bytes(b"FROM b\nENV A=caf\xe9\nRUN a\n")
    expected = (
        '((from b)\n (shell /bin/sh -c)\n (env A "caf\\233")\n'
        " (run (network host)\n      (shell a))\n)\n"
    )
    for argv, stdin in (([str(path)], None), (["-"], path.read_bytes())):
        result = obuilder("from-dockerfile", *argv, stdin=stdin)
        assert (result.exit_code, result.stdout, result.stderr) == (0, expected, "")
    again = obuilder("dockerfile", "-f", "-", stdin=result.stdout_bytes)
    assert b'ENV A="caf\xe9"' in again.stdout_bytes


def test_all_refusals_are_printed_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "Dockerfile"
    path.write_text("FROM b\nADD a b\nRUN c\nCMD d\n")
    result = obuilder("from-dockerfile", str(path))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert f"obuilder: {path}: 2 things have no equal in a spec\n" in result.stderr
    assert f"\n{path}:2: ADD " in result.stderr
    assert f"\n{path}:4: CMD " in result.stderr
    assert "--ignore-metadata" in result.stderr


def test_metadata_can_be_dropped_with_a_note() -> None:
    result = obuilder("from-dockerfile", "-", "--ignore-metadata", stdin=b"FROM b\nCMD d\n")
    assert (result.exit_code, result.stdout) == (0, "((from b)\n)\n")
    assert result.stderr == "obuilder: note: <stdin>:2: CMD is dropped\n"


def test_directories_are_told_from_files_in_the_context(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "f").touch()
    (tmp_path / "l").symlink_to("f")
    text = b"FROM b\nCOPY d f /x/\n"
    result = obuilder("from-dockerfile", "-", "--context", str(tmp_path), stdin=text)
    assert "(copy (src d) (dst /x))\n (copy (src f) (dst /x/))" in result.stdout
    assert result.stderr == ""
    guessed = obuilder("from-dockerfile", "-", stdin=text)
    assert "(copy (src d f) (dst /x/))" in guessed.stdout
    assert "--context" in guessed.stderr
    link = b"FROM b\nCOPY l /x/\nCOPY n /x/\nCOPY n\\0 /x/\n"
    result = obuilder("from-dockerfile", "-", "--context", str(tmp_path), stdin=link)
    assert result.exit_code == 2
    assert "<stdin>:2: 'l' is no file or directory" in result.stderr


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["dockerfile"], "Missing option"),
        (["dockerfile", "-f", "{}/none"], "there is no file"),
        (["dockerfile", "-f", "-", "--escape=mac"], "'mac'"),
        (["from-dockerfile"], "Missing argument"),
        (["from-dockerfile", "{}/none"], "DOCKERFILE: there is no file"),
        (["from-dockerfile", "-", "--context={}/none"], "none: No such file"),
    ],
)
def test_wrong_use_is_status_2(tmp_path: Path, argv: list[str], part: str) -> None:
    result = obuilder(*(word.replace("{}", str(tmp_path)) for word in argv), stdin=b"((from b))")
    assert result.exit_code == 2
    assert part in result.stderr


def test_bad_spec_is_status_2() -> None:
    result = obuilder("dockerfile", "-f", "-", stdin=b"((from b) (rum))")
    assert result.exit_code == 2
    assert result.stderr.startswith("obuilder: <stdin>:1:12: ")


def test_reader_that_has_gone_ends_it_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    argv = [str(PROGRAM), "dockerfile", "-f", "-"]
    text = b"((from b)" + b"(run (shell a))" * 10_000 + b")"
    try:
        done = subprocess.run(
            argv, input=text, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_disk_that_is_full_is_told() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [str(PROGRAM), "dockerfile", "-f", "-"],
            input=b"((from b))",
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == b"obuilder: cannot write output: No space left on device\n"
