"""Faults of OBuilder 0.7 that lie in its stores, by their numbers, and that are not ours."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.command import Command
from support.held_steps import let_go, started

CACHE = "(cache (c (target /c)))"


def put(obuilder: Command, kind: str, root: Path) -> Path:
    """Give the command a store; returns where it is."""
    obuilder.store = f"{kind}:{root}/store"
    return root / "store"


@pytest.fixture(params=["rsync", "reflink"])
def copying(request: pytest.FixtureRequest, obuilder: Command) -> Path:
    """A store that copies trees: rsync, and reflink on xfs (OBuilder's `xfs`)."""
    if request.param == "rsync":
        return put(obuilder, "rsync", obuilder.directory)
    return put(obuilder, "reflink", request.getfixturevalue("xfs_root"))


@pytest.fixture
def layers(obuilder: Command, ext4_root: Path) -> Path:
    """A store of layers."""
    return put(obuilder, "overlayfs", ext4_root)


def printed(obuilder: Command, ops: str) -> bytes:
    """What a build prints that goes well."""
    done = obuilder.build(ops)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_fault_06_a_rebuild_after_a_kill_starts_afresh(obuilder: Command, copying: Path) -> None:
    """rsync and xfs stores don't clear `result-tmp`.

    After a `kill -9` the rebuild runs on top of stale files and is saved under the normal id.
    """
    step = {"before": "echo line >> /lines", "after": "wc -l < /lines"}
    running = started(obuilder, "killed", **step)
    running.signal(signal.SIGKILL)
    assert running.end()[0] == -signal.SIGKILL
    (left,) = (copying / "result-tmp").iterdir()
    assert (left / "rootfs" / "lines").read_text() == "line\n"
    (left / "rootfs" / "go").touch()  # of the step that died, and not the new one's
    again = started(obuilder, "killed", **step)
    let_go(obuilder, "killed")
    status, output, stderr = again.end()
    assert status == 0, stderr
    assert b"\nup killed\n1\n" in output
    assert os.listdir(copying / "result-tmp") == []


def use_together(obuilder: Command, names: Sequence[str], *, killed: Sequence[str] = ()) -> None:
    """Steps that have copies of a cache at the same time and write it; they end in this order."""
    running = [
        started(obuilder, name, mounts=CACHE, before=f"touch /c/{name}", after=f"echo > /c/{name}")
        for name in (*names, *killed)
    ]
    for each, name in zip(running, names, strict=False):
        let_go(obuilder, name)
        assert each.end()[0] == 0
    for each in running[len(names) :]:
        each.signal(signal.SIGKILL)
        assert each.end()[0] == -signal.SIGKILL


def test_fault_07_copies_of_losing_cache_users_are_thrown_away(
    obuilder: Command, copying: Path
) -> None:
    """rsync leaks the copies of losing cache users.

    A later process reuses them, and stale files come back.
    """
    use_together(obuilder, ["winner", "loser"])
    assert os.listdir(copying / "cache-tmp") == []
    # As many users at once as before, one of whom dies: none gets what another had.
    use_together(obuilder, ["later"], killed=["dead"])
    look = f'(run {CACHE} (shell "echo in it: $(ls /c)"))'
    assert b"\nin it: later winner\n" in printed(obuilder, look)
    assert os.listdir(copying / "cache-tmp") == []


@pytest.mark.timeout(240)
def test_fault_08_a_copy_from_a_stage_of_many_steps_sees_them_all(
    obuilder: Command, layers: Path
) -> None:
    """overlayfs: a copy from a stage sees only its last layer."""
    steps = " ".join(f'(run (shell "echo {n} > /d/{n}"))' for n in range(40))
    spec = obuilder.directory / "spec"
    spec.write_text(
        f"""((build many ((from archive:busybox.tar) (shell /bin/sh -c)
   (run (shell "mkdir /d")) {steps}))
 (from archive:busybox.tar) (shell /bin/sh -c)
 (copy (from (build many)) (src /d) (dst /all))
 (run (shell "cat /all/* | sort -n | tr '\\n' ' '")))"""
    )
    done = obuilder("build", "-f", str(spec), str(obuilder.source))
    assert done.returncode == 0, done.stderr
    assert " ".join(map(str, range(40))).encode() in done.stdout
    assert str(layers) not in Path("/proc/mounts").read_text()


@pytest.mark.timeout(240)
def test_fault_08_a_store_with_a_long_path_takes_many_steps(
    obuilder: Command, ext4_root: Path
) -> None:
    """overlayfs: with long store paths the mount fails after 45 steps."""
    put(obuilder, "overlayfs", ext4_root / ("long-" * 40))
    steps = " ".join(f'(run (shell "echo {n} >> /all"))' for n in range(60))
    output = printed(obuilder, f"""{steps} (run (shell "tr '\\n' ' ' < /all"))""")
    assert " ".join(map(str, range(60))).encode() in output


def test_fault_08_a_directory_of_a_cache_made_anew_is_empty(
    obuilder: Command, layers: Path
) -> None:
    """overlayfs: `rm -r d; mkdir d` in a cache brings the old contents back."""
    printed(obuilder, f'(run {CACHE} (shell "mkdir /c/d; touch /c/d/old /c/file"))')
    printed(obuilder, f'(run {CACHE} (shell "rm -r /c/d /c/file; mkdir /c/d; touch /c/d/new"))')
    look = f'(run {CACHE} (shell "echo in it: $(ls /c /c/d)"))'
    assert b"\nin it: /c: d /c/d: new\n" in printed(obuilder, look)
    assert os.listdir(layers / "cache-tmp") == []


def test_fault_08_users_of_a_cache_at_the_same_time_are_not_merged(
    obuilder: Command, layers: Path
) -> None:
    """overlayfs: concurrent cache users are merged."""
    use_together(obuilder, ["winner", "loser"])
    look = f'(run {CACHE} (shell "echo in it: $(ls /c)"))'
    assert b"\nin it: winner\n" in printed(obuilder, look)
    assert os.listdir(layers / "cache-tmp") == []
