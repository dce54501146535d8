"""`obuilder check` and `obuilder fmt`: every file is looked at, and nothing is lost."""

import os
import subprocess
import sys
import tempfile
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


def test_fmt_keeps_the_owner_and_every_name(spec: Path, tmp_path: Path) -> None:
    spec.write_text(LOOSE)
    os.chown(spec, 1000, 1001)
    assert run("fmt", spec).exit_code == 0
    assert (spec.stat().st_uid, spec.stat().st_gid) == (1000, 1001)
    spec.write_text(LOOSE)
    (tmp_path / "other").hardlink_to(spec)
    assert run("fmt", spec).exit_code == 0
    assert (tmp_path / "other").read_text() == spec.read_text() != LOOSE


def test_fmt_leaves_what_it_may_not_write() -> None:
    # As somebody who owns the file and its directory, and has made the file read-only.
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        spec = Path(directory) / "spec"
        spec.write_text(LOOSE)
        for path in (spec, spec.parent):
            os.chown(path, 65534, 65534)
        spec.chmod(0o444)
        done = subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c"]
            + ["from obuilder._cli.main import main; main()", "fmt", str(spec)],
            capture_output=True,
            check=False,
            cwd="/",
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert done.returncode == 2, done.stderr
        assert done.stderr == f"{spec}: it is read-only\n".encode()
        assert spec.read_text() == LOOSE


def test_standard_input_is_read_once_and_no_path_is_empty(spec: Path) -> None:
    assert "can be read once" in run("check", "-", "-", stdin=GOOD.encode()).stderr
    assert "found an empty path" in run("check", "").stderr


def test_check_reads_on_as_what_was_meant(spec: Path) -> None:
    spec.write_text("""((build x ((form a) (run (shell y)) (rnu z)))
 (biuld y ((from b)))
 (build z ((from a)) oops)
 (from b)
 (copy (from (build x)) (src a) (dst b))
 (copy (from (build y)) (src a) (dst b))
 (copy (from (build z)) (src a) (dst b))
 (run (shel x))
 (run (shell x) (cache (a) (b)) (secrets (s)))
 (run (shell x y) (chace (a (target /a))) (netwrk host))
 (copy (from (build nope)) (src a) (dst (x)) (exlude y))
 (user (uid x) (gid y))
 (build w ((from q) (zzz))))""")
    lines = [line for line in run("check", spec).stderr.splitlines() if line[0] not in " F"]
    assert [line.removeprefix(f"{spec}:").split(": ")[0] for line in lines] == [
        *("1:13", "1:38", "2:3", "3:2", "8:8", "9:24", "9:28", "9:42", "10:7", "10:20", "10:44"),
        *("11:21", "11:41", "11:47", "12:13", "12:21", "13:2", "13:22"),
    ]


def test_check_tells_a_hundred_errors_and_in_good_time(spec: Path) -> None:
    builds = "".join(f"(build n{number} ((from a)))" for number in range(8000))
    copies = "".join(f"(copy (from (build m{number})) (src a) (dst b))" for number in range(8000))
    spec.write_text(f"({builds}(from b){copies})")
    done = run("check", spec)
    assert done.stderr.count("unknown stage") == 100
    assert "more than 100 errors" in done.stderr


def test_fmt_writes_through_a_link(spec: Path, tmp_path: Path) -> None:
    spec.write_text(LOOSE)
    link = tmp_path / "link"
    link.symlink_to(spec)
    assert run("fmt", link).exit_code == 0
    assert link.is_symlink()
    assert spec.read_text() != LOOSE
    assert sorted(os.listdir(tmp_path)) == ["a.spec", "link"]
