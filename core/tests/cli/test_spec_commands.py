"""`obuilder check` and `obuilder fmt`: every file is looked at, and nothing is lost."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from obuilder._cli.app import app

GOOD = '((from b)\n (run (shell "make")) ; why\n)\n'
LOOSE = '((from  b)\n\n(run (shell "make")) ; why\n  )'
WRONG = """((from b)
 (rnu x)
 (run (shel a) (shell b) (network lan))
 (copy (src ../a b) (dst c))
 (copy (from (build tolls)) (src a) (dst /))
 (user (uid -1) (gid 0)))"""


def run(*argv: str | Path, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in argv], input=stdin)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    return tmp_path / "a.spec"


def test_check_tells_every_error_with_its_place(spec: Path, tmp_path: Path) -> None:
    spec.write_text(WRONG)
    good = tmp_path / "good.spec"
    good.write_text(GOOD)
    done = run("check", good, spec, tmp_path / "none")
    places = [line.split(": ")[0] for line in done.stderr.splitlines() if line[0] not in " F"]
    inside = ["2:3", "3:2", "3:8", "4:2", "4:2", "5:21", "6:2"]
    assert places == [*(f"{spec}:{place}" for place in inside), str(tmp_path / "none")]
    assert 'did you mean "run"?' in done.stderr
    assert done.stderr.endswith("Found 8 errors in 2 of 3 files\n")
    assert done.exit_code == 2


def test_check_of_good_specs_is_quiet(spec: Path) -> None:
    spec.write_text(GOOD)
    done = run("check", spec, "-", stdin=GOOD.encode())
    assert (done.exit_code, done.stdout, done.stderr) == (0, "2 specs checked, no errors\n", "")


@pytest.mark.parametrize(
    "op",
    [
        '(run (network host lan) (shell "x"))',
        "(run (network none) (shell x))",
        "(copy (src) (dst /))",
        "(copy (src a/..) (dst /))",
        "(copy (src a b) (dst c))",
        "(user (uid 4294967295) (gid 0))",
        "(user (uid 0) (gid -1))",
        '(run (shell "a\\000"))',
        '(env A "\\000")',
        '(workdir "\\000")',
        '(shell "\\000")',
        '(run (cache (c (target "\\000"))) (shell x))',
    ],
)
def test_check_finds_what_no_build_could_do(spec: Path, op: str) -> None:
    spec.write_text(f"((from b)\n {op})")
    done = run("check", spec)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"{spec}:2:2: found ")
    assert len(done.stderr.splitlines()) == 2


def test_fmt_rewrites_and_then_has_nothing_to_do(spec: Path) -> None:
    spec.write_text(LOOSE)
    spec.chmod(0o640)
    assert run("fmt", "--check", spec).exit_code == 1
    shown = run("fmt", "--diff", spec)
    assert shown.exit_code == 0
    assert "-((from  b)\n" in shown.stdout
    assert spec.read_text() == LOOSE
    done = run("fmt", spec)
    assert (done.exit_code, done.stderr) == (0, f"{spec}: formatted\n")
    assert spec.read_text() == '((from b)\n\n (run (shell "make")) ; why\n)\n'
    assert spec.stat().st_mode & 0o7777 == 0o640
    for option in ("--check", "--diff", "--verbose"):
        again = run("fmt", option, spec)
        assert (again.exit_code, again.stdout, again.stderr) == (0, "", "")


def test_fmt_with_both_check_and_diff_shows_and_fails(spec: Path) -> None:
    spec.write_text(LOOSE)
    done = run("fmt", "--check", "--diff", spec)
    assert done.exit_code == 1
    assert done.stdout.startswith(f"--- {spec}\n+++ {spec}\n")
    assert "\\ No newline at end of file\n" in done.stdout


def test_fmt_of_standard_input_goes_to_standard_output() -> None:
    assert run("fmt", "-", stdin=LOOSE.encode()).stdout_bytes == (
        b'((from b)\n\n (run (shell "make")) ; why\n)\n'
    )


def test_fmt_leaves_a_wrong_spec_alone_and_goes_on(spec: Path, tmp_path: Path) -> None:
    spec.write_text(WRONG)
    other = tmp_path / "other.spec"
    other.write_text(LOOSE)
    done = run("fmt", spec, other)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"{spec}:2:3: ")
    assert spec.read_text() == WRONG
    assert other.read_text() != LOOSE


def test_fmt_writes_through_a_link(spec: Path, tmp_path: Path) -> None:
    spec.write_text(LOOSE)
    link = tmp_path / "link"
    link.symlink_to(spec)
    assert run("fmt", link).exit_code == 0
    assert link.is_symlink()
    assert spec.read_text() != LOOSE
    assert sorted(os.listdir(tmp_path)) == ["a.spec", "link"]
