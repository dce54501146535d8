"""The command on the overlayfs store: what stays mounted when it is stopped, what it sends."""

import os
import signal
from pathlib import Path

import pytest
from support.command import Command

HANGS = '(run (shell "echo one > /one")) (run (shell "mkfifo /hang; echo up; cat /hang"))'
FINE = '(run (shell "echo one > /one")) (run (shell "cat /one"))'


@pytest.fixture
def store(obuilder: Command, ext4_root: Path) -> Path:
    obuilder.store = f"overlayfs:{ext4_root}/store"
    return ext4_root / "store"


def assert_clean(store: Path) -> None:
    assert str(store) not in Path("/proc/mounts").read_text()
    assert os.listdir(store / "result-tmp") == []
    assert os.listdir(store / "state" / "locks") == os.listdir(store / "state" / "views") == []
    # Of the dead step nothing: each layer belongs to a result.
    assert set(os.listdir(store / "layer")) <= set(os.listdir(store / "result"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_mounted(
    obuilder: Command, store: Path, number: signal.Signals
) -> None:
    running = obuilder.start(HANGS)
    running.wait_for(b"\nup\n")
    assert f"{store}/result-tmp/" in Path("/proc/mounts").read_text()
    running.signal(number)
    code, _, stderr = running.end()
    assert code == 128 + number, stderr
    assert_clean(store)


def test_after_kill_9_the_next_command_unmounts_what_was_left(
    obuilder: Command, store: Path
) -> None:
    running = obuilder.start(HANGS)
    running.wait_for(b"\nup\n")
    running.signal(signal.SIGKILL)
    assert running.end()[0] == -signal.SIGKILL
    # The step's tree, and the base's, which the build had looked at.
    assert Path("/proc/mounts").read_text().count(str(store)) >= 2
    done = obuilder.build(FINE)
    assert done.returncode == 0, done.stderr
    assert b"\none\n" in done.stdout
    assert_clean(store)


def test_what_a_build_leaves_can_be_deleted_and_pruned(obuilder: Command, store: Path) -> None:
    id_file = obuilder.directory / "id"
    done = obuilder.build(FINE, "--id-file", str(id_file))
    assert done.returncode == 0, done.stderr
    assert obuilder("delete", id_file.read_text().strip()).returncode == 0
    assert obuilder.build(FINE).returncode == 0
    assert obuilder("clean").returncode == 0
    assert os.listdir(store / "result") == os.listdir(store / "layer") == []
    assert_clean(store)


def test_a_result_of_layers_is_sent_to_another_store_as_a_whole_tree(
    obuilder: Command, store: Path
) -> None:
    id_file = obuilder.directory / "id"
    assert obuilder.build(FINE, "--id-file", str(id_file)).returncode == 0
    id = id_file.read_text().strip()
    other = obuilder.directory / "other"
    done = obuilder("push", id, f"--to=rsync:{other}")
    assert done.returncode == 0, done.stderr
    assert (other / "result" / id / "rootfs" / "one").read_text() == "one\n"
    assert (other / "result" / id / "rootfs" / "bin" / "sh").is_symlink()
    assert_clean(store)
