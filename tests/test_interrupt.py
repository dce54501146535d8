"""A build that is stopped: by a key, by a signal, by a closed pipe, by kill -9."""

import os
import select
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.command import Command
from support.containers import descendants

# Ignores SIGTERM and has descendants that do so too.
STUBBORN = (
    "(run (shell \"trap '' TERM INT; for i in 1 2 3; do (trap '' TERM; cat /tmp/hang) & done;"
    ' mkfifo /tmp/hang; echo up; cat /tmp/hang"))'
)


def assert_clean(command: Command, store: Path) -> None:
    assert os.listdir(store / "result-tmp") == []
    assert os.listdir(store / "cache-tmp") == []
    assert os.listdir(store / "state" / "locks") == []
    assert str(store) not in Path("/proc/mounts").read_text()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert b"cat\0/tmp/hang" not in entry.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended while we looked


# A hundred descendants, half of them daemons of sessions of their own, whose parents are gone.
LARGE_FAMILY = (
    "(run (cache (c (target /c))) (secrets (s (target /s)))"
    " (shell \"trap '' TERM INT HUP; mkfifo /tmp/hang;"
    " for i in $(seq 50); do cat /tmp/hang & done;"
    " for i in $(seq 25); do setsid sh -c 'cat /tmp/hang & setsid cat /tmp/hang &' & wait $!; done;"
    ' touch /c/used; echo family of $(ls /proc | grep -c [0-9]); echo up; cat /tmp/hang"))'
)


@pytest.mark.parametrize("kind", ["rsync", "btrfs"])
def test_ctrl_c_ends_a_hundred_descendants_that_ignore_signals(
    kind: str, btrfs_root: Path, obuilder: Command
) -> None:
    store = (btrfs_root if kind == "btrfs" else obuilder.directory) / "store"
    obuilder.store = f"{kind}:{store}"
    secret = obuilder.directory / "secret"
    secret.write_text("hush")
    running = obuilder.start(LARGE_FAMILY, "--secret", f"s:{secret}")
    running.wait_for(b"\nup\n")
    family = list(descendants(running.process.pid))
    assert len(family) >= 101
    assert len({os.getsid(pid) for pid in family}) >= 51
    with ExitStack() as opened:
        watched = select.poll()
        for pid in family:
            pidfd = os.pidfd_open(pid)
            opened.callback(os.close, pidfd)
            watched.register(pidfd, select.POLLIN)
        assert watched.poll(0) == []
        running.press_ctrl_c()
        code, _, stderr = running.end()
        assert (code, stderr) == (130, b"Interrupted\n")
        assert len(watched.poll(0)) == len(family)  # ended, all of them
    for place in ("bundles", "runc"):
        assert os.listdir(store / "state" / "sandboxes" / "runc" / place) == []
    assert_clean(obuilder, store)
    checked = obuilder("fsck")
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)],
)
def test_a_signal_cleans_up_and_the_same_command_works_again(
    obuilder: Command, number: signal.Signals, status: int
) -> None:
    store = obuilder.directory / "store"
    running = obuilder.start(STUBBORN)
    running.wait_for(b"\nup\n")
    running.signal(number)
    code, _, stderr = running.end()
    assert code == status, stderr
    assert b"Traceback" not in stderr
    assert_clean(obuilder, store)
    again = obuilder.build('(run (shell "echo fine"))')
    assert again.returncode == 0, again.stderr
    assert b"\nfine\n" in again.stdout


def test_a_build_that_drains_saves_what_runs_and_begins_no_more(obuilder: Command) -> None:
    waits = '(run (shell "echo up; until test -e /go; do usleep 9000; done; echo done"))'
    running = obuilder.start(f'{waits} (run (shell "echo second"))', "--drain-on-term")
    running.wait_for(b"\nup\n")
    running.signal(signal.SIGTERM)
    assert running.process.stderr is not None
    assert b"draining" in running.process.stderr.readline()
    (temporary,) = (obuilder.directory / "store" / "result-tmp").iterdir()
    (temporary / "rootfs" / "go").touch()
    code, printed, stderr = running.end()
    assert code == 143, stderr
    assert b"the builder drains" in stderr
    assert b"\ndone\n" in printed
    assert b"\nsecond\n" not in printed
    again = obuilder.build(f'{waits} (run (shell "echo second"))')
    assert again.stdout.count(b"from cache") == 2
    assert b"\nsecond\n" in again.stdout


def test_the_second_sigterm_of_a_build_that_drains_cancels(obuilder: Command) -> None:
    running = obuilder.start(STUBBORN, "--drain-on-term")
    running.wait_for(b"\nup\n")
    running.signal(signal.SIGTERM)
    assert running.process.stderr is not None
    assert b"draining" in running.process.stderr.readline()
    running.signal(signal.SIGTERM)
    assert running.end()[0] == 143
    assert_clean(obuilder, obuilder.directory / "store")


def test_a_second_signal_ends_it_at_once(obuilder: Command) -> None:
    running = obuilder.start(STUBBORN)
    running.wait_for(b"\nup\n")
    running.signal(signal.SIGTERM)
    running.signal(signal.SIGTERM)
    assert running.end()[0] == 143
    assert obuilder.build('(run (shell "echo fine"))').returncode == 0
    assert_clean(obuilder, obuilder.directory / "store")


def test_after_kill_9_the_next_command_removes_what_was_left(obuilder: Command) -> None:
    store = obuilder.directory / "store"
    running = obuilder.start(STUBBORN)
    running.wait_for(b"\nup\n")
    running.signal(signal.SIGKILL)
    assert running.end()[0] == -signal.SIGKILL
    assert os.listdir(store / "result-tmp") != []
    again = obuilder.build('(run (shell "echo fine"))')
    assert again.returncode == 0, again.stderr
    assert_clean(obuilder, store)


def test_a_closed_output_pipe_ends_it_quietly(obuilder: Command) -> None:
    argv = obuilder.argv(
        "build", "-f", str(obuilder.write_spec('(run (shell "yes"))')), str(obuilder.source)
    )
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=obuilder.directory,
        env=obuilder.environment(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    stderr = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 1
    assert stderr == b""
    assert_clean(obuilder, obuilder.directory / "store")
