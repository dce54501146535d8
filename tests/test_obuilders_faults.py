"""Faults of OBuilder 0.7 that lie in its processes and its database, by their numbers: not ours.

The numbers are those of the contract; 6 to 8, the stores', are in
`test_obuilders_store_faults.py`.
"""

import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from support.builds import Events, descriptors, stage
from support.command import LIMIT_S, Command
from support.docker_engine import DockerEngine
from support.docker_fetch import running as running_with
from support.held_steps import let_go, place, started
from support.runc_builds import SHELL, open_runc

from obuilder.errors import ObuilderError

RUN = '(run (cache (c (target /c))) (shell "echo fine > /c/file"))'
PROMPT_S = 20  # an engine gives up by itself after 30
TOKEN = "VerySecretValue4711"

REFUSED = [
    '(run (network other) (shell "true"))',
    '(run (secrets (missing (target /s))) (shell "true"))',
    "(copy (src missing) (dst /x))",
    '(user (uid -1) (gid 0)) (run (shell "true"))',
]
NOT_STARTED = [
    '(run (cache (c (target /bin/sh/x))) (shell "true"))',
    '(shell /missing) (run (shell "true"))',
    '(workdir /bin/sh) (run (shell "true"))',
    "(copy (src big) (dst /bin/sh/x))",
]


@pytest.mark.anyio
async def test_fault_02_no_descriptor_leaks_for_a_step_that_fails_while_it_is_set_up(
    tmp_path: Path,
) -> None:
    """A file descriptor leaks for each step that fails while being set up."""
    source = tmp_path / "src"
    source.mkdir()
    (source / "big").write_bytes(bytes(1 << 20))  # more than a pipe holds

    async with open_runc(tmp_path / "store") as parts:

        async def all_fail(wrong: Sequence[str]) -> None:
            for ops in wrong:
                with pytest.raises(ObuilderError):
                    await parts.builder.build(stage(f"{SHELL} {ops})"), context)

        context = Events().context(src=source)
        await all_fail(REFUSED + NOT_STARTED)
        before = descriptors()
        await all_fail(REFUSED * 40)
        await all_fail(NOT_STARTED * 10)
        assert len(descriptors()) == len(before)


def test_fault_04_no_file_of_the_database_is_left_beside_it(obuilder: Command) -> None:
    """Prepared statements stay open, so `-wal` and `-shm` files remain after exit."""
    database = obuilder.directory / "store" / "state" / "db"

    def left() -> list[str]:
        return os.listdir(database)

    id_file = obuilder.directory / "id"
    assert obuilder.build(RUN, "--id-file", str(id_file)).returncode == 0
    assert left() == ["db.sqlite"]
    assert obuilder.build('(run (shell "exit 3"))').returncode == 1
    assert left() == ["db.sqlite"]
    running = started(obuilder, "stopped")
    assert "db.sqlite-wal" in left()
    running.signal(signal.SIGINT)
    assert running.end()[0] == 130
    assert left() == ["db.sqlite"]
    for command in (["fsck"], ["delete", id_file.read_text().strip()], ["clean"]):
        assert obuilder(*command).returncode == 0
        assert left() == ["db.sqlite"]


def test_fault_05_nothing_of_a_secret_is_left_on_disk_by_a_kill(obuilder: Command) -> None:
    """`kill -9` leaves temporary bundle directories, which may hold secrets."""
    temporary = obuilder.directory / "tmp"
    temporary.mkdir()
    obuilder.env = {"TMPDIR": str(temporary)}
    secret = obuilder.directory / "token"
    secret.write_text(TOKEN)
    store = obuilder.directory / "store"
    mounts = "(secrets (token (target /token)))"
    running = started(
        obuilder, "killed", f"--secret=token:{secret}", mounts=mounts, before="test -s /token"
    )
    assert len(_holding(store, TOKEN)) == 1  # the secret, as it is mounted
    running.signal(signal.SIGKILL)
    assert running.end()[0] == -signal.SIGKILL
    disk = store.stat().st_dev
    assert [path for path in _holding(store, TOKEN) if path.stat().st_dev == disk] == []
    assert obuilder.build(RUN).returncode == 0
    assert _holding(store, TOKEN) == []
    assert os.listdir(store / "state" / "sandboxes" / "runc" / "bundles") == []
    assert str(store) not in Path("/proc/mounts").read_text()
    assert os.listdir(temporary) == []


def _holding(store: Path, text: str) -> list[Path]:
    files = (path for path in store.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in files if text.encode() in path.read_bytes()]


def test_fault_12_a_second_process_leaves_the_first_ones_step_alone(obuilder: Command) -> None:
    """A second process on the store deletes the first one's container and `result-tmp`."""
    running = started(obuilder, "first", after="echo ended", mounts="(cache (c (target /c)))")
    assert obuilder.build(RUN).returncode == 0
    for command in (["fsck", "--repair"], ["prune", "--before=2999-01-01"], ["clean"]):
        done = obuilder(*command)
        assert done.returncode == 0, done.stderr
    assert place(obuilder, "first").is_dir()
    let_go(obuilder, "first")
    status, output, stderr = running.end()
    assert status == 0, stderr
    assert output.count(b"\nup first\nended\n") == 1
    assert b"\n---> saved as" in output


def test_fault_13_clean_just_after_a_build_removes_it_and_its_cache(obuilder: Command) -> None:
    """`clean` just after a build removes nothing, as times are compared by the second.

    And it never removes caches.
    """
    store = obuilder.directory / "store"
    assert obuilder.build(RUN).returncode == 0
    assert len(os.listdir(store / "result")) == 2
    assert os.listdir(store / "cache") == ["c"]
    cleaned = obuilder("clean")
    assert cleaned.returncode == 0, cleaned.stderr
    assert os.listdir(store / "result") == os.listdir(store / "cache") == []
    again = obuilder.build(RUN)
    assert b"from cache" not in again.stdout


def test_fault_14_the_fetch_of_a_base_image_can_be_cancelled(
    obuilder: Command, docker_engine: DockerEngine
) -> None:
    """The fetch of a base image can't be cancelled."""
    obuilder.env = {"DOCKER_HOST": docker_engine.host}
    store = obuilder.directory / "store"
    with closing(socket.create_server(("127.0.0.1", 0))) as registry:
        registry.settimeout(LIMIT_S)
        base = f"localhost:{registry.getsockname()[1]}/never"
        spec = obuilder.directory / "slow"
        spec.write_text(f"((from {base}))")
        running = obuilder.start_on(spec)
        asked, _ = registry.accept()
        with closing(asked):  # and is never answered
            running.signal(signal.SIGINT)
            begun = time.monotonic()
            status, _, stderr = running.end()
    assert status == 130, stderr
    assert time.monotonic() - begun < PROMPT_S
    assert running_with(f"DOCKER_HOST={docker_engine.host}", base) == []
    assert docker_engine.containers() == []
    assert os.listdir(store / "result-tmp") == os.listdir(store / "state" / "scratch") == []
    assert obuilder.build(RUN).returncode == 0
