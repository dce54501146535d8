"""`obuilder build` makes stages side by side in real containers, and prints as if one by one."""

import re
import socket
from pathlib import Path

from support.command import SHELL_LINES, Command
from support.filesystems import mounted_tmpfs

TWO_STAGES = """
 ((build one ({shell} (run (network host) (shell "{one}"))))
  (build two ({shell} (run (network host) (shell "{two}"))))
  {shell}
  (copy (from (build one)) (src word) (dst /one))
  (copy (from (build two)) (src word) (dst /two))
  (run (shell "cat /one /two")))
"""


def build(obuilder: Command, *options: str, one: str, two: str) -> tuple[int, str, str]:
    shell = SHELL_LINES.strip().removeprefix("(")
    spec = obuilder.directory / "stages"
    spec.write_text(TWO_STAGES.format(shell=shell, one=one, two=two))
    done = obuilder("build", "-f", str(spec), *options, str(obuilder.source))
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_stages_that_wait_for_each_other_meet(obuilder: Command) -> None:
    port = free_port()
    status, printed, complaint = build(
        obuilder,
        "--jobs=2",
        one=f"nc -l -p {port} > /word; cat /word",
        two=f"echo from two > /word; until nc 127.0.0.1 {port} < /word; do usleep 9000; done",
    )
    assert (status, complaint) == (0, "")
    # The first stage's lines come first, though it ended with what the second sent.
    assert re.findall(r"^(?:\(build|from two|--> ).*", printed, re.MULTILINE) == [
        '(build "one" …)',
        "from two",
        '--> finished "one"',
        '(build "two" …)',
        '--> finished "two"',
        "from two",
        "from two",
    ]


def test_the_output_is_the_same_whatever_the_number_of_jobs(
    obuilder: Command, tmp_path: Path
) -> None:
    printed = set()
    for jobs in (1, 2, 5):
        obuilder.store = f"rsync:{tmp_path}/store{jobs}"
        status, text, _ = build(
            obuilder,
            f"--jobs={jobs}",
            one="echo in one | tee /word; usleep 50000; echo one ends",
            two="echo in two | tee /word",
        )
        assert status == 0
        printed.add(text)
    assert len(printed) == 1


def test_keep_going_lists_every_failure(obuilder: Command) -> None:
    status, printed, complaint = build(
        obuilder, "--keep-going", "-j", "2", one="echo in one; exit 3", two="echo in two; exit 4"
    )
    assert status == 1
    assert sorted(re.findall(r"failed with exit status (\d)", complaint)) == ["3", "4"]
    assert printed.index("in one\n") < printed.index("in two\n")
    assert "Got:" not in printed


def test_without_it_the_first_failure_is_told_alone(obuilder: Command) -> None:
    status, printed, complaint = build(
        obuilder, "-j", "2", one="echo in one; sleep 1000", two="echo in two; exit 4"
    )
    assert status == 1
    assert complaint.count("Build step failed") == 1
    assert '(build "two" …)' in printed
    assert "in two\n" in printed
    assert obuilder("prune", "--before=2100-01-01").returncode == 0


def test_output_that_cannot_be_kept_is_the_machines_fault(
    obuilder: Command, tmp_path: Path
) -> None:
    with mounted_tmpfs(tmp_path / "small", "size=512k") as small:
        obuilder.env = {"TMPDIR": str(small)}
        status, _, complaint = build(
            obuilder, "--jobs=2", one="sleep 1000", two="seq 400000; echo > /word"
        )
        assert status == 3
        assert f"cannot keep the output of a stage in {small}" in complaint
        obuilder.env = {}
        again = build(obuilder, "--jobs=2", one="echo > /word", two="seq 400000; echo > /word")
        assert again[0] == 0
